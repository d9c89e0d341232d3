"""Feast's room: declared domains as Feast objects, materialization, and point-in-time frames."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator
from datetime import datetime
from types import FunctionType
from typing import Any, cast

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    RequestSource,
)
from feast.infra.offline_stores.file_source import ParquetFormat
from feast.repo_config import RepoConfig, load_repo_config
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Bool, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

import features
from features import Domain, FeatureTable, RequestFeatures
from pipelines.files import read_json, write_json
from pipelines.home import PROJECT, Home, home
from pipelines.store.feature_tables import CREATED, VISIBLE

TYPES = {"float": Float64, "int": Int64, "str": String, "bool": Bool, "timestamp": UnixTimestamp}
KEY_TYPES = {"int": ValueType.INT64, "str": ValueType.STRING}


def objects(at: Home | None = None) -> list[Any]:
    """Every declared domain as Feast entities, feature views, on-demand views and feature services."""
    root = at or home()
    return [thing for name in features.names() for thing in _domain(root, features.load(name))]


def open_store(at: Home) -> FeatureStore:
    """Feast over this root, configured by `features/feature_store.yaml`."""
    os.environ["HEADWAY_HOME"] = str(at.root)
    at.room("feast")
    logging.getLogger("feast").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
    config: RepoConfig = load_repo_config(PROJECT / "features", PROJECT / "features" / "feature_store.yaml")
    return FeatureStore(config=config)


def apply(at: Home) -> FeatureStore:
    """Bring Feast's registry in step with the declarations."""
    store = open_store(at)
    for name in features.names():
        for table in features.load(name).tables:
            at.room("snapshots", name, table.name)
    store.apply(objects(at))
    with contextlib.closing(sqlite3.connect(at.feast / "online.db")) as online:
        online.execute("PRAGMA journal_mode = WAL")  # so that a materialize never holds up a reader
    return store


def materialize(at: Home, domain_name: str, as_of: datetime) -> None:
    """Copy the latest snapshot of each entity that is visible by `as_of` to the online store.

    Each table goes on from where it was brought to last, with one cadence of overlap, and never back: a window
    older than what is there would overwrite it.
    """
    domain = features.load(domain_name)
    store = open_store(at)
    for table in domain.tables:
        folder = at.room("snapshots", domain.name, table.name)
        progress = folder / "materialized_until.json"
        last = datetime.fromisoformat(read_json(progress, str)) if progress.exists() else as_of - table.ttl
        if as_of < last or not any(folder.glob("*.parquet")):
            continue
        since = max(last - table.cadence, as_of - table.ttl)
        with _quiet():
            store.materialize(since, as_of, feature_views=[table.name])
        write_json(progress, as_of.isoformat())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Feast prints a heading and a progress bar for each view; nobody asked for them."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        yield


def point_in_time(at: Home, service: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The features of a feature service as serving could have seen them at each row's decision time.

    Args:
        rows: entity keys, request inputs, and `decision_time` (UTC); (n, any columns).

    Returns:
        DataFrame (n, ...) in the order of `rows`: its columns and the service's features, None or NaN where
        there was nothing fresh to see.
    """
    store = open_store(at)
    entities = rows.rename(columns={"decision_time": "event_timestamp"})
    wanted = store.get_feature_service(service)
    found = store.get_historical_features(entity_df=entities, features=wanted).to_df()
    return found.rename(columns={"event_timestamp": "decision_time"})


def _domain(at: Home, domain: Domain) -> list[Any]:
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=KEY_TYPES[dtype])
        for name, dtype in domain.entities.items()
    }
    views = {table.name: _view(at, domain, table, entities) for table in domain.tables}
    on_demand = {part.name: _on_demand(part) for part in domain.request_features}
    services = [
        FeatureService(
            name=service.name,
            features=[*(views[name] for name in service.tables), *(on_demand[n] for n in service.request_features)],
        )
        for service in domain.services
    ]
    return [*entities.values(), *views.values(), *on_demand.values(), *services]


def _view(at: Home, domain: Domain, table: FeatureTable, entities: dict[str, Entity]) -> FeatureView:
    source = FileSource(
        name=f"{table.name}_snapshots",
        path=str(at.room("snapshots", domain.name, table.name)),
        file_format=ParquetFormat(),
        timestamp_field=VISIBLE,
        created_timestamp_column=CREATED,
    )
    fields = [Field(name=key, dtype=TYPES[domain.entities[key]]) for key in table.keys]
    fields += [Field(name=f.name, dtype=TYPES[f.dtype], description=f.honest) for f in table.features]
    return FeatureView(
        name=table.name,
        entities=[entities[key] for key in table.keys],
        ttl=table.ttl,
        schema=fields,
        source=source,
        description=table.description,
    )


def _on_demand(part: RequestFeatures) -> OnDemandFeatureView:
    request = RequestSource(
        name=f"{part.name}_request", schema=[Field(name=name, dtype=TYPES[d]) for name, d in part.inputs.items()]
    )
    return OnDemandFeatureView(
        name=part.name,
        sources=[request],
        # No descriptions: Feast infers these fields and compares them whole.
        schema=[Field(name=f.name, dtype=TYPES[f.dtype]) for f in part.features],
        feature_transformation=PythonTransformation(udf=cast(FunctionType, part.compute), udf_string=_source(part)),
        mode="python",
        description=part.description,
    )


def _source(part: RequestFeatures) -> str:
    """Feast runs this text where it cannot have the function: so it asks for the one in its own module, with all
    that the function needs there."""
    module, name = part.compute.__module__, part.compute.__name__
    return f"def {part.name}(inputs):\n    from {module} import {name}\n    return {name}(inputs)\n"
