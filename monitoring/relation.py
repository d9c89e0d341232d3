"""Relation drift: do the labels surprise the model more than they did on its holdout?

No test of the inputs can see that the relation between inputs and label has changed; the labels can.
*Surprise* is how much worse the labels are than the model itself expects: near zero for a calibrated model
whatever the inputs.

- binary and multiclass: mean log-loss minus mean entropy of the model's own probabilities, in nats;
- regression: mean squared residual in units of the holdout's variance, minus 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import combinations
from typing import Literal

import msgspec
import numpy as np
import pandas as pd
from scipy.special import entr, xlogy
from scipy.stats import rankdata

from models import Task
from monitoring import budget

Status = Literal["judged", "not enough labels yet"]

MIN_DAYS = 5
"""Days with matured labels that a window needs before its labels are judged."""
EFFECT_FLOOR: dict[Task, float] = {"binary": 0.005, "multiclass": 0.005, "regression": 0.02}
"""A rise in surprise below this is no alarm, however significant (nats; share of the holdout's variance)."""
PERMUTATIONS = 9_999
_CLIP = 1e-6


class Day(msgspec.Struct, frozen=True):
    """One day with labels: how many, the mean surprise, and the AUC (of classes, on days with at least two)."""

    labels: int
    surprise: float
    auc: float | None = None


class Relation(msgspec.Struct, frozen=True):
    """Whether the labels of a window surprised the model more than those of its holdout."""

    status: Status
    alarm: bool
    sentence: str
    alpha: float
    p: float | None = None
    achieved_per_year: float = 0.0
    days: int = 0
    reference_days: int = 0
    labels: int = 0
    surprise: float | None = None
    reference_surprise: float | None = None
    auc: float | None = None
    reference_auc: float | None = None


def daily(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    days: np.ndarray,
    residual_sd: float | None = None,
) -> dict[str, Day]:
    """Surprise of each day, in order of days.

    Args:
        task: of the model.
        labels: 0 or 1 (binary), the place of the class, or the value; rows with a missing one are left out (n,).
        predictions: P(label is 1) or the predicted value (n,); the probability of each class (n, classes).
        days: ISO day of each row's decision (n,).
        residual_sd: regression only, the holdout's.

    Raises:
        ValueError: regression without a positive `residual_sd`.
    """
    known = ~np.isnan(np.asarray(labels, float))
    label, prediction, day = (np.asarray(part)[known] for part in (labels, predictions, days))
    shock = surprise(task, label, prediction, residual_sd)
    return {
        str(each): Day(
            len(rows),
            float(shock[rows].mean()),
            None if task == "regression" else auc(label[rows], prediction[rows]),
        )
        for each, rows in sorted(pd.Series(day).groupby(day).indices.items())
    }


def surprise(task: Task, labels: np.ndarray, predictions: np.ndarray, residual_sd: float | None = None) -> np.ndarray:
    """Surprise of each row, float (n,); its mean is near 0 while the relation holds. Labels must be there."""
    labels, predictions = np.asarray(labels, float), np.asarray(predictions, float)
    if task == "binary":
        chance = np.clip(predictions, _CLIP, 1 - _CLIP)
        expected = entr(chance) + entr(1 - chance)
        return -xlogy(labels, chance) - xlogy(1 - labels, 1 - chance) - expected
    if task == "multiclass":
        chances = np.clip(predictions, _CLIP, 1.0)
        return -np.log(chances[np.arange(len(labels)), labels.astype(int)]) - entr(chances).sum(axis=1)
    if not residual_sd or not residual_sd > 0:
        raise ValueError(f"regression needs the holdout's residual_sd > 0, not {residual_sd}")
    return ((labels - predictions) / residual_sd) ** 2 - 1


def residual_sd(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Root mean squared residual of the rows that have a label."""
    residuals = np.asarray(labels, float) - np.asarray(predictions, float)
    return float(np.sqrt(np.nanmean(residuals**2)))


def auc(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half; None without two labels.

    Of several classes: the mean over those there are, each against the rest (Provost and Domingos 2000, unweighted).

    Args:
        labels: 0 or 1, or the place of the class (n,).
        predictions: P(label is 1) (n,), or the probability of each class (n, classes).
    """
    found = [each for each in map(_auc, *zip(*versus_rest(labels, predictions), strict=True)) if each is not None]
    return float(np.mean(found)) if found else None


def versus_rest(labels: np.ndarray, predictions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each class that is told from the rest: which rows are of it, bool (n,), and its probability (n,)."""
    if predictions.ndim == 1:
        yield labels == 1, predictions
    else:
        yield from ((labels == place, chance) for place, chance in enumerate(predictions.T))


def _auc(positive: np.ndarray, chance: np.ndarray) -> float | None:
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return None
    return float((rankdata(chance)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def judge(
    task: Task,
    reference: Mapping[str, Day],
    days: Mapping[str, Day],
    *,
    window: timedelta,
    alpha: float,
    seed: int = 0,
) -> Relation:
    """Compare the days of a window with the reference days.

    A two-sample permutation test whose unit is the day (rows of one day are not independent): the mean
    surprise, days weighted by their labels, is recomputed with the days dealt anew to window and reference.
    One-sided: only worse counts. All deals when there are few, else a seeded sample of 9,999 (Phipson and
    Smyth 2010). A day is also like the day before it, so the gap is first shrunk by `inflation`.

    Args:
        reference: out-of-sample days of the holdout.
        days: the window's days whose labels have matured.
        window: length of a window, for the rate a year.
        alpha: level of this test, see `budget.alpha`.
    """
    counted = {
        "days": len(days),
        "reference_days": len(reference),
        "labels": sum(d.labels for d in days.values()),
    }
    if len(reference) < budget.MIN_WINDOWS or len(days) < MIN_DAYS:
        sentence = _too_few(len(days), len(reference))
        return Relation("not enough labels yet", False, sentence, alpha, **counted)
    here, there = ([part[day] for day in sorted(part)] for part in (days, reference))
    p, draws = permutation_p(here, there, seed)
    now, before = _mean(here), _mean(there)
    alarm = p <= alpha and now - before >= EFFECT_FLOOR[task]
    return Relation(
        "judged",
        alarm,
        _say(task, alarm, now - before, p),
        alpha,
        p=p,
        achieved_per_year=budget.achieved_per_year(alpha, draws, window),
        surprise=now,
        reference_surprise=before,
        auc=_mean_auc(here),
        reference_auc=_mean_auc(there),
        **counted,
    )


def permutation_p(here: list[Day], there: list[Day], seed: int = 0) -> tuple[float, int]:
    """P(surprise of `here` as high or higher | days dealt at random), and of how many deals, own included.

    Days lists are in order of time; the gap is first divided by the `inflation` that `there` shows.
    """
    days = [*here, *there]
    weight = np.array([day.labels for day in days], float)
    value = np.array([day.surprise for day in days]) * weight
    chosen = _deals(len(days), len(here), seed)
    drawn, heavy = value[chosen].sum(axis=1), weight[chosen].sum(axis=1)
    gap = drawn / heavy - (value.sum() - drawn) / (weight.sum() - heavy)
    shrunk = gap[0] / inflation([day.surprise for day in there], len(here))  # the first deal is the real one
    return float((1 + np.sum(gap[1:] >= shrunk - 1e-12)) / len(gap)), len(gap)


def inflation(surprises: Sequence[float], window: int) -> float:
    """How much more the mean of consecutive days varies than that of days dealt at random, as a ratio of sds.

    A day is like the day before it. The lag-1 autocorrelation of the reference days, corrected for its bias in
    short series (Kendall 1954) and never taken below 0, gives the variance of both means under an AR(1) course.
    """
    x, n = np.asarray(surprises) - np.mean(surprises), len(surprises)
    raw = float(x[1:] @ x[:-1] / (x @ x)) if x @ x > 0 else 0.0
    phi = float(np.clip(raw + (1 + 4 * raw) / n, 0.0, 0.95))
    return math.sqrt((_variance(phi, window) + _variance(phi, n)) / (1 / window + 1 / n))


def _variance(phi: float, days: int) -> float:
    """Variance of the mean of `days` consecutive days with autocorrelation phi**lag and variance 1."""
    lags = np.arange(1, days)
    return float((1 + 2 * np.sum((1 - lags / days) * phi**lags)) / days)


def _deals(days: int, here: int, seed: int) -> np.ndarray:
    """Which days are dealt to the window: int (deals, here); the first row is the real window."""
    if math.comb(days, here) <= PERMUTATIONS + 1:
        return np.array(list(combinations(range(days), here)))
    random = np.random.default_rng(seed)
    sampled = random.random((PERMUTATIONS, days)).argpartition(here, axis=1)[:, :here]
    return np.concatenate([np.arange(here)[None, :], sampled])


def _mean(days: list[Day]) -> float:
    return float(np.average([day.surprise for day in days], weights=[day.labels for day in days]))


def _mean_auc(days: list[Day]) -> float | None:
    known = [(day.auc, day.labels) for day in days if day.auc is not None]
    return float(np.average([k[0] for k in known], weights=[k[1] for k in known])) if known else None


def _too_few(days: int, reference_days: int) -> str:
    if reference_days < budget.MIN_WINDOWS:
        return f"the holdout has {reference_days} days with labels, {budget.MIN_WINDOWS} are needed"
    return f"{days} of at least {MIN_DAYS} days have their labels"


def _say(task: Task, alarm: bool, rise: float, p: float) -> str:
    unit = f"{100 * rise:.0f} % of the usual squared error" if task == "regression" else f"{rise:.3f} nats"
    if alarm:
        return f"the labels no longer follow as on the holdout: surprise is up by {unit} (p {p:.2g})"
    return f"the labels follow as on the holdout (surprise differs by {unit}, p {p:.2g})"
