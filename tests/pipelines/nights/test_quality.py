"""Quality with a clock: weeks are scored as far as labels are known, and what was expected of them stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import features
import models
from models import Slice
from monitoring.profile import Reference
from monitoring.quality import Quality, in_words, latest_parts
from monitoring.render import render
from pipelines.data import lake
from pipelines.home import Home, settle, utc
from pipelines.nights.quality import quality, trusted
from pipelines.nights.weekly import gather
from pipelines.records import predictions
from pipelines.registry import package
from pipelines.training.retraining import HOLDOUT
from tests.services import world

MODEL = models.load(world.MODEL)
FLIGHTS = features.load(world.DOMAIN)
DAY, WEEK = timedelta(days=1), timedelta(days=7)
SINCE = utc("2013-04-02")
UNTIL = SINCE + 3 * WEEK
NOISE = 3.0
FLAW = "JFK"
"""The third week's answers about flights from here are the wrong way round."""


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Three weeks of real flights, each fifth of them asked for, answered by a version with a kept holdout."""
    home = Home(tmp_path_factory.mktemp("quality"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_HOME", str(home.root))
        settle(home)
        for name in ("schedule", "arrivals"):
            source = FLIGHTS.source(name)
            rows = source.read(SINCE - 3 * DAY, UNTIL + 2 * DAY)
            table = lake.microseconds(pa.Table.from_pandas(rows, preserve_index=False))
            lake.write(home.room("lake", FLIGHTS.name, name), table, key=source.key, by=source.known_at)
        served(home, crowned(home))
        yield home


def answers(delay: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Answers of a model that sees the delay through noise."""
    return np.asarray(1 / (1 + np.exp(-((delay - 15) / 20 + random.normal(0, NOISE, len(delay))))))


def flights(since: datetime, until: datetime) -> pd.DataFrame:
    plans = FLIGHTS.source("schedule").read(since - DAY, until + DAY).iloc[::5]
    plans = plans.assign(decided=plans["scheduled_departure"] - timedelta(hours=2))
    plans = plans[(plans["decided"] > pd.Timestamp(since)) & (plans["decided"] <= pd.Timestamp(until))]
    arrived = FLIGHTS.source("arrivals").read(since - DAY, until + 2 * DAY)[["flight_id", "arr_delay"]]
    return plans.merge(arrived, on="flight_id", how="left")


def crowned(home: Home) -> package.Manifest:
    """A version whose sample has a holdout of other flights, champion since SINCE."""
    made = world.packaged(home, 1)
    found = package.load(home, made.tag)
    rows = flights(SINCE - 3 * DAY, SINCE).dropna(subset=["arr_delay"])
    delay = rows["arr_delay"].to_numpy("float64")
    sample = pd.DataFrame(
        {"prediction": answers(delay, np.random.default_rng(1)), "label": (delay > 15).astype(float), HOLDOUT: True}
    )
    bare = msgspec.structs.replace(made, files={}, digest="", tag="")
    full = package.store(home, bare, found.estimator, Reference({}, {}, {}, {}), sample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "NOW", SINCE + timedelta(minutes=30))
        world.crowned(home, full, 1)
    return full


def served(home: Home, version: package.Manifest) -> None:
    """The log of what was asked; in the third week, those about one airport are turned round."""
    rows = flights(SINCE + timedelta(hours=1), UNTIL)
    random = np.random.default_rng(2)
    told = answers(rows["arr_delay"].fillna(0).to_numpy("float64"), random)
    late = (rows["origin"] == FLAW) & (rows["decided"] > pd.Timestamp(SINCE + 2 * WEEK))
    told = np.where(late, 1 - told, told)
    lines = [
        msgspec.json.encode(record(row, value, version)) + b"\n"
        for row, value in zip(rows.itertuples(), told, strict=True)
    ]
    (home.room("predictions", "open") / "a.closed.jsonl").write_bytes(b"".join(lines))
    assert predictions.compact(home, {MODEL.name: MODEL}) == len(rows) > 2000


def record(row: Any, value: float, version: package.Manifest) -> dict[str, Any]:
    given = {f.name: None if f.dtype != "str" else "UA" for f in FLIGHTS.features_of(MODEL.feature_service)}
    return {
        "request_id": f"r{row.Index:05}", "instance": 0, "model": MODEL.name, "example_id": row.flight_id,
        "version": 1, "digest": version.digest, "generation": 1, "decision_time": row.decided.isoformat(),
        "degraded": [], "prediction": float(value), "features": given,
        "keys": {"origin": row.origin, "dest": row.dest, "carrier": row.carrier, "tailnum": row.tailnum},
        "inputs": {"scheduled_departure": row.scheduled_departure.isoformat(), "distance": int(row.distance)},
    }  # fmt: skip


def weeks(at: Home, as_of: datetime) -> dict[str, Quality]:
    return {week.week: week for week in quality(at, MODEL, as_of)}


def test_the_same_week_is_scored_again_as_its_labels_come_in(at: Home) -> None:
    second = (SINCE + WEEK).date().isoformat()
    early, half, done = (weeks(at, SINCE + WEEK + days * DAY)[second] for days in (2, 5, 9))
    assert (early.value, early.low, early.labels > 0) == (None, None, True)
    assert half.value is not None and half.low is not None and half.high is not None
    assert done.value is not None and done.low is not None and done.high is not None
    assert 0.0 < early.maturity < half.maturity < 0.9 < done.maturity <= 1.0
    assert early.labels < half.labels < done.labels
    assert half.low < done.value < half.high and half.value != done.value
    assert not half.mature and done.mature
    assert weeks(at, SINCE + WEEK + 9 * DAY)[second] == done, "asked again, it is the same"


def test_labels_that_never_come_are_not_waited_for(at: Home) -> None:
    found = quality(at, MODEL, UNTIL + 2 * DAY)
    assert [week.week for week in found] == [(SINCE + n * WEEK).date().isoformat() for n in range(3)]
    rows = [len(predictions.labelled(at, MODEL, SINCE + n * WEEK, SINCE + (n + 1) * WEEK, as_of=UNTIL + 2 * DAY))
            for n in range(3)]  # fmt: skip
    assert all(week.labels < count for week, count in zip(found, rows, strict=True)), "no flight was cancelled"
    assert [week.maturity for week in found] == pytest.approx([1, 1, 1], abs=0.06)
    assert all(week.mature and week.baseline == 0.5 for week in found)


def test_the_estimate_is_there_before_the_labels_and_stays_as_it_was(at: Home) -> None:
    closed, later = (weeks(at, instant) for instant in (SINCE + WEEK + timedelta(hours=1), UNTIL + 2 * DAY))
    first = SINCE.date().isoformat()
    assert closed[first].estimate == later[first].estimate
    estimate, value = later[first].estimate, later[first].value
    assert estimate is not None and value is not None
    assert estimate == pytest.approx(value, abs=0.06)
    fresh = weeks(at, SINCE + timedelta(hours=20))[first]
    assert (fresh.value, fresh.maturity, fresh.labels) == (None, 0.0, 0)
    assert fresh.estimate is not None
    told = in_words([fresh])
    assert told.startswith("0% of the labels of the last week are in; ")
    assert told.endswith("is expected of it if the relation still holds")


def test_estimates_are_scored_once_the_truth_is_in(at: Home) -> None:
    found = quality(at, MODEL, UNTIL + 2 * DAY)
    scored = trusted(found)
    assert scored is not None
    assert (scored.weeks, scored.changes) == (3, 2)
    assert scored.error == pytest.approx(np.mean([abs((w.estimate or 0) - (w.value or 0)) for w in found]))
    assert trusted(quality(at, MODEL, SINCE + 9 * DAY)) is None, "one week is no record"
    assert trusted(quality(at, MODEL, SINCE + 12 * DAY)) is None, "the second week's labels are not in"


def test_slices_are_tracked_and_one_below_its_floor_is_told(at: Home) -> None:
    found = quality(at, MODEL, UNTIL + 2 * DAY)
    by_week = [{part.name: part for part in week.parts} for week in found]
    names = {part.name for part in MODEL.slices}
    assert all(set(parts) == names for parts in by_week)
    assert [parts["from_kennedy"].below for parts in by_week] == [False, False, True]
    assert not any(parts["from_newark"].below for parts in by_week)
    flawed = by_week[2]["from_kennedy"]
    assert flawed.high < flawed.floor == 0.55
    assert flawed.sentence.startswith("`from_kennedy` is at 0.") and flawed.sentence.endswith("below its floor of 0.55")
    assert {part.name: weeks for part, weeks in latest_parts(found)} == {
        "from_newark": 0, "from_kennedy": 1, "from_laguardia": 0,
    }  # fmt: skip


def test_a_slice_that_may_be_noise_is_not_called_below(at: Home) -> None:
    (week,) = quality(at, MODEL, SINCE + 8 * DAY)[:1]
    (newark,) = (part for part in week.parts if part.name == "from_newark")
    floor = (newark.value + newark.high) / 2
    strict = replace(MODEL, slices=(Slice(name="strict", column="origin", value="EWR", floor=floor),))
    (part,) = quality(at, strict, SINCE + 8 * DAY)[0].parts
    assert part.value < floor and not part.below


def test_without_a_champion_there_is_nothing_to_say(home: Home) -> None:
    assert quality(home, MODEL, UNTIL) == []
    assert trusted([]) is None
    assert in_words([]) == ""


def test_the_weekly_page_tells_all_of_it(at: Home) -> None:
    week = gather(at, MODEL, UNTIL + 2 * DAY)
    assert week.quality == quality(at, MODEL, UNTIL + 2 * DAY)
    assert week.trust == trusted(week.quality)
    text = render(week)
    assert "<code>from_kennedy</code> is at 0." in text
    assert "the estimate was off by" in text
    assert gather(at, MODEL, SINCE + timedelta(hours=20)).quality == []
    early = gather(at, MODEL, SINCE + timedelta(hours=30))
    assert early.quality[0].value is None
    assert "0% of the labels of the last week are in" in render(early)
