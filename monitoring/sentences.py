"""What a verdict says to people: one line on what to do and why, and what would be said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from models import Model
from monitoring import budget
from monitoring.drift import Drift, Input

if TYPE_CHECKING:
    from monitoring.verdict import Action, Cause, Evidence, Fault

NAMED = 3
"""So many inputs are named, those that count most."""
# What each cause would lead to, were the ones before it not there.
THEN: dict[Cause, str] = {
    "data fault": "a data fault would forbid it",
    "parity breach": "the parity breach would still forbid it",
    "input drift": "the inputs would ask for retraining",
    "relation drift": "the labels would ask for retraining",
    "age": "its age would ask for retraining",
}


class Told(NamedTuple):
    """What there is to tell of a night."""

    model: Model
    version: int
    age: timedelta
    evidence: Evidence
    alarms: Sequence[bool]
    days_in: int | None


def line(action: Action, cause: Cause, told: Told, held: tuple[datetime, str] | None) -> str:
    """One line on what to do, and why; `held` is until when something forbids it, and what."""
    what = _why(cause, told)
    if action == "veto":
        return f"Do not retrain, look at the data: {what}"
    if action == "wait":
        return f"Wait until {held[0]:%d %B}: {what}; {held[1]}" if held else f"Wait for confirmation: {what}"
    if action == "retrain":
        return f"Retrain: {what}"
    return f"Nothing to do{' yet' if cause == 'not enough history' else ''}: {what}"


def counterfactual(causes: Sequence[Cause], drift: Drift | None, *, confirmed: bool) -> str:
    """What would be said without the input that counts most, or without the cause."""
    cause, then = causes[0], THEN.get(causes[1]) if len(causes) > 1 else None
    if then and causes[1] in ("input drift", "relation drift") and not confirmed:
        then = "the alarm would wait for confirmation"
    said = [drift.counterfactual] if drift and cause == "input drift" else []
    if cause in THEN and (then or not said):
        said.append(f"without {'its age' if cause == 'age' else f'the {cause}'}: {then or 'nothing to do'}")
    return "; ".join(said)


def listed(names: Sequence[str]) -> str:
    """Names as people list them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _why(cause: Cause, told: Told) -> str:
    parity, drift, relation = told.evidence.parity, told.evidence.drift, told.evidence.relation
    if cause == "data fault":
        return _faulty(told.evidence.faults)
    if cause == "parity breach":
        return f"serving and training disagree: {parity.sentence if parity else ''}"
    if cause == "input drift":
        return _moved(drift.moved[:NAMED] if drift else [], told.evidence) + _confirmation(told)
    if cause == "relation drift":
        return (relation.sentence if relation else "") + _confirmation(told)
    if cause == "age":
        return f"version {told.version} is {told.age.days} days old, its limit is {told.model.retraining.max_age.days}"
    if cause == "not enough history" and drift:
        return _blind(told.model, drift)
    return _quiet(told)


def _blind(model: Model, drift: Drift) -> str:
    """Why input drift cannot alarm, what would mend it, and who watches meanwhile."""
    calendar = f"the calendar retrains it every {model.retraining.max_age.days} days"
    if drift.status == "not enough history":
        return f"{drift.sentence}; until then {calendar}"
    return f"{drift.sentence}; labels are watched, and {calendar}"


def _confirmation(told: Told) -> str:
    needed, among = told.model.monitoring.confirm
    word = budget.window_word(told.model.monitoring.window)
    return f"; {sum(told.alarms)} of the last {among} {word}s alarmed, {needed} must" if among > 1 else ""


def _faulty(faults: Sequence[Fault]) -> str:
    more = f" ({len(faults) - 1} more below)" if len(faults) > 1 else ""
    first = faults[0]
    return f"{'' if first.source in first.sentence else first.source + ': '}{first.sentence}{more}"


def _moved(moved: Sequence[Input], evidence: Evidence) -> str:
    drift, relation = evidence.drift, evidence.relation
    also = f"; {relation.sentence}" if relation and relation.alarm else ""
    return f"{listed([f'`{each.name}`' for each in moved])} moved, {drift.sentence if drift else ''}{also}"


def _quiet(told: Told) -> str:
    drift = told.evidence.drift
    if drift:
        return f"the inputs are {drift.sentence}" if drift.status == "judged" else drift.sentence
    if told.days_in is None:
        return "no window closed tonight"
    window = told.model.monitoring.window
    return f"{told.days_in} of {window.days} days of this {budget.window_word(window)} are in"
