"""Flights as the benchmark of serving knows them: three feature tables, and the same features sent with the request."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from features import Domain, Feature, FeatureService, FeatureTable, RequestFeatures, Source

NUMBERS = {
    "weather": ("temp", "humid", "wind_speed", "visib", "pressure", "precip"),
    "airline_delays": ("airline_delay", "airline_late"),
    "aircraft": ("previous_delay", "previous_3_delay", "age", "seats"),
}
KEYS = {"weather": ("origin",), "airline_delays": ("carrier",), "aircraft": ("tailnum",)}
PLANNED = ("departure_hour", "weekday", "miles", "airline", "airport")
TEXTS = ("airline", "airport")


def _features(names: tuple[str, ...]) -> tuple[Feature, ...]:
    return tuple(
        Feature(name=name, dtype="str" if name in TEXTS else "float", honest="made up, long ago") for name in names
    )


def _nothing(since: datetime, until: datetime) -> Any:
    raise NotImplementedError("the benchmark writes snapshots itself")


def _plan(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    departures = inputs["scheduled_departure"]
    return {
        "departure_hour": [at.hour + at.minute / 60 for at in departures],
        "weekday": [float(at.weekday()) for at in departures],
        "miles": [float(distance) for distance in inputs["distance"]],
        "airline": inputs["carrier"],
        "airport": inputs["origin"],
    }


ALL = (*(name for names in NUMBERS.values() for name in names), *PLANNED)

TRIPS = Domain(
    name="trips",
    entities={"origin": "str", "carrier": "str", "tailnum": "str"},
    sources=(
        Source(
            name="made_up", description="No such table arrives", read=_nothing, key=("origin",), event_time="at",
            known_at="at", cadence=timedelta(days=1),
        ),
    ),
    tables=tuple(
        FeatureTable(
            name=name, description="Made up", keys=KEYS[name], sources=("made_up",), features=_features(names),
            sql="SELECT 1", cadence=timedelta(days=1), lag=timedelta(0), ttl=timedelta(days=30),
            lookback=timedelta(days=1),
        )
        for name, names in NUMBERS.items()
    ),
    request_features=(
        RequestFeatures(
            name="plan", description="Computed from the request", features=_features(PLANNED), compute=_plan,
            inputs={"scheduled_departure": "timestamp", "distance": "int", "carrier": "str", "origin": "str"},
        ),
        RequestFeatures(
            name="ready", description="Sent as they are", features=_features(ALL), compute=lambda inputs: inputs,
            inputs={name: "str" if name in TEXTS else "float" for name in ALL},
        ),
    ),
    services=(
        FeatureService(name="found", tables=tuple(NUMBERS), request_features=("plan",)),
        FeatureService(name="given", tables=(), request_features=("ready",)),
    ),
)  # fmt: skip
