"""The verdict: one decision a night, the cause before the action.

In this order: a data fault or a parity breach vetoes retraining, because a model must not learn from data
that are broken or that serving does not see; then drift of the inputs or of the relation asks for
retraining, within the cooldown; then age does. Whoever acts reads the stored verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from models import Model
from monitoring import budget
from monitoring.drift import Drift, Input
from monitoring.parity import Parity
from monitoring.relation import Relation

Action = Literal["nothing", "retrain", "wait", "veto"]
Cause = Literal["none", "data fault", "parity breach", "input drift", "relation drift", "age", "not enough history"]

MISSING_FAULT = 0.20
"""An input missing in so much more of the rows than in the worst reference window is a broken feed."""
NAMED = 3


class Fault(msgspec.Struct, frozen=True):
    """Something wrong with the data of a source, as ingest or the profiles found it."""

    source: str
    sentence: str


class Evidence(msgspec.Struct, frozen=True):
    """What the verdict rests on."""

    faults: list[Fault]
    parity: Parity | None
    drift: Drift | None
    relation: Relation | None


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
    """The three inputs that moved most, if any moved."""
    windows: int
    """Reference windows that the drift signal rests on; 0 when no window closed."""
    false_alarms_per_year: float
    """What the owner set."""
    achieved_false_alarms_per_year: float
    """What both signals together can reach with the history there is; never above what was set."""
    counterfactual: str
    age_days: float
    evidence: Evidence


def decide(
    model: Model,
    *,
    as_of: datetime,
    champion_version: int,
    trained_as_of: datetime,
    last_retraining: datetime | None = None,
    faults: Sequence[Fault] = (),
    parity: Parity | None = None,
    drift: Drift | None = None,
    relation: Relation | None = None,
    days_in: int | None = None,
) -> Verdict:
    """Decide what to do about a model.

    Args:
        model: the declaration: budget, cooldown, largest age.
        as_of: the night's instant (UTC).
        champion_version: the version that is live.
        trained_as_of: when the champion was trained.
        last_retraining: when a challenger was last trained, promoted or not; the cooldown counts from it.
        faults: what ingest found wrong with the model's sources.
        parity: of the latest night; None when nothing was served.
        drift: None on nights when no window closed.
        relation: None when it was not judged tonight.
        days_in: days of the open window that are in, for the sentence on such nights.
    """
    evidence = Evidence([*faults, *missing_faults(drift)], parity, drift, relation)
    moved = drift.moved[:NAMED] if drift else []
    last = max(filter(None, (trained_as_of, last_retraining)))
    resting = last + model.retraining.cooldown if as_of < last + model.retraining.cooldown else None
    age = as_of - trained_as_of
    cause = _cause(evidence, old=age > model.retraining.max_age)
    action = _action(cause, resting)
    reasons: dict[Cause, Callable[[], str]] = {
        "data fault": lambda: _faulty(evidence.faults),
        "parity breach": lambda: f"serving and training disagree: {parity.sentence if parity else ''}",
        "input drift": lambda: _moved(moved, evidence),
        "relation drift": lambda: relation.sentence if relation else "",
        "age": lambda: (
            f"version {champion_version} is {age.days} days old, its limit is {model.retraining.max_age.days}"
        ),
        "not enough history": lambda: f"{drift.sentence if drift else ''}; until then the calendar retrains it",
        "none": lambda: _quiet(model, drift, days_in),
    }
    return Verdict(
        model=model.name,
        as_of=as_of.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        champion_version=champion_version,
        action=action,
        cause=cause,
        sentence=_sentence(action, cause, reasons[cause](), last, resting),
        inputs=moved,
        windows=drift.windows if drift else 0,
        false_alarms_per_year=model.monitoring.false_alarms_per_year,
        achieved_false_alarms_per_year=sum(part.achieved_per_year for part in (drift, relation) if part),
        counterfactual=drift.counterfactual if drift else "",
        age_days=age / timedelta(days=1),
        evidence=evidence,
    )


def missing_faults(drift: Drift | None) -> list[Fault]:
    """Inputs missing as in no reference window: a broken feed, which must not be learnt as normal."""
    return [
        Fault(each.name, f"`{each.name}` is {each.sentence}")
        for each in (drift.inputs if drift else [])
        if each.missing - each.missing_worst >= MISSING_FAULT
    ]


def _cause(evidence: Evidence, *, old: bool) -> Cause:
    drift, relation = evidence.drift, evidence.relation
    found: list[tuple[Cause, object]] = [
        ("data fault", evidence.faults),
        ("parity breach", evidence.parity and evidence.parity.breach),
        ("input drift", drift and drift.alarm),
        ("relation drift", relation and relation.alarm),
        ("age", old),
        ("not enough history", drift and _blind(drift)),
    ]
    return next((cause for cause, present in found if present), "none")


def _blind(drift: Drift) -> bool:
    return drift.status == "not enough history" or drift.windows < drift.windows_needed


def _action(cause: Cause, resting: datetime | None) -> Action:
    if cause in ("data fault", "parity breach"):
        return "veto"
    if cause in ("none", "not enough history"):
        return "nothing"
    return "wait" if resting else "retrain"


def _faulty(faults: Sequence[Fault]) -> str:
    more = f" ({len(faults) - 1} more below)" if len(faults) > 1 else ""
    first = faults[0]
    return f"{'' if first.source in first.sentence else first.source + ': '}{first.sentence}{more}"


def _moved(moved: Sequence[Input], evidence: Evidence) -> str:
    drift, relation = evidence.drift, evidence.relation
    also = f"; {relation.sentence}" if relation and relation.alarm else ""
    return f"{_listed([f'`{each.name}`' for each in moved])} moved, {drift.sentence if drift else ''}{also}"


def _quiet(model: Model, drift: Drift | None, days_in: int | None) -> str:
    if drift:
        return f"the inputs are {drift.sentence}" if drift.status == "judged" else drift.sentence
    if days_in is None:
        return "no window closed tonight"
    word = budget.window_word(model.monitoring.window)
    return f"{days_in} of {model.monitoring.window.days} days of this {word} are in"


def _sentence(action: Action, cause: Cause, what: str, last: datetime, resting: datetime | None) -> str:
    if action == "veto":
        return f"Do not retrain, look at the data: {what}"
    if action == "wait" and resting:
        return f"Wait until {resting:%d %B}: {what}; the last training was on {last:%d %B}"
    if action == "retrain":
        return f"Retrain: {what}"
    return f"Nothing to do{' yet' if cause == 'not enough history' else ''}: {what}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
