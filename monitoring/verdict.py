"""The verdict: one decision a night, the cause before the action.

In this order: a data fault or a parity breach vetoes retraining, because a model must not learn from data
that are broken or that serving does not see; then drift of the inputs or of the relation asks for
retraining, once it is confirmed and within cooldown and budget; then age does. Whoever acts reads the stored
verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from models import Model
from monitoring import sentences
from monitoring.drift import Drift, Input
from monitoring.parity import Parity
from monitoring.profile import Profile
from monitoring.relation import Relation
from monitoring.tell_apart import Apart

Action = Literal["nothing", "retrain", "wait", "veto"]
Cause = Literal["none", "data fault", "parity breach", "input drift", "relation drift", "age", "not enough history"]

MISSING_FAULT = 0.20
"""An input missing in so much more of the rows than in the worst reference window is a broken feed."""
MONTH = timedelta(days=30)
NONE: Mapping[str, Any] = MappingProxyType({})


class Fault(msgspec.Struct, frozen=True):
    """Something wrong with the data of a source, as ingest or the profiles found it."""

    source: str
    sentence: str


class Gain(msgspec.Struct, frozen=True):
    """What retraining is expected to gain: a model refitted at the start of each window, against the champion.

    Evidence for whoever decides, and never a reason to stay silent.
    """

    metric: str
    """The model's metric: the gain is in its units, larger is better."""
    value: float | None
    """How far the refitted models' metric lies above the champion's; None when it could not be told."""
    low: float | None
    high: float | None
    """The interval, paired and over days, at the declared confidence."""
    weeks: int
    """Windows that it rests on, all of this champion."""
    sentence: str


class Evidence(msgspec.Struct, frozen=True):
    """What the verdict rests on."""

    faults: list[Fault]
    parity: Parity | None
    drift: Drift | None
    relation: Relation | None
    apart: Apart | None = None
    """Once one of both has raised an alarm: which inputs, taken together, tell the window from the reference's."""


class Verdict(msgspec.Struct, frozen=True):
    """What to do about a model on a night, and why. The same evidence gives the same verdict."""

    model: str
    as_of: str
    champion_version: int
    action: Action
    cause: Cause
    sentence: str
    """One line for people: what to do."""
    inputs: list[Input]
    """The three inputs that count most, those that moved first; empty when no window was judged."""
    windows: int
    """Reference windows that the drift signal rests on; 0 when no window closed."""
    false_alarms_per_year: float
    """What the owner set."""
    achieved_false_alarms_per_year: float
    """What both signals together can reach with the history there is; never above what was set. An upper bound:
    see `decide` on confirmation."""
    counterfactual: str
    """What would be said without the input that counts most, or without the cause."""
    age_days: float
    evidence: Evidence
    alarms: list[bool] = []
    """Of the champion's last windows, tonight's last: which raised an alarm. As many as can confirm one, and empty
    when no window closed."""
    gain: Gain | None = None
    """None when no window closed, or the model does not ask for it."""


def decide(
    model: Model,
    *,
    as_of: datetime,
    champion_version: int,
    trained_as_of: datetime,
    trainings: Sequence[datetime] = (),
    faults: Sequence[Fault] = (),
    parity: Parity | None = None,
    drift: Drift | None = None,
    relation: Relation | None = None,
    apart: Apart | None = None,
    earlier: Sequence[bool] = (),
    gain: Gain | None = None,
    days_in: int | None = None,
    days: Mapping[str, Profile] = NONE,
    sources: Mapping[str, str] = NONE,
) -> Verdict:
    """Decide what to do about a model.

    An alarm counts when `monitoring.confirm` = (k, n) is met: k of the champion's last n windows alarmed, this one
    among them. Each window is still tested at its own full level: alarms that count are some of those that are
    raised, so their rate is at most the promised one, however alike the windows are. To spend what confirmation
    saves on a laxer level would need windows to err independently, and all of them share one reference.

    Args:
        model: the declaration: budgets, cooldown, confirmation, largest age.
        as_of: the night's instant (UTC).
        champion_version: the version that is live.
        trained_as_of: when the champion was trained.
        trainings: when challengers were trained, promoted or not: cooldown and budget count them.
        faults: what ingest found wrong with the model's sources.
        parity: of the latest night; None when nothing was served.
        drift: None on nights when no window closed.
        relation: None when it was not judged tonight.
        apart: None when nothing raised an alarm; it explains, and changes nothing.
        earlier: which of the champion's windows before this one alarmed, oldest first.
        gain: what retraining is expected to gain.
        days_in: days of the open window that are in, for the sentence on such nights.
        days, sources: see `missing_faults`.
    """
    evidence = Evidence([*faults, *missing_faults(drift, days, sources)], parity, drift, relation, apart)
    alarms = _alarms(model, earlier, evidence)
    confirmed = sum(alarms) >= model.monitoring.confirm[0]
    age = as_of - trained_as_of
    causes = _causes(evidence, confirmed=confirmed, old=age > model.retraining.max_age)
    cause, until = causes[0], held(model, as_of, sorted({trained_as_of, *trainings}))
    unconfirmed = cause in ("input drift", "relation drift") and not confirmed
    action = _action(cause, waits=unconfirmed or until is not None)
    told = sentences.Told(model, champion_version, age, evidence, alarms, days_in)
    return Verdict(
        model=model.name,
        as_of=as_of.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        champion_version=champion_version,
        action=action,
        cause=cause,
        sentence=sentences.line(action, cause, told, None if unconfirmed else until),
        inputs=_named(drift),
        windows=drift.windows if drift else 0,
        false_alarms_per_year=model.monitoring.false_alarms_per_year,
        achieved_false_alarms_per_year=sum(part.achieved_per_year for part in (drift, relation) if part),
        counterfactual=sentences.counterfactual(causes, drift, confirmed=confirmed),
        age_days=age / timedelta(days=1),
        evidence=evidence,
        alarms=alarms,
        gain=gain,
    )


def alarmed(verdict: Verdict) -> bool | None:
    """Whether the window that closed on a night raised an alarm that may confirm another; None when none closed.

    That of a vetoed night may not: the fault may have raised it.
    """
    evidence = verdict.evidence
    if not (evidence.drift or evidence.relation):
        return None
    return verdict.action != "veto" and _raised(evidence)


def missing_faults(
    drift: Drift | None, days: Mapping[str, Profile] = NONE, sources: Mapping[str, str] = NONE
) -> list[Fault]:
    """Inputs missing as in no reference window: a broken feed, which must not be learnt as normal.

    Args:
        days: ISO day -> profile of the window's days: the first bad one is named.
        sources: where an input comes from, in words.
    """
    found = []
    for each in drift.inputs if drift else []:
        limit = each.missing_worst + MISSING_FAULT
        if each.missing < limit:
            continue
        bad = (day for day, seen in sorted(days.items()) if seen.rows and _missing(seen, each.name) >= limit)
        since = next((f", first on {date.fromisoformat(day):%A %d %B}" for day in bad), "")
        origin = f" (it comes from {sources[each.name]})" if each.name in sources else ""
        found.append(Fault(each.name, f"`{each.name}` is {each.sentence}{since}{origin}"))
    return found


def _missing(seen: Profile, name: str) -> float:
    return seen.counts[name][-2] / seen.rows


def _causes(evidence: Evidence, *, confirmed: bool, old: bool) -> list[Cause]:
    """Every cause that is present, the one to act on first. An alarm that is not confirmed gives way to age."""
    drift, relation = evidence.drift, evidence.relation
    moved: list[tuple[Cause, object]] = [
        ("input drift", drift and drift.alarm),
        ("relation drift", relation and relation.alarm),
    ]
    aged: list[tuple[Cause, object]] = [("age", old)]
    found: list[tuple[Cause, object]] = [
        ("data fault", evidence.faults),
        ("parity breach", evidence.parity and evidence.parity.breach),
        *(moved + aged if confirmed else aged + moved),
        ("not enough history", drift and _blind(drift)),
    ]
    return [*(cause for cause, present in found if present), "none"]


def _raised(evidence: Evidence) -> bool:
    return any(signal.alarm for signal in (evidence.drift, evidence.relation) if signal)


def _alarms(model: Model, earlier: Sequence[bool], evidence: Evidence) -> list[bool]:
    if not (evidence.drift or evidence.relation):
        return []
    return [*earlier, _raised(evidence)][-model.monitoring.confirm[1] :]


def held(model: Model, as_of: datetime, trainings: Sequence[datetime]) -> tuple[datetime, str] | None:
    """Until when cooldown or budget forbid another training, and why; None when neither does.

    Args:
        trainings: oldest first, at least one.
    """
    last, most = trainings[-1], model.retraining.max_per_month
    found = [(last + model.retraining.cooldown, f"the last training was on {last:%d %B}")]
    recent = [each for each in trainings if each > as_of - MONTH]
    if most is not None and len(recent) >= most:
        limit = "one training is" if most == 1 else f"{most} trainings are"
        found.append((recent[-most] + MONTH, f"{limit} allowed in {MONTH.days} days, the last was on {last:%d %B}"))
    latest = max(found)
    return latest if as_of < latest[0] else None


def _blind(drift: Drift) -> bool:
    return drift.status == "not enough history" or drift.windows < drift.windows_needed


def _action(cause: Cause, *, waits: bool) -> Action:
    if cause in ("data fault", "parity breach"):
        return "veto"
    if cause in ("none", "not enough history"):
        return "nothing"
    return "wait" if waits else "retrain"


def _named(drift: Drift | None) -> list[Input]:
    first = drift.moved if drift else []
    return [*first, *(each for each in (drift.inputs if drift else []) if each not in first)][: sentences.NAMED]
