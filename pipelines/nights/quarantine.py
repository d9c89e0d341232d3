"""Quarantine: what stands in it, why, and how it comes back once a person has mended the rule or the data.

A released row keeps the known-at that its source gave it, and carries beside it the instant of its release
(`lake.RELEASED`): whatever asks as of an earlier instant does not see it, so no older training frame changes, and no
verdict. Feature snapshots of the past stay what serving saw. The tables that read the source are computed once more,
as of the release, for every entity that the released rows could have touched, and brought to serving. Profiles are
those of what was served, so they stay, too.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pandas as pd

import features
from features import Domain, HeadwayError, Source
from pipelines.data import lake
from pipelines.data.check import Checked
from pipelines.data.ingest import Delivery, examine, progress, quarantine, stamp, typed
from pipelines.files import read_json, write_json
from pipelines.home import Home
from pipelines.registry.ledger import Entry, Ledger
from pipelines.store import feature_tables

WHY = ["_rule", "_why"]
"""What quarantined rows have beside their own columns."""
INSTANT = timedelta(microseconds=1)


class Item(msgspec.Struct, frozen=True):
    """What one delivery left in quarantine."""

    delivery: Delivery
    stamp: str
    rows: int
    """What is still there."""
    replays: list[str]
    """What the ledger says of its releases, oldest first."""
    again: bool
    """Its window was read again since, and the batch was good then."""

    @property
    def stands(self) -> bool:
        """Whether a person still has to do something about it."""
        if self.delivery.stops:
            return not self.again and not self.replays
        return self.rows > 0


class Replayed(msgspec.Struct, frozen=True):
    """How a replay ended."""

    released: int
    left: int
    stops: list[str]
    """Why nothing was released: the batch is still broken; empty when it is not."""
    sentence: str


def items(at: Home, domain_name: str) -> list[Item]:
    """Everything that the deliveries of a domain left in quarantine, newest first."""
    domain = features.load(domain_name)
    told = Ledger(at.ledger_url).entries(domain.name, "release")
    paths = [at.room("nights", domain.name).glob(f"*/{source.name}.json") for source in domain.sources]
    found = [read_json(path, Delivery) for several in paths for path in several]
    bad = [each for each in found if each.stops or each.quarantined]
    return [_item(at, each, told) for each in sorted(bad, key=lambda each: (each.until, each.source), reverse=True)]


def find(at: Home, domain_name: str, source_name: str, name: str) -> Item:
    """The item of a source with this stamp. Raises HeadwayError naming those that there are."""
    features.load(domain_name).source(source_name)
    there = [item for item in items(at, domain_name) if item.delivery.source == source_name]
    for item in there:
        if item.stamp == name:
            return item
    known = ", ".join(item.stamp for item in there[:5]) or "nothing"
    raise HeadwayError(
        f"{domain_name}.{source_name} has no delivery {name!r} in quarantine; it has: {known}. "
        f"`headway quarantine list {domain_name}` shows all."
    )


def rows_of(at: Home, item: Item) -> pd.DataFrame:
    """The rows of an item that are still in quarantine, with `_rule` and `_why` where single rows were refused."""
    path = _path(at, item)
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def replay(
    at: Home, item: Item, as_of: datetime, *, actor: str, why: str, file: Path | None = None, accept: bool = False
) -> Replayed:
    """Check the rows of an item again by today's suite, and put the good ones into the lake.

    They are checked beside the rows of their delivery that were kept, so a rule about the batch means what it meant.
    What is still bad stays, with the reason. Run again, killed or not, it ends what was left and doubles nothing.

    Args:
        as_of: the instant of the replay, from which on the rows are there to be known.
        file: Parquet or CSV to take in place of the stored rows.
        accept: leave out the rules that were learned from the past: the feed is right, the world has changed.

    Raises:
        HeadwayError: an instant before what is computed already, no rows, or a file without the source's columns.
    """
    domain = features.load(item.delivery.domain)
    source, as_of = domain.source(item.delivery.source), as_of.replace(microsecond=0)
    folder = at.room("lake", domain.name, source.name)
    _refuse_past(at, domain, source, as_of)
    rows = _given(file, lake.schema(folder)) if file else rows_of(at, item).drop(columns=WHY, errors="ignore")
    if rows.empty:
        return Replayed(0, 0, [], _nothing(item))
    since, until = (datetime.fromisoformat(text) for text in (item.delivery.since, item.delivery.until))
    beside = _beside(folder, source, since, until)
    ours = rows[~_among(rows, beside, source)]
    checked = examine(
        at, domain, source, pd.concat([beside.drop(columns=lake.RELEASED), ours], ignore_index=True)
        if len(beside) else ours, since, until, learned=not accept,
    )  # fmt: skip
    if checked.stops:
        return _still_broken(item, checked, len(rows))
    good = checked.kept[~_among(checked.kept, beside, source)]
    left = checked.quarantined[~_among(checked.quarantined, beside, source)]
    done = beside[_among(beside, rows, source) & beside[lake.RELEASED].notna()]
    _advance(at, item, until)
    if len(good):
        key, by = source.key, source.known_at
        lake.write(folder, typed(folder, good), key=key, by=by, released=as_of)
    sentence = _tell(at, item, as_of, good, done, left, actor=actor, why=why)
    if first := min((frame[source.known_at].min() for frame in (good, done) if len(frame)), default=None):
        feature_tables.renew(at, domain.name, source.name, first.to_pydatetime() - INSTANT, as_of)
    quarantine(_path(at, item), left)
    return Replayed(len(good), len(left), [], sentence)


def _item(at: Home, delivery: Delivery, told: list[Entry]) -> Item:
    name = stamp(datetime.fromisoformat(delivery.until))
    here = [entry for entry in told if (entry.body["source"], entry.body["stamp"]) == (delivery.source, name)]
    reached = progress(at, delivery.domain, delivery.source)
    again = bool(delivery.stops) and reached is not None and reached > datetime.fromisoformat(delivery.since)
    item = Item(delivery, name, 0, [str(entry.body["sentence"]) for entry in here], again and not here)
    return msgspec.structs.replace(item, rows=len(rows_of(at, item)))


def _path(at: Home, item: Item) -> Path:
    return at.room("quarantine", item.delivery.domain, item.delivery.source) / f"{item.stamp}.parquet"


def _refuse_past(at: Home, domain: Domain, source: Source, as_of: datetime) -> None:
    """Rows cannot have been there before the present: features up to then were computed without them."""
    reached = [progress(at, domain.name, source.name), feature_tables.computed_until(at, domain.name, source.name)]
    last = max((instant for instant in reached if instant), default=None)
    if last and as_of <= last:
        raise HeadwayError(
            f"{domain.name}.{source.name} is taken in and computed up to {last}; rows that are released as of {as_of} "
            "would change what was known then. Replay as of a later instant (default: now)."
        )


def _given(file: Path, schema: object) -> pd.DataFrame:
    """The rows of a person's file, timestamps as instants in UTC."""
    if not file.exists():
        raise HeadwayError(f"{file} is not there. Name a .parquet or .csv file with the mended rows.")
    try:
        rows = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
        for field in schema:  # type: ignore[attr-defined]
            if field.name in rows and field.type == lake.INSTANT:
                rows[field.name] = pd.to_datetime(rows[field.name], utc=True, format="ISO8601").dt.as_unit("us")
    except (ValueError, OSError) as error:
        raise HeadwayError(f"{file} cannot be read as rows: {error}") from None
    return rows.drop(columns=WHY, errors="ignore")


def _beside(folder: Path, source: Source, since: datetime, until: datetime) -> pd.DataFrame:
    """What lies in the lake of the window, with the instant of release where there is one."""
    rows = lake.with_releases(folder, since, until).to_pandas()
    if rows.empty:
        return rows
    known = rows[source.known_at]
    return rows[(known > pd.Timestamp(since)) & (known <= pd.Timestamp(until))].reset_index(drop=True)


def _among(rows: pd.DataFrame, others: pd.DataFrame, source: Source) -> pd.Series:
    """(n,) whether a row's key and known-at are those of one of the others."""
    names = list(dict.fromkeys([*source.key, source.known_at]))
    if rows.empty or others.empty or not set(names) <= set(rows):
        return pd.Series(False, rows.index)
    found = pd.MultiIndex.from_frame(rows[names]).isin(pd.MultiIndex.from_frame(others[names]))
    return pd.Series(found, rows.index)


def _advance(at: Home, item: Item, until: datetime) -> None:
    """A stopped batch that is good now is ingested: the next one goes on after it."""
    delivery = item.delivery
    reached = progress(at, delivery.domain, delivery.source)
    if delivery.stops and (reached is None or reached < until):
        path = at.room("lake", delivery.domain, delivery.source) / "ingested_until.json"
        write_json(path, until.isoformat())


def _tell(
    at: Home, item: Item, as_of: datetime, good: pd.DataFrame, done: pd.DataFrame, left: pd.DataFrame,
    *, actor: str, why: str,
) -> str:  # fmt: skip
    """Write the release to the ledger, unless it was told before; what it says."""
    delivery, ledger = item.delivery, Ledger(at.ledger_url)
    told = [entry for entry in ledger.entries(delivery.domain, "release") if entry.body["source"] == delivery.source]
    here = [entry for entry in told if entry.body["stamp"] == item.stamp]
    known = {entry.as_of for entry in told}
    untold = [at for at in done[lake.RELEASED] if at.to_pydatetime() not in known] if len(done) else []
    count = len(good) + len(untold)
    sentence = (
        f"{delivery.source}, delivery {item.stamp}: {count} rows released from quarantine as of "
        f"{as_of:%Y-%m-%d %H:%M}, {len(left)} stay: {why}"
    )
    if count or (delivery.stops and not here):
        body = {
            "source": delivery.source, "stamp": item.stamp, "released": count, "left": len(left), "why": why,
            "sentence": sentence,
        }  # fmt: skip
        key = f"release/{delivery.domain}/{delivery.source}/{item.stamp}/{len(here) + 1}"
        ledger.append("release", delivery.domain, as_of=as_of, body=body, actor=actor, key=key)
    return sentence


def _still_broken(item: Item, checked: Checked, rows: int) -> Replayed:
    stops = [broken.sentence for broken in checked.stops]
    what = f"{item.delivery.source}, delivery {item.stamp}"
    return Replayed(0, rows, stops, f"{what}: nothing released, the batch is still broken: {'; '.join(stops)}")


def _nothing(item: Item) -> str:
    what = f"{item.delivery.source}, delivery {item.stamp}"
    if item.replays:
        return f"{what}: nothing is left of it. {item.replays[-1]}"
    if item.again:
        return f"{what}: its window was read again since, and was good"
    raise HeadwayError(
        f"{what}: no rows were stored, for none could be read ({'; '.join(item.delivery.stops)}). Mend the feed: the "
        "next ingest reads the window again. Or give its rows with --file."
    )
