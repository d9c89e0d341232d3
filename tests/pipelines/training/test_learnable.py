"""What nothing can be learned from, or judged by, is told by name and with what to do; the rest is fitted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

import features
import models
from features import HeadwayError
from models import Slice
from pipelines.home import utc
from pipelines.records.frame import Frame, Split
from pipelines.training.judge import judge
from pipelines.training.retraining import fit

MODEL = models.load("late_arrival")
FEATURES = features.load(MODEL.domain).features_of(MODEL.feature_service)
ROWS, UNTIL = 400, utc("2013-04-01")


def frame(first: int, seed: int, **inputs: Any) -> Frame:
    """Noise for every declared feature, decided an hour apart from the `first` hour on."""
    random = np.random.default_rng(seed)
    made = {
        feature.name: random.choice(["AA", "DL"], ROWS).astype(object)
        if feature.dtype == "str"
        else random.integers(1, 20, ROWS).astype("float64")
        for feature in FEATURES
    }
    decided = pd.Series([UNTIL + timedelta(hours=first + row) for row in range(ROWS)]).dt.as_unit("us")
    label = random.integers(0, 2, ROWS).astype("float64")
    rows = pd.DataFrame({"decision_time": decided, "label": label, "origin": ["EWR"] * (ROWS - 1) + ["JFK"]})
    return Frame(rows, pd.DataFrame(made).assign(**inputs))


def parts(**inputs: Any) -> Split:
    return Split(frame(-ROWS, 1, **inputs), frame(1, 2), UNTIL)


def relabelled(part: Frame, label: float) -> Frame:
    return Frame(part.rows.assign(label=label), part.inputs)


def test_what_can_be_learned_from_is_fitted() -> None:
    half = np.where(np.arange(ROWS) < 1, 20.0, np.nan)
    assert fit(MODEL, parts(temp=half)).estimator.predict_proba(parts().holdout.inputs).shape == (ROWS, 2)


def test_features_that_are_missing_in_every_row_are_named_with_their_views() -> None:
    with pytest.raises(HeadwayError) as told:
        fit(MODEL, parts(temp=np.nan, seats=np.nan, airline=None, weekday=np.nan))
    said = str(told.value)
    for view, names in (("weather_now", "`temp`"), ("aircraft", "`seats`"), ("plan", "`weekday`, `airline`")):
        assert f"{names} of the feature view {view}" in said
    assert "headway ingest flights --history" in said
    assert "features/flights.py" in said
    assert MODEL.feature_service in said
    assert "`humid`" not in said


@pytest.mark.parametrize("side", ["training", "holdout"])
def test_labels_of_one_class_are_told(side: str) -> None:
    made = parts()
    one = {"training": "train", "holdout": "holdout"}[side]
    with pytest.raises(HeadwayError, match=f"all {ROWS} {side} rows have the label 1, so nothing .* examples query"):
        fit(MODEL, replace(made, **{one: relabelled(getattr(made, one), 1.0)}))


@pytest.mark.parametrize(
    ("origin", "says"),
    [("JFK", "1 rows where origin is JFK, all with one label"), ("LGA", "0 rows")],
)
def test_a_slice_of_too_few_rows_fails_its_gate_and_says_why(origin: str, says: str) -> None:
    made = parts()
    model = replace(MODEL, slices=(Slice(name="far", column="origin", value=origin, floor=0.5),))
    fitted = fit(model, made)
    (gate,) = [gate for gate in judge(model, fitted.estimator, made, None, fitted.twin) if gate.name == "slice far"]
    assert not gate.passed
    assert says in gate.sentence
    assert "nan" not in gate.sentence
