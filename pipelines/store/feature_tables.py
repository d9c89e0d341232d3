"""Feature tables: snapshots computed at ticks of a cadence, stamped with the instant serving can see them."""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import features
from features import Domain, FeatureTable, HeadwayError
from pipelines.data import lake
from pipelines.files import read_json, write_json
from pipelines.home import Home

ARROW = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "timestamp": lake.INSTANT}
VISIBLE, CREATED = "visible_at", "created_at"

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
        due = last is None or table.tick(as_of) > table.tick(last)
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


def renew(at: Home, domain_name: str, source: str, since: datetime, as_of: datetime) -> dict[str, int]:
    """Compute the tables that read a source once more, as of now, for all that rows known after `since` touch.

    For rows that were released from quarantine. What was visible before stays as it was. Entities that would be stale
    by now are not made fresh; the next regular tick goes on from the last one.

    Returns:
        {table: rows written}, of the tables that were computed before.
    """
    domain, as_of = features.load(domain_name), as_of.replace(microsecond=0)
    written = {}
    for table in domain.tables:
        if source in table.sources and _computed_until(at, domain, table):
            rows = snapshots(at, domain, table, [(as_of, max(since, as_of - table.ttl))])
            lake.write(at.room("snapshots", domain.name, table.name), rows, key=table.keys, by=VISIBLE)
            written[table.name] = len(rows)
    return written


def computed_until(at: Home, domain_name: str, source: str) -> datetime | None:
    """The latest instant for which a table that reads the source was computed; None when none was."""
    domain = features.load(domain_name)
    found = [_computed_until(at, domain, table) for table in domain.tables if source in table.sources]
    return max((instant for instant in found if instant), default=None)


def ticks(table: FeatureTable, since: datetime, until: datetime) -> list[Tick]:
    """The ticks of the table's cadence in (since, until], aligned to midnight UTC."""
    at = table.tick(since) + table.cadence
    found = []
    while at <= until:
        found.append((at, at - table.cadence))
        at += table.cadence
    return found


def snapshots(at: Home, domain: Domain, table: FeatureTable, moments: list[Tick]) -> pa.Table:
    """What the table's query gives at these ticks: keys, features, `visible_at` and `created_at`.

    Rows that were released from quarantine count from their release on: ticks before it are computed without them.

    Raises HeadwayError when a source was never ingested, or the query returns no such column.
    """
    folders = [at.room("lake", domain.name, name) for name in table.sources]
    released = sorted(instant for folder in folders for instant in lake.releases(folder))
    parts = groupby(moments, key=lambda moment: bisect_right(released, moment[0]))
    return pa.concat_tables([_snapshots(at, domain, table, list(part)) for _, part in parts])


def _snapshots(at: Home, domain: Domain, table: FeatureTable, moments: list[Tick]) -> pa.Table:
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
