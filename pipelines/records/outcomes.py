"""Outcomes that callers told: compacted from their log to Parquet by day, and joined with what they are outcomes of.

Which of two truths holds is decided here, in `fill`: the sources' label, where they have one by then, else the latest
outcome that was known by then. Sources are read whole, checked by expectations and corrected at their origin, and
training must come out the same when they are read again; an outcome is one caller's word, and fills the gap until the
sources speak, or where they never will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

import features
from models import Model
from pipelines.data import lake
from pipelines.home import Home
from pipelines.records import compaction
from pipelines.records.compaction import Layout
from pipelines.scorers.tasks import places
from pipelines.store.feature_tables import ARROW

KEY = ("call", "number")
PLAIN = (
    pa.field("call", pa.string(), nullable=False), pa.field("number", pa.int64(), nullable=False),
    pa.field("known_at", lake.INSTANT, nullable=False),
    pa.field("request_id", pa.string()), pa.field("instance", pa.int64()), pa.field("example_id", pa.string()),
    pa.field("decision_time", lake.INSTANT),
)  # fmt: skip
PREFIX = "key."
NAMES = ("request_id", "instance", "example_id", "decision_time")
SAID = ("label", "known_at", *KEY)

# Every name of the examples that outcomes are about: the one that was told, or that of the prediction it was told of.
# A row takes what was said of its example, its request and instance, or its entity at its decision time. Something
# said twice is no news: it is known since it was said first, until it is said otherwise.
RESOLVED = """
WITH named AS (
    SELECT example_id, {said} FROM told WHERE example_id IS NOT NULL
    UNION SELECT asked.example_id, {said} FROM told JOIN asked USING (request_id, instance)
    UNION SELECT asked.example_id, {said} FROM told JOIN asked ON {same_entity_asked}
), found AS (
    SELECT row, {said} FROM rows JOIN named USING (example_id)
    UNION SELECT row, {said} FROM rows JOIN told USING (request_id, instance)
    UNION SELECT row, {said} FROM rows JOIN told ON {same_entity_rows}
), news AS (
    SELECT *, lag(label) OVER (PARTITION BY row ORDER BY known_at, call, number) IS DISTINCT FROM label AS new
    FROM found
)
SELECT row, label, known_at FROM news WHERE new
QUALIFY row_number() OVER (PARTITION BY row ORDER BY known_at DESC, call DESC, number DESC) = 1
"""


def compact(at: Home, models: Mapping[str, Model]) -> int:
    """Merge every outcome in the log into `outcomes/<model>/<day>.parquet`, by the day it became known, exactly once.

    Returns:
        How many outcomes are new. See `pipelines.records.compaction`.
    """
    parts = {PREFIX: "keys"}
    layouts = {name: Layout(_schema(model), KEY, "known_at", parts) for name, model in models.items()}
    return compaction.compact(at.room("outcomes"), layouts)


def fill(at: Home, model: Model, rows: pd.DataFrame, since: datetime, *, as_of: datetime) -> pd.DataFrame:
    """`rows` with the outcomes known by `as_of` where their label is null.

    Args:
        rows: n examples or predictions, decided after `since`: example_id, decision_time, label, label_known_at, the
            entity keys (predictions: as `key.*`), and request_id and instance where there are any.

    Returns:
        The same n rows in the same order. `label_known_at` of a filled label is when the outcome became known.
    """
    gaps = rows["label"].isna().to_numpy()
    if not gaps.any() or not lake.days(at.room("outcomes", model.name), since, as_of):
        return rows
    found = _resolved(at, model, rows[gaps], since, as_of)
    filled, places = rows.copy(), rows.index[gaps][found["row"].to_numpy()]
    filled.loc[places, "label"] = found["label"].to_numpy()
    filled.loc[places, "label_known_at"] = pd.DatetimeIndex(found["known_at"])
    return filled


def _resolved(at: Home, model: Model, rows: pd.DataFrame, since: datetime, as_of: datetime) -> pd.DataFrame:
    """The latest outcome of each row that has one: `row` (its place), `label` (float64), `known_at`."""
    keys = features.load(model.domain).keys_of(model.feature_service)
    query = RESOLVED.format(
        said=", ".join(SAID), same_entity_asked=_same_entity("asked", keys), same_entity_rows=_same_entity("rows", keys)
    )
    with lake.connect() as connection:
        _relate(connection, "told", at.room("outcomes", model.name), _schema(model), "known_at", since, as_of)
        asked_since = since - model.examples.known_before
        asked = at.room("predictions", model.name)
        _relate(connection, "asked", asked, _names(model), "decision_time", asked_since, as_of)
        connection.register("rows", _subjects(rows, _names(model)))
        found = lake.microseconds(connection.sql(query).to_arrow_table()).to_pandas()
    if model.classes:  # one that is declared no more was told of another question
        found = found[found["label"].isin(model.classes)]
    return found.assign(label=places(model, found["label"]))


def _relate(
    connection: duckdb.DuckDBPyConnection, name: str, folder: Path, schema: pa.Schema, by: str, *span: datetime
) -> None:
    """The rows of `folder` in a span of `by` as a relation with exactly the columns of `schema`, null where absent."""
    connection.register(f"no_{name}", schema.empty_table())
    source = f"FROM no_{name}"
    if lake.days(folder):
        lake.relation(connection, f"all_{name}", folder, by=by, since=span[0], until=span[1])
        source += f" UNION ALL BY NAME FROM all_{name}"
    columns = ", ".join(f'"{column}"' for column in schema.names)
    connection.execute(f"CREATE TEMPORARY VIEW {name} AS SELECT {columns} FROM ({source})")


def _subjects(rows: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The names that rows go by, and each row's place. Keys are called as in predictions."""
    columns: dict[str, pa.Array] = {"row": pa.array(range(len(rows)), pa.int64())}
    for each in schema:
        name = each.name if each.name in rows else each.name.removeprefix(PREFIX)
        values = rows[name] if name in rows else pd.Series([None] * len(rows), dtype=object)
        columns[each.name] = pa.Array.from_pandas(values, type=each.type)
    return pa.table(columns)


def _same_entity(relation: str, keys: Sequence[str]) -> str:
    """An entity that is unknown, a null key, is one too."""
    same = [f'told."{PREFIX}{key}" IS NOT DISTINCT FROM {relation}."{PREFIX}{key}"' for key in keys]
    return " AND ".join([f"told.decision_time = {relation}.decision_time", *same])


def _schema(model: Model) -> pa.Schema:
    # A class goes by its name: its place is nothing to keep.
    label = pa.field("label", pa.string() if model.classes else pa.float64(), nullable=False)
    return pa.schema([*PLAIN, label, *(field for field in _names(model) if field.name.startswith(PREFIX))])


def _names(model: Model) -> pa.Schema:
    """What a prediction is called by: its request and instance, its example, its entity and decision time."""
    domain = features.load(model.domain)
    keys = [(f"{PREFIX}{key}", ARROW[domain.entities[key]]) for key in domain.keys_of(model.feature_service)]
    return pa.schema([field for field in PLAIN if field.name in NAMES] + [pa.field(*key) for key in keys])
