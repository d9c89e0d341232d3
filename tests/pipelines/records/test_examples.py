"""Examples: what there is to predict, decided when it was, labelled only by what was known."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest

import features
import models
from features import HeadwayError
from models import Model
from pipelines.data import lake
from pipelines.home import Home, utc
from pipelines.records.examples import FIXED, examples, labelled
from pipelines.records.frame import ENOUGH, Frame, span, split

FLIGHTS = features.load("flights")
LATE, DELAY = models.load("late_arrival"), models.load("arrival_delay")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FIRST, SINCE, UNTIL, END = map(utc, ("2013-03-06", "2013-03-08", "2013-03-12", "2013-03-14"))
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The days around the change of clocks on 10 March 2013."""
    root = Home(tmp_path_factory.mktemp("days"))
    for name in ("schedule", "arrivals"):
        source = FLIGHTS.source(name)
        rows = lake.microseconds(pa.Table.from_pandas(source.read(FIRST, END), preserve_index=False))
        lake.write(root.room("lake", "flights", name), rows, key=source.key, by=source.known_at)
    return root


def asked(at: Home, model: Model = LATE, as_of: datetime = END) -> pd.DataFrame:
    return examples(at, model, SINCE, UNTIL, as_of=as_of)


# Scheduled departure less two hours; minutes late of the raw row; scheduled arrival plus those.
KNOWN = [
    # 5:15 at EWR was 10:15 UTC on the 9th; 29 minutes early.
    ("2013-03-09-UA541-EWR", "2013-03-09T08:15Z", -29.0, 0.0, "2013-03-09T13:44Z"),
    # 6:10 at JFK was 10:10 UTC on the 10th, an hour earlier than the day before; 12 minutes early.
    ("2013-03-10-UA600-JFK", "2013-03-10T08:10Z", -12.0, 0.0, "2013-03-10T16:24Z"),
    # 21:00 at EWR was 1:00 UTC of the 11th; 22:57 in Dayton, UTC-4 by now, was 2:57; 213 minutes late, capped at 180.
    ("2013-03-10-EV4368-EWR", "2013-03-10T23:00Z", 180.0, 1.0, "2013-03-11T06:30Z"),
    # 6:20 at JFK was 10:20 UTC; 10:02 in San Juan, UTC-4 all year, was 14:02; 23 minutes late.
    ("2013-03-10-B6709-JFK", "2013-03-10T08:20Z", 23.0, 1.0, "2013-03-10T14:25Z"),
]


@pytest.mark.parametrize(("flight", "decided", "minutes", "late", "known"), KNOWN)
def test_real_flights_are_decided_and_labelled_as_computed_by_hand(
    at: Home, flight: str, decided: str, minutes: float, late: float, known: str
) -> None:
    for model, label in ((LATE, late), (DELAY, minutes)):
        (row,) = asked(at, model).query("example_id == @flight").to_dict("records")
        assert row["decision_time"] == pd.Timestamp(decided)
        assert row["scheduled_departure"] == pd.Timestamp(decided) + 2 * HOUR
        assert row["label"] == label
        assert row["label_known_at"] == pd.Timestamp(known)


@pytest.mark.parametrize("model", [LATE, DELAY], ids=lambda model: model.name)
def test_a_label_counts_only_once_it_is_known(at: Home, model: Model) -> None:
    complete = asked(at, model)
    for as_of in (utc("2013-03-10T18:00Z") - MICROSECOND, utc("2013-03-10T18:00Z"), UNTIL):
        then = asked(at, model, as_of)
        tick = pd.Timestamp(FLIGHTS.tick(as_of))  # what a night between two ticks could see
        seen = complete["label_known_at"] <= tick
        in_plan = complete["scheduled_departure"] - DAY <= tick
        expected = complete[in_plan].assign(label=complete["label"].where(seen)).reset_index(drop=True)
        pd.testing.assert_series_equal(then["example_id"], expected["example_id"])
        pd.testing.assert_series_equal(then["label"], expected["label"])
        assert then["label_known_at"].dropna().max() <= tick
        matured = as_of - DAY
        known = labelled(at, model, as_of=as_of, window=matured - SINCE)
        assert set(known["example_id"]) == set(
            then.loc[seen & (then["decision_time"] <= pd.Timestamp(matured)), "example_id"]
        )


def test_flights_that_never_arrived_are_asked_for_and_never_labelled(at: Home) -> None:
    plans = FLIGHTS.source("schedule").read(FIRST, END)
    decided = plans["scheduled_departure"] - 2 * HOUR
    plans = plans[(decided > pd.Timestamp(SINCE)) & (decided <= pd.Timestamp(UNTIL))]
    arrived = FLIGHTS.source("arrivals").read(FIRST, END)["flight_id"]
    found = asked(at)
    assert set(found["example_id"]) == set(plans["flight_id"]) and len(found) == len(plans)
    never = found[~found["example_id"].isin(arrived)]
    assert len(never) > 100 and never["label"].isna().all() and never["label_known_at"].isna().all()
    assert found.loc[found["example_id"].isin(arrived), "label"].notna().all()


def test_spans_of_decision_time_tile(at: Home) -> None:
    middle = asked(at)["decision_time"].iloc[500].to_pydatetime()
    parts = [examples(at, LATE, *ends, as_of=END) for ends in ((SINCE, middle), (middle, UNTIL))]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), asked(at))
    assert parts[0]["decision_time"].max() == pd.Timestamp(middle)


def test_examples_come_typed_and_in_order(at: Home) -> None:
    found = asked(at)
    needed = {*FIXED, *FLIGHTS.keys_of("flight_plan"), *FLIGHTS.inputs_of("flight_plan"), "origin"}
    assert needed <= set(found)
    assert str(found["label"].dtype) == "float64"
    assert {str(found[name].dtype) for name in ("decision_time", "label_known_at")} == {"datetime64[us, UTC]"}
    assert found.sort_values(["decision_time", "example_id"]).index.equals(found.index)


def test_before_any_label_all_are_missing(at: Home) -> None:
    found = examples(at, LATE, UNTIL, UNTIL + HOUR, as_of=UNTIL)
    assert len(found) and found["label"].isna().all() and str(found["label"].dtype) == "float64"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("plan.tailnum,", "", "models/late_arrival.py returns no tailnum"),
        ("arrived_at AS label_known_at,", "", "models/late_arrival.py returns no label_known_at"),
        ("plan.flight_id AS example_id", "'one' AS example_id", "models/late_arrival.py returns 'one' twice"),
    ],
)
def test_a_query_that_lacks_a_column_or_doubles_an_id_is_told(at: Home, old: str, new: str, complaint: str) -> None:
    assert old in LATE.examples.sql
    wrong = replace(LATE, examples=replace(LATE.examples, sql=LATE.examples.sql.replace(old, new)))
    with pytest.raises(HeadwayError, match=complaint):
        asked(at, wrong)


def test_nothing_ingested_is_told(home: Home) -> None:
    with pytest.raises(HeadwayError, match="schedule: nothing ingested yet"):
        asked(home)


def framed(at: Home, model: Model) -> Frame:
    rows = labelled(at, model, as_of=UNTIL, window=UNTIL - SINCE)
    return Frame(rows, rows[["distance"]])


def test_a_frame_is_split_by_time_and_nothing_is_lost(at: Home) -> None:
    frame = framed(at, LATE)
    parts = split(replace(LATE, holdout=DAY), frame, UNTIL)
    trained = LATE.examples.matured(UNTIL) - DAY
    assert parts.trained_until == trained
    assert len(parts.train) + len(parts.holdout) == len(frame)
    assert parts.train.rows["decision_time"].max() <= pd.Timestamp(trained) < parts.holdout.rows["decision_time"].min()
    for part in (parts.train, parts.holdout):
        assert part.rows["distance"].tolist() == part.inputs["distance"].tolist()
    first, last = parts.train.rows["decision_time"].iloc[[0, -1]]
    assert span(parts.train) == {"rows": len(parts.train), "first": first.isoformat(), "last": last.isoformat()}


def test_too_little_to_train_or_judge_on_is_told(at: Home) -> None:
    frame = framed(at, LATE)
    for few, side in ((frame.where(frame.rows.index < ENOUGH), "holdout"), (frame, "training")):
        holdout = DAY if side == "holdout" else 30 * DAY
        with pytest.raises(HeadwayError, match=f"{side} rows as of 2013-03-12, at least 200 are needed"):
            split(replace(LATE, holdout=holdout), few, UNTIL)
