"""Feature tables: snapshots computed at ticks of a cadence, stamped with the instant serving can see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import features
from features import Domain, FeatureTable, HeadwayError
from pipelines import lake
from pipelines.files import read_json, write_json
from pipelines.home import Home

ARROW = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "timestamp": lake.INSTANT}
VISIBLE, CREATED = "visible_at", "created_at"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Tick = tuple[datetime, datetime]
"""An instant at which a table is computed, and the one before it."""


def build_tables(at: Home, domain_name: str, as_of: datetime, broken: frozenset[str] = frozenset()) -> dict[str, int]:
    """Compute each feature table of a domain that is due at `as_of`.

    A table is due when a tick of its cadence has passed since it was last computed. It is stamped with `as_of`
    itself: a run that was late or missed is then visible in training, as it was in serving. Tables that read a
    `broken` source are left as they are.

    Returns:
        {table: rows written}, of the tables that were computed.
    """
    domain, as_of = features.load(domain_name), as_of.replace(microsecond=0)  # online stamps are whole seconds
    written = {}
    for table in domain.tables:
        last = _computed_until(at, domain, table)
        due = last is None or _floor(as_of, table.cadence) > _floor(last, table.cadence)
        if due and not broken.intersection(table.sources):
            written[table.name] = _write(at, domain, table, [(as_of, last or as_of - table.cadence)])
    return written


def backfill(at: Home, domain_name: str, since: datetime, until: datetime) -> dict[str, int]:
    """Compute each feature table at every tick of its cadence in (since, until], as if it had run on time.

    Returns:
        {table: rows written}.
    """
    domain = features.load(domain_name)
    return {table.name: _write(at, domain, table, ticks(table, since, until)) for table in domain.tables}


def ticks(table: FeatureTable, since: datetime, until: datetime) -> list[Tick]:
    """The ticks of the table's cadence in (since, until], aligned to midnight UTC."""
    at = _floor(since, table.cadence) + table.cadence
    found = []
    while at <= until:
        found.append((at, at - table.cadence))
        at += table.cadence
    return found


def snapshots(at: Home, domain: Domain, table: FeatureTable, moments: list[Tick]) -> pa.Table:
    """What the table's query gives at these ticks: keys, features, `visible_at` and `created_at`.

    Raises HeadwayError when a source was never ingested, or the query returns no such column.
    """
    with lake.connect() as connection:
        for name in table.sources:
            source = domain.source(name)
            folder = at.room("lake", domain.name, name)
            since, until = moments[0][0] - table.lookback, moments[-1][0]
            lake.relation(connection, name, folder, by=source.known_at, since=since, until=until)
        arrays = [pa.array(column, lake.INSTANT) for column in zip(*moments, strict=True)]
        connection.register("ticks", pa.table(arrays, names=["tick", "since"]))
        found = connection.sql(table.sql).to_arrow_table()
    if missing := {"tick", *table.keys, *(f.name for f in table.features)} - set(found.column_names):
        raise HeadwayError(f"the query of feature table {table.name} returns no {', '.join(sorted(missing))}")
    return _typed(domain, table, found)


def _typed(domain: Domain, table: FeatureTable, found: pa.Table) -> pa.Table:
    seconds = pa.scalar(table.lag, pa.duration("us"))
    visible = pc.add(found.column("tick").cast(lake.INSTANT), seconds)
    columns = {key: found.column(key).cast(ARROW[domain.entities[key]]) for key in table.keys}
    columns |= {f.name: found.column(f.name).cast(ARROW[f.dtype]) for f in table.features}
    return pa.table({**columns, VISIBLE: visible, CREATED: visible})


def _write(at: Home, domain: Domain, table: FeatureTable, moments: list[Tick]) -> int:
    if not moments:
        return 0
    rows = snapshots(at, domain, table, moments)
    lake.write(at.room("snapshots", domain.name, table.name), rows, key=table.keys, by=VISIBLE)
    write_json(_progress(at, domain, table), moments[-1][0].isoformat())
    return len(rows)


def _computed_until(at: Home, domain: Domain, table: FeatureTable) -> datetime | None:
    path = _progress(at, domain, table)
    return datetime.fromisoformat(read_json(path, str)) if path.exists() else None


def _progress(at: Home, domain: Domain, table: FeatureTable) -> Path:
    return at.room("snapshots", domain.name, table.name) / "computed_until.json"


def _floor(instant: datetime, cadence: timedelta) -> datetime:
    return instant - (instant - EPOCH) % cadence
