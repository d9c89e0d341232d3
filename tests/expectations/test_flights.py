"""The declared suites against the real data: they pass what is good, and name what is spoiled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

import expectations
import features
from pipelines.data.check import Checked, check

FLIGHTS = features.load("flights")
SUITES = expectations.load("flights")
DAY = datetime(2013, 1, 9, tzinfo=UTC)
VOLUME = {"rows_low": 1, "rows_high": 5000}
SOURCES = [source.name for source in FLIGHTS.sources]
YEAR_BEFORE = timedelta(days=400)


def delivered(source: str) -> pd.DataFrame:
    days = YEAR_BEFORE if source == "planes" else timedelta(days=1)
    rows: pd.DataFrame = FLIGHTS.source(source).read(DAY - days, DAY)
    return rows.reset_index(drop=True)


def checked(source: str, rows: pd.DataFrame) -> Checked:
    return check(rows, SUITES.suite(source), VOLUME)


def test_every_source_has_a_suite_and_every_suite_a_source() -> None:
    assert [suite.source for suite in SUITES.suites] == SOURCES


@pytest.mark.parametrize("source", SOURCES)
def test_a_real_day_is_kept_almost_whole(source: str) -> None:
    rows = delivered(source)
    found = checked(source, rows)
    assert len(rows) > 60
    assert found.stops == ()
    assert len(found.quarantined) <= 0.01 * len(rows)


@pytest.mark.parametrize(
    ("source", "spoil", "about"),
    [
        ("weather", lambda rows: rows.assign(pressure=rows["pressure"] * 0.02953), "`pressure`"),
        ("weather", lambda rows: rows.assign(temp=None).astype({"temp": float}), "`temp`"),
        ("weather", lambda rows: rows.drop(columns="visib"), "missing column visib"),
        ("schedule", lambda rows: rows.rename(columns={"dest": "destination"}), "unexpected column destination"),
        ("departures", lambda rows: rows.head(0), "found 0; far fewer or more rows"),
        ("arrivals", lambda rows: pd.concat([rows] * 8, ignore_index=True), "far fewer or more rows"),
    ],
)
def test_a_broken_delivery_stops(source: str, spoil: Callable[[pd.DataFrame], pd.DataFrame], about: str) -> None:
    found = checked(source, spoil(delivered(source)))
    assert any(about in broken.sentence for broken in found.stops)


@pytest.mark.parametrize(
    ("source", "column", "value"),
    [
        ("schedule", "flight_id", None),
        ("schedule", "origin", "BOS"),
        ("schedule", "dest", "Boston"),
        ("schedule", "distance", 0),
        ("departures", "dep_delay", -121.0),
        ("arrivals", "arr_delay", 2881.0),
        ("weather", "temp", 451.0),
        ("weather", "humid", -1.0),
        ("weather", "visib", 16.0),
        ("weather", "pressure", 29.9),
        ("planes", "built", 1903.0),
    ],
)
def test_one_impossible_row_is_set_aside_and_only_that(source: str, column: str, value: object) -> None:
    rows = delivered(source)
    already = set(checked(source, rows).quarantined.index)
    row = next(number for number in range(7, len(rows)) if number not in already)
    rows.loc[row, column] = value
    found = checked(source, rows)
    assert found.stops == ()
    assert set(found.quarantined.index) == already | {row}


@pytest.mark.parametrize("source", SOURCES)
def test_a_row_that_came_twice_is_set_aside(source: str) -> None:
    rows = delivered(source)
    found = checked(source, pd.concat([rows, rows.iloc[[3]]], ignore_index=True))
    assert {3, len(rows)} <= set(found.quarantined.index)
