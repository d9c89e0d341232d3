"""Scores of predictions, and intervals drawn over days."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import get_scorer, get_scorer_names

from features import HeadwayError
from models import Model
from monitoring.relation import versus_rest
from pipelines.scorers.tasks import TASKS, pipeline_predict

RESAMPLES = 200
COVERAGE = 0.9
"""How often the truth lies in the interval around a value."""
SEED = 7
RANKED = {("roc_auc", "binary"), ("roc_auc_ovr", "multiclass")}


class Interval(NamedTuple):
    """A number with the interval that a block bootstrap gives it."""

    value: float
    low: float
    high: float


def predict(model: Model, estimator: Any, inputs: pd.DataFrame) -> np.ndarray:
    """float64: the probability of the positive class or the value (n,), or of each class (n, classes)."""
    return pipeline_predict(model.task, estimator, inputs)


def score(model: Model, label: np.ndarray, prediction: np.ndarray) -> float:
    """The model's metric, larger is better; NaN when the labels are all of one class and the metric needs two.

    Raises HeadwayError when the declared metric is not a scikit-learn scorer, or not one for the task.
    """
    try:
        scorer = get_scorer(model.metric)
    except ValueError:
        raise HeadwayError(
            f"models/{model.name}.py: metric {model.metric!r} is no scorer; there are: {', '.join(get_scorer_names())}"
        ) from None
    task = TASKS[model.task]
    if not task.tells(label):
        return float("nan")
    if own := task.metrics.get(model.metric):
        return own(label, prediction)
    try:
        return float(scorer(task.answered(prediction), np.asarray(prediction).reshape(len(label), -1), label))
    except ValueError as error:
        if len(np.unique(label)) < len(model.classes):  # some scorers need every class
            return float("nan")
        raise HeadwayError(
            f"models/{model.name}.py: metric {model.metric!r} of a {model.task} model: {error}"
        ) from None


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
        label, prediction, than: float64 (n,); predictions of several classes (n, classes).
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
        ours, theirs: label, prediction and day of each row, as for `interval`.
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
    if (model.metric, model.task) in RANKED:
        # Scikit-learn's sorts the rows anew for every draw, which took a sixth of a night.
        found = np.array([_weighted_auc(*each, groups, draws) for each in versus_rest(label, prediction)])
        return np.ma.masked_invalid(found).mean(axis=0).filled(np.nan)
    rows = (np.concatenate([groups[k] for k in drawn]) for drawn in draws)
    return np.array([score(model, label[i], prediction[i]) if len(i) else np.nan for i in rows])


def _weighted_auc(
    positive: np.ndarray, prediction: np.ndarray, groups: list[np.ndarray], draws: list[np.ndarray]
) -> np.ndarray:
    """The chance that a positive ranks above a negative, ties by half (Hanley & McNeil 1982), rows counted as drawn."""
    order = np.argsort(prediction, kind="stable")
    ties = np.flatnonzero(np.diff(prediction[order], prepend=np.nan) != 0)
    group = np.empty(len(positive), dtype="int64")
    for number, rows in enumerate(groups):
        group[rows] = number
    group, positive, found = group[order], positive[order], []
    for drawn in draws:
        times = np.bincount(drawn, minlength=len(groups))[group]
        above, beside = (np.add.reduceat(times * part, ties) for part in (positive, ~positive))
        pairs = above.sum() * beside.sum()
        below = np.cumsum(beside) - beside / 2
        found.append(above @ below / pairs if pairs else np.nan)
    return np.array(found)
