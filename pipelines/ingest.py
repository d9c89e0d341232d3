"""Ingest: read what became known, check it, keep the good rows, set the bad ones aside, stop on a broken batch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import expectations
import features
from features import Domain, HeadwayError, Source
from pipelines import lake
from pipelines.check import Checked, check
from pipelines.files import read_json, write_json
from pipelines.home import Home

HISTORY = timedelta(days=3650)
"""How far back the first ingest of a source reads."""
COMPARED_DAYS = 28
"""A window's volume is compared with the same hours of this many days before."""


class Delivery(msgspec.Struct, frozen=True):
    """What one ingest found in one source."""

    domain: str
    source: str
    since: str
    until: str
    read: int
    kept: int
    new: int
    quarantined: int
    stops: list[str]
    """Why the batch was stopped; empty when it was not."""
    notes: list[str]
    """Rules that rows broke, and information."""


def stamp(instant: datetime) -> str:
    """An instant as a file name, to the second."""
    return instant.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def ingest(at: Home, domain_name: str, as_of: datetime) -> list[Delivery]:
    """Ingest what each source of a domain made known since its last good batch, up to `as_of`.

    A source whose batch breaks a critical rule keeps its place: the next ingest reads the same window again. Run
    again for the same `as_of`, it finishes what was left and doubles nothing.

    Returns:
        One delivery for each source, in the declared order.
    """
    domain = features.load(domain_name)
    return [_deliver(at, domain, source, as_of) for source in domain.sources]


def deliveries(at: Home, domain_name: str, since: datetime, until: datetime) -> list[Delivery]:
    """What the ingests of (since, until] found, oldest first."""
    folders = sorted(path for path in at.room("nights", domain_name).iterdir() if path.is_dir())
    inside = [path for path in folders if stamp(since) < path.name <= stamp(until)]
    return [read_json(path, Delivery) for folder in inside for path in sorted(folder.glob("*.json"))]


def _deliver(at: Home, domain: Domain, source: Source, as_of: datetime) -> Delivery:
    progress = at.room("lake", domain.name, source.name) / "ingested_until.json"
    report = at.room("nights", domain.name, stamp(as_of)) / f"{source.name}.json"
    since = datetime.fromisoformat(read_json(progress, str)) if progress.exists() else as_of - HISTORY
    if since >= as_of and report.exists():
        return read_json(report, Delivery)
    if since >= as_of:
        raise HeadwayError(
            f"{domain.name}.{source.name} is ingested up to {since}; {as_of} lies before. Go on from there."
        )
    delivery = _take(at, domain, source, since, as_of)
    write_json(report, delivery)
    if not delivery.stops:
        write_json(progress, as_of.isoformat())
    return delivery


def _take(at: Home, domain: Domain, source: Source, since: datetime, until: datetime) -> Delivery:
    folder = at.room("lake", domain.name, source.name)
    rows, complaint = _read(source, since, until)
    complaint = complaint or _clash(folder, source, rows)
    suite = expectations.load(domain.name).suite(source.name)
    stops, notes, new = [complaint] if complaint else [], [], 0
    checked = Checked(rows, rows.iloc[:0], ())
    if not complaint and (len(rows) or any("row_count" in rule.expect for rule in suite.rules)):
        checked = check(rows, suite, _volume(folder, source, since, until))
        stops = [broken.sentence for broken in checked.stops]
        notes = [broken.sentence for broken in checked.broken if broken not in checked.stops]
    if not stops and len(checked.kept):
        table = lake.microseconds(pa.Table.from_pandas(checked.kept, preserve_index=False))
        new = lake.write(folder, table, key=source.key, by=source.known_at)
    _quarantine(at.room("quarantine", domain.name, source.name), until, rows if stops else checked.quarantined)
    return Delivery(
        domain=domain.name, source=source.name, since=since.isoformat(), until=until.isoformat(), read=len(rows),
        kept=0 if stops else len(checked.kept), new=new, quarantined=len(rows) if stops else len(checked.quarantined),
        stops=stops, notes=notes,
    )  # fmt: skip


def _read(source: Source, since: datetime, until: datetime) -> tuple[pd.DataFrame, str | None]:
    """The rows, and what is wrong with the delivery as a whole, if anything."""
    try:
        rows = pd.DataFrame(source.read(since, until)).reset_index(drop=True)
    except Exception as error:  # a reader is the user's code: whatever it raises is a fault of the feed
        return pd.DataFrame(), f"{source.name} could not be read: {type(error).__name__}: {error}"
    needed = dict.fromkeys((*source.key, source.event_time, source.known_at))
    if missing := [name for name in needed if name not in rows]:
        return rows, f"{source.name} came without {', '.join(missing)}; it has: {', '.join(map(str, rows.columns))}"
    known_at = rows[source.known_at]
    if len(rows) and not isinstance(known_at.dtype, pd.DatetimeTZDtype):
        return rows, f"{source.name}: {source.known_at} is {known_at.dtype}, not instants in UTC"
    outside = ~((known_at > pd.Timestamp(since)) & (known_at <= pd.Timestamp(until))) if len(rows) else known_at
    if len(rows) and outside.any():
        return rows, f"{source.name}: {int(outside.sum())} rows became known outside of {since} to {until}"
    return rows, None


def _clash(folder: Path, source: Source, rows: pd.DataFrame) -> str | None:
    """What keeps the rows from lying beside those that are there: a column of two types, or of another one."""
    try:
        schema = lake.microseconds(pa.Table.from_pandas(rows, preserve_index=False)).schema
        kept = [pq.read_schema(path) for path in lake.days(folder)[-1:]]
        pa.unify_schemas([*kept, schema], promote_options="permissive")
    except pa.ArrowException as error:
        return f"{source.name} has a column whose type changed: {error}"
    return None


def _volume(folder: Path, source: Source, since: datetime, until: datetime) -> dict[str, int | None]:
    """`rows_low` and `rows_high` for a window: half the least and twice the most of the same hours on days before."""
    step = timedelta(days=max(1, -(-(until - since) // timedelta(days=1))))
    if not lake.days(folder):
        return {"rows_low": 1, "rows_high": None}
    table = lake.read(folder, since - COMPARED_DAYS * step, since, [source.known_at])
    known = table.column(source.known_at).to_pandas() if table else pd.Series(dtype="datetime64[us, UTC]")
    shifts = [k * step for k in range(1, COMPARED_DAYS + 1) if since - k * step >= known.min()]
    counts = [int(((known > since - shift) & (known <= until - shift)).sum()) for shift in shifts]
    if len(counts) < 7:
        return {"rows_low": 1, "rows_high": None}
    return {"rows_low": min(counts) // 2, "rows_high": 2 * max(counts)}


def _quarantine(folder: Path, until: datetime, rows: pd.DataFrame) -> None:
    path = folder / f"{stamp(until)}.parquet"
    if len(rows):
        try:
            table = pa.Table.from_pandas(rows, preserve_index=False)
        except pa.ArrowException:  # a column of several types is set aside as text
            texts = dict.fromkeys(rows.select_dtypes(object), "string")
            table = pa.Table.from_pandas(rows.astype(texts), preserve_index=False)
        lake.replace(path, table)
    else:
        path.unlink(missing_ok=True)
