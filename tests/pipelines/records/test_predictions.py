"""Compaction merges each record of the log once, wherever it is killed; labels join once for each example."""

from __future__ import annotations

import fcntl
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pytest

import features
import models
from pipelines.data import lake
from pipelines.home import Home, utc
from pipelines.records.predictions import asked_examples, compact, labelled, predictions, served_features

MODEL = models.load("late_arrival")
FLIGHTS = features.load("flights")
DECLARED = {MODEL.name: MODEL}
NOON, DAY, HOUR = utc("2013-03-10T12:00Z"), timedelta(days=1), timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


def record(number: int, **changed: Any) -> dict[str, Any]:
    """A record as the service writes it: decided `number` hours after NOON."""
    good: dict[str, Any] = {
        "request_id": f"r{number}", "instance": 0, "model": MODEL.name, "example_id": f"e{number}", "version": 1,
        "digest": "d", "generation": 1, "decision_time": (NOON + number * HOUR).isoformat(), "degraded": [],
        "prediction": number / 100,
        "keys": {"origin": "EWR", "dest": "IAH", "carrier": "UA", "tailnum": None},
        "inputs": {"scheduled_departure": (NOON + (number + 2) * HOUR).isoformat(), "distance": 1400},
        "features": {f.name: None if f.name == "temp" else "UA" if f.dtype == "str" else 1.5
                     for f in FLIGHTS.features_of(MODEL.feature_service)},
    }  # fmt: skip
    return good | changed


def segment(at: Home, name: str, *found: dict[str, Any], closed: bool = True, torn: bytes = b"") -> Path:
    path = at.room("predictions", "open") / f"{name}{'.closed' if closed else ''}.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in found) + torn)
    return path


def everything(at: Home) -> pd.DataFrame:
    return predictions(at, MODEL, NOON - 90 * DAY, NOON + 90 * DAY)


def content(at: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in at.room("predictions", MODEL.name).iterdir()}


def test_a_record_comes_back_as_it_was_written(home: Home) -> None:
    segment(home, "a", record(1, degraded=["temp"], instance=3))
    assert compact(home, DECLARED) == 1
    (row,) = everything(home).to_dict("records")
    assert (row["request_id"], row["instance"], row["example_id"], row["prediction"]) == ("r1", 3, "e1", 0.01)
    assert row["decision_time"] == pd.Timestamp(NOON + HOUR) and list(row["degraded"]) == ["temp"]
    assert (row["key.origin"], row["input.distance"]) == ("EWR", 1400) and row["key.tailnum"] is None
    assert row["input.scheduled_departure"] == pd.Timestamp(NOON + 3 * HOUR)
    assert row["feature.airline"] == "UA" and row["feature.humid"] == 1.5 and pd.isna(row["feature.temp"])


def test_what_was_served_and_asked_is_told_by_the_declared_names(home: Home) -> None:
    segment(home, "a", record(1))
    compact(home, DECLARED)
    rows = everything(home)
    assert list(served_features(rows)) == [f.name for f in FLIGHTS.features_of(MODEL.feature_service)]
    service = MODEL.feature_service
    assert list(asked_examples(rows)) == [*FLIGHTS.keys_of(service), *FLIGHTS.inputs_of(service), "decision_time"]


def test_closed_segments_go_and_those_of_living_writers_stay(home: Home) -> None:
    closed = segment(home, "a", record(1), record(2))
    opened = segment(home, "b", record(3), closed=False)
    with opened.open("a") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert compact(home, DECLARED) == 3
        assert not closed.exists() and opened.exists()
        before = content(home)
        assert compact(home, DECLARED) == 0
        assert content(home) == before
        writer.write(msgspec.json.encode(record(4)).decode() + "\n")
        writer.flush()
        assert compact(home, DECLARED) == 1
    assert compact(home, DECLARED) == 0 and not opened.exists()  # its writer is gone, and it is closed for it
    assert everything(home)["request_id"].tolist() == ["r1", "r2", "r3", "r4"]


def test_killed_between_merge_and_unlink_nothing_is_doubled(home: Home) -> None:
    path = segment(home, "a", *(record(number) for number in range(30)))
    written = path.read_bytes()
    assert compact(home, DECLARED) == 30
    before = content(home)
    path.write_bytes(written)  # as if it had been killed before it removed the segment
    assert compact(home, DECLARED) == 0
    assert content(home) == before and not path.exists() and len(everything(home)) == 30


def test_whatever_the_order_and_repetition_the_records_are_the_same(home: Home, tmp_path: Path) -> None:
    found = [record(number, instance=k) for number in range(10) for k in range(2)]
    shuffled = random.Random(1).sample(found + found[5:15], 30)
    for place in range(0, 30, 7):
        segment(home, f"s{place}", *shuffled[place : place + 7])
        compact(home, DECLARED)
    once = Home(tmp_path / "once")
    segment(once, "all", *found)
    assert compact(once, DECLARED) == 20
    assert content(home) == content(once)


@pytest.mark.parametrize("torn", [b'{"request_id": "r9", "mod', b"\x00\x00\x00", b"\xff\xfe\n", b"{}]\n", b"[1]\n"])
def test_a_torn_line_is_no_record(home: Home, torn: bytes) -> None:
    segment(home, "a", record(1), torn=torn)
    assert compact(home, DECLARED) == 1
    assert everything(home)["request_id"].tolist() == ["r1"]


def test_records_of_an_undeclared_model_stay_in_the_log(home: Home) -> None:
    path = segment(home, "a", record(1), record(2, model="removed"))
    assert compact(home, DECLARED) == 1
    assert path.exists() and compact(home, DECLARED) == 0
    known = {**DECLARED, "removed": models.load("arrival_delay")}
    assert compact(home, known) == 1 and not path.exists()


def test_no_log_and_no_predictions_are_empty_and_typed(home: Home) -> None:
    assert compact(home, DECLARED) == 0
    rows = everything(home)
    assert len(rows) == 0 and "feature.temp" in rows and str(rows["decision_time"].dtype) == "datetime64[us, UTC]"


def test_predictions_lie_after_since_and_by_until(home: Home) -> None:
    segment(home, "a", *(record(number) for number in (-24, 0, 1, 24)))
    compact(home, DECLARED)

    def between(since: datetime, until: datetime) -> list[str]:
        return list(predictions(home, MODEL, since, until)["request_id"])

    assert between(NOON, NOON + DAY) == ["r1", "r24"]
    assert between(NOON - MICROSECOND, NOON + DAY - MICROSECOND) == ["r0", "r1"]
    assert between(NOON - 2 * DAY, NOON) == ["r-24", "r0"]


@pytest.fixture
def flown(home: Home) -> pd.DataFrame:
    """Real examples of 10 March in the lake, with the instant at which each is decided."""
    for name in ("schedule", "arrivals"):
        source = FLIGHTS.source(name)
        rows = source.read(NOON - 2 * DAY, NOON + 2 * DAY)
        table = lake.microseconds(pa.Table.from_pandas(rows, preserve_index=False))
        lake.write(home.room("lake", "flights", name), table, key=source.key, by=source.known_at)
    plans = FLIGHTS.source("schedule").read(NOON - DAY, NOON + DAY)
    plans = plans.assign(decided=plans["scheduled_departure"] - 2 * HOUR)
    return plans[(plans["decided"] > pd.Timestamp(NOON)) & (plans["decided"] <= pd.Timestamp(NOON + 6 * HOUR))]


def test_labels_join_once_for_each_example_with_its_last_answer(home: Home, flown: pd.DataFrame) -> None:
    asked = [
        record(
            number, example_id=row.flight_id, decision_time=row.decided.isoformat(), request_id=f"r{number:04}-{again}"
        )
        | {"prediction": again / 10}
        for number, row in enumerate(flown.itertuples())
        for again in (1, 2)
    ]
    anonymous, stranger = record(3, example_id=None), record(4, example_id="no such flight")
    segment(home, "a", *asked, anonymous, stranger)
    compact(home, DECLARED)
    found = labelled(home, MODEL, NOON, NOON + 6 * HOUR, as_of=NOON + 2 * DAY)
    nameless = found["example_id"].isna()
    assert found.loc[nameless, ["request_id", "label"]].isna().to_numpy().tolist() == [[False, True]]
    found = found[~nameless]
    assert sorted(found["example_id"]) == sorted([*flown["flight_id"], "no such flight"])
    real = found[found["example_id"] != "no such flight"].set_index("example_id")
    assert (real["prediction"] == 0.2).all()
    arrived = FLIGHTS.source("arrivals").read(NOON - DAY, NOON + 2 * DAY).set_index("flight_id")["arr_delay"]
    late = (arrived > 15).astype(float).reindex(real.index)
    pd.testing.assert_series_equal(real["label"], late, check_names=False)
    assert 0 < real["label"].isna().sum() < len(real) / 2
    assert found.loc[found["example_id"] == "no such flight", "label"].isna().all()


def test_a_label_that_is_not_known_yet_is_not_joined(home: Home, flown: pd.DataFrame) -> None:
    asked = [
        record(number, example_id=row.flight_id, decision_time=row.decided.isoformat())
        for number, row in enumerate(flown.itertuples())
    ]
    segment(home, "a", *asked)
    compact(home, DECLARED)
    instant = NOON + 6 * HOUR
    then, later = (labelled(home, MODEL, NOON, NOON + 6 * HOUR, as_of=at) for at in (instant, NOON + 2 * DAY))
    known = later["label_known_at"] <= pd.Timestamp(instant)
    assert 0 < known.sum() < later["label"].notna().sum()
    pd.testing.assert_series_equal(then["label"], later["label"].where(known))
