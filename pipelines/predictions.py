"""What serving saw and answered: compacted from the durable log to Parquet by day, and joined with labels."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

import features
from models import Model
from pipelines import lake
from pipelines.examples import examples
from pipelines.feature_tables import ARROW
from pipelines.home import Home
from services.log import CLOSED, records

KEY = ("request_id", "instance")
TEXTS = pa.list_(pa.field("element", pa.string()))  # what Parquet calls it, so that a file read and written is the same
PLAIN = {
    "request_id": pa.string(), "instance": pa.int64(), "example_id": pa.string(), "version": pa.int64(),
    "digest": pa.string(), "generation": pa.int64(), "decision_time": lake.INSTANT, "degraded": TEXTS,
    "prediction": pa.float64(),
}  # fmt: skip
SHOWN = {"keys": "key.", "inputs": "input.", "features": "feature."}
"""The log's nested parts, and what their columns are called in Parquet."""


def compact(at: Home, models: dict[str, Model]) -> int:
    """Merge every complete record of the log into `predictions/<model>/<day>.parquet`, exactly once.

    A record is named by request and instance, so merging one again changes nothing: killed anywhere, the next run
    finishes. Closed segments are removed once all their records are in Parquet; open ones are read again next time.

    Returns:
        How many records are new.
    """
    segments = sorted(at.room("predictions", "open").glob("*.jsonl"))
    by_model: dict[str, list[dict[str, Any]]] = {}
    for segment in segments:
        for record in records(segment):
            by_model.setdefault(record["model"], []).append(record)
    unknown = by_model.keys() - models.keys()  # a model whose file was removed: its records stay in the log
    new = sum(_merge(at, models[name], found) for name, found in sorted(by_model.items()) if name in models)
    for segment in segments:
        if segment.name.endswith(CLOSED) and not unknown:
            segment.unlink()
    return new


def predictions(at: Home, model: Model, since: datetime, until: datetime) -> pd.DataFrame:
    """The compacted predictions decided in (since, until], by decision time and request; empty when none.

    Columns: request_id, instance, example_id, version, digest, generation, decision_time, degraded, prediction,
    and `key.*`, `input.*`, `feature.*`.
    """
    table = lake.read(at.room("predictions", model.name), since, until)
    if table is None:
        table = pa.schema(_schema(model)).empty_table()
    rows = table.to_pandas()
    inside = (rows["decision_time"] > pd.Timestamp(since)) & (rows["decision_time"] <= pd.Timestamp(until))
    return rows[inside].sort_values(["decision_time", *KEY], ignore_index=True)


def labelled(at: Home, model: Model, since: datetime, until: datetime, *, as_of: datetime) -> pd.DataFrame:
    """The predictions decided in (since, until] with `label` and `label_known_at` as known by `as_of`.

    An example that was asked for several times counts once, with the last answer. Labels join by example id.
    """
    asked = predictions(at, model, since, until)
    asked = asked[asked["example_id"].notna()].drop_duplicates("example_id", keep="last")
    truth = examples(at, model, since, until, as_of=as_of)
    known = truth.drop(columns="decision_time")
    return asked.merge(known, on="example_id", how="left").reset_index(drop=True)


def served_features(rows: pd.DataFrame) -> pd.DataFrame:
    """The `feature.*` columns under the features' own names: what the model was given."""
    return _part(rows, "features")


def asked_examples(rows: pd.DataFrame) -> pd.DataFrame:
    """The keys and inputs that were asked with, and the decision time: what features are looked up by."""
    return pd.concat([_part(rows, "keys"), _part(rows, "inputs"), rows[["decision_time"]]], axis=1)


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    prefix = SHOWN[part]
    return rows[[c for c in rows if c.startswith(prefix)]].rename(columns=lambda name: name.removeprefix(prefix))


def _schema(model: Model) -> dict[str, pa.DataType]:
    domain = features.load(model.domain)
    numbers = {"str": pa.string()}
    return {
        **PLAIN,
        **{f"key.{name}": ARROW[domain.entities[name]] for name in domain.keys_of(model.feature_service)},
        **{f"input.{name}": ARROW[dtype] for name, dtype in domain.inputs_of(model.feature_service).items()},
        **{
            f"feature.{feature.name}": numbers.get(feature.dtype, pa.float64())
            for feature in domain.features_of(model.feature_service)
        },
    }


def _merge(at: Home, model: Model, found: Iterable[dict[str, Any]]) -> int:
    flat = pd.DataFrame([_flat(record) for record in found])
    fields = _schema(model)
    columns = {}
    for name, kind in fields.items():
        values = flat[name] if name in flat else pd.Series([None] * len(flat), dtype=object)
        if pa.types.is_timestamp(kind):
            values = pd.to_datetime(values, utc=True, format="ISO8601")
        columns[name] = pa.Array.from_pandas(values, type=kind)
    folder: Path = at.room("predictions", model.name)
    return lake.write(folder, pa.table(columns), key=KEY, by="decision_time")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in record.items() if name in PLAIN}
    nested = {SHOWN[part] + name: value for part in SHOWN for name, value in record[part].items()}
    return {**plain, **nested}
