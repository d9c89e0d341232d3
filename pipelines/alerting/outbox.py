"""Alerts on their way: each is kept as a small file, sent once to each address, and tried again until it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from features import HeadwayError
from pipelines.alerting import addresses, courier
from pipelines.alerting.courier import Message
from pipelines.files import read_json, write_json
from pipelines.home import Home
from pipelines.registry.pointers import alone

PATIENCE = timedelta(days=7)
"""How long an alert that could not be sent is tried again: later it tells nothing that the weekly page does not."""

KEPT = timedelta(days=371)
"""How long an alert is remembered, so that a night that is run again does not send it again."""


class Alert(msgspec.Struct, frozen=True):
    """Something that people are told."""

    about: str
    """A model, or a domain."""
    occasion: str
    """Why it is sent: veto, retrain, approval, late, weekly, or the flow that failed, such as check-failed."""
    as_of: str
    """The instant it speaks for, ISO: with `about` and `occasion` it makes an alert the same."""
    line: str
    """What to do, in words: the first line of the weekly page."""
    text: str
    sent: list[str] = []
    """Labels of the addresses that took it."""
    unsent: dict[str, str] = {}
    """{label of an address that did not take it: why}."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{datetime.fromisoformat(self.as_of):%Y%m%dT%H%M%SZ}-{self.occasion}.json"


def tell(at: Home, alert: Alert) -> None:
    """Send an alert to whoever is to know, unless that was done before, and keep what became of it.

    An alert whose sender was killed may be sent twice, never not at all.
    """
    _deliver(at, alert.about, [alert])


def retry(at: Home, about: str, as_of: datetime, patience: timedelta = PATIENCE) -> list[Alert]:
    """Try again what could not be sent in the week before `as_of`, and forget what is older than a year.

    Returns:
        What was tried, as it is now.
    """
    for alert in _alerts(at, [about]):
        if datetime.fromisoformat(alert.as_of) < as_of - KEPT:
            (at.room("alerts", about) / alert.name).unlink(missing_ok=True)
    return _deliver(at, about, failures(at, [about], as_of - patience, as_of))


def failures(at: Home, about: Iterable[str], since: datetime, until: datetime) -> list[Alert]:
    """Alerts that could not be sent about these models and domains, for instants in (since, until], oldest first."""
    return [each for each in told(at, about, since, until) if each.unsent]


def told(at: Home, about: Iterable[str], since: datetime, until: datetime) -> list[Alert]:
    """All alerts about these models and domains, for instants in (since, until], oldest first."""
    return [each for each in _alerts(at, about) if since < datetime.fromisoformat(each.as_of) <= until]


def _deliver(at: Home, about: str, alerts: Sequence[Alert]) -> list[Alert]:
    """Send those that were never sent, or not to everybody; what became of them."""
    folder = at.room("alerts", about)
    with alone(folder):
        stored = {alert.name: alert for alert in _alerts(at, [about])}
        new = [stored.get(alert.name, alert) for alert in alerts]
        tried = _tried(at, about, [alert for alert in new if alert.unsent or alert.name not in stored])
        for alert in tried:
            if alert.sent or alert.unsent or alert.name in stored:  # else there is nobody to tell
                write_json(folder / alert.name, alert)
    return tried


def _tried(at: Home, about: str, alerts: Sequence[Alert]) -> list[Alert]:
    try:
        everybody = addresses.of(at, about)
    except HeadwayError as error:
        return [msgspec.structs.replace(alert, unsent={"addresses": str(error)}) for alert in alerts]
    due = [(alert, whom) for alert in alerts for whom in everybody if whom.label not in alert.sent]
    answers = courier.send([Message(whom.url, f"{about}: {alert.line}", alert.text) for alert, whom in due])
    ends = list(zip(due, answers, strict=True))
    return [_ended(alert, {whom.label: why for (each, whom), why in ends if each is alert}) for alert in alerts]


def _ended(alert: Alert, ends: Mapping[str, str]) -> Alert:
    sent = [*alert.sent, *(label for label, why in ends.items() if not why)]
    return msgspec.structs.replace(alert, sent=sent, unsent={label: why for label, why in ends.items() if why})


def _alerts(at: Home, about: Iterable[str]) -> list[Alert]:
    files = [file for name in about for file in at.room("alerts", name).glob("*.json")]
    return [read_json(file, Alert) for file in sorted(files, key=lambda file: file.name)]
