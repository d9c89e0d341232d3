"""Every way in which a feed is known to break, planted in the demo's real data: caught by name, or harmless.

Four weeks of the real feeds lie in the lake. Each test spoils the next day of one of them and ingests it. A fault is
caught where the table says: `stops` (nothing of the batch is kept), `quarantines` (the good rows are kept and the bad
ones set aside), `notes` (kept, and said); or it is harmless: the lake is then what it is without it.
"""

from __future__ import annotations

import importlib
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pytest

import expectations
import expectations.flights
import features
import models
from features import Domain, Source
from monitoring import verdict
from pipelines.data import lake
from pipelines.data.ingest import Delivery, ingest
from pipelines.home import Home, utc
from pipelines.nights import night

DOMAIN, MODEL = "flights", "late_arrival"
START, DAY, HOUR = utc("2013-04-10"), timedelta(days=1), timedelta(hours=1)
HISTORY = timedelta(days=29)
FLIGHTS = features.load(DOMAIN)
Spoil = Callable[[pd.DataFrame], Any]


class Fault(NamedTuple):
    """One way to break a feed, and what must come of it."""

    name: str
    source: str
    spoil: Spoil
    outcome: Literal["stops", "quarantines", "notes", "harmless"]
    told: str = ""
    """What the sentence must name."""
    rows: int = 0
    """How many rows are set aside."""


def some(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The 3rd and 40th row with other values."""
    rows = rows.copy()
    for name, value in values.items():
        found = value(rows[name].iloc[[3, 40]]) if callable(value) else value
        rows[name] = rows[name].astype(object) if isinstance(value, str) else rows[name]
        rows.loc[rows.index[[3, 40]], name] = found
    return rows


def since_noon(rows: pd.DataFrame, column: str, change: Callable[[pd.Series], Any], clock: str) -> pd.DataFrame:
    """The column changed from noon on."""
    late = rows[clock] >= pd.Timestamp(START + 12 * HOUR)
    return rows.assign(**{column: rows[column].where(~late, change(rows[column]))})


def celsius(values: pd.Series) -> pd.Series:
    return (values - 32) / 1.8


def unreadable(rows: pd.DataFrame) -> pd.DataFrame:
    """Half of a Parquet file."""
    file = io.BytesIO()
    rows.to_parquet(file)
    return pd.read_parquet(io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2]))


def reused(rows: pd.DataFrame) -> pd.DataFrame:
    """Two flights of today under the ids of two of yesterday, which went elsewhere."""
    before = FLIGHTS.source("schedule").read(START - DAY, START)
    others = before[before["dest"] != rows["dest"].iloc[0]]["flight_id"].iloc[:2].tolist()
    rows = rows.copy()
    rows.loc[rows.index[[3, 40]], "flight_id"] = others
    return rows


def yesterday(rows: pd.DataFrame) -> pd.DataFrame:
    """Yesterday's departures again, as if they were today's."""
    before = FLIGHTS.source("departures").read(START - DAY, START)
    return before.assign(departed_at=before["departed_at"] + DAY)


FAULTS = [
    Fault("renamed column", "weather", lambda rows: rows.rename(columns={"visib": "visibility"}), "stops", "visib"),
    Fault("missing column", "weather", lambda rows: rows.drop(columns="wind_dir"), "stops", "wind_dir"),
    Fault("missing key", "schedule", lambda rows: rows.drop(columns="flight_id"), "stops", "flight_id"),
    Fault("extra column", "departures", lambda rows: rows.assign(gate="A1"), "stops", "unexpected column gate"),
    Fault("reordered columns", "arrivals", lambda rows: rows[rows.columns[::-1]], "harmless"),
    Fault("reordered rows", "arrivals", lambda rows: rows.sample(frac=1, random_state=1), "harmless"),
    Fault("numbers as text", "weather", lambda rows: rows.assign(temp=rows["temp"].astype(str)), "stops", "temp"),
    Fault("whole numbers as floats", "schedule", lambda rows: rows.astype({"distance": float}), "harmless"),
    Fault("Celsius for Fahrenheit", "weather", lambda rows: rows.assign(temp=celsius(rows["temp"])), "stops", "`temp`"),
    Fault(
        "inches of mercury",
        "weather",
        lambda rows: rows.assign(pressure=rows["pressure"] * 0.02953),
        "stops",
        "`pressure`",
    ),
    Fault(
        "seconds for minutes", "departures", lambda r: r.assign(dep_delay=r["dep_delay"] * 60), "stops", "`dep_delay`"
    ),
    Fault("hours for minutes", "arrivals", lambda r: r.assign(arr_delay=r["arr_delay"] / 60), "stops", "`arr_delay`"),
    Fault(
        "kilometres for miles",
        "schedule",
        lambda rows: rows.assign(distance=(rows["distance"] * 1.609 * 3).astype(int)),
        "stops",
        "`distance`",
    ),
    Fault(
        "shifted time zone of an instant",
        "departures",
        lambda rows: rows.assign(scheduled_departure=rows["scheduled_departure"] + 5 * HOUR),
        "stops",
        "`scheduled_departure",
    ),
    Fault(
        "shifted time zone of a constant distance",
        "weather",
        lambda rows: rows.assign(observed_at=rows["observed_at"] + 5 * HOUR),
        "stops",
        "`observed_at`",
    ),
    Fault(
        "shifted time zone of all",
        "weather",
        lambda r: r.assign(observed_at=r["observed_at"] - 5 * HOUR, known_at=r["known_at"] - 5 * HOUR),
        "stops",
        "known outside of",
    ),
    Fault("frozen value", "weather", lambda rows: rows.assign(temp=rows["temp"].iloc[0]), "stops", "`temp`"),
    Fault(
        "frozen at one place",
        "weather",
        lambda rows: rows.assign(pressure=rows["pressure"].where(rows["origin"] != "JFK", 1013.0)),
        "stops",
        "`pressure`",
    ),
    Fault(
        "frozen since noon",
        "departures",
        lambda rows: since_noon(rows, "dep_delay", lambda values: -2.0, "departed_at"),
        "stops",
        "`dep_delay` since 2013-04-10 12:00",
    ),
    Fault("all missing", "weather", lambda rows: rows.assign(humid=np.nan), "stops", "`humid`"),
    Fault(
        "missing since noon",
        "weather",
        lambda rows: since_noon(rows, "dewp", lambda v: np.nan, "observed_at"),
        "stops",
        "`dewp` since 2013-04-10 12:00",
    ),
    Fault(
        "missing share jumps",
        "departures",
        lambda rows: rows.assign(tailnum=rows["tailnum"].where(np.arange(len(rows)) % 2 == 0)),
        "stops",
        "`tailnum`",
    ),
    Fault(
        "exact duplicates", "departures", lambda rows: pd.concat([rows, rows.head(9)]), "harmless", "9 rows came twice"
    ),
    Fault("doubled day", "departures", lambda rows: pd.concat([rows, rows]), "harmless", "rows came twice"),
    Fault(
        "duplicates with other content",
        "departures",
        lambda rows: pd.concat([rows, rows.head(3).assign(tailnum="N1")]),
        "quarantines",
        "`flight_id`",
        6,
    ),
    Fault("yesterday again", "departures", yesterday, "stops", "`flight_id`"),
    Fault(
        "late rows", "weather", lambda r: some(r, observed_at=lambda v: v - 40 * DAY), "notes", "far earlier than usual"
    ),
    Fault(
        "events from the future",
        "weather",
        lambda r: some(r, observed_at=lambda v: v + 9 * DAY),
        "quarantines",
        "`observed_at`",
        2,
    ),
    Fault(
        "known in the future",
        "weather",
        lambda r: some(r, known_at=lambda v: v + 2 * DAY),
        "quarantines",
        "`known_at`",
        2,
    ),
    Fault(
        "truncated day",
        "arrivals",
        lambda r: r[r["arrived_at"] < pd.Timestamp(START + 9 * HOUR)],
        "stops",
        "nothing for",
    ),
    Fault(
        "a hole in the day", "weather", lambda r: r[~r["observed_at"].dt.hour.between(6, 13)], "stops", "nothing for"
    ),
    Fault("a third of the rows", "schedule", lambda rows: rows.iloc[::3], "stops", "the batch"),
    Fault("swapped columns", "weather", lambda r: r.assign(temp=r["dewp"], dewp=r["temp"]), "stops", "`temp`"),
    Fault("swapped ends", "schedule", lambda r: r.assign(origin=r["dest"], dest=r["origin"]), "stops", "`origin`"),
    Fault("new category", "schedule", lambda rows: some(rows, carrier="ZZ"), "notes", "ZZ"),
    Fault(
        "another code for categories",
        "schedule",
        lambda rows: rows.assign(carrier=rows["carrier"].str.lower()),
        "stops",
        "`carrier`",
    ),
    Fault(
        "wrong encoding", "schedule", lambda rows: some(rows, tailnum="N10\ufffd\x00"), "quarantines", "`tailnum`", 2
    ),
    Fault("empty frame", "departures", lambda rows: rows.head(0), "stops", "found 0"),
    Fault("empty file", "departures", lambda rows: pd.read_csv(io.StringIO("")), "stops", "could not be read"),
    Fault("half a file", "departures", unreadable, "stops", "could not be read"),
    Fault("huge value", "departures", lambda rows: some(rows, dep_delay=1e12), "quarantines", "`dep_delay`", 2),
    Fault("wrong sign", "departures", lambda r: r.assign(dep_delay=-r["dep_delay"]), "stops", "`dep_delay`"),
    Fault(
        "rows out of step",
        "departures",
        lambda r: r.assign(dep_delay=r["dep_delay"].to_numpy()[::-1]),
        "stops",
        "`dep_delay",
    ),
    Fault("id used again", "schedule", reused, "quarantines", "`dest`", 2),
    Fault(
        "instants without a zone",
        "weather",
        lambda r: r.assign(observed_at=r["observed_at"].dt.tz_localize(None)),
        "stops",
        "observed_at",
    ),
    Fault(
        "whole source late",
        "arrivals",
        lambda rows: rows[rows["arrived_at"] < pd.Timestamp(START + HOUR)],
        "stops",
        "arriv",
    ),
    Fault("one place missing", "weather", lambda rows: rows[rows["origin"] != "LGA"], "stops", "`origin`"),
    Fault("one airline missing", "departures", lambda rows: rows[rows["carrier"] != "UA"], "stops", "`carrier`"),
]


@contextmanager
def only(source: Source) -> Iterator[None]:
    """The domain with one source, and no feature table that is due."""
    module = importlib.import_module(f"features.{DOMAIN}")
    name = next(name for name, value in vars(module).items() if isinstance(value, Domain))
    table = replace(FLIGHTS.tables[0], sources=(source.name,))
    services = tuple(replace(s, tables=(table.name,), request_features=()) for s in FLIGHTS.services)
    domain = replace(FLIGHTS, sources=(source,), tables=(table,), request_features=(), services=services)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, domain)
        yield


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The feeds up to `START`, and beside it what the next day makes of them when nothing is wrong."""
    at = Home(tmp_path_factory.mktemp("faults"))
    for source in FLIGHTS.sources[:4]:
        shortened = replace(source, read=lambda since, until, s=source: s.read(max(since, START - HISTORY), until))
        with only(shortened):
            assert [found.stops for found in ingest(Home(at.root / "before"), DOMAIN, START)] == [[]]
            folder = ("lake", DOMAIN, source.name)
            shutil.copytree(at.root.joinpath("before", *folder), at.root.joinpath("good", *folder))
            assert [found.stops for found in ingest(Home(at.root / "good"), DOMAIN, START + DAY)] == [[]]
    return at


def spoiled(fault: Fault) -> Source:
    source = FLIGHTS.source(fault.source)

    def read(since: Any, until: Any) -> Any:
        return fault.spoil(source.read(since, until))

    return replace(source, read=read)


def kept(at: Home, source: str) -> pd.DataFrame:
    """What lies in the lake of a source of the day, in the order of its key."""
    found = lake.read(at.room("lake", DOMAIN, source))
    assert found is not None
    rows = found.to_pandas()
    known = FLIGHTS.source(source).known_at
    rows = rows[rows[known] > pd.Timestamp(START)]
    return rows[sorted(rows.columns)].sort_values([*FLIGHTS.source(source).key, known], ignore_index=True)


def delivered(at: Home, fault: Fault) -> Delivery:
    """What ingest finds in the spoiled day, on a copy of the lake."""
    folder = ("lake", DOMAIN, fault.source)
    shutil.copytree(at.root.joinpath("before", *folder), at.root.joinpath(fault.name, *folder))
    with only(spoiled(fault)):
        (found,) = ingest(Home(at.root / fault.name), DOMAIN, START + DAY)
    return found


def vetoed(at: Home, fault: Fault) -> None:
    """The night after: a standing fault comes before all else, even a model that is far too old."""
    faults = night._faults(at, models.load(MODEL), START, START + DAY)
    found = verdict.decide(
        models.load(MODEL), as_of=START + DAY, champion_version=1, trained_as_of=START - 400 * DAY, faults=faults
    )
    assert (found.action, found.cause) == ("veto", "data fault")
    assert fault.source in found.sentence
    assert fault.told in "\n".join(each.sentence for each in faults)


def test_there_are_at_least_twenty_five() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_broken_feed_is_caught_by_name_or_harmless(lakes: Home, fault: Fault) -> None:
    found = delivered(lakes, fault)
    at, good = Home(lakes.root / fault.name), kept(Home(lakes.root / "good"), fault.source)
    told = "\n".join(found.stops if fault.outcome == "stops" else found.notes)
    assert fault.told in told, f"{found.stops}\n{found.notes}"
    if fault.outcome == "stops":
        assert found.kept == 0
        assert kept(at, fault.source).empty
        vetoed(at, fault)
        return
    assert found.stops == []
    now = kept(at, fault.source)
    if fault.outcome == "harmless":
        pd.testing.assert_frame_equal(now, good)
        assert found.quarantined == 0
    else:
        assert found.quarantined == fault.rows
        key = list(FLIGHTS.source(fault.source).key)
        assert len(now) == found.kept >= len(good) - fault.rows
        untouched = now.merge(good, how="inner")
        assert len(untouched) >= len(good) - max(2, fault.rows), key


def test_a_column_that_is_not_watched_may_change_in_any_way(lakes: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "Celsius for Fahrenheit")
    declared = expectations.load(DOMAIN)
    free = tuple(replace(suite, unwatched=("temp", "observed_at")) for suite in declared.suites)
    monkeypatch.setattr(expectations.flights, "FLIGHTS", replace(declared, suites=free))
    assert delivered(lakes, fault._replace(name="unwatched")).stops == []
