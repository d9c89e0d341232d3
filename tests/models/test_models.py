"""The declared models: what each names exists, and its estimators take what the platform gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import get_scorer

import features
import models
from models import Model
from pipelines.home import utc
from pipelines.scorers.scoring import predict
from pipelines.store.matrix import matrix

DECLARED = [models.load(name) for name in models.names()]
every_model = pytest.mark.parametrize("model", DECLARED, ids=lambda model: model.name)
ROWS = 600


def inputs(model: Model, rows: int = ROWS, seed: int = 1) -> pd.DataFrame:
    """What `matrix` gives a model: numbers and texts, some missing."""
    random = np.random.default_rng(seed)
    declared = features.load(model.domain).features_of(model.feature_service)
    texts = np.array(["EWR", "JFK", None], dtype=object)
    values: dict[str, Any] = {
        f.name: random.choice(texts, rows) if f.dtype == "str" else random.normal(size=rows) for f in declared
    }
    for name, column in values.items():
        if column.dtype != object:
            values[name] = np.where(random.random(rows) < 0.1, np.nan, column)
    return matrix(values, declared)


def labels(model: Model, rows: int = ROWS) -> np.ndarray:
    random = np.random.default_rng(2)
    return random.integers(0, 2, rows).astype("float64") if model.task == "binary" else random.normal(size=rows)


@every_model
def test_what_a_model_names_exists(model: Model) -> None:
    domain = features.load(model.domain)
    assert domain.features_of(model.feature_service)
    assert all(domain.source(name) for name in model.examples.sources)
    assert get_scorer(model.metric)
    assert models.load(model.name) is model, "the file is called as the model is"


@every_model
def test_the_estimator_is_seeded_and_fresh_each_time(model: Model) -> None:
    first, second = model.estimator(), model.estimator()
    assert first is not second
    for estimator in (first, second, clone(first)):
        estimator.fit(inputs(model), labels(model))
    answers = predict(model, first, inputs(model, seed=3))
    np.testing.assert_array_equal(answers, predict(model, second, inputs(model, seed=3)))
    assert np.isfinite(answers).all() and len(np.unique(answers)) > 10


@every_model
def test_the_estimator_takes_missing_and_unseen_values_and_a_single_row(model: Model) -> None:
    fitted = model.estimator().fit(inputs(model), labels(model))
    odd = inputs(model, 2, seed=4)
    for name in odd:
        odd[name] = [None, "??"] if odd[name].dtype == object else [np.nan, 1e12]
    together = predict(model, fitted, odd)
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(np.concatenate([predict(model, fitted, odd.iloc[[row]]) for row in (0, 1)]), together)


@every_model
def test_every_baseline_can_be_fitted_and_asked(model: Model) -> None:
    for make in model.baselines.values():
        fitted = make().fit(inputs(model), labels(model))
        assert np.isfinite(predict(model, fitted, inputs(model, 20, seed=5))).all()


def test_classes_belong_to_the_task_that_has_them() -> None:
    binary = DECLARED[-1]
    assert binary.task == "binary"
    for task, classes, complaint in (
        ("multiclass", (), "multiclass needs its 3 or more classes, by name"),
        ("multiclass", ("yes", "no"), "of two classes the task is binary"),
        ("multiclass", ("a", "b", "b"), "two classes are called b"),
        ("multiclass", ("a", "b", "on time"), "'on time' is not a name"),
        ("binary", ("a", "b", "c"), "classes are declared for the task multiclass, not for binary"),
    ):
        with pytest.raises(models.DeclarationError, match=complaint):
            replace(binary, task=task, classes=classes)
    assert replace(binary, task="multiclass", classes=("c", "a", "b")).classes == ("c", "a", "b")


@every_model
def test_windows_leave_room_for_labels(model: Model) -> None:
    assert model.examples.label_matures < model.holdout < model.training_window
    assert utc("2013-04-01") - model.training_window >= utc("2013-01-01"), "the demo's history reaches back so far"
