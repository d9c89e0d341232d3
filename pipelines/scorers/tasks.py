"""The tasks: all that hangs on whether a model answers a value, the chance of yes, or the chance of each class.

Answers are (n,) float64, one number a row, or (n, classes) where there are several classes. Labels are (n,) float64;
that of a class is its place in the declaration. Whatever else differs by task is a function in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UnsetType
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from features import HeadwayError
from models import Model
from monitoring.profile import SCORE
from monitoring.relation import auc, versus_rest

CHANCE = "probability."
"""Prefix of the columns that hold the chance of each class."""
THRESHOLD = 0.5
FEW = 10
"""A class with fewer rows than this says nothing about how well it is told from the rest."""
LEAVES = 16
_TINY = float(np.finfo("float64").eps)
_HALVES: dict[str, Any] = {"shuffle": True, "random_state": 0}
_SMALL: dict[str, Any] = {"max_leaf_nodes": LEAVES, "min_samples_leaf": 5, "random_state": 0}

Classes = tuple[str, ...] | UnsetType
"""Of a model or a version, in the order of its answers; none where an answer is one number."""
Measure = Callable[[np.ndarray, np.ndarray], float]
"""Of labels (n,) and answers."""


@dataclass(frozen=True)
class Task:
    """What hangs on the task."""

    predict: Callable[[Any, pd.DataFrame], np.ndarray]
    """The answers of a fitted estimator."""
    answered: Callable[[np.ndarray], BaseEstimator]
    """An estimator whose input is its own answers, so that every scikit-learn scorer can judge them."""
    usual: Callable[[np.ndarray, int], np.ndarray | float]
    """From labels and the number of classes: the answer of someone who knows nothing else."""
    off: Measure
    """How far answers are off on average, in `unit`."""
    unit: str
    learned: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    """From one column (n, 1), labels and the number of classes: answers of a small tree, each half by the other."""
    explained: Measure
    """How much of the labels answers explain, 1 at most, in `explained_in`."""
    explained_in: str
    decided: Callable[[np.ndarray], np.ndarray] | None = None
    """The class (n,) float64 that an answer comes to; None: it is a value."""
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    """Scikit-learn's scorers that cannot be asked about rows in which a class is missing, so that they can."""

    def tells(self, label: np.ndarray) -> bool:
        """Whether these labels can judge an answer: where it is a class, there must be two."""
        return len(label) > 0 and (self.decided is None or len(np.unique(label)) > 1)


class _Answered(BaseEstimator):
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 0]

    def __sklearn_is_fitted__(self) -> bool:
        return True


class _Value(RegressorMixin, _Answered):
    pass


class _Chance(ClassifierMixin, _Answered):
    classes_ = np.array([0.0, 1.0])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return _yes(rows[:, 0])

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return np.column_stack([1.0 - rows[:, 0], rows[:, 0]])


class _Chances(ClassifierMixin, _Answered):
    def __init__(self, classes: int) -> None:
        self.classes, self.classes_ = classes, np.arange(classes, dtype="float64")

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return _likeliest(rows)

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return rows


def expected_calibration_error(label: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Mean |observed share - mean probability| over equal-count bins, weighted by rows (Naeini et al. 2015).

    Args:
        label: (n,) 0 or 1. probability: (n,) in [0, 1].
    """
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [len(rows) * abs(label[rows].mean() - probability[rows].mean()) for rows in parts if len(rows)]
    return float(sum(gaps) / len(label))


def _confidence_error(label: np.ndarray, chances: np.ndarray) -> float:
    """The calibration error of the likeliest class: is it right as often as its chance says? (Guo et al. 2017)."""
    return expected_calibration_error((_likeliest(chances) == label).astype("float64"), chances.max(axis=1))


def _bias(label: np.ndarray, value: np.ndarray) -> float:
    return float(abs(np.mean(value - label)) / np.std(label))


def _best_told(label: np.ndarray, chances: np.ndarray) -> float:
    """The AUC of the class that is told best from the rest: a leak may tell only one of them."""
    found = [auc(*each) for each in versus_rest(label, chances) if min(each[0].sum(), (~each[0]).sum()) >= FEW]
    return max((each for each in found if each is not None), default=0.0)


def _log_loss(label: np.ndarray, chances: np.ndarray) -> float:
    return float(np.mean(np.log(np.clip(chances[np.arange(len(label)), label.astype(int)], _TINY, 1.0))))


def _or_nan(found: float | None) -> float:
    return float("nan") if found is None else found


def _learned_value(column: np.ndarray, label: np.ndarray, _: int) -> np.ndarray:
    return np.asarray(cross_val_predict(DecisionTreeRegressor(**_SMALL), column, label, cv=KFold(2, **_HALVES)))


def _learned_chances(column: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    known, place, count = np.unique(label, return_inverse=True, return_counts=True)
    rows = count[place] > 1  # one in each half, or nothing is learned of it
    found, trees = np.zeros((len(label), classes)), DecisionTreeClassifier(**_SMALL)
    found[np.ix_(rows, known[count > 1].astype(int))] = cross_val_predict(
        trees, column[rows], label[rows], cv=StratifiedKFold(2, **_HALVES), method="predict_proba"
    )
    return found


def _yes(chance: np.ndarray) -> np.ndarray:
    return (chance >= THRESHOLD).astype("float64")


def _likeliest(chances: np.ndarray) -> np.ndarray:
    return chances.argmax(axis=1).astype("float64")


def _shares(label: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(label.astype(int), minlength=classes) / len(label)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "binary": Task(
            predict=lambda estimator, rows: estimator.predict_proba(rows)[:, 1],
            answered=lambda _: _Chance(),
            usual=lambda label, _: float(label.mean()),
            off=expected_calibration_error,
            unit="",
            learned=lambda column, label, _: _learned_chances(column, label, 2)[:, 1],
            explained=lambda label, chance: _or_nan(auc(label, chance)),
            explained_in="AUC",
            decided=_yes,
        ),
        "multiclass": Task(
            predict=lambda estimator, rows: estimator.predict_proba(rows),
            answered=lambda chances: _Chances(chances.shape[1]),
            usual=_shares,
            off=_confidence_error,
            unit=" for the likeliest class",
            learned=_learned_chances,
            explained=_best_told,
            explained_in="AUC of the class told best",
            decided=_likeliest,
            metrics={"roc_auc_ovr": lambda label, chances: _or_nan(auc(label, chances)), "neg_log_loss": _log_loss},
        ),
        "regression": Task(
            predict=lambda estimator, rows: estimator.predict(rows),
            answered=lambda _: _Value(),
            usual=lambda label, _: float(np.median(label)),
            off=_bias,
            unit=" standard deviations",
            learned=_learned_value,
            explained=lambda label, value: max(0.0, float(r2_score(label, value))),
            explained_in="R2",
        ),
    }
)


def pipeline_predict(task: str, estimator: Any, frame: pd.DataFrame) -> np.ndarray:
    """What a fitted estimator answers to what `matrix` makes: float64 (n,), or (n, classes) of several classes."""
    return np.asarray(TASKS[task].predict(estimator, frame), dtype="float64")


def finite(answers: np.ndarray) -> np.ndarray:
    """Which rows of answers hold nothing but numbers: bool (n,)."""
    return np.isfinite(answers).reshape(len(answers), -1).all(axis=1)


def places(model: Model, label: pd.Series) -> pd.Series:
    """Labels as declarations, sources and callers give them, as float64: a class becomes its place, a gap NaN.

    Raises HeadwayError for a label that is no class of the model.
    """
    if not model.classes:
        return label.astype("float64")
    known = {name: float(place) for place, name in enumerate(model.classes)}
    if odd := [value for value in label.dropna().unique() if value not in known]:
        raise HeadwayError(f"{model.name}: the label {odd[0]!r} is no class; there are: {', '.join(model.classes)}")
    return label.map(known).astype("float64")


def columns(classes: Classes, answers: np.ndarray) -> dict[str, np.ndarray]:
    """Answers as columns (n,): the one number of each row and, where there are several `classes`, the chance of each.

    The one number is the value, the chance of yes, or that of the likeliest class: what profiles count.
    """
    if not classes:
        return {SCORE: answers}
    each = {f"{CHANCE}{name}": answers[:, place] for place, name in enumerate(classes)}
    return {SCORE: answers.max(axis=1, initial=0.0), **each}


def answers(classes: Classes, rows: pd.DataFrame, prefix: str = "") -> np.ndarray:
    """The answers in `rows`, whose `columns` bear a prefix. A class that an answer did not know of had no chance."""
    if not classes:
        return rows[f"{prefix}{SCORE}"].to_numpy(dtype="float64")
    named = rows.reindex(columns=[f"{prefix}{CHANCE}{name}" for name in classes])
    return named.fillna(0.0).to_numpy(dtype="float64")
