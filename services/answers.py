"""The shapes that leave the endpoint: answers to callers, records to the durable log. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Role = Literal["champion", "canary", "shadow"]
Why = Literal["missing", "stale"]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class Degraded(msgspec.Struct, frozen=True):
    """A feature that could not be had, and what the model was given in its place: null where it takes a gap."""

    feature: str
    why: Why
    stood_in: float | int | str | bool | None


class Prediction(msgspec.Struct, frozen=True):
    """One value. `degraded` lists the features that were missing or stale, for which their default stood in.

    `low` and `high` are there when the model has an interval: the truth lies between them as often as its manifest
    says.
    """

    prediction: float
    degraded: list[Degraded]
    low: float | UnsetType = UNSET
    high: float | UnsetType = UNSET


class ProbabilityPrediction(msgspec.Struct, frozen=True):
    """One probability of the positive class (`prediction` is the same number), and its label at 0.5."""

    prediction: Probability
    degraded: list[Degraded]
    probability: Probability
    label: bool


class ClassPrediction(msgspec.Struct, frozen=True):
    """The likeliest class, and the probability of every class: together they are 1."""

    prediction: str
    degraded: list[Degraded]
    probabilities: dict[str, Probability]


class Answer(msgspec.Struct, frozen=True):
    """The answer to a call: one prediction an instance, in the call's order."""

    model: str
    version: int
    generation: int
    request_id: str
    decision_time: Instant
    """The instant that was decided at: with the entity's keys it names a prediction to whoever tells its outcome."""
    predictions: Sequence[Prediction | ProbabilityPrediction | ClassPrediction]


class Record(msgspec.Struct, frozen=True):
    """One line of the durable log. `features` is what the model was given, defaults included; null is missing.

    `role` tells who answered: the champion; a canary, in the champion's place; or a shadow, whose prediction nobody
    was given. `prediction` is a number whatever the task: of several classes it is the probability of the likeliest,
    and `probabilities` holds those of all.
    """

    request_id: str
    instance: int
    example_id: str | None
    model: str
    version: int
    digest: str
    generation: int
    decision_time: str
    keys: dict[str, Any]
    inputs: dict[str, Any]
    features: dict[str, Any]
    degraded: list[str]
    prediction: float
    role: Role = "champion"
    probabilities: dict[str, float] | UnsetType = UNSET


def iso(instant: datetime) -> str:
    """A UTC instant as `2013-04-01T10:15:00.000000Z`."""
    return instant.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
