"""Outcomes join with what they are about, the sources' label before theirs, and never before they were known."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import features
import models
from features import HeadwayError
from models import Model
from pipelines.data import lake
from pipelines.home import Home, utc
from pipelines.records import outcomes, predictions
from pipelines.records.examples import examples
from pipelines.records.examples import labelled as labelled_examples
from pipelines.records.retention import expire
from services.answers import iso
from services.outcomes import Outcome
from tests.pipelines.records.test_predictions import record

MODEL = models.load("late_arrival")
FLIGHTS = features.load("flights")
NOON, DAY, HOUR = utc("2013-03-10T12:00Z"), timedelta(days=1), timedelta(hours=1)
LATER = NOON + 2 * DAY
ENTITY = record(0)["keys"]


def predicted(at: Home, *found: dict[str, Any]) -> None:
    write(at, "predictions", b"".join(msgspec.json.encode(each) + b"\n" for each in found))
    assert predictions.compact(at, {MODEL.name: MODEL}) == len(found)


def told(at: Home, *found: tuple[timedelta, dict[str, Any]], call: str = "c") -> None:
    """Outcomes, each so long after NOON, one call for all."""
    lines = [
        Outcome(call, number, MODEL.name, iso(NOON + after), **fields) for number, (after, fields) in enumerate(found)
    ]
    write(at, "outcomes", msgspec.json.Encoder().encode_lines(lines))
    outcomes.compact(at, {MODEL.name: MODEL})


def write(at: Home, room: str, lines: bytes) -> None:
    folder = at.room(room, "open")
    (folder / f"{len(list(folder.iterdir()))}.closed.jsonl").write_bytes(lines)


@pytest.fixture
def flown(home: Home) -> list[str]:
    """Two days of real plans in the lake, and no arrival but one: what there is to predict, hardly labelled."""
    for name, few in (("schedule", None), ("arrivals", 1)):
        source = FLIGHTS.source(name)
        rows = source.read(NOON - DAY, NOON + DAY).head(few) if few else source.read(NOON - 2 * DAY, NOON + DAY)
        table = lake.microseconds(pa.Table.from_pandas(rows, preserve_index=False))
        lake.write(home.room("lake", "flights", name), table, key=source.key, by=source.known_at)
    return examples(home, MODEL, NOON, NOON + HOUR, as_of=LATER)["example_id"].tolist()


def labels(at: Home, as_of: datetime = LATER, model: Model = MODEL) -> dict[str, tuple[float, datetime]]:
    found = examples(at, model, NOON, NOON + HOUR, as_of=as_of).dropna(subset="label")
    rows = zip(found["example_id"], found["label"], found["label_known_at"], strict=True)
    return {name: (label, known_at.to_pydatetime()) for name, label, known_at in rows}


def test_an_example_takes_the_outcome_told_by_any_of_its_names(home: Home, flown: list[str]) -> None:
    first, second, third, *_ = flown
    rows = examples(home, MODEL, NOON, NOON + HOUR, as_of=LATER).set_index("example_id")
    keys = {key: None if pd.isna(rows.loc[third, key]) else rows.loc[third, key] for key in ENTITY}
    assert (rows[list(keys)] == pd.Series(keys)).all(axis=1).sum() == 1
    # Asked for at another instant than its own decision time, as callers do by the server's clock.
    predicted(home, record(9, request_id="r2", instance=1, example_id=second))
    told(
        home, (HOUR, {"example_id": first, "label": 1.0}),
        (2 * HOUR, {"request_id": "r2", "instance": 1, "label": 0.0}),
        (3 * HOUR, {"decision_time": iso(rows.loc[third, "decision_time"]), "keys": keys, "label": 1.0}),
        (HOUR, {"request_id": "r2", "instance": 0, "label": 1.0}), (HOUR, {"example_id": "nobody", "label": 1.0}),
    )  # fmt: skip
    assert labels(home) == {
        first: (1.0, NOON + HOUR), second: (0.0, NOON + 2 * HOUR), third: (1.0, NOON + 3 * HOUR),
    }  # fmt: skip
    trained_on = labelled_examples(home, MODEL, as_of=LATER, window=DAY)
    assert set(trained_on["example_id"]) == {first, second, third}


def test_the_entity_of_a_prediction_leads_to_its_example(home: Home, flown: list[str]) -> None:
    predicted(home, record(9, example_id=flown[0]))
    told(home, (10 * HOUR, {"decision_time": iso(NOON + 9 * HOUR), "keys": ENTITY, "label": 1.0}))
    assert ENTITY["tailnum"] is None
    assert labels(home) == {flown[0]: (1.0, NOON + 10 * HOUR)}


def test_the_sources_label_comes_before_an_outcome(home: Home, flown: list[str]) -> None:
    source = FLIGHTS.source("arrivals")
    rows = source.read(NOON - DAY, NOON + 2 * DAY)
    arrival = rows[rows["flight_id"].isin(flown)].head(1)
    name, known_at = arrival["flight_id"].item(), arrival["arrived_at"].item().to_pydatetime()
    truth = float(arrival["arr_delay"].item() > 15)
    told(home, (timedelta(minutes=90), {"example_id": name, "label": 1 - truth}))
    table = lake.microseconds(pa.Table.from_pandas(arrival, preserve_index=False))
    lake.write(home.room("lake", "flights", "arrivals"), table, key=source.key, by=source.known_at)
    assert labels(home) == {name: (truth, known_at)}
    before = known_at - timedelta(microseconds=1)  # until the sources speak, the outcome is all that is known
    assert labels(home, as_of=before) == {name: (1 - truth, NOON + timedelta(minutes=90))}


def test_a_correction_holds_from_when_it_came_and_a_repetition_is_no_news(home: Home, flown: list[str]) -> None:
    name = flown[0]
    told(home, *((n * HOUR, {"example_id": name, "label": label}) for n, label in enumerate((1, 1, 0, 0, 1), start=1)))
    assert [labels(home, as_of=NOON + n * HOUR)[name] for n in range(1, 6)] == [
        (1, NOON + HOUR), (1, NOON + HOUR), (0, NOON + 3 * HOUR), (0, NOON + 3 * HOUR), (1, NOON + 5 * HOUR),
    ]  # fmt: skip
    assert name not in labels(home, as_of=NOON + HOUR - timedelta(microseconds=1))


def test_a_prediction_without_an_example_has_its_outcome_by_request_and_instance(home: Home, flown: list[str]) -> None:
    asked = [record(n, request_id="r", instance=k, example_id=None) for n, k in ((1, 0), (1, 1), (2, 2))]
    again = [record(3, request_id="a", example_id="same"), record(4, request_id="b", example_id="same")]
    shadow = record(1, request_id="r", instance=0, example_id=None, role="shadow", version=2)
    predicted(home, *asked, *again, shadow)
    told(
        home, (5 * HOUR, {"request_id": "r", "instance": 1, "label": 1.0}),
        # The first answer of an example that was asked for twice: it is the example that it happened to.
        (6 * HOUR, {"request_id": "a", "instance": 0, "label": 1.0}),
    )  # fmt: skip
    found = predictions.labelled(home, MODEL, NOON, NOON + 6 * HOUR, as_of=LATER)
    assert [(r.request_id, r.instance, r.label) for r in found.itertuples() if r.label == r.label] == [
        ("r", 1, 1.0), ("b", 0, 1.0),
    ]  # fmt: skip
    assert found[["request_id", "instance"]].to_numpy().tolist() == [["r", 0], ["r", 1], ["r", 2], ["b", 0]]
    earlier = predictions.labelled(home, MODEL, NOON, NOON + 6 * HOUR, as_of=NOON + 5 * HOUR)
    assert earlier["label"].notna().sum() == 1


def test_the_same_outcomes_again_change_nothing_in_parquet(home: Home) -> None:
    found = [(n * HOUR, {"example_id": f"e{n}", "label": 1.0}) for n in range(30)]
    told(home, *found)
    folder = home.room("outcomes", MODEL.name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told(home, *found)  # as if its compaction had been killed before it removed the segment
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sum(len(table) for path in lake.days(folder) if (table := lake.read(folder, None, None))) == 30 * len(before)


NAMES = st.sampled_from(
    [
        {"example_id": "0"}, {"example_id": "1"}, {"request_id": "r1", "instance": 0},
        {"request_id": "r2", "instance": 0}, {"decision_time": iso(NOON + HOUR), "keys": ENTITY},
    ]
)  # fmt: skip
SAID = st.lists(st.tuples(st.integers(1, 12), NAMES, st.sampled_from([0.0, 1.0])), max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAID, SAID, st.integers(1, 12))
def test_what_is_heard_after_an_instant_changes_nothing_as_of_it(
    home: Home, tmp_path_factory: pytest.TempPathFactory, said: Any, more: Any, hours: int
) -> None:
    """No leak: as of T, a world in which more was told after T is the same, cell by cell."""
    as_of, worlds = NOON + hours * HOUR, []
    for late in (False, True):
        at = Home(tmp_path_factory.mktemp("world"))
        predicted(at, record(1, example_id="0"), record(2, example_id=None), record(3, example_id="1"))
        known = [each for each in said if each[0] <= hours]
        unheard = [each for each in (*said, *more) if each[0] > hours] if late else []
        told(at, *((n * HOUR, {**name, "label": label}) for n, name, label in [*known, *unheard]))
        rows = predictions.predictions(at, MODEL, NOON, LATER)
        blank = rows.assign(label=float("nan"), label_known_at=pd.Series(pd.NaT, rows.index, "datetime64[us, UTC]"))
        worlds.append(outcomes.fill(at, MODEL, blank, NOON, as_of=as_of))
    pd.testing.assert_frame_equal(*worlds)
    known_at = worlds[0]["label_known_at"].dropna()
    assert (known_at <= pd.Timestamp(as_of)).all()
    assert known_at.index.equals(worlds[0]["label"].dropna().index)


def test_days_are_kept_as_long_as_the_model_says(home: Home) -> None:
    brief = replace(MODEL, keep_predictions=85 * DAY)
    predicted(home, *(record(24 * n) for n in (0, 10, 100)))
    told(home, *((n * DAY, {"example_id": "e", "label": 1.0}) for n in (0, 12, 101)))
    assert expire(home, MODEL, NOON + 101 * DAY) == []

    def kept(room: str) -> list[str]:
        return [path.stem for path in lake.days(home.room(room, MODEL.name))]

    everything = kept("predictions"), kept("outcomes")
    assert expire(home, brief, NOON) == []  # nothing is that old yet
    removed = expire(home, brief, NOON + 99 * DAY)
    assert removed == [
        f"removed {room} of {MODEL.name} of {day}: kept for 85 days"
        for room, day in (("predictions", "2013-03-10"), ("predictions", "2013-03-20"), ("outcomes", "2013-03-10"),
                          ("outcomes", "2013-03-22"))
    ]  # fmt: skip
    assert (kept("predictions"), kept("outcomes")) == (everything[0][2:], everything[1][2:])
    # A date far ahead is a mistake, or the clock of another world: what is newest is not old.
    assert expire(home, brief, utc("2099-01-01")) == []
    assert kept("predictions") == ["2013-06-18"]


def test_nobody_can_keep_less_than_training_needs() -> None:
    with pytest.raises(HeadwayError, match=r"keep_predictions 84 days.* at least training_window and label_matures"):
        replace(MODEL, keep_predictions=84 * DAY)
