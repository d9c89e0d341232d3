"""From the durable log to Parquet by day: exactly once, wherever it is killed, and in bounded memory.

A room (`predictions`, `outcomes`) holds `open/*.jsonl`, what workers write, and `<model>/<day>.parquet`, what steps
read. Its records go into a scratch database that spills to disk; then each day that they touch is merged and its
file replaced whole; only then are the closed segments removed. A record has a key, and merging one again changes
nothing: a run that was killed is finished by the next one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import reduce
from itertools import islice
from operator import attrgetter, or_
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data import lake
from pipelines.files import replacing, sweep
from services.log import CLOSED, close_leftovers, lines

TEXTS = pa.list_(pa.field("element", pa.string()))
"""Called as Parquet calls it, so that a file that was read and written again is the same."""
KINDS: dict[pa.DataType, Any] = {
    pa.string(): str, pa.int64(): int, pa.float64(): float, pa.bool_(): bool, TEXTS: list[str], lake.INSTANT: str,
}  # fmt: skip
"""What the values of a column are in JSON."""

BATCH = 10_000
"""Records that are Python objects at once: about 40 MB."""
ROW_GROUP = 100_000
MEMORY = "512MB"
"""What the scratch database may take before it spills to disk."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How the records of one model are kept: a column for each value, those of nested parts under a prefix."""

    schema: pa.Schema
    """A value may be null, or not be there, where its field is nullable."""
    key: tuple[str, ...]
    """Columns that name a row."""
    by: str
    """The instant whose UTC day says which file a row belongs to."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """{prefix of columns: the part of the record that holds their values}."""
    added: Mapping[str, str] = field(default_factory=dict)
    """Text columns that older records and files lack, and what holds for those."""


def compact(room: Path, layouts: Mapping[str, Layout], unread: Callable[[Path], bool] = lambda _: False) -> int:
    """Merge every complete record of a room's log into its day files; one run at a time, others wait.

    Closed segments are removed once all their records are in Parquet, open ones are read again next time. A segment
    stays, and a warning is logged, if a whole line of it is no record of a model in `layouts`: nothing is removed
    that is not kept.

    Args:
        unread: whether somebody else is still to read a closed segment; then it is removed by a later run.

    Returns:
        How many records are new.
    """
    with alone(room):
        close_leftovers(room / "open")
        segments = sorted((room / "open").glob("*.jsonl"))
        if not segments or not layouts:
            return 0
        with _scratch(room) as log:
            decoder = msgspec.json.Decoder(_records(layouts))
            taken = [segment for segment in segments if _take(log, segment, decoder, layouts)]
            new = sum(_merge(log, room / model, model, layouts[model]) for model in _tables(log))
        for segment in taken:
            if segment.name.endswith(CLOSED) and not unread(segment):
                segment.unlink()
    return new


@contextmanager
def alone(room: Path) -> Iterator[None]:
    """Hold a room for oneself: two runs that merged the same day at once would lose what only one of them saw.

    The kernel frees a dead holder's lock.
    """
    handle = os.open(room / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _take(log: duckdb.DuckDBPyConnection, segment: Path, decoder: Any, layouts: Mapping[str, Layout]) -> bool:
    """Bring a segment into the scratch database; whether all of it could be."""
    found, strange = lines(segment), 0
    while batch := list(islice(found, BATCH)):
        by_model: dict[str, list[Any]] = {}
        for line in batch:
            try:
                record = decoder.decode(line)
                by_model.setdefault(record.__struct_config__.tag, []).append(record)
            except msgspec.ValidationError as error:
                strange += 1
                why = str(error)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # no JSON at all: torn
        for model, records in by_model.items():
            log.register("rows", _rows(layouts[model], records))
            log.execute(f'CREATE TABLE IF NOT EXISTS "{model}" AS FROM rows LIMIT 0')
            log.execute(f'INSERT INTO "{model}" FROM rows')
    if strange:
        _log.warning("%s stays in the log: %d lines are no record of a declared model. %s", segment, strange, why)
    return not strange


def _records(layouts: Mapping[str, Layout]) -> Any:
    """The type of a line: the record of one of the models, told apart by `model`."""
    return reduce(or_, [_record(model, layout) for model, layout in sorted(layouts.items())])


def _record(model: str, layout: Layout) -> type[msgspec.Struct]:
    parts: dict[str, list[Any]] = {part: [] for part in layout.parts.values()}
    fields: list[Any] = []
    for each in layout.schema:
        part, name = _place(each.name, layout)
        (parts[part] if part else fields).append(_field(name, each, layout))
    fields += [(f"{part}_", _struct(part, inside)) for part, inside in parts.items()]
    return _struct("record", fields, tag=model)


def _struct(name: str, fields: list[Any], tag: str | None = None) -> type[msgspec.Struct]:
    # A value may be called like a keyword of Python; an attribute may not.
    rename = {each[0]: each[0].removesuffix("_") for each in fields}
    return msgspec.defstruct(name, fields, rename=rename, kw_only=True, gc=False, tag_field=tag and "model", tag=tag)


def _field(name: str, of: pa.Field, layout: Layout) -> tuple[Any, ...]:
    kind: Any = KINDS[of.type]
    if of.name in layout.added:
        return f"{name}_", kind, layout.added[of.name]
    return (f"{name}_", kind | None, None) if of.nullable else (f"{name}_", kind)


def _place(column: str, layout: Layout) -> tuple[str, str]:
    """The part of a record and the name in it that a column comes from; "" is the record itself."""
    prefix, dot, name = column.partition(".")
    return (layout.parts[prefix + dot], name) if dot else ("", column)


def _rows(layout: Layout, records: list[Any]) -> pa.Table:
    columns = []
    for each in layout.schema:
        path = ".".join(f"{step}_" for step in _place(each.name, layout) if step)
        values = list(map(attrgetter(path), records))
        text = pa.types.is_timestamp(each.type)
        columns.append(pa.array(values, pa.string()).cast(each.type) if text else pa.array(values, each.type))
    return pa.table(columns, names=layout.schema.names)


def _merge(log: duckdb.DuckDBPyConnection, folder: Path, model: str, layout: Layout) -> int:
    folder.mkdir(mode=0o700, exist_ok=True)
    sweep(folder)
    found = log.execute(f'SELECT DISTINCT CAST("{layout.by}" AS DATE) AS day FROM "{model}" ORDER BY day').fetchall()
    return sum(_merge_day(log, folder / f"{day.isoformat()}.parquet", model, layout, day) for (day,) in found)


def _merge_day(log: duckdb.DuckDBPyConnection, path: Path, model: str, layout: Layout, day: date) -> int:
    """Replace a day's file by its rows and those of the log, each key once, in the order of their keys."""
    key = ", ".join(f'"{name}"' for name in layout.key)
    fresh = f'SELECT * FROM "{model}" WHERE CAST("{layout.by}" AS DATE) = DATE \'{day}\''
    fresh += f" QUALIFY row_number() OVER (PARTITION BY {key}) = 1"
    before = 0
    if path.exists():
        kept = pq.read_metadata(path)
        before, columns = kept.num_rows, kept.schema.to_arrow_schema().names
        older = "".join(f", '{value}' AS \"{name}\"" for name, value in layout.added.items() if name not in columns)
        log.execute(f"CREATE OR REPLACE VIEW kept AS SELECT *{older} FROM read_parquet('{_quoted(path)}')")
        fresh = f"FROM kept UNION ALL BY NAME SELECT * FROM ({fresh}) ANTI JOIN kept USING ({key})"
    with replacing(path) as half:
        return _write(half, log.sql(f"{fresh} ORDER BY {key}").to_arrow_reader(ROW_GROUP), layout) - before


def _write(path: Path, found: pa.RecordBatchReader, layout: Layout) -> int:
    """Write rows as they come, in groups of one size, so that equal rows are equal bytes; how many there are."""
    types = dict(zip(layout.schema.names, layout.schema.types, strict=True))
    schema = pa.schema([(each.name, types.get(each.name, each.type)) for each in found.schema])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd", coerce_timestamps="us") as file:
        for batch in found:
            file.write_table(pa.Table.from_batches([batch]).cast(schema))
            count += batch.num_rows
    return count


def _tables(log: duckdb.DuckDBPyConnection) -> list[str]:
    return sorted(name for (name,) in log.execute("SELECT table_name FROM duckdb_tables()").fetchall())


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


@contextmanager
def _scratch(room: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database that is gone afterwards. One thread, so that rows come in one order."""
    spill = room / ".spill"
    shutil.rmtree(spill, ignore_errors=True)  # of a run that was killed
    spill.mkdir(mode=0o700)
    config: dict[str, Any] = {
        "threads": 1,
        "memory_limit": MEMORY,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(config=config) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            yield connection
    finally:
        shutil.rmtree(spill, ignore_errors=True)
