"""Parquet by day: the one way that rows are kept.

A row is named by its key and the instant it became known, so a correction is one more row, and writing the same
rows twice changes nothing. A day's file is replaced whole (write, fsync, rename): a reader sees all of it or
none. Rows live in the day in which they became known, so a reader with a horizon opens only the days it needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import HeadwayError
from pipelines.files import replacing

INSTANT = pa.timestamp("us", tz="UTC")


def write(folder: Path, rows: pa.Table, *, key: Sequence[str], by: str) -> int:
    """Merge `rows` into the day files of `folder`.

    Args:
        rows: the columns of `key` and the UTC timestamp column `by` among them.
        key: columns that, with `by`, name a row; a row that is there already is replaced.
        by: the column whose UTC day says which file a row belongs to.

    Returns:
        How many rows are new.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    found = (path for path in folder.glob("*.parquet") if re.fullmatch(r"\d{4}-\d\d-\d\d", path.stem))
    return sorted(path for path in found if first <= path.stem <= last)


def read(
    folder: Path, since: datetime | None = None, until: datetime | None = None, columns: Sequence[str] | None = None
) -> pa.Table | None:
    """The day files that can hold rows of (since, until], as one table; None when there are none."""
    tables = [pq.read_table(path, columns=columns) for path in days(folder, since, until)]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def relation(
    connection: duckdb.DuckDBPyConnection, name: str, folder: Path, *, by: str, since: datetime, until: datetime
) -> None:
    """Make the rows of `folder` known in (since, until] a relation called `name`.

    Raises HeadwayError when the folder has no rows at all, so not even columns.
    """
    files = days(folder, since, until) or days(folder)[:1]
    if not files:
        raise HeadwayError(f"{name}: nothing ingested yet below {folder}. Run `headway ingest` for its domain first.")
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    connection.execute(
        f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{listed}], union_by_name = true) '
        f"WHERE \"{by}\" > TIMESTAMPTZ '{since.isoformat()}' AND \"{by}\" <= TIMESTAMPTZ '{until.isoformat()}'"
    )


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB connection for feature and example queries: UTC, one thread, so sums add up in one order."""
    connection = duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def microseconds(table: pa.Table) -> pa.Table:
    """`table` with every timestamp as microseconds in UTC (naive ones are UTC already)."""
    fields = [pa.field(f.name, INSTANT if pa.types.is_timestamp(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields))
