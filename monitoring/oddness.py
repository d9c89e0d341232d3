"""How odd is each window, input by input? Each is held against all the others, and all are treated alike.

The shape of an input is told by contrasts: the roots of its bin shares (the noise of a root is the same whatever the
share is), for a number turned into cosines, the first of which are its level, spread and skew. Each contrast counts in
standard deviations of the other windows': what moves in every week by itself must move far to be odd, what never moves
only a little. How inputs go together is told by the correlations of the most important ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.fft import dct

from monitoring.profile import Bins, Categories, Profile

EFFECT_FLOOR = 0.02
"""A smaller distance counts as none, however unusual: about a twentieth of a standard deviation."""
_BELIEF = 4
"""The sd of one contrast counts as if so many windows more had shown the mean variance of its column's contrasts."""
_ROOT_FLOOR, _FISHER_FLOOR = 0.01, 0.02
# Oddness itself varies from window to window; it must not shout where it hardly ever does.
_LARGEST_FLOOR, _MEAN_FLOOR, _PAIR_FLOOR = 0.2, 0.05, 0.1
_SD_FLOOR_SHARE = 0.1  # of the mean


class Odd(NamedTuple):
    """How odd each window is in each column of the bins: (windows, columns) each."""

    z: np.ndarray
    """In standard deviations of the other windows: of its shape or its correlations, whichever is odder; at least 0."""
    distance: np.ndarray
    """Jensen-Shannon distance of its shape from that of the other windows together, 0 to 1."""
    partner: list[str]
    """For each column the one that the last window's correlation with it changed most, where its correlations are
    odder than its shape; else empty."""


def oddness(bins: Bins, windows: Sequence[Profile]) -> Odd:
    """How odd each window is among all of them.

    An input whose shape is nearer than `EFFECT_FLOOR` and whose correlations are as usual has z 0.
    """
    counts = [shape(bins, name, windows) for name in bins.columns]
    distance = np.column_stack([distances(each) for each in counts])
    told = [_apart(_contrasts(bins, name, each), _ROOT_FLOOR) for name, each in zip(bins.columns, counts, strict=True)]
    largest = z_scores(np.column_stack([np.abs(each).max(axis=1) for each in told]), _LARGEST_FLOOR)
    mean = z_scores(np.column_stack([_root_mean(each) for each in told]), _MEAN_FLOOR)
    alone = np.where(distance >= EFFECT_FLOOR, np.maximum(largest, mean), 0.0)
    paired, partner = _together(bins, windows)
    odder = paired[-1] > np.maximum(alone[-1], 0.0)
    return Odd(
        np.maximum.reduce([alone, paired, np.zeros_like(alone)]),
        distance,
        [name if odd else "" for name, odd in zip(partner, odder, strict=True)],
    )


def shape(bins: Bins, name: str, windows: Sequence[Profile]) -> np.ndarray:
    """Counts (windows, bins) of a column, as they are compared.

    A value never trained on can only occur in the new window, a rare one in any: among categories they are
    one bin, else the first new value of an ever-growing list would count as drift.
    """
    counts = np.array([window.counts[name] for window in windows], float)
    if isinstance(bins.columns[name], Categories):
        counts[:, -3] += counts[:, -1]
        counts[:, -1] = 0
    return counts


def distances(counts: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance (base 2, 0 to 1) of each window's shares from those of all the others together.

    It needs no bin to be filled, and grows in step with a shift (0.42 times the shift in standard deviations, while
    small).

    Args:
        counts: rows by bin, (windows, bins).

    Returns:
        float (windows,).
    """
    rest = counts.sum(axis=0) - counts
    p, q = (part / np.maximum(part.sum(axis=1, keepdims=True), 1) for part in (counts, rest))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return np.sqrt(np.clip(terms.sum(axis=1) / 2, 0.0, 1.0))


def z_scores(values: np.ndarray, floor: float) -> np.ndarray:
    """Each value against mean and standard deviation of the *other* windows' ones: (windows, columns).

    Every window is treated alike, which is what makes the rank valid; the sd has a `floor`, so that a column
    that hardly ever varies does not alarm at a trifle.
    """
    mean, variance = _others(values)
    return (values - mean) / np.maximum(np.sqrt(variance), np.maximum(_SD_FLOOR_SHARE * mean, floor))


def rank_of_last(scores: np.ndarray) -> int:
    """1 + how many of the other windows score at least as high as the last (ties count against an alarm)."""
    return 1 + int((scores[:-1] >= scores[-1] - 1e-12).sum())


def _contrasts(bins: Bins, name: str, counts: np.ndarray) -> np.ndarray:
    """Of one column: (windows, contrasts). What is missing and what is unseen are two of them."""
    roots = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    if isinstance(bins.columns[name], Categories):
        return roots
    return np.column_stack([dct(roots[:, :-2], norm="ortho", axis=1), roots[:, -2:]])


def _others(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the other windows' values, for each window: (windows, columns) each."""
    n = len(values) - 1
    mean = (values.sum(axis=0) - values) / n
    square = ((values**2).sum(axis=0) - values**2) / n
    return mean, np.maximum(square - mean**2, 0.0) * n / (n - 1)


def _apart(contrasts: np.ndarray, floor: float) -> np.ndarray:
    """Each contrast in standard deviations of the other windows', shrunk towards the mean of all: same shape.

    With a dozen windows some contrast seems never to vary by chance alone (Efron and Morris 1975).
    """
    mean, variance = _others(contrasts)
    known = len(contrasts) - 2
    shrunk = (known * variance + _BELIEF * variance.mean(axis=1, keepdims=True)) / (known + _BELIEF)
    return (contrasts - mean) / np.sqrt(shrunk + floor**2)


def _root_mean(contrasts: np.ndarray) -> np.ndarray:
    return np.sqrt((contrasts**2).mean(axis=1))


def _together(bins: Bins, windows: Sequence[Profile]) -> tuple[np.ndarray, list[str]]:
    """How odd each column's correlations are (windows, columns), and which of them is the oddest in the last window."""
    names, owners = list(bins.columns), np.array(bins.owners)
    z, partner = np.zeros((len(windows), len(names))), [""] * len(names)
    first, second = np.triu_indices(len(owners), 1)
    between = owners[first] != owners[second] if len(owners) else np.zeros(0, bool)
    if not between.any() or any(not window.together for window in windows):
        return z, partner
    ends = np.array([owners[first[between]], owners[second[between]]])
    fisher = np.array([_fisher(window, len(owners))[first, second] for window in windows])
    apart = _apart(fisher[:, between], _FISHER_FLOOR)
    for name in bins.paired:
        its = np.flatnonzero((ends == name).any(axis=0))
        oddest = ends[:, its[np.abs(apart[-1, its]).argmax()]]
        z[:, names.index(name)] = z_scores(_root_mean(apart[:, its]), _PAIR_FLOOR)
        partner[names.index(name)] = str(oddest[oddest != name][0])
    return z, partner


def _fisher(window: Profile, columns: int) -> np.ndarray:
    """The window's correlations (columns, columns) on Fisher's scale, on which their noise is alike; 0 where one of
    the two does not vary."""
    moments = np.zeros((columns + 1, columns + 1))
    moments[np.triu_indices(columns + 1)] = window.together
    mean = moments[0, 1:] / max(window.rows, 1)
    covariance = moments[1:, 1:] / max(window.rows, 1) - np.outer(mean, mean)
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-4))
    return np.arctanh(np.clip(covariance / np.outer(sd, sd), -0.999, 0.999))
