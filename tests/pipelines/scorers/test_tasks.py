"""Several classes: scored as scikit-learn does where it can be asked, gated, kept as columns, and read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

import models
from features import HeadwayError
from models import Model
from pipelines.home import utc
from pipelines.records.frame import Frame, Split, every_class
from pipelines.registry.package import Gate
from pipelines.scorers.scoring import interval, score
from pipelines.scorers.tasks import TASKS, answers, columns, expected_calibration_error, finite, places
from pipelines.training import gain
from pipelines.training.judge import LEAK, judge

CLASSES = ("a", "b", "c")
MODEL: Model = replace(
    models.load("late_arrival"), name="letters", task="multiclass", classes=CLASSES, metric="roc_auc_ovr", slices=(),
    baselines={"prior": lambda: DummyClassifier(strategy="prior")},
    gates=replace(models.load("late_arrival").gates, calibration=0.1, latency_ms=1000.0),
)  # fmt: skip
RANDOM = np.random.default_rng(4)
CHANCES = RANDOM.dirichlet([1.0, 1.0, 0.4], 800)
LABEL = np.array([RANDOM.choice(3, p=each) for each in CHANCES]).astype("float64")
DAYS = np.repeat(np.arange(20), 40)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("roc_auc_ovr", lambda label, chances: metrics.roc_auc_score(label, chances, multi_class="ovr")),
        ("roc_auc_ovo", lambda label, chances: metrics.roc_auc_score(label, chances, multi_class="ovo")),
        ("neg_log_loss", lambda label, chances: -metrics.log_loss(label, chances)),
        ("accuracy", lambda label, chances: metrics.accuracy_score(label, chances.argmax(axis=1))),
        ("f1_macro", lambda label, chances: metrics.f1_score(label, chances.argmax(axis=1), average="macro")),
    ],
)
def test_classes_are_scored_as_scikit_learn_does(metric: str, expected: Callable[..., float]) -> None:
    assert score(replace(MODEL, metric=metric), LABEL, CHANCES) == pytest.approx(expected(LABEL, CHANCES), abs=1e-12)


def test_a_class_that_is_missing_leaves_the_others_to_be_scored() -> None:
    some = LABEL != 2
    one_each = [metrics.roc_auc_score(LABEL[some] == place, CHANCES[some, place]) for place in (0, 1)]
    assert score(MODEL, LABEL[some], CHANCES[some]) == pytest.approx(np.mean(one_each), abs=1e-12)
    loss = metrics.log_loss(LABEL[some], CHANCES[some], labels=[0, 1, 2])
    assert score(replace(MODEL, metric="neg_log_loss"), LABEL[some], CHANCES[some]) == pytest.approx(-loss, abs=1e-12)
    assert np.isnan(score(replace(MODEL, metric="roc_auc_ovo"), LABEL[some], CHANCES[some]))
    assert np.isnan(score(MODEL, np.zeros(9), CHANCES[:9]))


def test_a_metric_of_another_task_is_told() -> None:
    with pytest.raises(
        HeadwayError, match=r"models/letters\.py: metric 'roc_auc' of a multiclass model: multi_class must"
    ):
        score(replace(MODEL, metric="roc_auc"), LABEL, CHANCES)


def test_the_interval_of_the_ranking_is_that_of_the_metric_on_days_drawn_anew() -> None:
    fast = interval(MODEL, LABEL, CHANCES, DAYS)
    draw = np.random.default_rng(7)
    groups = [np.flatnonzero(day == DAYS) for day in range(20)]
    drawn = []
    for _ in range(200):
        rows = np.concatenate([groups[k] for k in draw.integers(20, size=20)])
        drawn.append(metrics.roc_auc_score(LABEL[rows], CHANCES[rows], multi_class="ovr"))
    assert fast == pytest.approx([score(MODEL, LABEL, CHANCES), *np.quantile(drawn, [0.025, 0.975])], abs=1e-9)
    paired = interval(MODEL, LABEL, CHANCES, DAYS, than=CHANCES)
    assert paired == (0.0, 0.0, 0.0)


def test_calibration_is_that_of_the_likeliest_class() -> None:
    off = TASKS["multiclass"].off
    right = (CHANCES.argmax(axis=1) == LABEL).astype("float64")
    assert off(LABEL, CHANCES) == pytest.approx(expected_calibration_error(right, CHANCES.max(axis=1)))
    assert off(LABEL, CHANCES) < 0.06
    sharper = CHANCES**4 / (CHANCES**4).sum(axis=1, keepdims=True)
    assert off(LABEL, sharper) > 0.15


@given(st.lists(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), max_size=8))
def test_answers_are_the_same_after_they_were_columns(rows: list[list[float]]) -> None:
    given = np.array(rows, dtype="float64").reshape(-1, 3)
    kept = pd.DataFrame(columns(CLASSES, given)).add_prefix("ours.")
    np.testing.assert_array_equal(answers(CLASSES, kept, "ours."), given)
    assert kept["ours.prediction"].tolist() == given.max(axis=1, initial=0).tolist()
    turned = answers(("c", "never_known", "a"), kept, "ours.")
    np.testing.assert_array_equal(turned, np.column_stack([given[:, 2], np.zeros(len(given)), given[:, 0]]))


def test_labels_go_by_name_outside_and_by_place_inside() -> None:
    assert places(MODEL, pd.Series(["b", None, "a"], dtype=object)).fillna(-1).tolist() == [1.0, -1.0, 0.0]
    assert places(models.load("late_arrival"), pd.Series([1, 0])).tolist() == [1.0, 0.0]
    with pytest.raises(HeadwayError, match="letters: the label 'd' is no class; there are: a, b, c"):
        places(MODEL, pd.Series(["a", "d"]))
    assert finite(np.array([[0.1, np.nan], [0.1, 0.9]])).tolist() == [False, True]


def frame(rows: int, seed: int) -> Frame:
    random = np.random.default_rng(seed)
    inputs = pd.DataFrame({"x": random.normal(size=rows), "noise": random.normal(size=rows)})
    value = inputs["x"] + random.normal(size=rows)
    decided = pd.Series(pd.date_range("2013-03-01", periods=rows, freq="20min", tz="UTC"))
    label = np.digitize(value, [-0.5, 1.5]).astype("float64")
    return Frame(pd.DataFrame({"label": label, "decision_time": decided}), inputs)


PARTS = Split(frame(2000, 1), frame(1000, 2), utc("2013-03-01"))


def gates(estimator: Any, parts: Split = PARTS, champion: np.ndarray | None = None) -> dict[str, Gate]:
    fitted, twin = (estimator().fit(parts.train.inputs, parts.train.rows["label"]) for _ in range(2))
    return {gate.name: gate for gate in judge(MODEL, fitted, parts, champion, twin)}


def test_a_good_challenger_passes_every_gate() -> None:
    champion = LogisticRegression(C=0.01).fit(PARTS.train.inputs, PARTS.train.rows["label"])
    theirs = champion.predict_proba(PARTS.holdout.inputs)
    theirs[:300] = np.nan
    found = gates(LogisticRegression, champion=theirs)
    assert all(gate.passed for gate in found.values()), found
    assert set(found) >= {"beats prior", "not worse than the champion", "calibration", LEAK, "determinism", "latency"}
    assert 0 < (found["beats prior"].low or 0) < (found["beats prior"].value or 0)
    assert "for the likeliest class" in found["calibration"].sentence
    assert not gates(LogisticRegression, champion=np.full_like(theirs, np.nan))["not worse than the champion"].passed


def test_a_feature_that_tells_one_class_alone_is_a_leak() -> None:
    told = [
        Frame(
            part.rows, part.inputs.assign(leak=np.where(part.rows["label"] == 2, "yes", "no")).astype({"leak": object})
        )
        for part in (PARTS.train, PARTS.holdout)
    ]
    of_numbers = [Frame(part.rows, part.inputs.assign(leak=(part.inputs["leak"] == "yes") * 1.0)) for part in told]
    found = gates(LogisticRegression, Split(*of_numbers, PARTS.trained_until))[LEAK]
    assert not found.passed and found.value == 1.0
    assert found.sentence == "`leak` alone explains 1.000 of it (AUC of the class told best)"


def test_two_fits_that_differ_in_one_probability_are_told() -> None:
    class Restless(LogisticRegression):
        fits = 0

        def fit(self, rows: Any, label: Any) -> Any:
            Restless.fits += 1
            self.nudge = 1e-9 * Restless.fits
            return super().fit(rows, label)

        def predict_proba(self, rows: Any) -> np.ndarray:
            found = super().predict_proba(rows)
            found[0, 2] += self.nudge
            return found

    found = gates(Restless)["determinism"]
    assert not found.passed and found.value == 1.0


def test_what_a_refit_gains_is_told_of_all_the_chances_after_they_were_on_disk() -> None:
    flat = np.full_like(CHANCES, 1 / 3)
    kept = gain.Answers(
        since="2013-03-01T00:00:00+00:00", until="2013-03-21T00:00:00+00:00", digest="d", days=list(map(str, DAYS)),
        label=gain._listed(LABEL), champion=gain._listed(flat), refitted=gain._listed(CHANCES),
    )  # fmt: skip
    found = gain.told(MODEL, [msgspec.json.decode(msgspec.json.encode(kept), type=gain.Answers)])
    assert found.value == pytest.approx(score(MODEL, LABEL, CHANCES) - 0.5, abs=1e-3)
    assert found.low is not None and found.low > 0.1


def test_a_class_without_a_row_to_learn_from_is_told() -> None:
    rare = PARTS.train.where(PARTS.train.rows["label"] != 2)
    with pytest.raises(HeadwayError, match="letters: no training row is c, so nothing can be learned of it"):
        every_class(MODEL, rare)
    every_class(MODEL, PARTS.train)
    every_class(models.load("late_arrival"), rare)
