"""The fast scorer: a fitted scikit-learn pipeline, compiled to what scores a row in microseconds.

Columns become numbers by tables and a few vector steps (see `encoding`); trees are walked by treelite, linear models
are one product. Nothing is compiled that is not known, and nothing compiled serves before `agreement` has compared it
with the pipeline. It answers what the pipeline answers and refuses, with ValueError, what the pipeline refuses.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from scipy.special import expit, softmax
from sklearn import ensemble, linear_model, tree
from sklearn.base import is_classifier, is_regressor
from sklearn.utils import get_tags

from pipelines.scorers.encoding import Encoding, encoding, flat
from pipelines.scorers.tables import Columns, NotCompiled
from pipelines.scorers.tasks import pipeline_predict
from pipelines.store.matrix import FeatureLike

__all__ = ["Columns", "FastScorer", "NotCompiled", "compile", "pipeline_predict"]

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FastScorer:
    """A compiled pipeline. Safe to share between threads: a call writes only to what it made."""

    kind: Literal["treelite", "linear"]
    task: str
    encode: Encoding
    answer: Answer
    thresholds: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """Where the trees split a column that reaches them as it came."""

    def predict(self, columns: Columns) -> np.ndarray:
        """Score n rows.

        Args:
            columns: {feature: n values} as `filled` gives them: float with NaN for missing, str or None.

        Returns:
            float64: the probability of the positive class or the value (n,), or of each class (n, classes).

        Raises:
            ValueError: a value that the pipeline refuses too.
        """
        return self.answer(self.encode(columns))


def compile(task: str, estimator: Any, features: Sequence[FeatureLike]) -> FastScorer:
    """Compile a fitted estimator that is trained on what `matrix` makes of `features`.

    Raises NotCompiled, with the reason, for what it does not know.
    """
    *before, model = flat(estimator)
    if not FITS[task](model):
        raise NotCompiled(f"{type(model).__name__} does not give the answers of the task {task}")
    links = SEVERAL_LINKS if task == "multiclass" else LINKS
    if type(model) not in (*TREES, *links):
        raise NotCompiled(f"{type(model).__name__} is neither trees nor a linear model that it knows")
    try:
        encode = encoding(before, features)
        if type(model) in links:
            return FastScorer("linear", task, encode, _linear(model, links[type(model)]))
        return FastScorer("treelite", task, encode, _trees(task, model, encode.sparse), _thresholds(model, encode))
    except NotCompiled:
        raise
    except Exception as error:  # it reads what scikit-learn keeps to itself: if that changes, the pipeline serves
        raise NotCompiled(f"it could not be compiled: {type(error).__name__}: {error}") from error


FITS: dict[str, Callable[[Any], bool]] = {
    "binary": lambda model: is_classifier(model) and len(model.classes_) == 2,
    "multiclass": lambda model: is_classifier(model) and len(model.classes_) > 2,
    "regression": is_regressor,
}
"""Whether an estimator gives answers of the task."""

LINKS: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    linear_model.LogisticRegression: expit,
    linear_model.LogisticRegressionCV: expit,
    linear_model.SGDClassifier: expit,
    linear_model.PoissonRegressor: np.exp,
    linear_model.GammaRegressor: np.exp,
    linear_model.LinearRegression: np.asarray,
    linear_model.Ridge: np.asarray,
    linear_model.RidgeCV: np.asarray,
    linear_model.Lasso: np.asarray,
    linear_model.LassoCV: np.asarray,
    linear_model.ElasticNet: np.asarray,
    linear_model.ElasticNetCV: np.asarray,
    linear_model.HuberRegressor: np.asarray,
    linear_model.BayesianRidge: np.asarray,
    linear_model.SGDRegressor: np.asarray,
}
"""Linear models, and what makes an answer of the weighted sum."""


def _shared(sums: np.ndarray) -> np.ndarray:
    """One class against the rest at a time, made to sum to 1; evenly where no class has a chance."""
    chances = expit(sums)
    total = chances.sum(axis=1, keepdims=True)
    return np.where(total == 0, 1.0 / sums.shape[1], chances / np.where(total == 0, 1.0, total))


SEVERAL_LINKS: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    linear_model.LogisticRegression: partial(softmax, axis=1),
    linear_model.LogisticRegressionCV: partial(softmax, axis=1),
    linear_model.SGDClassifier: _shared,
}
"""The same for several classes, of which each has a sum (n, classes)."""

FORESTS = (
    ensemble.RandomForestClassifier, ensemble.RandomForestRegressor,
    ensemble.ExtraTreesClassifier, ensemble.ExtraTreesRegressor,
)  # fmt: skip
SINGLE = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor, tree.ExtraTreeClassifier, tree.ExtraTreeRegressor)
BOOSTED = (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor)
HISTOGRAM = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)
TREES = (*FORESTS, *SINGLE, *BOOSTED, *HISTOGRAM)


def _linear(model: Any, link: Callable[[np.ndarray], np.ndarray]) -> Answer:
    weights, intercept = (np.asarray(part, dtype="float64") for part in (model.coef_, model.intercept_))
    if weights.size == weights.shape[-1]:  # one sum a row, whether scikit-learn keeps it as a row of weights or not
        weights, intercept = weights.reshape(-1), intercept.reshape(-1)[0]

    def answer(rows: np.ndarray) -> np.ndarray:
        _refuse(rows, missing=True)
        return link(rows @ weights.T + intercept)

    return answer


def _trees(task: str, model: Any, sparse: bool) -> Answer:
    """The trees in treelite's hands.

    All of scikit-learn's trees but the histogram ones see inputs rounded to float32, and thresholds are float64: a
    value close to a threshold falls on the other side unless it is rounded first.
    """
    import treelite
    import treelite.sklearn

    if type(model) in HISTOGRAM and model.is_categorical_ is not None and model.is_categorical_.any():
        raise NotCompiled("HistGradientBoosting with categories of its own is not proven exact")
    if getattr(model, "n_outputs_", 1) != 1:
        raise NotCompiled(f"{type(model).__name__} gives several answers a row")
    imported, boosted = treelite.sklearn.import_model(_importable(model)), type(model) in (*BOOSTED, *HISTOGRAM)
    walk: Answer = _Walk(imported, several=task == "multiclass")
    if task == "multiclass" and boosted:
        walk = _after(walk, partial(softmax, axis=1))
    missing = not get_tags(model).input_tags.allow_nan or sparse
    if type(model) in HISTOGRAM:
        return walk

    def answer(rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            rounded = rows.astype("float32").astype("float64")
        _refuse(rounded, missing=missing)
        return walk(rounded)

    return answer


def _importable(model: Any) -> Any:
    """What treelite takes for it. It reads as many trees as were asked for, also where fitting stopped early."""
    if type(model) in HISTOGRAM:
        return model
    if type(model) in SINGLE:
        forest = FORESTS[0 if is_classifier(model) else 1](n_estimators=1)
        forest.estimators_, forest.n_features_in_, forest.n_outputs_ = [model], model.n_features_in_, 1
        if is_classifier(model):
            forest.classes_, forest.n_classes_ = model.classes_, model.n_classes_
        return forest
    twin = copy.copy(model)
    twin.n_estimators = len(model.estimators_)
    return twin


def _after(first: Answer, then: Answer) -> Answer:
    return lambda rows: then(first(rows))


class _Walk:
    """Walks the trees by treelite's C API: its Python wrapper takes as long again as the trees of one row.

    Args:
        model: as treelite imported it; kept alive here, since C only knows its handle.
        several: whether all that the trees give for a row is its answer, or the last of it. All of it comes as the
            trees add it up: what treelite makes of boosted ones is off by 5e-8, since it computes that in float32.
    """

    def __init__(self, model: Any, *, several: bool) -> None:
        from treelite.core import _LIB
        from treelite.gtil.gtil import GTILConfig

        if (model.input_type, model.output_type) != ("float64", "float64"):
            raise NotCompiled(f"treelite would compute in {model.input_type} and {model.output_type}")
        self._model, self._config = model, GTILConfig(nthread=1, predict_type="raw" if several else "default")
        self._walk = _LIB.TreeliteGTILPredict
        self._width = model.num_feature
        self._answers = int(np.prod(_shape(model)))
        self._taken: Any = slice(None) if several else -1

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, places) float64, C-contiguous, to what the trees give: (n, classes), or (n,), the positive class."""
        if rows.shape[1] != self._width:
            raise ValueError(f"{rows.shape[1]} columns for trees that were fitted on {self._width}")
        found = np.zeros((len(rows), self._answers))
        failed = self._walk(
            self._model.handle, ctypes.c_void_p(rows.ctypes.data), b"float64", ctypes.c_uint64(len(rows)),
            ctypes.c_void_p(found.ctypes.data), self._config.handle,
        )  # fmt: skip
        if failed:
            raise RuntimeError("treelite failed to walk the trees")
        return found[:, self._taken]


def _shape(model: Any) -> tuple[int, ...]:
    """What treelite gives for a row: (targets, classes)."""
    import treelite.gtil

    return treelite.gtil.predict(model, np.zeros((1, model.num_feature)), nthread=1).shape[1:]


def _thresholds(model: Any, encode: Encoding) -> dict[str, np.ndarray]:
    if type(model) in HISTOGRAM:
        nodes = np.concatenate([one.nodes[one.nodes["is_leaf"] == 0] for row in model._predictors for one in row])
        places, values = nodes["feature_idx"], nodes["num_threshold"]
    else:
        trees = [one.tree_ for one in np.ravel(getattr(model, "estimators_", [model]))]
        places = np.concatenate([one.feature for one in trees])
        values = np.concatenate([one.threshold for one in trees])
    return {name: np.unique(values[places == place]) for place, name in encode.untouched().items()}


def _refuse(rows: np.ndarray, *, missing: bool) -> None:
    """Refuse infinity, and NaN where `missing` are refused, as the model does."""
    if not np.isfinite(rows).all() and (missing or np.isinf(rows).any()):
        raise ValueError("infinity, or a missing value, which the model refuses")
