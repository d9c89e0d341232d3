"""Ingest: nothing twice, nothing skipped, and a broken batch stops with a reason that a person can act on.

A tiny domain stands in for the declared one; the check is real Great Expectations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import expectations.flights
import features.flights
from expectations import Expectations, Rule, Suite
from features import HeadwayError, Source
from pipelines.data import lake
from pipelines.data.ingest import Delivery, deliveries, horizon, ingest
from pipelines.home import Home

START = datetime(2013, 1, 31, tzinfo=UTC)
DAY, HOUR, MICROSECOND = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)
NAME, SOURCE = "flights", "sales"
DECLARED = features.flights.FLIGHTS
Window = tuple[datetime, datetime]

POSITIVE = Rule(
    expect="expect_column_values_to_be_between", severity="warning", args={"column": "n", "min_value": 0}, why="cannot"
)
PRESENT = Rule(
    expect="expect_column_values_to_not_be_null", severity="critical", args={"column": "n", "mostly": 0.5}, why="lost"
)
VOLUME = Rule(
    expect="expect_table_row_count_to_be_between", severity="critical", why="truncated or doubled",
    args={"min_value": {"$PARAMETER": "rows_low"}, "max_value": {"$PARAMETER": "rows_high"}},
)  # fmt: skip


@dataclass
class Feed:
    """What a source would deliver, and which windows it was asked for."""

    rows: pd.DataFrame
    asked: list[Window] = field(default_factory=list)
    spoil: Callable[[pd.DataFrame], Any] = field(default=lambda rows: rows)

    def read(self, since: datetime, until: datetime) -> Any:
        self.asked.append((since, until))
        known = self.rows["known"]
        return self.spoil(self.rows[(known > pd.Timestamp(since)) & (known <= pd.Timestamp(until))])


def table(known: list[datetime], n: list[float | None] | None = None) -> pd.DataFrame:
    stamps = pd.Series(pd.to_datetime(known, utc=True)).dt.as_unit("us")
    ids = [f"id{number}" for number in range(len(known))]
    return pd.DataFrame({"id": ids, "at": stamps - HOUR, "known": stamps, "n": n or [1.0] * len(known)})


def steady(days: int, a_day: int = 24) -> pd.DataFrame:
    """`a_day` rows on each of the `days` before START, and as many on each of the ten days after."""
    span = range(-days * a_day, 10 * a_day)
    return table([START + DAY * (number + 0.5) / a_day for number in span])


@contextlib.contextmanager
def declared(feed: Feed, *rules: Rule) -> Iterator[None]:
    """A domain with one source and one suite in the place of the declared ones."""
    source = Source(
        name=SOURCE, description="Sales", read=feed.read, key=("id",), event_time="at", known_at="known", cadence=DAY
    )
    table = replace(DECLARED.tables[0], sources=(SOURCE,))
    service = replace(DECLARED.services[0], tables=(table.name,), request_features=())
    domain = replace(DECLARED, sources=(source,), tables=(table,), services=(service,), request_features=())
    suites = Expectations(domain=NAME, suites=(Suite(source=SOURCE, rules=rules or (POSITIVE,)),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.flights, "FLIGHTS", domain)
        patch.setattr(expectations.flights, "FLIGHTS", suites)
        yield


def taken(at: Home, as_of: datetime) -> Delivery:
    (delivery,) = ingest(at, NAME, as_of)
    return delivery


def kept(at: Home) -> list[str]:
    rows = lake.read(at.room("lake", NAME, SOURCE))
    return sorted(rows.column("id").to_pylist()) if rows is not None else []


def set_aside(at: Home) -> pd.DataFrame:
    files = sorted(at.room("quarantine", NAME, SOURCE).glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files]) if files else pd.DataFrame()


def content(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


offsets = st.lists(st.integers(1, 20_000), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(steps=offsets, agains=st.integers(0, 3))
def test_windows_tile_the_time_whatever_the_instants(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], agains: int
) -> None:
    at, feed, now = Home(tmp_path_factory.mktemp("root")), Feed(table([])), START
    with declared(feed):
        for step in steps:
            now += timedelta(minutes=step)
            found = [taken(at, now) for _ in range(agains + 1)]
            assert found == found[:1] * (agains + 1)
    assert len(feed.asked) == len(steps)
    assert [since for since, _ in feed.asked[1:]] == [until for _, until in feed.asked[:-1]]
    assert feed.asked[0][0] < START - 3000 * DAY and feed.asked[-1][1] == now


@settings(max_examples=6, deadline=None)
@given(
    steps=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    values=st.lists(st.sampled_from([1.0, -1.0, None]), min_size=1, max_size=12),
)
def test_every_row_is_kept_or_set_aside_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], values: list[float | None]
) -> None:
    at, now = Home(tmp_path_factory.mktemp("root")), START
    feed = Feed(table([START + DAY * (number % 9) for number in range(len(values))], values))
    with declared(feed):
        for step in steps:
            now += step * DAY
            first = taken(at, now)
            assert first.kept + first.quarantined == first.read and first.new == first.kept
            before = content(at.root)
            assert taken(at, now) == first and content(at.root) == before
    known = feed.rows[feed.rows["known"] <= pd.Timestamp(now)]
    bad = known["n"] < 0
    assert kept(at) == sorted(known.loc[~bad, "id"])
    assert sorted(set_aside(at).get("id", [])) == sorted(known.loc[bad, "id"])


def test_a_row_is_read_in_the_window_in_which_it_became_known(home: Home) -> None:
    feed = Feed(table([START, START + MICROSECOND, START + DAY]))
    with declared(feed):
        assert [taken(home, START + k * DAY).read for k in (0, 1)] == [1, 2]


def test_a_broken_batch_keeps_its_place_and_is_read_again(home: Home) -> None:
    feed = Feed(table([START + HOUR, START + 2 * HOUR, START + 30 * HOUR]))
    with declared(feed, POSITIVE, PRESENT):
        taken(home, START)
        feed.spoil = lambda rows: rows.assign(n=None).astype({"n": float})
        stopped = taken(home, START + DAY)
        assert (stopped.read, stopped.kept, stopped.new, stopped.quarantined) == (2, 0, 0, 2)
        assert stopped.stops == ["`n`: 2 of 2 rows since 2013-01-31 00:00, such as None, None; lost"]
        assert kept(home) == [] and sorted(set_aside(home)["id"]) == ["id0", "id1"]
        again = taken(home, START + DAY)
        assert again.stops and len(set_aside(home)) == 2
        feed.spoil = lambda rows: rows
        mended = taken(home, START + 2 * DAY)
    assert (mended.since, mended.stops, mended.new) == (START.isoformat(), [], 3)
    assert kept(home) == ["id0", "id1", "id2"]
    assert [len(found.stops) for found in deliveries(home, NAME, START, START + 2 * DAY)] == [1, 0]


def test_a_batch_mended_for_the_same_instant_leaves_the_quarantine(home: Home) -> None:
    feed = Feed(table([START]), spoil=lambda rows: rows.assign(n=float("nan")))
    with declared(feed, PRESENT):
        assert taken(home, START).stops
        feed.spoil = lambda rows: rows
        assert not taken(home, START).stops
    assert kept(home) == ["id0"] and len(set_aside(home)) == 0


def test_a_refused_row_says_which_rule_it_broke(home: Home) -> None:
    with declared(Feed(table([START, START], [1.0, -7.0]))):
        found = taken(home, START)
    assert found.notes == ["`n`: 1 of 2 rows since 2013-01-30 23:00, such as -7; cannot"] and found.stops == []
    (row,) = set_aside(home).to_dict("records")
    assert (row["id"], row["n"], row["_rule"], row["_why"]) == ("id1", -7.0, POSITIVE.expect, "cannot")


def _raises(rows: pd.DataFrame) -> pd.DataFrame:
    raise ConnectionError("no route to the shop")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_raises, "sales could not be read: ConnectionError: no route to the shop"),
        (lambda rows: None, "sales came without id, at, known"),
        (lambda rows: 7, "sales could not be read: "),
        (lambda rows: rows.drop(columns="id"), "sales came without id; it has: at, known, n"),
        (lambda rows: rows.drop(columns=["at", "known"]), "sales came without at, known; it has: id, n"),
        (lambda rows: rows.assign(known=rows["known"].dt.tz_localize(None)), "known is datetime64[us], not instants"),
        (lambda rows: rows.assign(known=rows["known"].astype(str)), "sales: known is object, not instants in UTC"),
        (lambda rows: rows.assign(known=rows["known"] + DAY), "sales: 2 rows became known outside of 2013-01-31"),
        (lambda rows: rows.assign(known=rows["known"] - DAY), "sales: 2 rows became known outside of"),
        (
            lambda rows: rows.assign(known=pd.Series(pd.NaT, rows.index, "datetime64[us, UTC]")),
            "sales: 2 rows became known",
        ),
        (lambda rows: rows.assign(n="many"), "sales has a column whose type changed: "),
        (lambda rows: rows.drop(columns="n"), "sales came without n; it has: id, at, known"),
        (lambda rows: rows.assign(note=[1, "x"]), "sales has a column whose type changed: "),
    ],
)
def test_what_is_wrong_with_a_delivery_stops_it_by_name(
    home: Home, spoil: Callable[[pd.DataFrame], Any], complaint: str
) -> None:
    feed = Feed(table([START - DAY, START + HOUR, START + DAY]))
    with declared(feed):
        taken(home, START)
        feed.spoil = spoil
        stopped = taken(home, START + DAY)
        assert complaint in "\n".join(stopped.stops)
        assert kept(home) == ["id0"]
        feed.spoil = lambda rows: rows
        assert taken(home, START + 2 * DAY).new == 2


@pytest.mark.parametrize("later", [HOUR, 40 * DAY])
def test_a_column_that_changes_its_type_stops_the_batch(home: Home, later: timedelta) -> None:
    feed = Feed(table([START - HOUR, START + later]).assign(note=[1, 2]))
    with declared(feed):
        taken(home, START)
        feed.spoil = lambda rows: rows.assign(note="two")
        (stop,) = taken(home, START + later).stops
        assert stop.startswith("sales has a column whose type changed: ") and "note" in stop
        assert kept(home) == ["id0"] and set_aside(home)["note"].tolist() == ["two"]
        feed.spoil = lambda rows: rows.assign(note=2.5)
        assert taken(home, START + later).stops == []


@pytest.mark.parametrize(("rows", "stops"), [(0, True), (11, True), (12, False), (24, False), (48, False), (49, True)])
def test_the_volume_is_held_against_the_same_hours_of_days_before(home: Home, rows: int, stops: bool) -> None:
    feed = Feed(steady(20))
    with declared(feed, VOLUME, POSITIVE):
        assert taken(home, START).stops == []
        feed.spoil = lambda day: (
            pd.concat([day] * 3, ignore_index=True).head(rows).assign(id=range(rows)).astype({"id": str})
        )
        found = taken(home, START + DAY)
    assert bool(found.stops) is stops
    if stops:
        assert found.stops == [f"`the batch`: found {rows}; truncated or doubled"]


def test_the_volume_of_a_quarter_of_a_day_is_that_of_its_own_hours(home: Home) -> None:
    nightly = [START + DAY * day + HOUR * hour for day in range(-20, 3) for hour in (1, 2, 3, 4)]
    feed = Feed(table(nightly))
    with declared(feed, VOLUME, POSITIVE):
        found = [taken(home, START + 6 * HOUR * quarter) for quarter in range(5)]
        assert [delivery.stops for delivery in found] == [[]] * 5
        feed.spoil = lambda rows: rows.head(1)
        assert taken(home, START + 30 * HOUR).stops


def test_a_source_without_history_must_only_not_be_empty(home: Home) -> None:
    feed = Feed(steady(2))
    with declared(feed, VOLUME, POSITIVE):
        feed.spoil = lambda rows: rows.head(0)
        assert taken(home, START).stops == ["`the batch`: found 0; truncated or doubled"]
        feed.spoil = lambda rows: rows
        assert taken(home, START).stops == []


def test_an_earlier_instant_than_the_last_is_refused(home: Home) -> None:
    with declared(Feed(table([START]))):
        taken(home, START)
        with pytest.raises(HeadwayError, match=r"flights\.sales is ingested up to 2013-01-31 .* lies before"):
            ingest(home, NAME, START - DAY)
    assert kept(home) == ["id0"]


def test_a_night_knows_what_the_last_ingest_before_it_took_in(home: Home) -> None:
    with declared(Feed(steady(2))):
        domain = features.load(NAME)
        for as_of in (START + 20 * HOUR, START + DAY, START + 30 * HOUR):
            taken(home, as_of)
        known = [horizon(home, domain, SOURCE, START + hours * HOUR) for hours in (9, 21, 24, 24.5, 31)]
    assert known == [START + hours * HOUR for hours in (6, 20, 24, 24, 30)], "no ingest at the first: the tick itself"


def test_a_night_does_not_know_what_was_stopped(home: Home) -> None:
    feed = Feed(steady(2))
    with declared(feed):
        taken(home, START + 20 * HOUR)
        feed.spoil = lambda rows: rows.drop(columns="n")
        assert taken(home, START + DAY).stops
        feed.spoil = lambda rows: rows
        taken(home, START + 30 * HOUR)
        known = [horizon(home, features.load(NAME), SOURCE, START + hours * HOUR) for hours in (24.5, 31)]
    assert known == [START + 20 * HOUR, START + 30 * HOUR]


def test_a_correction_is_one_more_row(home: Home) -> None:
    feed = Feed(table([START, START + DAY]).assign(id="same"))
    with declared(feed):
        assert [taken(home, START + k * DAY).new for k in (0, 1)] == [1, 1]
    assert kept(home) == ["same", "same"]
