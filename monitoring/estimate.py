"""How good a model should be while its labels are missing: read from its own answers, if the relation still holds.

Where a calibrated model is sure, it should be right: so the share of right answers, or the metric, that its answers
themselves imply can be told without a label (Guillory et al. 2021 for confidence; NannyML's CBPE for metrics made of
expected counts). What the answers imply is learned on the holdout. When the relation between inputs and label changes
the estimate does not see it, and may have the wrong sign: it is shown beside the truth, scored against it once labels
are in, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from sklearn.isotonic import IsotonicRegression

from monitoring.drift import number
from monitoring.relation import versus_rest

ENOUGH = 100
"""Fewer rows of the holdout than this, and nothing is learned from it."""
BINS = 20
POWERS = {"neg_mean_absolute_error": 1, "neg_mean_squared_error": 2, "neg_root_mean_squared_error": 2}
TINY = 1e-15


class Trust(msgspec.Struct, frozen=True):
    """How far the estimate could be trusted in weeks whose truth is known by now."""

    weeks: int
    error: float
    """Mean |estimate - truth|, in units of the metric."""
    unchanged: float
    """The same of a guess that each week is as good as the one before."""
    right: int
    """Changes from week to week that went the way that the estimate said."""
    changes: int
    sentence: str


def implied(metric: str, label: np.ndarray, prediction: np.ndarray, asked: np.ndarray) -> np.ndarray | None:
    """What a version's holdout says of each of its later answers.

    Args:
        metric: a scikit-learn scorer name.
        label, prediction: float64, of the holdout: (m,), predictions of several classes (m, classes).
        asked: float64, answers whose labels are missing: (n,) or (n, classes).

    Returns:
        (n,) the chance that the label is 1, by isotonic regression on bins of the answer; (n, classes) the same of each
        class against the rest, made to sum to 1 (Zadrozny and Elkan 2002); for errors of values, the expected |error|,
        or its square, in the answer's bin. None: the metric is not one of those, or the holdout is too small or all of
        one class.
    """
    if len(label) < ENOUGH:
        return None
    if metric in POWERS:
        return _by_bins(np.abs(label - prediction) ** POWERS[metric], prediction, asked)
    if metric not in (EXPECTED if asked.ndim == 1 else EXPECTED_OF_CLASSES) or len(np.unique(label)) < 2:
        return None
    if asked.ndim == 1:
        return _chances(label, prediction, asked)
    each = zip(versus_rest(label, prediction), asked.T, strict=True)
    found = np.column_stack([_chances(of_it, chance, later) for (of_it, chance), later in each])
    total = found.sum(axis=1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1), asked)


def expected(metric: str, asked: np.ndarray, implied: np.ndarray) -> float | None:
    """The metric to be expected of the answers `asked`, larger is better; None: it has no value for them.

    Args:
        implied: what `implied` says of them; answers of several versions may stand side by side.
    """
    if not len(asked):
        return None
    if metric in POWERS:
        error = float(np.mean(implied))
        return -(error**0.5) if metric == "neg_root_mean_squared_error" else -error
    found = (EXPECTED if asked.ndim == 1 else EXPECTED_OF_CLASSES)[metric](asked, implied)
    return float(found) if np.isfinite(found) else None


def trust(weeks: Sequence[tuple[float, float]]) -> Trust | None:
    """Score the estimates of past weeks, (estimate, truth) each, oldest first. None with fewer than two weeks."""
    if len(weeks) < 2:
        return None
    told, truth = np.array(weeks, dtype="float64").T
    error, unchanged = float(np.abs(told - truth).mean()), float(np.abs(np.diff(truth)).mean())
    right, changes = int((np.sign(np.diff(told)) == np.sign(np.diff(truth))).sum()), len(truth) - 1
    sentence = (
        f"over the {len(truth)} weeks whose labels are in, the estimate was off by {number(error)} on average "
        f"(to take each week to be like the one before: {number(unchanged)}), and it told {right} of {changes} "
        f"change{'s' * (changes > 1)} the right way round"
    )
    return Trust(len(truth), error, unchanged, right, changes, sentence)


def _chances(label: np.ndarray, prediction: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Isotonic regression of the label on equal-count bins of the answer.

    On single rows it fits noise at both ends: an expected AUC was too high by 0.009 with 830 rows and by 0.026 with
    400; on 20 bins by 0.000 and 0.014 (means of 40 draws).
    """
    rows = np.array_split(np.argsort(prediction, kind="stable"), BINS)
    answer, share = ([values[part].mean() for part in rows] for values in (prediction, label))
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    return np.asarray(fitted.fit(answer, share, sample_weight=[len(part) for part in rows]).predict(asked))


def _by_bins(errors: np.ndarray, prediction: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The mean error of the holdout's rows that were answered alike; that of all rows where there are none."""
    edges = np.unique(np.quantile(prediction, np.linspace(0, 1, BINS + 1)[1:-1]))
    held, later = (np.searchsorted(edges, values, side="right") for values in (prediction, asked))
    count = np.bincount(held, minlength=len(edges) + 1)
    total = np.bincount(held, weights=errors, minlength=len(edges) + 1)
    return np.where(count > 0, total / np.maximum(count, 1), errors.mean())[later]


def _auc(asked: np.ndarray, chance: np.ndarray) -> float:
    """The chance that a positive is ranked above a negative, ties by half, over all pairs of different rows.

    Pair (i, j) counts with p_i (1 - p_j): the expected number of right pairs over the expected number of pairs.
    """
    order = np.argsort(asked, kind="stable")
    score, p = asked[order], chance[order]
    ties = np.flatnonzero(np.diff(score, prepend=np.nan) != 0)
    above, beside, same = (np.add.reduceat(part, ties) for part in (p, 1 - p, p * (1 - p)))
    below = np.cumsum(beside) - beside
    pairs = p.sum() * (1 - p).sum() - same.sum()
    return float((above @ below + (above * beside - same).sum() / 2) / pairs) if pairs > 0 else float("nan")


def _log_loss(asked: np.ndarray, chance: np.ndarray) -> float:
    q = np.clip(asked, TINY, 1 - TINY)
    return float(np.mean(chance * np.log(q) + (1 - chance) * np.log1p(-q)))


def _brier(asked: np.ndarray, chance: np.ndarray) -> float:
    return -float(np.mean(chance * (1 - asked) ** 2 + (1 - chance) * asked**2))


def _accuracy(asked: np.ndarray, chance: np.ndarray) -> float:
    return float(np.mean(np.where(asked >= 0.5, chance, 1 - chance)))


EXPECTED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "roc_auc": _auc, "neg_log_loss": _log_loss, "neg_brier_score": _brier, "accuracy": _accuracy,
}  # fmt: skip
"""Metrics of chances, as expectations over labels that are 1 with those chances."""

EXPECTED_OF_CLASSES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "roc_auc_ovr": lambda asked, chances: float(np.mean(list(map(_auc, asked.T, chances.T)))),
    "neg_log_loss": lambda asked, chances: float((chances * np.log(np.clip(asked, TINY, 1))).sum(axis=1).mean()),
    "accuracy": lambda asked, chances: float(chances[np.arange(len(asked)), asked.argmax(axis=1)].mean()),
}
"""The same of several classes, (n, classes) each."""
