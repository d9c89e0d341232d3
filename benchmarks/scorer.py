"""How fast a prediction is, without the endpoint around it: the fast scorer and the pipeline it is compiled from.

    OMP_NUM_THREADS=1 python -m benchmarks.scorer

Four pipelines on 19 numbers and 4 categories, 3,000 training rows, from a fixed seed; the first is that of a declared
model. Each line: median CPU time of one call, the two in turns, from columns with their defaults filled in to the array
of answers. Then where one row's time goes, filling in those defaults included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

import models
from pipelines.registry.package import FeatureSpec
from pipelines.scorers.agreement import Choice, choose
from pipelines.scorers.scorer import pipeline_predict
from pipelines.store.matrix import filled, matrix

FEATURES = tuple(FeatureSpec(f"x{i}", "float" if i < 19 else "str", None) for i in range(23))
TEXT, NUMBER = make_column_selector(dtype_include=object), make_column_selector(dtype_include="number")
TURNS = 15


def coded(model: Any) -> Pipeline:
    """Ordinal codes for the categories."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    return make_pipeline(make_column_transformer((codes, TEXT), remainder="passthrough"), model)


def hot(model: Any) -> Pipeline:
    """Imputed and scaled numbers, one-hot categories."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_pipeline(
        make_column_transformer((numbers, NUMBER), (OneHotEncoder(handle_unknown="ignore"), TEXT)), model
    )


PIPELINES = {
    "declared: codes, 100 histogram trees": models.load("late_arrival").estimator(),
    "codes, forest of 100": coded(RandomForestClassifier(100, max_depth=8, random_state=1)),
    "scaled, one-hot, 100 boosted trees": hot(GradientBoostingRegressor(random_state=1)),
    "scaled, one-hot, logistic": hot(LogisticRegression()),
}


def cost(calls: dict[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """Median CPU microseconds of each call, measured in turns."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            began = time.process_time()
            for _ in range(times):
                call()
            spent[name].append((time.process_time() - began) / times * 1e6)
    return {name: statistics.median(of) for name, of in spent.items()}


def compare(name: str, estimator: Pipeline, task: str, chosen: Choice, frame: pd.DataFrame) -> None:
    """Print what one row and 1,000 cost, and where one row's time goes."""
    fast = chosen.fast
    assert fast is not None, chosen.note
    for rows, times in ((1000, 1), (1, 30)):
        given = filled({f.name: frame[f.name].tolist()[:rows] for f in FEATURES}, FEATURES)
        calls = {
            "pipeline": partial(lambda given: pipeline_predict(task, estimator, matrix(given, FEATURES)), given),
            "fast": partial(fast.predict, given),
        }
        found = cost(calls, times)
        ratio = found["pipeline"] / found["fast"]
        print(f"{name:38}{rows:5} rows{found['pipeline']:10.0f} us{found['fast']:8.0f} us{ratio:7.1f}x")
    encoded = fast.encode(given)
    steps: dict[str, Callable[[], Any]] = {
        "fill": lambda: filled(given, FEATURES),
        "encode": lambda: fast.encode(given),
        fast.kind: lambda: fast.answer(encoded),
    }
    print(f"{'':38}one row: " + ", ".join(f"{step} {spent:.0f} us" for step, spent in cost(steps, 300).items()))
    print(f"{'':38}{chosen.note}\n")


def main() -> None:
    """Fit, compile, compare."""
    argparse.ArgumentParser(prog="python -m benchmarks.scorer", description=__doc__.split("\n")[0]).parse_args()
    random = np.random.default_rng(3)
    columns = {
        f.name: random.normal(size=3000) if f.dtype == "float" else random.choice([*"abcdefgh", None], 3000)
        for f in FEATURES
    }
    frame = matrix(columns, FEATURES)
    value = frame["x0"] + (frame["x20"] == "a") + random.normal(size=3000)
    print(f"{'CPU time of one call, median':38}{'':10}{'pipeline':>13}{'fast':>11}{'ratio':>8}")
    for name, estimator in PIPELINES.items():
        task = "binary" if hasattr(estimator, "predict_proba") else "regression"
        estimator.fit(frame, value > 0.5 if task == "binary" else value)
        compare(name, estimator, task, choose(task, estimator, frame, FEATURES), frame)


if __name__ == "__main__":
    main()
