"""The weekly page: gathers a week's evidence from the ledger, the nights and the log, and has it rendered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
import pandas as pd

from models import Model
from monitoring import page, profile
from monitoring.page import Approval, Champion, Link, Quarantined, Serving, Week
from monitoring.parity import Parity
from monitoring.verdict import Verdict
from pipelines import archive, night, predictions, promotion, serving_health
from pipelines.home import Home
from pipelines.ingest import deliveries
from pipelines.ledger import Entry, Ledger
from pipelines.quality import quality, trusted
from pipelines.retraining import champion

DAY = timedelta(days=1)


def weekly(at: Home, model: Model, as_of: datetime, *, evidently: bool = True) -> Path:
    """Write the page of the window that ends with the latest full day before `as_of`, its JSON and the index.

    Args:
        evidently: also write Evidently's full report of the week, and link it.

    Returns:
        Where the page is.
    """
    week = gather(at, model, as_of)
    if evidently and week.serving and week.serving.predictions:
        name = f"{week.name}.evidently.html"
        if _evidently(at, model, as_of, week, at.reports / name):
            week = msgspec.structs.replace(week, links=[Link("All columns, drawn by Evidently", name)])
    return page.write(week, at.reports)


def gather(at: Home, model: Model, as_of: datetime) -> Week:
    """Everything that the page of a week shows."""
    since, until = span(model, as_of)
    ledger = Ledger(at.ledger_url)
    verdicts = [entry for entry in ledger.entries(model.name, "verdict", as_of) if entry.as_of > since]
    told = [msgspec.convert(entry.body, Verdict) for entry in verdicts]
    champions = _champions(ledger, model, as_of)
    approval = _approval(ledger, model)
    seen = night.nights(at, model, since, until)
    good = quality(at, model, as_of)
    kind, line = page.first_line(told, since=since.date().isoformat(), champions=champions, approval=approval)
    return Week(
        model=model.name, owner=model.owner, description=model.description, task=model.task,
        since=since.date().isoformat(), until=(until - DAY).date().isoformat(), first_line=line, kind=kind,
        verdicts=told, quality=good, trust=trusted(good), champions=champions,
        nights=_nights(ledger, model, since, until, told), quarantine=_quarantine(at, model, since, until),
        parity=_parity([each.parity for each in seen if each.parity]), serving=_serving(seen), approval=approval,
        health=serving_health.health(at, model.name, since, until),
    )  # fmt: skip


def span(model: Model, as_of: datetime) -> tuple[datetime, datetime]:
    """The window that a page of `as_of` is about: it ends with the latest full UTC day."""
    _, until = night.day_before(as_of)
    return until - model.monitoring.window, until


def _champions(ledger: Ledger, model: Model, as_of: datetime) -> list[Champion]:
    versions = {entry.body["version"]: entry.body for entry in ledger.entries(model.name, "version")}
    acts = [entry for entry in ledger.entries(model.name, until=as_of) if entry.kind in ("promotion", "rollback")]
    return [
        Champion(
            version=act.body["version"],
            as_of=act.as_of.isoformat(),
            why=str(act.body.get("why") or act.kind),
            metric=versions.get(act.body["version"], {}).get("metrics", {}).get("holdout"),
        )
        for act in acts
    ]


def _approval(ledger: Ledger, model: Model) -> Approval | None:
    waiting = promotion.pending(ledger, model.name)
    if not waiting:
        return None
    body = waiting[-1].body
    gate = next(
        (g for g in body["gates"] if g["name"] == "not worse than the champion" and g["value"] is not None), None
    )
    scale, unit = (100.0, "points") if model.task == "binary" else (1.0, model.metric.removeprefix("neg_"))
    gain, low, high = (scale * gate[part] for part in ("value", "low", "high")) if gate else (0.0, 0.0, 0.0)
    return Approval(version=body["version"], gain=gain, low=low, high=high, unit=unit)


def _nights(
    ledger: Ledger, model: Model, since: datetime, until: datetime, verdicts: list[Verdict]
) -> list[page.Night]:
    by_day = {(datetime.fromisoformat(v.as_of) - DAY).date(): v for v in verdicts}
    promoted = {(e.as_of - DAY).date(): e for e in ledger.entries(model.name, "promotion") if e.as_of > since}
    count = (until - since) // DAY
    return [_night((since + n * DAY).date().isoformat(), by_day, promoted) for n in range(count)]


def _night(day: str, verdicts: Mapping[date, Verdict], promoted: Mapping[date, Entry]) -> page.Night:
    at = date.fromisoformat(day)
    verdict = verdicts.get(at)
    if verdict is None:
        return page.Night(day, "missed", "no verdict: the night did not run")
    if at in promoted:
        return page.Night(day, "promoted", f"{verdict.sentence}; version {promoted[at].body['version']} went live")
    status: dict[str, page.Status] = {"veto": "fault", "retrain": "retrained"}
    return page.Night(day, status.get(verdict.action, "quiet"), verdict.sentence)


def _quarantine(at: Home, model: Model, since: datetime, until: datetime) -> list[Quarantined]:
    return [
        Quarantined(
            source=each.source,
            when=each.until,
            rule="batch stopped" if each.stops else "rows set aside",
            rows=each.quarantined,
            sentence="; ".join(each.stops or each.notes),
        )
        for each in deliveries(at, model.domain, since, until)
        if each.quarantined or each.stops
    ]


def _parity(found: list[Parity]) -> Parity | None:
    """The worst night's, so that a breach cannot hide behind a clean one; the latest of equals."""
    return max(reversed(found), key=lambda each: each.rate) if found else None


def _serving(seen: list[night.Night]) -> Serving | None:
    count = sum(each.profile.rows for each in seen)
    return Serving(count, sum(each.degraded for each in seen) / count) if count else None


def _evidently(at: Home, model: Model, as_of: datetime, week: Week, path: Path) -> bool:
    """Evidently's report of the week beside the champion's reference sample; False when there is nothing to draw."""
    live = champion(at, model, as_of)
    verdict = week.judged
    if live is None or verdict is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it imports
        from monitoring import evidently_report  # slow to import: only where it is wanted

    _, packaged = live
    rows = predictions.predictions(at, model, *span(model, as_of))
    current = predictions.served_features(rows).assign(**{profile.SCORE: rows["prediction"]})
    last = date.fromisoformat(week.until)
    drawn = evidently_report.draw(packaged.sample, pd.DataFrame(current), verdict, packaged.manifest.features, last)
    evidently_report.write(drawn, path)
    archive.keep(at, model.name, drawn, last)
    return True
