"""Ingest: read what became known, check it, keep the good rows, set the bad ones aside, stop on a broken batch."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa

import expectations
import features
from features import Domain, HeadwayError, Source
from pipelines.data import lake
from pipelines.data.check import Broken, Checked, check
from pipelines.data.learned import unusual
from pipelines.data.usual import UNKNOWN, past
from pipelines.files import read_json, write_json
from pipelines.home import Home
from pipelines.registry.ledger import Ledger

HISTORY = timedelta(days=3650)
"""How far back the first ingest of a source reads."""
SECOND = timedelta(seconds=1)
"""What file names tell instants to."""
STRAY = 0.05
"""More rows than this share known outside of the window, and the clock of all of them is in doubt."""


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
    """What the ingests of (since, until] found, oldest first.

    A batch that was stopped and put into the lake from quarantine by `until` is no longer stopped.
    """
    found = delivered(at, domain_name, since, until)
    if not any(delivery.stops for delivery in found):
        return found
    told = {
        (entry.body["source"], entry.body["stamp"]): str(entry.body["sentence"])
        for entry in Ledger(at.ledger_url).entries(domain_name, "release", until)
    }
    return [_mended(delivery, told) for delivery in found]


def delivered(at: Home, domain_name: str, since: datetime, until: datetime) -> list[Delivery]:
    """The same as they were found, whatever became of them since."""
    folders = sorted(path for path in at.room("nights", domain_name).iterdir() if path.is_dir())
    inside = [path for path in folders if stamp(since) < path.name <= stamp(until)]
    return [read_json(path, Delivery) for folder in inside for path in sorted(folder.glob("*.json"))]


def horizon(at: Home, domain: Domain, source: str, as_of: datetime) -> datetime:
    """Up to when a source's rows were there to be known at an instant: as far as the last ingest by then took them in.

    A night comes later than the tick that it builds on. What became known between them it could not see, so it does
    not see it either when it is lived through again. Where no ingest ran at that tick, the root took in its past later,
    and it is the tick itself.
    """
    tick = domain.tick(as_of)
    found = [each for each in deliveries(at, domain.name, tick - SECOND, as_of) if each.source == source]
    if not found:
        return tick
    return min(as_of, datetime.fromisoformat(found[-1].since if found[-1].stops else found[-1].until))


def _mended(delivery: Delivery, told: dict[tuple[str, str], str]) -> Delivery:
    sentence = told.get((delivery.source, stamp(datetime.fromisoformat(delivery.until))))
    if not delivery.stops or sentence is None:
        return delivery
    return msgspec.structs.replace(delivery, stops=[], notes=[*delivery.notes, *delivery.stops, sentence])


def progress(at: Home, domain: str, source: str) -> datetime | None:
    """Up to when a source is ingested; None when it never was."""
    path = at.room("lake", domain, source) / "ingested_until.json"
    return datetime.fromisoformat(read_json(path, str)) if path.exists() else None


def _deliver(at: Home, domain: Domain, source: Source, as_of: datetime) -> Delivery:
    report = at.room("nights", domain.name, stamp(as_of)) / f"{source.name}.json"
    since = progress(at, domain.name, source.name) or as_of - HISTORY
    if since >= as_of and report.exists():
        return read_json(report, Delivery)
    if since >= as_of:
        raise HeadwayError(
            f"{domain.name}.{source.name} is ingested up to {since}; {as_of} lies before. Go on from there."
        )
    delivery = _take(at, domain, source, since, as_of)
    write_json(report, delivery)
    if not delivery.stops:
        write_json(at.room("lake", domain.name, source.name) / "ingested_until.json", as_of.isoformat())
    return delivery


def _take(at: Home, domain: Domain, source: Source, since: datetime, until: datetime) -> Delivery:
    folder = at.room("lake", domain.name, source.name)
    rows, complaint = _read(source, since, until)
    stops, notes, new = [complaint] if complaint else [], [], 0
    checked = Checked(rows, rows.iloc[:0], ())
    if not complaint:
        checked = examine(at, domain, source, rows, since, until)
        stops = [broken.sentence for broken in checked.stops]
        notes = [broken.sentence for broken in checked.broken if broken not in checked.stops]
    if not stops and len(checked.kept):
        new = lake.write(folder, typed(folder, checked.kept), key=source.key, by=source.known_at)
    aside = at.room("quarantine", domain.name, source.name) / f"{stamp(until)}.parquet"
    quarantine(aside, rows if stops else checked.quarantined)
    return Delivery(
        domain=domain.name, source=source.name, since=since.isoformat(), until=until.isoformat(), read=len(rows),
        kept=0 if stops else len(checked.kept), new=new, quarantined=len(rows) if stops else len(checked.quarantined),
        stops=stops, notes=notes,
    )  # fmt: skip


def examine(
    at: Home, domain: Domain, source: Source, rows: pd.DataFrame, since: datetime, until: datetime,
    *, learned: bool = True,
) -> Checked:  # fmt: skip
    """What today's suite, and the source's own past, say of the rows of the window (since, until].

    A row that came twice with the same content counts once. What can make no sense of the rest comes first: columns
    that went or changed their type, instants without a zone, rows of another window.
    """
    folder = at.room("lake", domain.name, source.name)
    suite = expectations.load(domain.name).suite(source.name)
    nothing = Checked(rows, rows.iloc[:0], ())
    if complaint := _shape(folder, source, rows, since, until):
        stop = Broken("delivery", "critical", complaint, len(rows))
        return replace(nothing, broken=(stop,))
    came, rows = len(rows), rows.drop_duplicates(ignore_index=True)
    if rows.empty and not any("row_count" in rule.expect for rule in suite.rules):
        return nothing
    before = past(folder, source, since, until)
    found = _strays(source, rows, since, until)
    found += unusual(rows, before, suite, since, until) if learned else []
    if came > len(rows):
        text = f"the batch: {came - len(rows)} rows came twice with the same content, and count once"
        found.append(Broken("one row each", "info", text, came - len(rows)))
    return check(rows, suite, before.volume if before else UNKNOWN, learned=found, clock=source.event_time)


def typed(folder: Path, rows: pd.DataFrame) -> pa.Table:
    """Rows as a table: instants in microseconds, and whole numbers that came as floats as they are in the lake."""
    table = lake.microseconds(pa.Table.from_pandas(rows, preserve_index=False))
    known = lake.schema(folder)
    for place, field in enumerate(table.schema):
        if field.name in known.names and pa.types.is_integer(kind := known.field(field.name).type):
            with contextlib.suppress(pa.ArrowInvalid):  # not all whole: it stays as it came
                table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table


def _read(source: Source, since: datetime, until: datetime) -> tuple[pd.DataFrame, str | None]:
    """The rows, and what kept the source from being read, if anything."""
    try:
        return pd.DataFrame(source.read(since, until)).reset_index(drop=True), None
    except Exception as error:  # a reader is the user's code: whatever it raises is a fault of the feed
        return pd.DataFrame(), f"{source.name} could not be read: {type(error).__name__}: {error}"


def _shape(folder: Path, source: Source, rows: pd.DataFrame, since: datetime, until: datetime) -> str | None:
    """What is wrong with the delivery as a whole, if anything: then no rule about its values makes sense."""
    kept = lake.schema(folder)
    needed = dict.fromkeys((*source.key, source.event_time, source.known_at))
    if missing := [name for name in dict.fromkeys([*needed, *kept.names]) if name not in rows]:
        return f"{source.name} came without {', '.join(missing)}; it has: {', '.join(map(str, rows.columns))}"
    if rows.empty:
        return None
    for name in (source.known_at, source.event_time):
        if not isinstance(rows[name].dtype, pd.DatetimeTZDtype):
            return f"{source.name}: {name} is {rows[name].dtype}, not instants in UTC"
    if clash := _clash(kept, source, rows):
        return clash
    outside = _outside(source, rows, since, until)
    if outside.mean() > STRAY:
        return f"{source.name}: {int(outside.sum())} rows became known outside of {since} to {until}; a shifted clock"
    return None


def _outside(source: Source, rows: pd.DataFrame, since: datetime, until: datetime) -> pd.Series:
    known_at = rows[source.known_at]
    return ~((known_at > pd.Timestamp(since)) & (known_at <= pd.Timestamp(until)))


def _strays(source: Source, rows: pd.DataFrame, since: datetime, until: datetime) -> list[Broken]:
    """The few rows of another window, from the future or the past; many would have stopped the batch."""
    if rows.empty or not (outside := _outside(source, rows, since, until)).any():
        return []
    text = f"`{source.known_at}`: {int(outside.sum())} of {len(rows)} rows became known outside of {since} to {until}"
    return [Broken("window", "warning", text, int(outside.sum()), index=tuple(outside[outside].index))]


def _clash(kept: pa.Schema, source: Source, rows: pd.DataFrame) -> str | None:
    """What keeps the rows from lying beside those that are there: a column of two types, or of another one."""
    for name in rows:
        if pd.api.types.is_datetime64_dtype(rows[name].dtype):
            return f"{source.name}: {name} has instants without a time zone; the reader must give them in UTC"
        try:
            came = lake.microseconds(pa.Table.from_pandas(rows[[name]], preserve_index=False)).schema
            before = pa.schema([kept.field(name)] if name in kept.names else [])
            pa.unify_schemas([before, came], promote_options="permissive")
        except pa.ArrowException as error:
            return f"{source.name} has a column whose type changed: `{name}`: {error}"
    return None


def quarantine(path: Path, rows: pd.DataFrame) -> None:
    """Set rows aside in `path`, in place of what was there; no rows, no file."""
    if rows.empty:
        path.unlink(missing_ok=True)
        return
    try:
        table = pa.Table.from_pandas(rows, preserve_index=False)
    except pa.ArrowException:  # a column of several types is set aside as text
        texts = dict.fromkeys(rows.select_dtypes(object), "string")
        table = pa.Table.from_pandas(rows.astype(texts), preserve_index=False)
    lake.replace(path, table)
