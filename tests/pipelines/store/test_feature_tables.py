"""Feature tables: nothing they hold was unknown at their tick, and their stamps say when serving could see it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import features
from features import Domain, FeatureTable, HeadwayError
from pipelines.data import lake
from pipelines.data.ingest import ingest
from pipelines.home import Home, utc
from pipelines.store.feature_tables import CREATED, VISIBLE, backfill, build_tables, snapshots, ticks

NAME = "flights"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SPANS = {NAME: (utc("2013-01-03"), utc("2013-01-20"))}
"""A new domain says here between which instants its tables are looked at; its data must reach back to the first."""
TABLES = [(name, table.name) for name in features.names() for table in features.load(name).tables]
SAMPLED = 6
FLIGHTS = features.load(NAME)
SIX_HOURLY = {table.name for table in FLIGHTS.tables} - {"route_delays"}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A root into which every domain's span was ingested. Its lake is only read."""
    at = Home(tmp_path_factory.mktemp("full"))
    for name in features.names():
        assert not [stop for delivery in ingest(at, name, SPANS[name][1]) for stop in delivery.stops]
    return at


@pytest.fixture(scope="module")
def known_by(full: Home, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, datetime], Home]:
    """A root whose lake holds only the rows that were known by an instant."""

    @functools.cache
    def make(name: str, instant: datetime) -> Home:
        at = Home(tmp_path_factory.mktemp("known"))
        for source in features.load(name).sources:
            rows = lake.read(full.room("lake", name, source.name), until=instant)
            assert rows is not None
            known = rows.filter(pc.less_equal(rows.column(source.known_at), pa.scalar(instant, lake.INSTANT)))
            lake.write(at.room("lake", name, source.name), known, key=source.key, by=source.known_at)
        return at

    return make


@pytest.fixture
def at(full: Home, home: Home) -> Home:
    """A root with the full lake, and nothing computed yet."""
    (home.root / "lake").symlink_to(full.lake)
    return home


def frame(table: FeatureTable, rows: pa.Table) -> pd.DataFrame:
    return rows.to_pandas().sort_values([VISIBLE, *table.keys], ignore_index=True)


def computed(at: Home, table: FeatureTable) -> pd.DataFrame:
    rows = lake.read(at.room("snapshots", NAME, table.name))
    assert rows is not None
    return frame(table, rows)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def dishonest(
    domain: Domain, table: FeatureTable, full: Home, known_by: Callable[[str, datetime], Home]
) -> list[datetime]:
    """Sampled ticks at which the table held something else than what follows from the rows known by then."""
    moments = ticks(table, *SPANS[domain.name])
    together = frame(table, snapshots(full, domain, table, moments))
    found = []
    for moment in moments[:: max(1, len(moments) // SAMPLED)][:SAMPLED]:
        tick = moment[0]
        part = together[together[VISIBLE] == pd.Timestamp(tick + table.lag)].reset_index(drop=True)
        then = frame(table, snapshots(known_by(domain.name, tick), domain, table, [moment]))
        alone = frame(table, snapshots(full, domain, table, [moment]))
        assert len(then), f"nothing to compare at {tick}"
        if not (then.equals(part) and then.equals(alone)):
            found.append(tick)
    return found


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_a_table_holds_only_what_was_known_at_its_tick(
    name: str, table: str, full: Home, known_by: Callable[[str, datetime], Home]
) -> None:
    domain = features.load(name)
    assert dishonest(domain, domain.table(table), full, known_by) == []


@pytest.mark.parametrize(
    ("table", "honest", "peeking"),
    [
        ("weather_now", "ON known_at <= tick AND", "ON known_at <= tick + INTERVAL 1 HOUR AND"),
        ("carrier_delays", "arrived_at <= tick AND", ""),
        ("aircraft", "arr_delay AS previous_delay", "(SELECT count(*) FROM arrivals) AS previous_delay"),
    ],
)
def test_a_table_that_peeks_is_found_out(
    table: str, honest: str, peeking: str, full: Home, known_by: Callable[[str, datetime], Home]
) -> None:
    declared = FLIGHTS.table(table)
    assert honest in declared.sql
    sql = declared.sql.replace(honest, peeking)
    assert dishonest(FLIGHTS, replace(declared, sql=sql), full, known_by)


def test_a_value_is_what_the_raw_rows_say(full: Home) -> None:
    tick = utc("2013-01-10T12:00Z")
    source = FLIGHTS.source("departures").read(tick - DAY, tick)
    newark = source[source["origin"] == "EWR"]
    late = newark[newark["departed_at"] > pd.Timestamp(tick - 3 * HOUR)]
    table = FLIGHTS.table("airport_delays")
    found = frame(table, snapshots(full, FLIGHTS, table, [(tick, tick - 6 * HOUR)])).set_index("origin").loc["EWR"]
    assert found["airport_departures_24h"] == len(newark) > 250
    assert found["airport_delay_24h"] == pytest.approx(newark["dep_delay"].mean(), abs=1e-12)
    assert found["airport_delay_3h"] == pytest.approx(late["dep_delay"].mean(), abs=1e-12)


@given(
    start=st.timedeltas(timedelta(0), 2 * DAY),
    span=st.timedeltas(timedelta(0), 3 * DAY),
    cadence=st.sampled_from([HOUR, 6 * HOUR, DAY, timedelta(minutes=5)]),
)
def test_ticks_lie_on_the_cadence_since_midnight(start: timedelta, span: timedelta, cadence: timedelta) -> None:
    midnight = utc("2013-01-01")
    since = midnight + start
    found = ticks(replace(FLIGHTS.tables[0], cadence=cadence), since, since + span)
    count = (since + span - midnight) // cadence - (since - midnight) // cadence
    assert len(found) == count
    assert all((tick - midnight) % cadence == timedelta(0) and since < tick <= since + span for tick, _ in found)
    assert all(before == tick - cadence for tick, before in found)


def test_a_table_is_computed_when_a_tick_has_passed_and_only_then(at: Home) -> None:
    every = {table.name for table in FLIGHTS.tables}
    assert set(build_tables(at, NAME, utc("2013-01-10T06:00Z"))) == every
    assert build_tables(at, NAME, utc("2013-01-10T06:00Z")) == {}
    assert build_tables(at, NAME, utc("2013-01-10T11:59Z")) == {}
    assert set(build_tables(at, NAME, utc("2013-01-10T12:00Z"))) == SIX_HOURLY
    assert set(build_tables(at, NAME, utc("2013-01-11T00:10Z"))) == every
    assert build_tables(at, NAME, utc("2013-01-10T18:00Z")) == {}, "an older instant than the last is not due"


@pytest.mark.parametrize("as_of", ["2013-01-10T06:00Z", "2013-01-10T09:17:42.654321Z"])
def test_a_run_is_stamped_with_when_it_happened(at: Home, as_of: str) -> None:
    build_tables(at, NAME, utc(as_of))
    for table in FLIGHTS.tables:
        rows = computed(at, table)
        visible = pd.Timestamp(utc(as_of).replace(microsecond=0) + table.lag)
        assert set(rows[VISIBLE]) == set(rows[CREATED]) == {visible}
        assert str(rows[VISIBLE].dtype) == "datetime64[us, UTC]"
        assert list(rows) == [*table.keys, *(feature.name for feature in table.features), VISIBLE, CREATED]


def test_what_a_missed_run_left_out_comes_with_the_next(at: Home) -> None:
    for as_of in ("2013-01-10T06:00Z", "2013-01-11T07:00Z"):
        build_tables(at, NAME, utc(as_of))
    rows = computed(at, FLIGHTS.table("aircraft"))
    latest = rows[rows[VISIBLE] > pd.Timestamp("2013-01-11T00:00Z")]
    arrived = FLIGHTS.source("arrivals").read(utc("2013-01-10T06:00Z"), utc("2013-01-11T07:00Z"))
    assert set(latest["tailnum"]) == set(arrived["tailnum"].dropna())


def test_broken_sources_hold_back_only_the_tables_that_read_them(at: Home) -> None:
    first, second = utc("2013-01-10T06:00Z"), utc("2013-01-10T12:00Z")
    build_tables(at, NAME, first)
    assert set(build_tables(at, NAME, second, frozenset({"arrivals"}))) == {"weather_now", "airport_delays"}
    assert set(build_tables(at, NAME, second)) == {"carrier_delays", "aircraft"}
    rows = computed(at, FLIGHTS.table("aircraft"))
    arrived = FLIGHTS.source("arrivals").read(first, second)
    caught_up = rows[rows[VISIBLE] > pd.Timestamp(second)]
    assert set(caught_up["tailnum"]) == set(arrived["tailnum"].dropna())


def test_a_backfill_is_what_runs_on_time_would_have_made(at: Home, full: Home, tmp_path: Path) -> None:
    since, until = utc("2013-01-10"), utc("2013-01-12")
    written = backfill(at, NAME, since, until)
    nightly = Home(tmp_path / "nightly")
    nightly.root.mkdir()
    (nightly.root / "lake").symlink_to(full.lake)
    found = dict.fromkeys(written, 0)
    for hours in range(6, 49, 6):
        for name, rows in build_tables(nightly, NAME, since + hours * HOUR).items():
            found[name] += rows
    by_day = FLIGHTS.table("route_delays")  # its first run happened at 6:00, before it was due at midnight
    for table in FLIGHTS.tables:
        if table is not by_day:
            pd.testing.assert_frame_equal(computed(nightly, table), computed(at, table))
            assert written[table.name] == found[table.name] == len(computed(at, table))
    before = content(at.snapshots)
    assert backfill(at, NAME, since, until) == written
    assert content(at.snapshots) == before
    assert build_tables(at, NAME, until) == {}


def test_nothing_ingested_and_a_lacking_column_are_told(home: Home, full: Home) -> None:
    table = FLIGHTS.table("weather_now")
    moment = ticks(table, *SPANS[NAME])[0]
    with pytest.raises(HeadwayError, match=r"weather: nothing ingested yet .* Run `headway ingest`"):
        snapshots(home, FLIGHTS, table, [moment])
    lacking = replace(table, sql="SELECT tick, origin FROM ticks JOIN weather ON known_at <= tick")
    with pytest.raises(
        HeadwayError, match="weather_now returns no humid, precip_6h, pressure, temp, visib, wind_speed"
    ):
        snapshots(full, FLIGHTS, lacking, [moment])
