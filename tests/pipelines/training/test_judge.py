"""Gates: each lets the good through, and each stops what it is there to stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

import models
from models import Model, Slice
from pipelines.home import utc
from pipelines.records.frame import Frame, Split
from pipelines.registry.package import FeatureSpec, Gate
from pipelines.scorers.scorer import FastScorer, compile
from pipelines.scorers.tasks import expected_calibration_error
from pipelines.training.judge import judge

SLICE = Slice(name="north", column="region", value="north", floor=0.6)
BINARY = replace(
    models.load("late_arrival"),
    baselines={"prior": lambda: DummyClassifier(strategy="prior")},
    slices=(SLICE,),
    gates=replace(models.load("late_arrival").gates, calibration=0.1, latency_ms=1000.0),
)
VALUE = replace(
    models.load("arrival_delay"),
    baselines={"mean": lambda: DummyRegressor()},
    slices=(),
    gates=replace(models.load("arrival_delay").gates, calibration=0.2, latency_ms=1000.0),
)


def frame(rows: int, seed: int, task: str) -> Frame:
    random = np.random.default_rng(seed)
    inputs = pd.DataFrame({"x": random.normal(size=rows), "noise": random.normal(size=rows)})
    chance = 1 / (1 + np.exp(-2 * inputs["x"]))
    label = (random.random(rows) < chance) if task == "binary" else 3 * inputs["x"] + random.normal(size=rows)
    times = pd.date_range(utc("2013-03-01"), periods=rows, freq="30min").as_unit("us")
    region = np.where(np.arange(rows) % 3 == 0, "north", "south")
    return Frame(pd.DataFrame({"decision_time": times, "label": label.astype("float64"), "region": region}), inputs)


def parts(task: str) -> Split:
    return Split(frame(800, 1, task), frame(600, 2, task), utc("2013-03-01"))


CLASSES, VALUES = parts("binary"), parts("regression")


def fitted(estimator: Any, of: Split = CLASSES) -> Any:
    return estimator.fit(of.train.inputs, of.train.rows["label"])


GOOD = fitted(LogisticRegression())
LINE = fitted(LinearRegression(), VALUES)
ANSWERS = GOOD.predict_proba(CLASSES.holdout.inputs)[:, 1]


def judged(model: Model = BINARY, estimator: Any = GOOD, champion: Any = None, **more: Any) -> dict[str, Gate]:
    of = more.get("of", CLASSES if model.task == "binary" else VALUES)
    return {gate.name: gate for gate in judge(model, estimator, of, champion, more.get("twin", estimator))}


def failed(gates: dict[str, Gate]) -> list[str]:
    return [name for name, gate in gates.items() if not gate.passed]


class Sharpened(ClassifierMixin, BaseEstimator):
    """Ranks as the good one does, and is far too sure."""

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        return np.round(GOOD.predict_proba(rows)) * 0.98 + GOOD.predict_proba(rows) * 0.02


class Shifted(LinearRegression):
    """Off by five."""

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        return np.asarray(LINE.predict(rows) + 5)


def test_a_good_challenger_passes_every_gate() -> None:
    gates = judged(champion=ANSWERS)
    assert list(gates) == [
        "beats prior", "not worse than the champion", "slice north", "calibration",
        "no feature alone explains the label", "determinism", "latency",
    ]  # fmt: skip
    assert failed(gates) == []
    assert failed(judged(VALUE, LINE, twin=fitted(LinearRegression(), VALUES))) == []


def test_every_gate_writes_its_number_its_limit_and_a_sentence() -> None:
    gates = judged(champion=ANSWERS)
    assert all(gate.sentence for gate in gates.values())
    beats = gates["beats prior"]
    assert beats.low is not None and beats.value is not None and beats.high is not None
    assert 0 < beats.low < beats.value < beats.high and beats.limit == 0.0
    assert gates["not worse than the champion"].value == 0.0
    assert gates["not worse than the champion"].limit == -BINARY.gates.loss_to_champion


def leaking(of: Split, how: Any) -> Split:
    """The same rows, with what `how` makes of the labels as one more feature."""
    leak = [Frame(part.rows, part.inputs.assign(leak=how(part.rows["label"]))) for part in (of.train, of.holdout)]
    return Split(*leak, of.trained_until)


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (BINARY, lambda label: label),
        (BINARY, lambda label: -label + np.random.default_rng(3).normal(0, 0.2, len(label))),
        (BINARY, lambda label: label.map({0.0: "no", 1.0: "yes"})),
        (BINARY, lambda label: label.where(label == 1)),
        (BINARY, lambda label: (label - 0.5) ** 2 + label * np.where(np.arange(len(label)) % 2, 3.0, -3.0)),
        (VALUE, lambda label: -2 * label + 7),
        (VALUE, lambda label: label.round()),
    ],
    ids=["the label", "the label and noise", "a category", "missing or not", "no order", "another unit", "rounded"],
)
def test_a_feature_that_tells_the_label_is_named_and_refused(model: Model, how: Any) -> None:
    of = leaking(CLASSES if model.task == "binary" else VALUES, how)
    gates = judged(model, GOOD_OF[model.task](of), of=of)
    assert "no feature alone explains the label" in failed(gates)
    assert "`leak` alone" in gates["no feature alone explains the label"].sentence


GOOD_OF: dict[str, Any] = {
    "binary": lambda of: DummyClassifier(strategy="prior").fit(of.train.inputs, of.train.rows["label"]),
    "regression": lambda of: DummyRegressor().fit(of.train.inputs, of.train.rows["label"]),
}


def test_an_easy_problem_is_no_leak_once_a_champion_is_as_good() -> None:
    of = leaking(CLASSES, lambda label: label)
    known = of.holdout.rows["label"].to_numpy()
    gates = judged(of=of, champion=known, estimator=GOOD_OF["binary"](of))
    assert gates["no feature alone explains the label"].passed


def test_the_same_judgement_twice_is_the_same_record() -> None:
    assert judged(champion=ANSWERS) == judged(champion=ANSWERS)
    assert judged()["latency"].value is None


@pytest.mark.parametrize(
    ("model", "dumb", "better"),
    [(BINARY, DummyClassifier(), LogisticRegression), (VALUE, DummyRegressor(), LinearRegression)],
)
def test_worse_than_a_baseline_fails(model: Model, dumb: Any, better: Any) -> None:
    of = CLASSES if model.task == "binary" else VALUES
    gates = judged(replace(model, baselines={"line": better}), fitted(dumb, of))
    assert "beats line" in failed(gates)
    assert (gates["beats line"].high or 0) < 0


def test_a_gain_that_chance_may_explain_is_none() -> None:
    nearly = judged(replace(BINARY, baselines={"nearly": lambda: LogisticRegression(C=0.001)}))
    assert failed(nearly) == ["beats nearly"]
    assert (nearly["beats nearly"].low or 0) < 0 < (nearly["beats nearly"].high or 0)
    assert failed(judged(replace(BINARY, baselines={"itself": LogisticRegression}))) == ["beats itself"]
    dumb = judged(estimator=fitted(DummyClassifier()))
    assert "beats prior" in failed(dumb), "a constant answer does not beat a constant answer"
    enough = replace(BINARY, gates=replace(BINARY.gates, gain_over_baseline=0.49))
    assert failed(judged(enough)) == ["beats prior"]


def test_a_slice_that_is_bad_on_its_own_fails() -> None:
    rows = CLASSES.holdout.rows.copy()
    north = rows["region"] == "north"
    rows.loc[north, "label"] = 1 - rows.loc[north, "label"]
    of = Split(CLASSES.train, Frame(rows, CLASSES.holdout.inputs), CLASSES.trained_until)
    gates = judged(of=of)
    assert "slice north" in failed(gates)
    assert (gates["slice north"].value or 1) < 0.3
    assert "on 200 rows where region is north" in gates["slice north"].sentence


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (replace(SLICE, column="country"), "the examples have no column country"),
        (replace(SLICE, value="west"), "nothing to judge by: 0 rows where region is west"),
    ],
)
def test_a_slice_that_cannot_be_judged_fails(changed: Slice, sentence: str) -> None:
    gates = judged(replace(BINARY, slices=(changed,)))
    assert failed(gates) == ["slice north"]
    assert gates["slice north"].value is None
    assert gates["slice north"].sentence == sentence


def test_being_far_too_sure_fails_and_only_that() -> None:
    assert failed(judged(estimator=Sharpened())) == ["calibration"]


def test_being_off_by_a_constant_fails() -> None:
    gates = judged(VALUE, Shifted())
    assert "calibration" in failed(gates)
    assert gates["calibration"].value == pytest.approx(5 / 3.2, rel=0.15)


def test_an_estimator_that_is_another_one_each_time_fails() -> None:
    forests = [RandomForestClassifier(50, min_samples_leaf=20, random_state=seed) for seed in (1, 2)]
    first, second = map(fitted, forests)
    assert failed(judged(estimator=first, twin=second)) == ["determinism"]
    again = fitted(RandomForestClassifier(50, min_samples_leaf=20, random_state=1))
    assert failed(judged(estimator=first, twin=again)) == []


def test_a_better_champion_stays() -> None:
    label = CLASSES.holdout.rows["label"].to_numpy()
    gates = judged(champion=0.5 * ANSWERS + 0.5 * label)
    assert failed(gates) == ["not worse than the champion"]
    assert (gates["not worse than the champion"].value or 0) < -BINARY.gates.loss_to_champion


def test_the_champion_is_judged_on_rows_that_it_was_not_trained_on() -> None:
    label = CLASSES.holdout.rows["label"].to_numpy()
    seen = np.arange(len(label)) < 300
    assert failed(judged(champion=np.where(seen, np.nan, ANSWERS))) == []
    assert failed(judged(champion=np.where(seen, ANSWERS, np.nan) * 0 + label)) == ["not worse than the champion"]
    for few in (0, 1):
        gates = judged(champion=np.where(np.arange(len(label)) < few, ANSWERS, np.nan))
        assert failed(gates) == ["not worse than the champion"]
        assert "no held-out rows" in gates["not worse than the champion"].sentence


def test_slow_fails() -> None:
    slow = replace(BINARY, gates=replace(BINARY.gates, latency_ms=1e-6))
    gates = judged(slow)
    assert failed(gates) == ["latency"]
    assert gates["latency"].sentence == "one prediction above 1e-06 ms"


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    chance = np.repeat([0.2, 0.6], 10)
    label = np.concatenate([np.repeat([1.0, 0.0], [3, 7]), np.repeat([1.0, 0.0], [4, 6])])
    # |0.3 - 0.2| and |0.4 - 0.6| on ten rows each.
    assert expected_calibration_error(label, chance, bins=2) == pytest.approx(0.15)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0
    random = np.random.default_rng(1)
    chance = random.random(20_000)
    assert expected_calibration_error((random.random(20_000) < chance).astype(float), chance) < 0.015


def test_latency_is_that_of_what_serves() -> None:
    model = replace(BINARY, gates=replace(BINARY.gates, latency_ms=0.3))
    numbers = tuple(FeatureSpec(name, "float", None) for name in ("x", "noise"))
    fast = compile("binary", GOOD, numbers)

    def passed(serving: FastScorer | None) -> bool:
        gates = judge(model, GOOD, CLASSES, None, GOOD, serving)
        return next(gate.passed for gate in gates if gate.name == "latency")

    # A DataFrame alone takes longer than that to look at; the compiled one is ten times below it.
    assert (passed(fast), passed(None)) == (True, False)
