"""The past that is replayed: a root to read it from, its nights, and what of it was known at each instant.

Everything is asked by `as_of` and answered by the functions that live nights use, so nothing that became known later
can be seen: rows of sources count from their known-at, what was released from quarantine from its release, labels
from theirs. What no policy can change (deliveries, parity, labels) is asked once and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

import features
from features import HeadwayError
from models import Model
from monitoring.parity import Parity
from monitoring.verdict import Fault
from pipelines.data import ingest, lake
from pipelines.home import Home
from pipelines.nights import night
from pipelines.nights.decision import DAY, Seen, midnight
from pipelines.progress import Told
from pipelines.records import examples, predictions
from pipelines.store import feature_tables

BATCH = timedelta(days=7)
"""What a root that has not lived through the past takes in at once, and so checks as one delivery."""
KEPT = ("role", "decision_time", "label")
NAMED = ("request_id", "instance", "example_id", "decision_time", "role")
T = TypeVar("T")


@dataclass(frozen=True)
class Past:
    """A model's past on a root. `room` is where replays keep what they computed of it."""

    at: Home
    model: Model
    room: Home
    logged: bool = False
    """Whether nothing was asked but what is in the log: else a day without a log was asked for all its examples."""

    def nights(self, since: datetime, until: datetime) -> list[datetime]:
        """When the model's nightly check was due in [since, until], by the hour and minute of its schedule."""
        minute, hour = self.model.schedule.split()[:2]
        zone = ZoneInfo(self.model.timezone)
        clock = {"hour": int(hour) if hour.isdigit() else 0, "minute": int(minute) if minute.isdigit() else 30}
        days = pd.date_range(since.astimezone(zone).date(), until.astimezone(zone).date(), freq="D")
        found = [day.to_pydatetime().replace(tzinfo=zone, **clock).astimezone(since.tzinfo) for day in days]
        return [instant for instant in found if since <= instant <= until]

    def with_window(self, window: timedelta | None) -> Past:
        """The same past for a model with another training window."""
        return self if window is None else replace(self, model=replace(self.model, training_window=window))

    def faults(self, since: datetime, until: datetime) -> list[Fault]:
        """What ingest stopped in (since, until] and nothing had mended by then: see `decision.Seen`."""
        return self._once(("faults", since, until), lambda: self._seen.faults(since, until))

    def broken(self, since: datetime, until: datetime) -> bool:
        """Whether ingest stopped anything in (since, until]: see `decision.Seen`."""
        return self._once(("broken", since, until), lambda: self._seen.broken(since, until))

    def parity(self, day: datetime, as_of: datetime) -> Parity | None:
        """What the night found of the day's parity, where it was really lived through and served."""
        found = night.nights(self.at, self.model, day, day + DAY)
        known = [each for each in found if datetime.fromisoformat(each.as_of) <= as_of]
        return known[-1].parity if known else None

    def asked(self, day: datetime) -> pd.DataFrame:
        """The requests of a UTC day: those in the log where there are any, else its examples as known when it ended.

        Columns: request_id, instance, example_id, decision_time, role, and `key.*` and `input.*`.
        """
        logged = predictions.predictions(self.at, self.model, day, day + DAY, roles=night.CHAMPION)
        if len(logged) or self.logged:
            return logged[[name for name in logged if name in NAMED or name.startswith(("key.", "input."))]]
        rows = examples.examples(self.at, self.model, day, day + DAY, as_of=day + DAY)
        domain, service = features.load(self.model.domain), self.model.feature_service
        given = {f"key.{name}": rows[name] for name in domain.keys_of(service)}
        given |= {f"input.{name}": rows[name] for name in domain.inputs_of(service)}
        plain = rows[["example_id", "decision_time"]].assign(request_id=None, instance=None, role="champion")
        return pd.concat([plain, pd.DataFrame(given)], axis=1)

    def labels(self, asked: pd.DataFrame, since: datetime, until: datetime, *, as_of: datetime) -> pd.DataFrame:
        """`predictions.with_labels` of the rows asked in (since, until], by what was known at `as_of`.

        Columns: row (place among `asked`), and `KEPT`. No more: they are remembered for the whole past.
        """

        def joined() -> pd.DataFrame:
            rows = asked.assign(row=np.arange(len(asked)))
            found = predictions.with_labels(self.at, self.model, rows, since, until, as_of=as_of)
            return found[["row", *KEPT]].copy()

        return self._once(("labels", since, until, as_of), joined)

    def _once(self, key: tuple[Any, ...], ask: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = ask()
        found: T = self._known[key]
        return found

    @cached_property
    def _seen(self) -> Seen:
        return night.seen(self.at, self.model)

    @cached_property
    def _known(self) -> dict[tuple[Any, ...], Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # Another process remembers for itself.
        return {name: value for name, value in self.__dict__.items() if name not in ("_known", "_seen")}


def open_past(live: Home, model: Model, since: datetime, until: datetime, told: Told) -> Past:
    """The past of (since, until] with what training needs before it: of the live root if it has it, else taken in anew.

    A root that has not lived through it takes in all that was known by `since` at once, and the rest week by week, each
    week checked as one delivery by today's suite.

    Raises HeadwayError when a source's delivery was stopped on the way, or nothing was known by `since`.
    """
    room = Home(live.room("replay", model.name))
    if covers(live, model, since, until):
        return Past(live, model, room)
    at = Home(live.room("replay", "past", model.domain))
    if not covers(at, model, since, until):
        _take_in(at, model, since, until, told)
    return Past(at, model, room)


def covers(at: Home, model: Model, since: datetime, until: datetime) -> bool:
    """Whether a root has ingested all up to `until`, and computed the feature tables since training needs them."""
    domain = features.load(model.domain)
    if not (at.root / "lake" / domain.name).exists():
        return False
    ends = [ingest.progress(at, domain.name, source.name) for source in domain.sources]
    tables = [_tables_of(at, domain.name, table.name) for table in domain.tables_of(model.feature_service)]
    if not all(end and end >= until for end in ends) or not all(tables):
        return False
    known = [lake.days(at.room("lake", domain.name, name)) for name in model.examples.sources]
    begun = [date.fromisoformat(days[0].stem) for days in known if days]
    first = max([_first(model, since).date(), *begun])
    starts, stops = [days[0] for days in tables], [days[-1] for days in tables]
    return max(starts) <= first + BATCH and min(stops) >= until.date() - BATCH


def _first(model: Model, since: datetime) -> datetime:
    """Where the examples begin that the first training needs."""
    return model.examples.matured(since) - model.training_window


def _tables_of(at: Home, domain: str, table: str) -> list[date]:
    return [date.fromisoformat(path.stem) for path in lake.days(at.room("snapshots", domain, table))]


def _take_in(at: Home, model: Model, since: datetime, until: datetime, told: Told) -> None:
    from pipelines.store import feature_store  # Feast is slow to import: only where it is wanted

    domain = features.load(model.domain)
    feature_store.apply(at)
    first = _first(model, since) - max(table.ttl for table in domain.tables)
    steps: list[Callable[[], object]] = [
        *(partial(ingest.ingest, at, domain.name, as_of) for as_of in _batches(at, domain.name, since, until)),
        partial(feature_tables.backfill, at, domain.name, first, until),
    ]
    for number, step in enumerate(steps):
        told(f"taking in the past of {domain.name}", number, len(steps))
        step()
    told(f"taking in the past of {domain.name}", len(steps), len(steps))
    if stopped := night.seen(at, model).faults(until - BATCH, until):
        raise HeadwayError(f"the past cannot be taken in: {stopped[0].source}: {stopped[0].sentence}")


def _batches(at: Home, domain: str, since: datetime, until: datetime) -> Iterator[datetime]:
    ends = [ingest.progress(at, domain, source.name) for source in features.load(domain).sources]
    done = min((end for end in ends if end), default=None) if all(ends) else None
    as_of = midnight(since) if done is None or done < midnight(since) else done
    if done is None or done < as_of:
        yield as_of
    while as_of < until:
        as_of = min(as_of + BATCH, until)
        yield as_of
