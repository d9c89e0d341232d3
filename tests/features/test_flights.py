"""The declared flights: the real data in UTC, by instants computed by hand, and readers that do not leak."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

import features

FLIGHTS = features.load("flights")
EPOCH, END = datetime(2012, 1, 1, tzinfo=UTC), datetime(2014, 6, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Raw rows of the CSV, and what the clocks of New York and of the destination make of them. On 10 March 2013 the
# clocks of the United States went from UTC-5 to UTC-4 (New York) at 2:00; Puerto Rico stays at UTC-4, Phoenix at -7.
KNOWN = [
    # 1 January: 5:15 at EWR is 10:15 UTC; 8:19 in Houston (UTC-6) is 14:19 UTC, 11 minutes late.
    ("2013-01-01-UA1545-EWR", "2013-01-01T10:15Z", "2013-01-01T14:19Z", "2013-01-01T14:30Z"),
    # 9 March, before the change: 5:15 is 10:15 UTC; 8:13 in Houston is 14:13 UTC, 29 minutes early.
    ("2013-03-09-UA541-EWR", "2013-03-09T10:15Z", "2013-03-09T14:13Z", "2013-03-09T13:44Z"),
    # 9 March 23:59 at JFK is 4:59 UTC; 4:38 in Puerto Rico is 8:38 UTC, 26 minutes late.
    ("2013-03-09-B6727-JFK", "2013-03-10T04:59Z", "2013-03-10T08:38Z", "2013-03-10T09:04Z"),
    # 10 March, after the change: 6:10 at JFK is 10:10 UTC; 9:36 in San Francisco (now UTC-7) is 16:36 UTC, 12 early.
    ("2013-03-10-UA600-JFK", "2013-03-10T10:10Z", "2013-03-10T16:36Z", "2013-03-10T16:24Z"),
    # 6:19 at EWR is 10:19 UTC; 9:03 in Phoenix, which keeps UTC-7 all year, is 16:03 UTC, 12 early.
    ("2013-03-10-UA1236-EWR", "2013-03-10T10:19Z", "2013-03-10T16:03Z", "2013-03-10T15:51Z"),
    # 6:30 at JFK is 10:30 UTC; 10:40 in San Juan (UTC-4) is 14:40 UTC, 20 early.
    ("2013-03-10-AA413-JFK", "2013-03-10T10:30Z", "2013-03-10T14:40Z", "2013-03-10T14:20Z"),
    # Over midnight: 22:53 is 2:53 UTC of the 11th; 0:14 in Buffalo is 4:14 UTC, 168 minutes late.
    ("2013-03-10-B6112-JFK", "2013-03-11T02:53Z", "2013-03-11T04:14Z", "2013-03-11T07:02Z"),
    # 3 November, the clocks went back at 2:00: 22:45 is 3:45 UTC of the 4th; 0:03 in Rochester is 5:03 UTC, 15 early.
    ("2013-11-03-B6486-JFK", "2013-11-04T03:45Z", "2013-11-04T05:03Z", "2013-11-04T04:48Z"),
    # 21:40 is 2:40 UTC of the 4th; 0:40 in Los Angeles (back at UTC-8) is 8:40 UTC, 21 late.
    ("2013-11-03-AA185-JFK", "2013-11-04T02:40Z", "2013-11-04T08:40Z", "2013-11-04T09:01Z"),
]


def year(source: str) -> pd.DataFrame:
    rows: pd.DataFrame = FLIGHTS.source(source).read(EPOCH, END)
    return rows


@pytest.mark.parametrize(("flight", "departure", "arrival", "arrived"), KNOWN)
def test_real_flights_are_at_their_instants(flight: str, departure: str, arrival: str, arrived: str) -> None:
    (plan,) = year("schedule").query("flight_id == @flight").to_dict("records")
    (flown,) = year("arrivals").query("flight_id == @flight").to_dict("records")
    assert plan["scheduled_departure"] == pd.Timestamp(departure)
    assert plan["scheduled_arrival"] == pd.Timestamp(arrival)
    assert plan["planned_at"] == pd.Timestamp(departure) - pd.Timedelta(days=1)
    assert flown["arrived_at"] == pd.Timestamp(arrived)


def test_every_planned_flight_is_there_and_those_that_never_came_only_as_plans() -> None:
    # Counts of the published data set: 336,776 flights, 8,255 cancelled, 9,430 without an arrival delay.
    plans = year("schedule")
    assert len(plans) == plans["flight_id"].nunique() == 336_776
    assert len(year("departures")) == 336_776 - 8_255
    assert len(year("arrivals")) == 336_776 - 9_430


def test_planned_arrivals_follow_departures_within_a_day() -> None:
    plans = year("schedule")
    lasts = plans["scheduled_arrival"] - plans["scheduled_departure"]
    assert (lasts > pd.Timedelta(0)).all() and (lasts <= pd.Timedelta(days=1)).all()
    # Honolulu, the farthest, is about eleven hours away.
    assert (lasts < pd.Timedelta(hours=13)).mean() > 0.999


@pytest.mark.parametrize("source", FLIGHTS.sources, ids=lambda source: source.name)
def test_readers_split_time_without_gap_or_overlap(source: features.Source) -> None:
    rows = source.read(EPOCH, END)
    known = rows[source.known_at]
    assert str(known.dt.tz) == "UTC"
    assert not rows.duplicated([*source.key, source.known_at]).any()
    cut = known.sort_values().iloc[len(rows) // 2].to_pydatetime()
    before, at, after = (
        source.read(EPOCH, cut - MICROSECOND),
        source.read(cut - MICROSECOND, cut),
        source.read(cut, END),
    )
    assert len(before) + len(at) + len(after) == len(rows)
    assert len(at) and (at[source.known_at] == pd.Timestamp(cut)).all()


@pytest.mark.parametrize("source", ["departures", "arrivals", "weather"])
def test_nothing_is_known_before_it_happened(source: str) -> None:
    declared = FLIGHTS.source(source)
    rows = year(source)
    assert (rows[declared.known_at] >= rows[declared.event_time]).all()


def test_the_request_features_are_read_off_new_yorks_clock() -> None:
    departures = [pd.Timestamp("2013-03-09T10:15Z").to_pydatetime(), pd.Timestamp("2013-03-10T10:15Z").to_pydatetime()]
    (plan,) = FLIGHTS.request_features_of("flight_plan")
    inputs = {"scheduled_departure": departures, "distance": [1400, 2565], "carrier": ["UA", "AA"]}
    found = plan.compute({**inputs, "origin": ["EWR", "JFK"]})
    assert found == {
        "departure_hour": [5.25, 6.25], "weekday": [5.0, 6.0], "miles": [1400.0, 2565.0], "airline": ["UA", "AA"],
        "airport": ["EWR", "JFK"],
    }  # fmt: skip
    assert list(found) == [feature.name for feature in plan.features]
