"""Parquet by day: the one way that rows are kept.

A row is named by its key and the instant it became known, so a correction is one more row, and writing the same
rows twice changes nothing. A day's file is replaced whole (write, fsync, rename): a reader sees all of it or
none. Rows live in the day in which they became known, so a reader with a horizon opens only the days it needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import HeadwayError
from pipelines.files import read_json, replacing, write_json

INSTANT = pa.timestamp("us", tz="UTC")
DAY = re.compile(r"\d{4}-\d\d-\d\d\.parquet")
RELEASED = "_released_at"
"""Column of rows that lay in quarantine: from when they were there to be known. Readers with an earlier horizon do not
see them, though the source knew them before. Null for all others; no reader is given it."""


def write(folder: Path, rows: pa.Table, *, key: Sequence[str], by: str, released: datetime | None = None) -> int:
    """Merge `rows` into the day files of `folder`.

    Args:
        rows: the columns of `key` and the UTC timestamp column `by` among them.
        key: columns that, with `by`, name a row; a row that is there already is replaced.
        by: the column whose UTC day says which file a row belongs to.
        released: the instant from which rows that lay in quarantine are there to be known.

    Returns:
        How many rows are new.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if released:
        write_json(
            folder / "releases.json", sorted({*(at.isoformat() for at in releases(folder)), released.isoformat()})
        )
        rows = rows.append_column(RELEASED, pa.array([released] * len(rows), INSTANT))
    days = pc.cast(rows.column(by), pa.date32())
    added = 0
    for day in sorted(set(days.to_pylist())):
        part = rows.filter(pc.equal(days, pa.scalar(day, pa.date32())))
        path = folder / f"{day.isoformat()}.parquet"
        before = pq.read_table(path) if path.exists() else None
        merged = _merge(before, part, [*key, by])
        added += len(merged) - (len(before) if before is not None else 0)
        replace(path, merged)
    return added


def releases(folder: Path) -> list[datetime]:
    """The instants at which rows of `folder` were released from quarantine, oldest first."""
    path = folder / "releases.json"
    return [datetime.fromisoformat(at) for at in read_json(path, list[str])] if path.exists() else []


def _merge(before: pa.Table | None, part: pa.Table, key: list[str]) -> pa.Table:
    both = part if before is None else pa.concat_tables([before, part], promote_options="permissive")
    # Sorted by key and arrival, so equal rows give equal bytes however often and in what order they came.
    ranked = both.append_column("_arrival", pa.array(range(len(both)), pa.int64()))
    ranked = ranked.sort_by([(name, "ascending") for name in [*key, "_arrival"]])
    # Integers beside a missing one would become floats, and great ones equal.
    last = ~ranked.select(key).to_pandas(integer_object_nulls=True).duplicated(keep="last").to_numpy()
    return ranked.filter(pa.array(last)).drop_columns(["_arrival"])


def replace(path: Path, table: pa.Table) -> None:
    """Put `table` at `path` as Parquet, whole or not at all."""
    with replacing(path) as half:
        pq.write_table(table, half, compression="zstd", coerce_timestamps="us")


def days(folder: Path, since: datetime | None = None, until: datetime | None = None) -> list[Path]:
    """The day files of `folder` that can hold rows of (since, until], oldest first."""
    first = since.astimezone(UTC).date().isoformat() if since else ""
    last = until.astimezone(UTC).date().isoformat() if until else "9999"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [folder / name for name in names if DAY.fullmatch(name) and first <= name.removesuffix(".parquet") <= last]


def read(
    folder: Path, since: datetime | None = None, until: datetime | None = None, columns: Sequence[str] | None = None,
    *, as_of: datetime | None = None,
) -> pa.Table | None:  # fmt: skip
    """The day files that can hold rows of (since, until], as one table; None when there are none.

    `as_of`: leave out rows that were released from quarantine after it.
    """
    tables = [_released_by(pq.read_table(path), as_of, columns) for path in days(folder, since, until)]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _released_by(table: pa.Table, as_of: datetime | None, columns: Sequence[str] | None) -> pa.Table:
    if RELEASED in table.column_names:
        if as_of:
            late = pc.greater(table.column(RELEASED), pa.scalar(as_of, INSTANT))
            table = table.filter(pc.invert(pc.fill_null(late, False)))
        table = table.drop_columns([RELEASED])
    return table.select(columns) if columns else table


def with_releases(folder: Path, since: datetime, until: datetime) -> pa.Table:
    """The day files that can hold rows of (since, until], with the column `RELEASED`."""
    tables = [pq.read_table(path) for path in days(folder, since, until)]
    return pa.concat_tables([pa.table({RELEASED: pa.array([], INSTANT)}), *tables], promote_options="permissive")


def schema(folder: Path) -> pa.Schema:
    """The columns of the latest day; none while there is no day."""
    known = pq.read_schema(latest[-1]) if (latest := days(folder)) else pa.schema([])
    return pa.schema([field for field in known if field.name != RELEASED])


def relation(
    connection: duckdb.DuckDBPyConnection, name: str, folder: Path, *, by: str, since: datetime, until: datetime
) -> None:
    """Make the rows of `folder` known in (since, until] a relation called `name`, without those released after `until`.

    Raises HeadwayError when the folder has no rows at all, so not even columns.
    """
    files = days(folder, since, until) or days(folder)[:1]
    if not files:
        raise HeadwayError(f"{name}: nothing ingested yet below {folder}. Run `headway ingest` for its domain first.")
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    kept, there = "*", ""
    if releases(folder) and any(RELEASED in pq.read_schema(path).names for path in files):
        kept = f"* EXCLUDE ({RELEASED})"
        there = f" AND ({RELEASED} IS NULL OR {RELEASED} <= TIMESTAMPTZ '{until.isoformat()}')"
    connection.execute(
        f'CREATE TEMPORARY VIEW "{name}" AS SELECT {kept} FROM read_parquet([{listed}], union_by_name = true) '
        f"WHERE \"{by}\" > TIMESTAMPTZ '{since.isoformat()}' AND \"{by}\" <= TIMESTAMPTZ '{until.isoformat()}'{there}"
    )


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB connection for feature and example queries: UTC, one thread, so sums add up in one order.

    All of a process are to one database in memory, which is slow to start. Each sees its own temporary views only.
    """
    connection = _database(os.getpid()).cursor()
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    """Of a process: one that was forked off would wait for ever on that of its parent."""
    return duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": False})


def microseconds(table: pa.Table) -> pa.Table:
    """`table` with every timestamp as microseconds in UTC (naive ones are UTC already)."""
    fields = [pa.field(f.name, INSTANT if pa.types.is_timestamp(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields))
