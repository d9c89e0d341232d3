"""What people are told without having asked, each with the first line that the weekly page has for it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import models
from features import HeadwayError
from models import Model
from monitoring.first_line import first_line
from monitoring.page import Week
from monitoring.verdict import Verdict
from pipelines.alerting import addresses, courier, outbox
from pipelines.alerting.courier import Message
from pipelines.alerting.outbox import Alert
from pipelines.home import Home, home
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger

LATE = timedelta(hours=30)
"""How long after a night the next one is missed."""

PREFECT = re.compile(r"^Flow run encountered an exception: (?:HeadwayError: )?")
"""What Prefect puts before the message of an error."""


def of_verdict(verdict: Verdict) -> Alert | None:
    """Of a veto, or of an alarm that starts a retraining; None for a night on which nobody has to know anything."""
    if verdict.action not in ("veto", "retrain"):
        return None
    _, line = first_line([verdict], since=verdict.as_of[:10])
    text = f"{verdict.sentence}\n\nThe evidence: headway report {verdict.model} --as-of {verdict.as_of}"
    return Alert(verdict.model, verdict.action, verdict.as_of, line, text)


def of_approval(week: Week, as_of: datetime) -> Alert | None:
    """Of a challenger that waits for a person; None when none does."""
    if week.approval is None:
        return None
    version = week.approval.version
    text = f"Version {version} passed its gates and waits: headway approve {week.model} {version}"
    return Alert(week.model, "approval", as_of.isoformat(), week.first_line, text)


def of_page(week: Week, as_of: datetime) -> Alert:
    """Of a weekly page."""
    text = f"{week.model}, {week.since} to {week.until}.\n\nThe page: headway report {week.model} --as-of {as_of:%F}"
    return Alert(week.model, "weekly", as_of.isoformat(), week.first_line, text)


def of_failure(flow: str, about: str, message: str, as_of: datetime) -> Alert:
    """Of a flow that failed, for the instant that it worked for."""
    line = f"Look at the {flow} flow: it failed: {' '.join(message.split())[:300]}"
    return Alert(about, f"{flow}-failed", as_of.isoformat(), line, "What else is wrong: headway doctor")


def of_late(at: Home, model: Model, as_of: datetime) -> Alert | None:
    """Of a night that is late: the catch-up check. One alert for a gap, however long it lasts."""
    ledger = Ledger(at.ledger_url)
    night = ledger.last(model.name, "verdict", as_of)
    reigns = promotion.reigns(ledger, model.name, as_of)
    last = night.as_of if night else datetime.fromisoformat(reigns[0].as_of) if reigns else as_of
    if as_of - last <= LATE:
        return None
    line = f"Look at the nights: none has run since {last.day} {last:%B}"
    return Alert(model.name, "late", last.isoformat(), line, "What else is wrong: headway doctor")


def unsent(at: Home, model: Model, since: datetime, until: datetime) -> list[Alert]:
    """Alerts about a model or its domain that could not be sent, for instants in (since, until], oldest first."""
    return outbox.failures(at, [model.name, model.domain], since, until)


def checkup(at: Home, now: datetime) -> list[str]:
    """What `headway doctor` says is wrong: late nights, addresses that cannot be read, alerts that were not sent."""
    known = [models.load(name) for name in models.names()]
    wrong = [f"late   {late.about}: {late.line}" for model in known if (late := of_late(at, model, now))]
    try:
        addresses.addresses(at)
        addresses.weekly()
    except HeadwayError as error:
        wrong.append(f"alerts {error}")
    about = dict.fromkeys(name for model in known for name in (model.name, model.domain))
    return [*wrong, *map(_shown, outbox.failures(at, about, datetime.min.replace(tzinfo=UTC), now))]


def run(given: argparse.Namespace) -> int:
    """Try the addresses, list the alerts of a year, or send again what was not sent. 1: something was not."""
    at, now = home(), datetime.now(UTC)
    chosen = [models.load(given.model)] if given.model else [models.load(name) for name in models.names()]
    if given.action == "test":
        return _test(at, given.model)
    about = dict.fromkeys(name for model in chosen for name in (model.name, model.domain))
    if given.action == "retry":
        told = [alert for name in about for alert in outbox.retry(at, name, now, patience=outbox.KEPT)]
    else:
        told = outbox.told(at, about, now - outbox.KEPT, now)
    for alert in told:
        print(_shown(alert))
    return int(any(alert.unsent for alert in told))


def _test(at: Home, model: str | None) -> int:
    whom = addresses.of(at, model) if model else addresses.addresses(at)
    if not whom:
        raise HeadwayError(
            f"nobody is told{f' of {model}' if model else ''}. Put an address in HEADWAY_ALERTS, or in "
            f"{addresses.path(at)} (mode 0600). {addresses.HOW}"
        )
    title, text = "Headway: a test", "If you read this, alerts arrive. Sent by `headway alerts test`."
    answers = courier.send([Message(each.url, title, text) for each in whom])
    for each, why in zip(whom, answers, strict=True):
        print(f"{'FAILED' if why else 'sent  '} {each.label} ({each.only or 'all models'}){why and f': {why}'}")
    return int(any(answers))


def _shown(alert: Alert) -> str:
    why = "; ".join(f"{label}: {why}" for label, why in alert.unsent.items())
    state = f"unsent ({why})" if why else f"sent to {', '.join(alert.sent)}"
    return f"{alert.as_of[:16]} {alert.about} {alert.occasion}: {alert.line} -- {state}"


def failed_run(flow: str, parameters: Mapping[str, Any], message: str | None, planned: datetime) -> Alert | None:
    """The alert of a run that failed, from what Prefect knows of it; None for one that is about nothing of ours."""
    about = parameters.get("model") or parameters.get("domain")
    as_of = datetime.fromisoformat(parameters["as_of"]) if parameters.get("as_of") else planned
    said = PREFECT.sub("", message or "it does not say why")
    return of_failure(flow, str(about), said, as_of) if about else None
