"""A night's decision: what a model's verdict rests on, as it was known then, whether it is kept on disk or replayed.

Nothing here reads a disk or a clock. Live nights hand in what their root holds (`night.seen`), replayed ones what their
own past holds, so that both come to the same verdict from the same evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pandas as pd

import features
from models import Model
from monitoring import budget, drift, profile, relation, tell_apart, verdict
from monitoring.parity import Parity
from monitoring.profile import Profile
from monitoring.relation import Day
from monitoring.tell_apart import Apart
from monitoring.verdict import Fault, Gain, Verdict
from pipelines.records import predictions
from pipelines.registry.ledger import Ledger
from pipelines.registry.package import Packaged
from pipelines.registry.promotion import Pointer
from pipelines.scorers.tasks import answers
from pipelines.training.retraining import DECIDED

DAY = timedelta(days=1)


class Night(msgspec.Struct, frozen=True, kw_only=True):
    """What a night found about one model's latest full day."""

    model: str
    day: str
    """The UTC day that was looked at."""
    as_of: str
    version: int
    digest: str
    profile: Profile
    """Of what serving saw, in the bins of the version that was champion at the day's end."""
    degraded: int
    """Predictions for which a default stood in for some feature."""
    parity: Parity | None
    labels: int
    """Labels of the day known by `as_of`."""


@dataclass(frozen=True)
class Seen:
    """What a night's decision may look at, all of it of one model."""

    ledger: Ledger
    nights: Callable[[datetime, datetime], list[Night]]
    """What the nights found of the days that began in [since, until), oldest first."""
    faults: Callable[[datetime, datetime], list[Fault]]
    """What ingest stopped in (since, until] and nothing had mended by then, each fault once."""
    broken: Callable[[datetime, datetime], bool]
    """Whether ingest stopped anything in (since, until], mended since or not."""
    labelled: Callable[..., pd.DataFrame]
    """`predictions.labelled`: (since, until, as_of=...) to the answers given, with the labels known by then."""
    gain: Callable[[datetime, Packaged], Gain]
    """`gain.expected`: what retraining would gain, as of an instant."""
    apart: Callable[[datetime, Pointer, Packaged], Apart | None]
    """`told_apart`, of the answers in the log: it explains an alarm, and decides nothing."""


def decide(seen: Seen, model: Model, as_of: datetime, pointer: Pointer, packaged: Packaged) -> Verdict:
    """The verdict on the champion of a night (`pointer`, loaded as `packaged`), by what is `seen`."""
    _, until = day_before(as_of)
    began = midnight(datetime.fromisoformat(pointer.as_of))
    window = model.monitoring.window
    days_in = max(0, (until - began) // DAY)
    tonight = seen.nights(until - DAY, until)
    trained = seen.ledger.entries(model.name, "version", as_of)
    return verdict.decide(
        model,
        as_of=as_of,
        champion_version=pointer.version,
        trained_as_of=datetime.fromisoformat(packaged.manifest.trained_as_of),
        # What was trained at `as_of` itself was trained because of this night.
        trainings=[entry.as_of for entry in trained if entry.as_of < as_of],
        faults=seen.faults(until - DAY, as_of),
        parity=tonight[-1].parity if tonight else None,
        days_in=days_in % (window // DAY),
        **(_closed(seen, model, as_of, pointer, packaged) if closes(model, pointer, as_of) else {}),
    )


def closes(model: Model, pointer: Pointer, as_of: datetime) -> bool:
    """Whether a window of the champion's reign ends with the latest full day before `as_of`."""
    _, until = day_before(as_of)
    began = midnight(datetime.fromisoformat(pointer.as_of))
    return until > began and (until - began) % model.monitoring.window == timedelta(0)


def _closed(seen: Seen, model: Model, as_of: datetime, pointer: Pointer, packaged: Packaged) -> dict[str, Any]:
    """What a window that closed tonight adds to the evidence, by the names that `verdict.decide` has for it."""
    _, until = day_before(as_of)
    window, level, reference = model.monitoring.window, budget.alpha(model.monitoring), packaged.reference
    days = _window(seen, until - window, until, pointer)
    labels = _surprise(seen, model, until - window, as_of, reference)
    tables = features.load(model.domain).tables_of(model.feature_service)
    drifted = drift.judge(reference, days, window=window, alpha=level)
    related = relation.judge(model.task, reference.surprise, labels, window=window, alpha=level)
    alarm = drifted.alarm or related.alarm
    return {
        "drift": drifted,
        "relation": related,
        "apart": seen.apart(as_of, pointer, packaged) if alarm else None,
        "earlier": _earlier(seen, model, pointer, as_of),
        "gain": seen.gain(as_of, packaged) if model.monitoring.expected_gain else None,
        "days": days,
        "sources": {each.name: " and ".join(table.sources) for table in tables for each in table.features},
    }


def told_apart(
    labelled: Callable[..., pd.DataFrame], model: Model, as_of: datetime, pointer: Pointer, packaged: Packaged
) -> Apart | None:
    """What tells the rows of the window that closed from those behind the champion; None where rows are not kept.

    Args:
        labelled: `predictions.labelled` of the model's log.
    """
    _, until = day_before(as_of)
    rows = labelled(until - model.monitoring.window, until, as_of=as_of)
    served, sample = predictions.served_features(rows[rows["digest"] == pointer.digest]), packaged.sample
    if DECIDED not in sample or not {each.name for each in packaged.manifest.features} <= set(served):
        return None
    known = tell_apart.windows(sample, sample[DECIDED].tolist(), model.monitoring.window)
    return tell_apart.tell_apart(known, served, packaged.manifest.features)


def _earlier(seen: Seen, model: Model, pointer: Pointer, as_of: datetime) -> list[bool]:
    """Which windows that closed in the champion's reign, before this night, alarmed, oldest first: the ledger knows."""
    began, tonight = datetime.fromisoformat(pointer.as_of), midnight(as_of)
    closed = {
        midnight(entry.as_of): verdict.alarmed(msgspec.convert(entry.body, Verdict))
        for entry in seen.ledger.entries(model.name, "verdict", tonight)
        if began < entry.as_of < tonight and entry.body["champion_version"] == pointer.version
    }
    return [alarm for alarm in closed.values() if alarm is not None]


def _window(seen: Seen, since: datetime, until: datetime, pointer: Pointer) -> dict[str, Profile]:
    """The profiles of a window's days; days on which a feed was broken are the fault's, not the world's."""
    found = [each for each in seen.nights(since, until) if each.digest == pointer.digest]
    starts = {each.day: datetime.fromisoformat(each.day).replace(tzinfo=until.tzinfo) for each in found}
    return {each.day: each.profile for each in found if not seen.broken(starts[each.day], starts[each.day] + DAY)}


def _surprise(
    seen: Seen, model: Model, since: datetime, as_of: datetime, reference: profile.Reference
) -> dict[str, Day]:
    """Surprise of the window's days whose labels have matured by `as_of`."""
    until = midnight(model.examples.matured(as_of))
    if until <= since:
        return {}
    rows = seen.labelled(since, until, as_of=as_of)
    rows = rows[rows["role"] == "champion"]  # what a canary knows less well is no change of the world
    days = profile.iso_days(rows["decision_time"])
    return relation.daily(
        model.task, rows["label"].to_numpy(), answers(model.classes, rows), days, reference.residual_sd
    )


def day_before(as_of: datetime) -> tuple[datetime, datetime]:
    """The latest full UTC day before `as_of`: its first instant and its end."""
    until = midnight(as_of)
    return until - DAY, until


def midnight(instant: datetime) -> datetime:
    """The first instant of the UTC day of `instant`."""
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)
