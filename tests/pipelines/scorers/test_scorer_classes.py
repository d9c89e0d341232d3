"""The fast scorer for several classes: every probability as the pipeline gives it, or it does not serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from pipelines.scorers import agreement as agreeing
from pipelines.scorers.agreement import LIMIT, agreement, choose
from pipelines.scorers.scorer import NotCompiled, compile
from pipelines.scorers.tasks import pipeline_predict
from pipelines.store.matrix import filled
from tests.pipelines.scorers.test_scorer import FEATURES, FEW, HALF, coded, frame, one_row, one_thread, usual

__all__ = ["one_thread"]

pytestmark = pytest.mark.filterwarnings("ignore")  # of estimators that are given too little time to converge

ZOO: dict[str, tuple[str, Callable[[], Any]]] = {
    "histogram": ("treelite", lambda: coded(HistGradientBoostingClassifier(**HALF))),
    "forest": ("treelite", lambda: coded(RandomForestClassifier(**FEW))),
    "extra trees": ("treelite", lambda: coded(ExtraTreesClassifier(**FEW))),
    "tree": ("treelite", lambda: coded(DecisionTreeClassifier(max_depth=6, random_state=1))),
    "boosting": ("treelite", lambda: usual(GradientBoostingClassifier(n_estimators=6, random_state=1))),
    "logistic": ("linear", lambda: usual(LogisticRegression())),
    "logistic by sgd": ("linear", lambda: usual(SGDClassifier(loss="log_loss", random_state=1))),
}


def label() -> np.ndarray:
    """Three classes, the last one rare."""
    value = np.nan_to_num(frame()["x"]) + (frame()["city"] == "Lyon") + np.random.default_rng(6).normal(size=600)
    return np.digitize(value, [0.2, 2.0]).astype("float64")


@pytest.mark.parametrize("name", ZOO)
def test_every_probability_agrees_with_the_pipeline_row_by_row_and_all_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreeing, "TRIALS", 1000)
    kind, make = ZOO[name]
    estimator = make().fit(frame(), label())
    fast = compile("multiclass", estimator, FEATURES)
    found = agreement(fast, estimator, frame(), FEATURES, seed=1)
    assert fast.kind == kind
    assert found.agrees and found.worst <= LIMIT, found
    assert found.rows + found.refused == 1600 and found.rows > 600
    many = fast.predict(filled(frame().to_dict("list"), FEATURES))
    assert many.shape == (600, 3) and many.dtype == np.float64
    np.testing.assert_allclose(many, pipeline_predict("multiclass", estimator, frame()), rtol=1e-12)
    np.testing.assert_allclose(fast.predict(one_row(frame(), 7))[0], many[7], rtol=1e-15)


def test_one_probability_that_differs_is_enough_to_leave_it_to_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreeing, "TRIALS", 200)
    estimator = usual(LogisticRegression()).fit(frame(), label())
    assert choose("multiclass", estimator, frame(), FEATURES).scorer == "linear"
    from pipelines.scorers import scorer

    off = {LogisticRegression: lambda sums: scorer.softmax(sums, axis=1) + np.array([0.0, 0.0, 1e-8])}
    monkeypatch.setattr(scorer, "SEVERAL_LINKS", off)
    assert choose("multiclass", estimator, frame(), FEATURES).scorer == "pipeline"


def test_what_gives_other_answers_is_declined() -> None:
    two = coded(HistGradientBoostingClassifier(**HALF)).fit(frame(), label() > 0)
    with pytest.raises(NotCompiled, match="does not give the answers of the task multiclass"):
        compile("multiclass", two, FEATURES)
    three = coded(HistGradientBoostingClassifier(**HALF)).fit(frame(), label())
    with pytest.raises(NotCompiled, match="does not give the answers of the task binary"):
        compile("binary", three, FEATURES)
    with pytest.raises(NotCompiled, match="neither trees nor a linear model"):
        compile("multiclass", usual(GaussianNB(), sparse_output=False).fit(frame(), label()), FEATURES)
