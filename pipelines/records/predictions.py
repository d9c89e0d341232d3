"""What serving saw and answered: compacted from the durable log to Parquet by day, and joined with labels."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import partial

import pandas as pd
import pyarrow as pa

import features
from models import Model
from pipelines.data import lake
from pipelines.home import Home
from pipelines.records import compaction, outcomes
from pipelines.records.compaction import Layout
from pipelines.records.examples import examples
from pipelines.scorers.tasks import CHANCE
from pipelines.store.feature_tables import ARROW
from services.answers import Role
from services.shadow import unread

KEY = ("request_id", "instance", "role", "version")
PLAIN = (
    pa.field("request_id", pa.string(), nullable=False), pa.field("instance", pa.int64(), nullable=False),
    pa.field("example_id", pa.string()), pa.field("version", pa.int64(), nullable=False),
    pa.field("digest", pa.string(), nullable=False), pa.field("generation", pa.int64(), nullable=False),
    pa.field("decision_time", lake.INSTANT, nullable=False), pa.field("degraded", compaction.TEXTS, nullable=False),
    pa.field("prediction", pa.float64(), nullable=False), pa.field("role", pa.string(), nullable=False),
)  # fmt: skip
OLDER = {"role": "champion"}
"""What holds for files that were written before there were other roles."""
SERVED: tuple[Role, ...] = ("champion", "canary")
SHOWN = {"keys": "key.", "inputs": "input.", "features": "feature."}
CHANCES = {"probabilities": CHANCE}
"""The log's nested parts, and what their columns are called in Parquet."""


def compact(at: Home, models: dict[str, Model]) -> int:
    """Merge every complete record of the log into `predictions/<model>/<day>.parquet`, exactly once.

    A record is named by request, instance and who answered. See `pipelines.records.compaction`.

    Returns:
        How many records are new.
    """
    layouts = {name: _layout(model) for name, model in models.items()}
    return compaction.compact(at.predictions, layouts, partial(unread, at))


def predictions(
    at: Home, model: Model, since: datetime, until: datetime, roles: Collection[Role] = SERVED
) -> pd.DataFrame:
    """The compacted predictions decided in (since, until], by decision time and request; empty when none.

    Columns: request_id, instance, example_id, version, digest, generation, decision_time, degraded, prediction, role
    and `key.*`, `input.*`, `feature.*`; of several classes `probability.*` (see `tasks.answers`).

    Args:
        roles: who answered. By default those whose answers callers were given: nothing that a shadow scored reaches
            profiles, parity or quality.
    """
    table = lake.read(at.room("predictions", model.name), since, until)
    if table is None:
        table = _schema(model).empty_table()
    rows = table.to_pandas()
    rows["role"] = rows["role"].fillna(OLDER["role"]) if "role" in rows else OLDER["role"]
    inside = (rows["decision_time"] > pd.Timestamp(since)) & (rows["decision_time"] <= pd.Timestamp(until))
    return rows[inside & rows["role"].isin(roles)].sort_values(["decision_time", *KEY], ignore_index=True)


def labelled(at: Home, model: Model, since: datetime, until: datetime, *, as_of: datetime) -> pd.DataFrame:
    """The predictions decided in (since, until] with `label` and `label_known_at` as known by `as_of`.

    An example that was asked for several times counts once, with the last answer. Labels join by example id; a
    prediction that names no example, or none that the sources know, has the outcome that callers told of it.
    """
    return with_labels(at, model, predictions(at, model, since, until), since, until, as_of=as_of)


def with_labels(
    at: Home, model: Model, asked: pd.DataFrame, since: datetime, until: datetime, *, as_of: datetime
) -> pd.DataFrame:
    """`labelled` of predictions that are at hand: those `asked` in (since, until], in order."""
    again = asked["example_id"].notna() & asked["example_id"].duplicated(keep="last")
    truth = examples(at, model, since, until, as_of=as_of)
    known = truth.drop(columns="decision_time")
    found = asked[~again].merge(known, on="example_id", how="left").reset_index(drop=True)
    return outcomes.fill(at, model, found, since, as_of=as_of)


def served_features(rows: pd.DataFrame) -> pd.DataFrame:
    """The `feature.*` columns under the features' own names: what the model was given."""
    return _part(rows, "features")


def asked_examples(rows: pd.DataFrame) -> pd.DataFrame:
    """The keys and inputs that were asked with, and the decision time: what features are looked up by."""
    return pd.concat([_part(rows, "keys"), _part(rows, "inputs"), rows[["decision_time"]]], axis=1)


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    prefix = SHOWN[part]
    return rows[[c for c in rows if c.startswith(prefix)]].rename(columns=lambda name: name.removeprefix(prefix))


def _layout(model: Model) -> Layout:
    parts = SHOWN | CHANCES if model.classes else SHOWN
    return Layout(_schema(model), KEY, "decision_time", {prefix: part for part, prefix in parts.items()}, OLDER)


def _schema(model: Model) -> pa.Schema:
    domain = features.load(model.domain)
    numbers = {"str": pa.string()}
    nested = {
        **{f"key.{name}": ARROW[domain.entities[name]] for name in domain.keys_of(model.feature_service)},
        **{f"input.{name}": ARROW[dtype] for name, dtype in domain.inputs_of(model.feature_service).items()},
        **{
            f"feature.{feature.name}": numbers.get(feature.dtype, pa.float64())
            for feature in domain.features_of(model.feature_service)
        },
    }
    nested |= {f"{CHANCE}{name}": pa.float64() for name in model.classes}
    return pa.schema([*PLAIN, *(pa.field(name, kind) for name, kind in nested.items())])
