"""What the service tells of its models: the shapes and how they are filled. The OpenAPI document is made from these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from models import Task
from services.answers import iso

if TYPE_CHECKING:
    from services.champion import Served

Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the list of models: its champion, who made it so and as of when, and since when this worker serves it.

    `generation` counts its promotions and rollbacks.
    """

    model: str
    version: int
    generation: int
    description: str
    task: Task
    promoted_as_of: Instant
    promoted_by: str
    served_since: Instant


class ModelList(msgspec.Struct, frozen=True):
    """The models that the key opens, by name."""

    models: list[ModelSummary]


class CanaryTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A version that answers the calls of a share of entities; `failed` counts those that the champion took over."""

    version: int
    since: Instant
    share: float
    failed: int
    why: str | UnsetType = UNSET


class ShadowTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A version that scores what is asked, and answers nobody. Counts are of instances; `ms` is the mean of one."""

    version: int
    since: Instant
    scored: int | UnsetType = UNSET
    dropped: int | UnsetType = UNSET
    failed: int | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    ms: float | UnsetType = UNSET
    why: str | UnsetType | None = UNSET


class TrialRefusal(msgspec.Struct, frozen=True):
    """Why a trial does not run, and since when."""

    at: Instant
    why: str


class RunningTrials(msgspec.Struct, frozen=True, kw_only=True):
    """The versions on trial beside the champion; empty when there are none."""

    canary: CanaryTrial | UnsetType = UNSET
    shadow: ShadowTrial | UnsetType = UNSET
    refused: TrialRefusal | UnsetType = UNSET


class ModelDetails(ModelSummary, frozen=True, kw_only=True):
    """One model: its champion, how that was made, how good it was, and the request it takes.

    `metrics` are of the holdout; `interval` is how often the truth lies between `low` and `high`, where there are any;
    `classes` are there when the answer is one of several; `request` is a JSON Schema.
    """

    tag: str
    digest: str
    trained_as_of: Instant
    trained_until: Instant
    metrics: dict[str, float | None]
    interval: float | None
    features: list[str]
    request: dict[str, Any]
    classes: list[str] | UnsetType = UNSET
    trials: RunningTrials | UnsetType = UNSET


def summary(served: Served) -> ModelSummary:
    """What a list of models says about a champion."""
    return ModelSummary(**_summary(served))


def details(served: Served) -> ModelDetails:
    """What its own page says, trials apart."""
    manifest = served.packaged.manifest
    return ModelDetails(
        **_summary(served),
        tag=manifest.tag,
        digest=manifest.digest,
        trained_as_of=manifest.trained_as_of,
        trained_until=manifest.trained_until,
        metrics=dict(manifest.metrics),
        interval=manifest.interval.level if manifest.interval else None,
        features=[feature.name for feature in manifest.features],
        request=msgspec.json.schema(served.schema.type),
        classes=list(manifest.classes) if manifest.classes else UNSET,
    )


def _summary(served: Served) -> dict[str, Any]:
    pointer = served.pointer
    return {
        "model": pointer.model,
        "version": pointer.version,
        "generation": pointer.generation,
        "description": served.description,
        "task": served.packaged.manifest.task,
        "promoted_as_of": pointer.as_of,
        "promoted_by": pointer.by,
        "served_since": iso(served.since),
    }
