"""Scores of predictions, and intervals drawn over days."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names

from features import HeadwayError
from models import Model

RESAMPLES = 200
COVERAGE = 0.9
"""How often the truth lies in the interval around a value."""
SEED = 7


class Interval(NamedTuple):
    """A number with the interval that a block bootstrap gives it."""

    value: float
    low: float
    high: float


class _Answered(BaseEstimator):
    """An estimator whose input is its own answer, so that every scikit-learn scorer can judge stored predictions."""

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The answer that each row is."""
        return rows[:, 0]

    def __sklearn_is_fitted__(self) -> bool:
        return True


class _Value(RegressorMixin, _Answered):
    pass


class _Probability(ClassifierMixin, _Answered):
    classes_ = np.array([0.0, 1.0])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The likelier class of each row."""
        return (rows[:, 0] >= 0.5).astype("float64")

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """The chance of both classes (n, 2)."""
        return np.column_stack([1.0 - rows[:, 0], rows[:, 0]])


def predict(model: Model, estimator: Any, inputs: pd.DataFrame) -> np.ndarray:
    """(n,) float64: the probability of the positive class, or the value."""
    if model.task == "binary":
        return np.asarray(estimator.predict_proba(inputs)[:, 1], dtype="float64")
    return np.asarray(estimator.predict(inputs), dtype="float64")


def score(model: Model, label: np.ndarray, prediction: np.ndarray) -> float:
    """The model's metric, larger is better; NaN when the labels are all of one class and the metric needs two.

    Raises HeadwayError when the declared metric is not a scikit-learn scorer.
    """
    try:
        scorer = get_scorer(model.metric)
    except ValueError:
        raise HeadwayError(
            f"models/{model.name}.py: metric {model.metric!r} is no scorer; there are: {', '.join(get_scorer_names())}"
        ) from None
    if model.task == "binary" and len(np.unique(label)) < 2:
        return float("nan")
    answered = _Probability() if model.task == "binary" else _Value()
    return float(scorer(answered, np.asarray(prediction).reshape(-1, 1), label))


def interval(
    model: Model,
    label: np.ndarray,
    prediction: np.ndarray,
    days: pd.Series | np.ndarray,
    *,
    than: np.ndarray | None = None,
) -> Interval:
    """The model's metric of `prediction`, or how far it lies above that of `than`, with an interval.

    A paired bootstrap over days (rows of one day are not independent): days are drawn with replacement, all rows
    of a drawn day count, and the bounds are quantiles at the declared confidence (Efron & Tibshirani 1993, ch. 13).

    Args:
        label, prediction, than: (n,) float64.
        days: (n,) the day of each row.
    """

    groups = list(pd.Series(np.arange(len(label))).groupby(np.asarray(days)).indices.values())
    draw = np.random.default_rng(SEED)
    draws = [draw.integers(len(groups), size=len(groups)) for _ in range(RESAMPLES)]
    value, drawn = score(model, label, prediction), _resampled(model, label, prediction, groups, draws)
    if than is not None:
        value, drawn = value - score(model, label, than), drawn - _resampled(model, label, than, groups, draws)
    return _interval(model, value, drawn)


def contrast(
    model: Model,
    ours: tuple[np.ndarray, np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Interval:
    """How far the metric of some predictions lies above that of predictions for other rows, with an interval.

    A bootstrap over days, as `interval`, of two samples: a drawn day brings its rows of both, so that what a day does
    to all of its rows is in neither's favour.

    Args:
        ours, theirs: label, prediction and day of each row, (n,) each.
    """
    days = np.unique(np.concatenate([ours[2], theirs[2]]))
    draw = np.random.default_rng(SEED)
    draws = [draw.integers(len(days), size=len(days)) for _ in range(RESAMPLES)]
    values, drawn = [], []
    for label, prediction, day in (ours, theirs):
        groups = [np.flatnonzero(day == each) for each in days]
        values.append(score(model, label, prediction))
        drawn.append(_resampled(model, label, prediction, groups, draws))
    return _interval(model, values[0] - values[1], drawn[0] - drawn[1])


def conformal(label: np.ndarray, prediction: np.ndarray, level: float = COVERAGE) -> tuple[float, float] | None:
    """How far below and above a predicted value the truth lies, by the errors on rows that were not trained on.

    Split conformal prediction (Vovk, Gammerman & Shafer 2005; Lei et al. 2018, algorithm 2) on signed errors, each
    tail with half of what may fall outside (Linusson et al. 2014): the k-th smallest and k-th largest of n errors,
    k = floor((n + 1) (1 - level) / 2). A new row is covered with probability `level` at least, whatever the model
    and the distribution, as long as it and the n rows could have come in any order; drift breaks that.

    Args:
        label, prediction: (n,) float64.

    Returns:
        Offsets to add to a prediction, low and high; None when n is too small for the level.
    """
    errors = np.sort(label - prediction)
    rank = int(np.floor(round((len(errors) + 1) * (1 - level) / 2, 9)))
    return (float(errors[rank - 1]), float(errors[-rank])) if rank else None


def _interval(model: Model, value: float, drawn: np.ndarray) -> Interval:
    tail = (1 - model.gates.confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def _resampled(
    model: Model, label: np.ndarray, prediction: np.ndarray, groups: list[np.ndarray], draws: list[np.ndarray]
) -> np.ndarray:
    """(len(draws),) the metric on all rows of the groups of each draw; NaN where it needs two classes and finds one."""
    if model.metric == "roc_auc" and model.task == "binary":
        # Scikit-learn's sorts the rows anew for every draw, which took a sixth of a night.
        return _weighted_auc(label, prediction, groups, draws)
    rows = (np.concatenate([groups[k] for k in drawn]) for drawn in draws)
    return np.array([score(model, label[i], prediction[i]) if len(i) else np.nan for i in rows])


def _weighted_auc(
    label: np.ndarray, prediction: np.ndarray, groups: list[np.ndarray], draws: list[np.ndarray]
) -> np.ndarray:
    """The chance that a positive ranks above a negative, ties by half (Hanley & McNeil 1982), rows counted as drawn."""
    order = np.argsort(prediction, kind="stable")
    ties = np.flatnonzero(np.diff(prediction[order], prepend=np.nan) != 0)
    group = np.empty(len(label), dtype="int64")
    for number, rows in enumerate(groups):
        group[rows] = number
    group, positive, found = group[order], label[order] == 1, []
    for drawn in draws:
        times = np.bincount(drawn, minlength=len(groups))[group]
        above, beside = (np.add.reduceat(times * part, ties) for part in (positive, ~positive))
        pairs = above.sum() * beside.sum()
        below = np.cumsum(beside) - beside / 2
        found.append(above @ below / pairs if pairs else np.nan)
    return np.array(found)
