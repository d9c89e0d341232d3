"""The fast scorer answers as the pipeline does, on rows made to find where it would not, or it does not serve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import treelite.gtil
import treelite.sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LogisticRegression, PoissonRegressor, Ridge, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

import features
import models
from pipelines.registry.package import FeatureSpec
from pipelines.scorers import agreement as agreeing
from pipelines.scorers.agreement import LIMIT, agreement, choose, difference, trial_rows
from pipelines.scorers.scorer import FastScorer, NotCompiled, compile, pipeline_predict
from pipelines.store.matrix import filled, matrix

pytestmark = pytest.mark.filterwarnings("ignore")  # of estimators that are given too little time to converge

FEATURES = (
    *(FeatureSpec(name, "float", None) for name in ("x", "wide", "tiny", "whole", "month")),
    *(FeatureSpec(name, "str", None) for name in ("city", "kind")),
)
NUMBERS, TEXTS = ["x", "wide", "tiny", "whole", "month"], ["city", "kind"]
TEXT, NUMBER = make_column_selector(dtype_include=object), make_column_selector(dtype_include="number")
HALF = {"random_state": 1, "max_iter": 12, "max_leaf_nodes": 8}
FEW = {"n_estimators": 8, "max_depth": 6, "random_state": 1}


@cache
def frame(missing: bool = True) -> pd.DataFrame:
    """600 rows of all that there may be: wide and tiny numbers, whole ones, categories, gaps."""
    random = np.random.default_rng(5)
    columns: dict[str, Any] = {
        "x": random.normal(size=600), "wide": random.normal(size=600) * 10 ** random.uniform(-3, 6, 600),
        "tiny": random.normal(size=600) * 1e-7, "whole": random.integers(-50, 50, 600) * 1.0,
        "month": random.integers(1, 13, 600) * 1.0, "city": random.choice(["Oslo", "Lyon", "Bari", "Køge", ""], 600),
        "kind": random.choice(["a", "b", None], 600) if missing else random.choice(["a", "b"], 600),
    }  # fmt: skip
    for name in NUMBERS if missing else []:
        columns[name][random.random(600) < 0.1] = np.nan
    return matrix(columns, FEATURES)


def label(task: str, rows: pd.DataFrame) -> np.ndarray:
    random = np.random.default_rng(6)
    value = np.nan_to_num(rows["x"]) + (rows["city"] == "Lyon") + random.normal(size=len(rows))
    return (value > 0.5).to_numpy() if task == "binary" else np.abs(value.to_numpy())


def codes(**changed: Any) -> OrdinalEncoder:
    unknown = {"handle_unknown": "use_encoded_value", "unknown_value": -1, "encoded_missing_value": -2}
    return OrdinalEncoder(**(unknown | changed))


def coded(model: Any, encoder: Any = None) -> Pipeline:
    return make_pipeline(make_column_transformer((encoder or codes(), TEXT), remainder="passthrough"), model)


def usual(model: Any, scaler: Any = None, **hot: Any) -> Pipeline:
    numbers = make_pipeline(SimpleImputer(strategy="median"), scaler or StandardScaler())
    encoder = OneHotEncoder(**({"handle_unknown": "ignore"} | hot))
    return make_pipeline(make_column_transformer((numbers, NUMBER), (encoder, TEXT)), model)


ZOO: dict[str, Callable[[], Any]] = {
    "histogram classifier": lambda: coded(HistGradientBoostingClassifier(**HALF)),
    "histogram regressor": lambda: coded(HistGradientBoostingRegressor(**HALF)),
    "histogram, poisson": lambda: coded(HistGradientBoostingRegressor(loss="poisson", **HALF)),
    "histogram, stopped early": lambda: coded(
        HistGradientBoostingClassifier(early_stopping=True, n_iter_no_change=1, random_state=1)
    ),
    "histogram, numbers only": lambda: make_pipeline(
        make_column_transformer(("passthrough", NUMBERS)), HistGradientBoostingClassifier(**HALF)
    ),
    "histogram after a scaler": lambda: make_pipeline(
        make_column_transformer((MinMaxScaler(clip=True), NUMBERS)), HistGradientBoostingRegressor(**HALF)
    ),
    "forest": lambda: coded(RandomForestClassifier(**FEW)),
    "forest regressor": lambda: coded(RandomForestRegressor(**FEW)),
    "extra trees": lambda: coded(ExtraTreesClassifier(**FEW)),
    "extra trees regressor": lambda: coded(ExtraTreesRegressor(**FEW)),
    "forest on a sparse matrix": lambda: make_pipeline(
        ColumnTransformer([("hot", OneHotEncoder(handle_unknown="ignore"), TEXTS), ("rest", SimpleImputer(), NUMBERS)],
                          sparse_threshold=1.0),
        RandomForestClassifier(**FEW),
    ),
    "tree": lambda: coded(DecisionTreeClassifier(max_depth=6, random_state=1)),
    "tree regressor": lambda: coded(DecisionTreeRegressor(max_depth=6, random_state=1)),
    "boosting": lambda: usual(GradientBoostingClassifier(n_estimators=10, random_state=1)),
    "boosting, stopped early": lambda: usual(
        GradientBoostingClassifier(n_iter_no_change=2, random_state=1), sparse_output=False
    ),
    "boosting regressor": lambda: usual(GradientBoostingRegressor(n_estimators=10, random_state=1), drop="first"),
    "logistic": lambda: usual(LogisticRegression()),
    "logistic by sgd": lambda: usual(SGDClassifier(loss="log_loss", random_state=1), RobustScaler()),
    "ridge": lambda: usual(Ridge(), MinMaxScaler(), drop="if_binary", sparse_output=False),
    "elastic net": lambda: usual(ElasticNet(alpha=0.01), MaxAbsScaler(), min_frequency=130),
    "poisson": lambda: usual(PoissonRegressor(), min_frequency=130, handle_unknown="infrequent_if_exist"),
    "scaled after the columns": lambda: make_pipeline(
        make_column_transformer((codes(), TEXTS), (SimpleImputer(strategy="constant", fill_value=-9), NUMBERS)),
        StandardScaler(), LogisticRegression(),
    ),
    "no columns but numbers": lambda: make_pipeline(
        make_column_transformer((SimpleImputer(), NUMBERS)), StandardScaler(), Ridge()
    ),
    "texts imputed, numbers one-hot": lambda: make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(missing_values=None, strategy="most_frequent"),
                           OneHotEncoder(handle_unknown="ignore")), TEXTS),
            (make_pipeline(SimpleImputer(), OneHotEncoder(handle_unknown="ignore"), MaxAbsScaler()), ["month"]),
            remainder="drop",
        ), LogisticRegression(),
    ),
    "target encoder": lambda: coded(HistGradientBoostingClassifier(**HALF), TargetEncoder(random_state=1)),
    "rare ones together": lambda: coded(HistGradientBoostingClassifier(**HALF), codes(min_frequency=130)),
    "missing stays missing": lambda: coded(HistGradientBoostingClassifier(**HALF), codes(encoded_missing_value=np.nan)),
    "an error for the unknown": lambda: coded(HistGradientBoostingClassifier(**HALF), OrdinalEncoder()),
    "columns by number, slice and mask": lambda: make_pipeline(
        ColumnTransformer([("a", codes(), [6]), ("b", "passthrough", slice(0, 2)), ("gone", "drop", ["tiny"]),
                           ("c", "passthrough", [False, False, False, True, False, False, False])]),
        HistGradientBoostingClassifier(**HALF),
    ),
    "every column encoded": lambda: make_pipeline(codes(), HistGradientBoostingRegressor(**HALF)),
}  # fmt: skip


@cache
def zoo(name: str) -> tuple[str, Any, FastScorer]:
    """The task, the fitted pipeline, and what is compiled from it."""
    estimator = ZOO[name]()
    task = "binary" if hasattr(estimator, "predict_proba") else "regression"
    estimator.fit(frame(), label(task, frame()))
    return task, estimator, compile(task, estimator, FEATURES)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the platform runs: more threads than cores make histograms many times slower."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("name", ZOO)
def test_what_people_commonly_write_is_compiled_and_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreeing, "TRIALS", 2000)
    _, estimator, fast = zoo(name)
    found = agreement(fast, estimator, frame(), FEATURES, seed=1)
    assert found.agrees and found.worst <= LIMIT, found
    assert found.rows + found.refused == 2600 and found.rows > 1000
    linear = any(word in type(estimator[-1]).__name__ for word in ("Regression", "Ridge", "Elastic", "SGD", "Poisson"))
    assert fast.kind == ("linear" if linear else "treelite")


def one_row(rows: pd.DataFrame, number: int) -> dict[str, Any]:
    return filled({str(name): values.tolist()[number : number + 1] for name, values in rows.items()}, FEATURES)


@pytest.mark.parametrize("name", ["texts imputed, numbers one-hot", "extra trees", "histogram classifier", "ridge"])
def test_one_row_is_scored_as_that_row_among_many(name: str) -> None:
    task, estimator, fast = zoo(name)
    many = fast.predict(frame().to_dict("list"))
    assert many.dtype == np.float64 and many.shape == (600,)
    alone = [fast.predict(one_row(frame(), number))[0] for number in range(50)]
    np.testing.assert_allclose(alone, many[:50], rtol=1e-15)
    np.testing.assert_allclose(many, pipeline_predict(task, estimator, frame()), rtol=1e-12)
    assert fast.predict({feature.name: [] for feature in FEATURES}).shape == (0,)


@pytest.mark.parametrize("model", ["late_arrival", "arrival_delay"])
def test_the_declared_models_are_compiled_and_agree_on_ten_thousand_rows(model: str) -> None:
    declared = models.load(model)
    wanted = features.load(declared.domain).features_of(declared.feature_service)
    random = np.random.default_rng(7)
    values = {
        feature.name: random.choice(["EWR", "JFK", "UA", "N1", None], 3000) if feature.dtype == "str"
        else np.where(random.random(3000) < 0.1, np.nan, random.normal(10, 40, 3000).round(random.integers(0, 6)))
        for feature in wanted
    }  # fmt: skip
    rows = matrix(values, wanted)
    truth = np.nan_to_num(rows[wanted[0].name]) + random.normal(0, 20, 3000)
    estimator = declared.estimator().fit(rows, truth > 20 if declared.task == "binary" else truth)
    chosen = choose(declared.task, estimator, rows, wanted)
    assert chosen.scorer == "treelite" and chosen.fast is not None, chosen
    assert chosen.note.endswith("at most on 12000 rows")
    assert len(chosen.fast.thresholds) >= len(wanted) - 4 and sum(map(len, chosen.fast.thresholds.values())) > 100


CELLS = {
    "float": st.one_of(st.floats(), st.floats(width=32), st.sampled_from([math.nan, 1e30, -1e30, 0.0, -0.0])),
    "str": st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["Oslo", "Lyon", "a", "b", ""])),
}
ROWS = st.fixed_dictionaries({feature.name: CELLS[feature.dtype] for feature in FEATURES})


@pytest.mark.parametrize("name", ["histogram classifier", "extra trees", "logistic", "an error for the unknown"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_whatever_comes_is_answered_or_refused_as_by_the_pipeline(name: str, rows: list[dict[str, Any]]) -> None:
    task, estimator, fast = zoo(name)
    columns = filled({feature.name: [row[feature.name] for row in rows] for feature in FEATURES}, FEATURES)
    try:
        theirs = pipeline_predict(task, estimator, matrix(columns, FEATURES))
    except ValueError:
        with pytest.raises(ValueError, match="refuses"):
            fast.predict(columns)
        return
    assert difference(fast.predict(columns), theirs) <= LIMIT


def test_a_value_on_a_split_point_falls_where_it_falls_in_the_pipeline() -> None:
    for name in ("histogram classifier", "extra trees", "forest", "tree"):
        task, estimator, fast = zoo(name)
        points = np.unique(np.concatenate([*fast.thresholds.values()]))
        points = points[np.isfinite(points)]  # a split between missing and the rest is at infinity
        assert len(points) > 20
        near = np.concatenate([points, points.astype("float32"), np.nextafter(points, -9e9), np.nextafter(points, 9e9)])
        columns = {name: near.tolist() for name in NUMBERS} | {name: ["a"] * len(near) for name in TEXTS}
        theirs = pipeline_predict(task, estimator, matrix(columns, FEATURES))
        assert difference(fast.predict(columns), theirs) <= LIMIT, name


def unrounded(fast: FastScorer) -> FastScorer:
    """The classic mistake: float64 values against thresholds that scikit-learn compares float32 values with."""
    trees = treelite.sklearn.import_model(zoo("extra trees")[1][-1])
    return replace(fast, answer=lambda rows: treelite.gtil.predict(trees, rows, nthread=1)[:, 0, -1])


def recoded(fast: FastScorer, change: Callable[[Any], Any]) -> FastScorer:
    """With other tables for categories."""
    tables, *rest = fast.encode.blocks
    changed = replace(tables, tables=tuple(map(change, tables.tables)))  # type: ignore
    return replace(fast, encode=replace(fast.encode, blocks=(changed, *rest)))


def refusing(fast: FastScorer, when: Callable[[np.ndarray], bool]) -> FastScorer:
    def answer(rows: np.ndarray) -> np.ndarray:
        if when(rows):
            raise ValueError("will not")
        return fast.answer(rows)

    return replace(fast, answer=answer)


def through(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[FastScorer], FastScorer]:
    return lambda fast: replace(fast, answer=lambda rows: fast.answer(np.ascontiguousarray(change(rows))))


WRONG: dict[str, tuple[str, Callable[[FastScorer], FastScorer]]] = {
    "off by 2e-9": ("histogram classifier", lambda fast: replace(fast, answer=lambda rows: fast.answer(rows) + 2e-9)),
    "float64 at float32 thresholds": ("extra trees", unrounded),
    "an ulp too low": ("histogram classifier", through(lambda rows: np.nextafter(rows, -np.inf))),
    "float32 for float64 trees": ("histogram classifier", through(lambda rows: rows.astype("f4").astype("f8"))),
    "missing is nought": ("histogram classifier", through(np.nan_to_num)),
    "unseen as the first": (
        "histogram classifier",
        lambda fast: recoded(fast, lambda one: replace(one, unseen=((0, 1.0), (1, 1.0)))),
    ),
    "missing as unseen": (
        "histogram classifier",
        lambda fast: recoded(fast, lambda one: replace(one, known={**one.known, None: ((0, 3.0), (1, 1.0))})),
    ),
    "answers the unknown": (
        "an error for the unknown", lambda fast: recoded(fast, lambda one: replace(one, unseen=((0, 0.0),))),
    ),
    "refuses missing": ("histogram classifier", lambda fast: refusing(fast, lambda rows: bool(np.isnan(rows).any()))),
    "refuses extremes": ("histogram classifier", lambda fast: refusing(fast, lambda rows: bool((rows > 1e20).any()))),
    "refuses everything": ("histogram classifier", lambda fast: refusing(fast, lambda rows: True)),
    "wrong on many rows only": (
        "histogram classifier", lambda fast: replace(fast, answer=lambda rows: fast.answer(rows) + (len(rows) > 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_scorer_does_not_agree(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreeing, "TRIALS", 2000)
    name, spoil = WRONG[fault]
    _, estimator, right = zoo(name)
    assert agreement(right, estimator, frame(), FEATURES, 1).agrees
    found = agreement(spoil(right), estimator, frame(), FEATURES, 1)
    assert not found.agrees, found


@cache
def plain(task: str, make: Callable[[], Any], classes: int = 2) -> Any:
    truth = label(task, frame(missing=False))
    truth = pd.qcut(frame()["x"].fillna(0), classes, labels=False) if classes > 2 else truth
    return make().fit(frame(missing=False), truth)


DECLINED: dict[str, tuple[str, Callable[[], Any]]] = {
    "KNeighborsClassifier is neither trees nor": ("binary", lambda: usual(KNeighborsClassifier())),
    "PolynomialFeatures is not a step": ("binary", lambda: make_pipeline(
        make_column_transformer((PolynomialFeatures(), NUMBERS)), LogisticRegression())),
    "FunctionTransformer is not a step": ("binary", lambda: make_pipeline(
        make_column_transformer((FunctionTransformer(np.cbrt), NUMBERS)), LogisticRegression())),
    "categories of its own": ("binary", lambda: make_pipeline(
        make_column_transformer((codes(), TEXTS), ("passthrough", ["x"])),
        HistGradientBoostingClassifier(categorical_features=[0, 1], **HALF))),
    "adds indicators": ("binary", lambda: make_pipeline(
        make_column_transformer((SimpleImputer(add_indicator=True), NUMBERS)), LogisticRegression())),
    "weighs its transformers": ("binary", lambda: make_pipeline(
        ColumnTransformer([("a", "passthrough", NUMBERS)], transformer_weights={"a": 2.0}), LogisticRegression())),
    "RandomForestClassifier does not give the answers of the task regression": (
        "regression", lambda: make_pipeline(make_column_transformer((codes(), TEXTS)), RandomForestClassifier(2))),
    "StandardScaler beside an encoder": ("binary", lambda: make_pipeline(
        make_column_transformer((make_pipeline(StandardScaler(), OneHotEncoder(handle_unknown="ignore")), ["month"])),
        LogisticRegression())),
}  # fmt: skip


@pytest.mark.parametrize("reason", DECLINED)
def test_what_is_not_known_is_declined_with_the_reason(reason: str) -> None:
    task, make = DECLINED[reason]
    estimator = plain("binary", make)
    with pytest.raises(NotCompiled, match=reason):
        compile(task, estimator, FEATURES)
    chosen = choose(task, estimator, frame(missing=False), FEATURES)
    assert (chosen.scorer, chosen.fast) == ("pipeline", None) and reason in chosen.note


def test_three_classes_are_declined() -> None:
    estimator = plain("binary", lambda: usual(LogisticRegression()), classes=3)
    with pytest.raises(NotCompiled, match="does not give the answers of the task binary"):
        compile("binary", estimator, FEATURES)


def test_what_compiles_but_answers_otherwise_leaves_the_pipeline_serving() -> None:
    # Treelite takes it for the usual loss, whose link is another.
    estimator = usual(GradientBoostingClassifier(loss="exponential", n_estimators=5, random_state=1)).fit(
        frame(), label("binary", frame())
    )
    chosen = choose("binary", estimator, frame(), FEATURES)
    assert (chosen.scorer, chosen.fast) == ("pipeline", None)
    assert chosen.note.startswith("differs from the pipeline by ")


def test_trials_hold_what_they_are_there_for() -> None:
    fast = zoo("histogram classifier")[-1]
    rows = trial_rows(fast, {f.name: frame()[f.name].tolist() for f in FEATURES}, FEATURES, seed=3)
    assert (
        trial_rows(fast, {f.name: frame()[f.name].tolist() for f in FEATURES}, FEATURES, seed=3)["city"] == rows["city"]
    )
    assert {len(values) for values in rows.values()} == {agreeing.TRIALS}
    assert {None, "", "never seen", "Oslo"} <= set(rows["city"])
    assert {1e30, -1e30, math.inf, 2.0**63, float(np.finfo("float32").max)} <= set(rows["x"])
    assert any(value != value for value in rows["whole"])
    assert len(fast.thresholds["x"]) > 5 and set(fast.thresholds["x"]) <= set(rows["x"])
    untouched = sum(all(rows[n][k] in set(frame()[n]) for n in ("x", "wide", "tiny")) for k in range(1000))
    assert untouched > 200, "too few ordinary rows"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [([1.0], [1.0], 0.0), ([math.nan], [math.nan], 0.0), ([math.inf], [math.inf], 0.0), ([math.nan], [1.0], math.inf),
     ([1e12 + 1], [1e12], 1e-12), ([0.5], [0.25], 0.25), ([math.inf], [1.0], math.inf), ([], [], 0.0)],
)  # fmt: skip
def test_differences_are_absolute_below_one_and_relative_above(ours: Any, theirs: Any, expected: float) -> None:
    assert difference(np.array(ours), np.array(theirs)) == pytest.approx(expected)


def test_threads_share_a_scorer() -> None:
    fast = zoo("extra trees")[-1]
    rows = [one_row(frame(), number) for number in range(200)]
    expected = fast.predict(frame().head(200).to_dict("list"))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            np.testing.assert_array_equal(np.concatenate(list(pool.map(fast.predict, rows))), expected)


def test_one_row_takes_a_small_part_of_the_pipelines_time() -> None:
    task, estimator, fast = zoo("histogram classifier")
    columns = one_row(frame(), 0)

    def cost(score: Callable[[], Any], calls: int) -> float:
        best = math.inf
        for _ in range(5):
            began = time.process_time()
            for _ in range(calls):
                score()
            best = min(best, (time.process_time() - began) / calls)
        return best

    slow = cost(lambda: pipeline_predict(task, estimator, matrix(columns, FEATURES)), 10)
    assert cost(lambda: fast.predict(columns), 200) < slow / 10
