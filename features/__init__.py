"""The features contract: what is known about each entity, and since when. One file a data domain.

A domain declares its sources (tables that arrive), its feature tables (snapshots computed from sources at a
cadence), its request features (computed from the request itself) and its feature services (what a model reads).

Three times are kept apart, always. *Event time*: when it happened. *Known at*: when we could first have known
it. *Decision time*: when the prediction is made. A feature row is stamped with the instant from which serving
can see it: the tick of its cadence at which it was computed, plus the table's lag.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from features import _contract
from features._contract import NAME, DeclarationError, HeadwayError, Name, contract, unique

__all__ = [
    "NAME",
    "DeclarationError",
    "Domain",
    "Feature",
    "FeatureService",
    "FeatureTable",
    "HeadwayError",
    "RequestFeatures",
    "Source",
    "load",
    "names",
]

Dtype = Literal["float", "int", "str", "bool", "timestamp"]
Scalar = float | int | str | bool | None
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@contract
class Source:
    """A named table that arrives.

    `read(since, until)` returns the rows that became known in (since, until], as a pandas DataFrame; both are
    UTC instants. It is called again for the same window after a failure, so it must not consume anything.
    """

    name: Name
    description: str = Field(min_length=1)
    read: Callable[[datetime, datetime], Any]
    key: tuple[str, ...] = Field(min_length=1)
    """Columns that name a row. The same key with a later `known_at` is a correction."""
    event_time: str
    """Column: when it happened (UTC)."""
    known_at: str
    """Column: when we could first have known it (UTC)."""
    cadence: timedelta = Field(gt=timedelta(0))
    """How often new rows arrive; a source silent for longer than a few of these is stale."""


@contract
class Feature:
    """One column of a feature table, or one value computed from a request."""

    name: Name
    dtype: Dtype
    honest: str = Field(min_length=1)
    """What makes it honest: why it was known at decision time."""
    default: Scalar = None
    """What stands in when it is missing or stale; None means missing, which the estimator must take."""


@contract
class FeatureTable:
    """Snapshots of entities, computed by SQL at a cadence.

    The query runs on DuckDB with one relation per source (rows known by the last tick) and `ticks(tick, since)`:
    the instants to compute, each with the instant before it. It returns `tick`, the keys and the features, and
    must use only rows with known_at <= tick. A backfill passes many ticks, a night passes one: same query.
    """

    name: Name
    description: str = Field(min_length=1)
    keys: tuple[Name, ...] = Field(min_length=1)
    sources: tuple[Name, ...] = Field(min_length=1)
    features: tuple[Feature, ...] = Field(min_length=1)
    sql: str = Field(min_length=1)
    cadence: timedelta = Field(gt=timedelta(0), le=timedelta(days=1))
    lag: timedelta = Field(ge=timedelta(0))
    """From the tick until serving can see the snapshot: what ingest and materialization need."""
    ttl: timedelta = Field(gt=timedelta(0))
    """A value older than this is stale: the default stands in, in training and in serving alike."""
    lookback: timedelta = Field(gt=timedelta(0))
    """How far before a tick the query looks; older source rows are not read."""

    @model_validator(mode="after")
    def _consistent(self) -> FeatureTable:
        unique(self.features, f"features of {self.name}")
        if timedelta(days=1) % self.cadence:
            raise ValueError(f"cadence {self.cadence} does not divide a day evenly, so its ticks would wander")
        return self

    def tick(self, instant: datetime) -> datetime:
        """The last tick by an instant, counted from midnight UTC."""
        return _tick(instant, self.cadence)


@contract
class RequestFeatures:
    """Features computed row by row from what the request carries (a Feast on-demand view in python mode).

    `compute(inputs)` takes {input: list of values, length n} and returns {feature: list, length n}. Inputs may be
    entity keys too. A timestamp comes as a UTC datetime.
    """

    name: Name
    description: str = Field(min_length=1)
    inputs: dict[Name, Dtype] = Field(min_length=1)
    compute: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
    features: tuple[Feature, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> RequestFeatures:
        unique(self.features, f"features of {self.name}")
        return self


@contract
class FeatureService:
    """What a model reads, in order: feature tables and request features of one domain."""

    name: Name
    tables: tuple[Name, ...]
    request_features: tuple[Name, ...] = ()


@contract
class Domain:
    """Everything one domain knows."""

    name: Name
    entities: dict[Name, Dtype]
    """Entity keys and their types."""
    sources: tuple[Source, ...] = Field(min_length=1)
    tables: tuple[FeatureTable, ...] = Field(min_length=1)
    request_features: tuple[RequestFeatures, ...] = ()
    services: tuple[FeatureService, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Domain:
        for things, what in (
            (self.sources, "sources"),
            (self.tables, "feature tables"),
            (self.request_features, "request features"),
            (self.services, "feature services"),
        ):
            unique(things, what)
        _known("feature table", self.tables, "keys", set(self.entities), "entities")
        _known("feature table", self.tables, "sources", {s.name for s in self.sources}, "sources")
        _known("feature service", self.services, "tables", {t.name for t in self.tables}, "feature tables")
        known = {r.name for r in self.request_features}
        _known("feature service", self.services, "request_features", known, "request features")
        for service in self.services:
            unique(self.features_of(service.name), f"features of service {service.name}")
        return self

    @property
    def cadence(self) -> timedelta:
        """How often the domain is ingested: as often as the first of its feature tables is due."""
        return min(table.cadence for table in self.tables)

    def tick(self, instant: datetime) -> datetime:
        """When it was last due to be ingested, by an instant."""
        return _tick(instant, self.cadence)

    def source(self, name: str) -> Source:
        """The source of that name. Raises DeclarationError naming the valid ones."""
        return _pick(self.sources, name, f"domain {self.name} has no source")

    def table(self, name: str) -> FeatureTable:
        """The feature table of that name. Raises DeclarationError naming the valid ones."""
        return _pick(self.tables, name, f"domain {self.name} has no feature table")

    def service(self, name: str) -> FeatureService:
        """The feature service of that name. Raises DeclarationError naming the valid ones."""
        return _pick(self.services, name, f"domain {self.name} has no feature service")

    def tables_of(self, service: str) -> tuple[FeatureTable, ...]:
        """The feature tables a feature service reads, in its order."""
        return tuple(self.table(name) for name in self.service(service).tables)

    def request_features_of(self, service: str) -> tuple[RequestFeatures, ...]:
        """The request features a feature service reads, in its order."""
        wanted = self.service(service).request_features
        return tuple(_pick(self.request_features, name, "no request features") for name in wanted)

    def features_of(self, service: str) -> tuple[Feature, ...]:
        """Every feature a feature service gives, in its order: tables first, then request features."""
        parts: tuple[FeatureTable | RequestFeatures, ...]
        parts = (*self.tables_of(service), *self.request_features_of(service))
        return tuple(feature for part in parts for feature in part.features)

    def keys_of(self, service: str) -> tuple[str, ...]:
        """The entity keys that a request to a feature service must carry, each once."""
        return tuple(dict.fromkeys(key for table in self.tables_of(service) for key in table.keys))

    def inputs_of(self, service: str) -> dict[str, str]:
        """The request-time inputs a request must carry beside its keys: {name: dtype}."""
        inputs = {name: dtype for part in self.request_features_of(service) for name, dtype in part.inputs.items()}
        return {name: dtype for name, dtype in inputs.items() if name not in self.keys_of(service)}


def names() -> list[str]:
    """The declared domains, sorted."""
    return _contract.names(__name__)


def load(name: str) -> Domain:
    """The domain that `features/<name>.py` declares. Raises DeclarationError naming the valid ones."""
    return _contract.load(__name__, name, Domain)


def _pick(things: tuple[Any, ...], name: str, complaint: str) -> Any:
    for thing in things:
        if thing.name == name:
            return thing
    raise DeclarationError(f"{complaint} {name!r}; it has: {', '.join(thing.name for thing in things)}")


def _tick(instant: datetime, cadence: timedelta) -> datetime:
    return instant - (instant - EPOCH) % cadence


def _known(what: str, things: tuple[Any, ...], field: str, known: set[str], of: str) -> None:
    for thing in things:
        if missing := [name for name in getattr(thing, field) if name not in known]:
            raise ValueError(
                f"{what} {thing.name}: {field} {', '.join(missing)} not among the domain's {of} "
                f"({', '.join(sorted(known))})"
            )
