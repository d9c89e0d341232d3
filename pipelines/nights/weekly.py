"""The weekly page: gathers a week's evidence from the ledger, the nights and the log, and has it rendered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
import pandas as pd

from models import Model
from monitoring import page, profile
from monitoring.first_line import first_line, plain
from monitoring.history import Champion, Training
from monitoring.page import Approval, Link, Opinion, Quarantined, Serving, Unsent, Week
from monitoring.parity import Parity
from monitoring.verdict import Verdict
from pipelines.alerting import alerts
from pipelines.data.ingest import deliveries
from pipelines.files import read_json
from pipelines.home import Home
from pipelines.nights import archive, history, night, pages, quarantine, serving_health
from pipelines.nights.quality import quality, trusted
from pipelines.records import predictions
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger
from pipelines.training.retraining import champion

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
    return pages.write(week, at.reports)


def gather(at: Home, model: Model, as_of: datetime) -> Week:
    """Everything that the page of a week shows. How many rows wait in quarantine is told as it is now."""
    since, until = span(model, as_of)
    ledger, begins = Ledger(at.ledger_url), since.date().isoformat()
    year = history.verdicts(ledger, model.name, as_of)
    told = [verdict for verdict in year if datetime.fromisoformat(verdict.as_of) > since]
    champions = history.champions(ledger, model.name, as_of)
    trained = history.trainings(ledger, model.name, as_of)
    approval = _approval(ledger, model, as_of)
    seen = night.nights(at, model, since, until)
    # A window of which no full day is over yet says nothing.
    good = [each for each in quality(at, model, as_of) if each.week < until.date().isoformat()]
    wanted = [t for t in trained if t.as_of > since.isoformat() or (approval and t.version == approval.version)]
    inside, held = _quarantine(at, model, since, as_of)
    nights = _nights(since, until, as_of, told, champions, trained, inside)
    state, line = first_line(
        told, since=begins, champions=champions, approval=approval, trainings=wanted, nights=nights
    )
    return Week(
        model=model.name, owner=model.owner, description=model.description, task=model.task,
        since=begins, until=(until - DAY).date().isoformat(), first_line=line, state=state, verdicts=told,
        quality=good, trust=trusted(good), champions=champions, nights=nights,
        quarantine=inside, held=held,
        parity=_parity([each.parity for each in seen if each.parity]), serving=_serving(seen), approval=approval,
        health=serving_health.health(at, model.name, since, until), trainings=wanted,
        marks=history.marks(year, trained), alarms=history.alarms(model, year),
        plan=history.plan(model, as_of, champions, trained), as_of=as_of.isoformat(),
        unsent=_unsent(at, model, since, as_of),
        opinion=_opinion(at, model, as_of),
    )  # fmt: skip


def span(model: Model, as_of: datetime) -> tuple[datetime, datetime]:
    """The window that a page of `as_of` is about: it ends with the latest full UTC day."""
    _, until = night.day_before(as_of)
    return until - model.monitoring.window, until


def _approval(ledger: Ledger, model: Model, as_of: datetime) -> Approval | None:
    waiting = [entry for entry in promotion.pending(ledger, model.name) if entry.as_of <= as_of]
    if not waiting:
        return None
    body = waiting[-1].body
    gate = next(
        (g for g in body["gates"] if g["name"] == "not worse than the champion" and g["value"] is not None), None
    )
    error = model.metric.startswith("neg_")  # it has units of its own; points are hundredths of what goes up to 1
    scale, unit = (1.0, model.metric.removeprefix("neg_")) if error else (100.0, "points")
    gain, low, high = (scale * gate[part] for part in ("value", "low", "high")) if gate else (0.0, 0.0, 0.0)
    return Approval(version=body["version"], gain=gain, low=low, high=high, unit=unit)


def _nights(
    since: datetime,
    until: datetime,
    as_of: datetime,
    verdicts: Sequence[Verdict],
    champions: Sequence[Champion],
    trained: Sequence[Training],
    kept_out: Sequence[Quarantined],
) -> list[page.Night]:
    """What each night found of its day, which is the one before."""
    judged = {_day_of(each.as_of): each for each in verdicts}
    live = {_day_of(each.as_of): each.version for each in champions}
    made = {_day_of(each.as_of): each for each in trained}
    began = datetime.fromisoformat(champions[0].as_of) if champions else as_of
    days = [since + n * DAY for n in range((until - since) // DAY)]
    found = [_night(day, day + DAY > began, judged.get(day.date()), live, made) for day in days]
    return [_with_stops(night, kept_out) for night in found]


def _with_stops(night: page.Night, kept_out: Sequence[Quarantined]) -> page.Night:
    """A night of a day on which a batch was stopped says so, though it may have been made good by then."""
    there = [each for each in kept_out if each.rule == page.STOPPED and _ended(each.when) == night.date]
    names = " and ".join(dict.fromkeys(f"`{each.source}`" for each in there))
    if not there or night.status == "fault":
        return night
    after = "" if any(each.stands for each in there) else ", and came in good later"
    return msgspec.structs.replace(night, sentence=f"{night.sentence}; a delivery of {names} was stopped{after}")


def _ended(when: str) -> str:
    """The day that a delivery's window ends on; midnight ends the day before."""
    return (datetime.fromisoformat(when) - timedelta(microseconds=1)).date().isoformat()


def _day_of(as_of: str) -> date:
    return (datetime.fromisoformat(as_of) - DAY).date()


def _night(
    at: datetime, began: bool, verdict: Verdict | None, live: Mapping[date, int], made: Mapping[date, Training]
) -> page.Night:
    day = at.date()
    if verdict is None:
        return (
            page.Night(day.isoformat(), "missed", "no verdict: the night did not run")
            if began
            else page.Night(day.isoformat(), "before", "no version was in charge yet")
        )
    if day in live:
        return page.Night(day.isoformat(), "promoted", f"{plain(verdict.sentence)}; version {live[day]} went live")
    after = f"; then {made[day].sentence}" if day in made else ""
    if verdict.action == "nothing" and not (verdict.evidence.drift or verdict.evidence.relation):
        return page.Night(day.isoformat(), "quiet", f"Nothing to do{after}")  # how many days are in, the page shows
    status: dict[str, page.Status] = {"veto": "fault", "retrain": "retrained"}
    return page.Night(day.isoformat(), status.get(verdict.action, "quiet"), plain(verdict.sentence) + after)


def _quarantine(at: Home, model: Model, since: datetime, as_of: datetime) -> tuple[list[Quarantined], str]:
    """What the week's deliveries left there, newest first, and what older ones left that still stands, in words."""
    inside, older = [], []
    for item in quarantine.items(at, model.domain):
        when = datetime.fromisoformat(item.delivery.until)
        if since < when <= as_of:
            inside.append(_kept_out(item, model, _good_since(at, item, as_of)))
        elif when <= since and item.stands:
            older.append(item)
    rows = sum(item.rows for item in older)
    left = f"{len(older)} older deliveries still hold {rows:,} rows: `headway quarantine list {model.domain}`"
    return inside, left if older else ""


def _kept_out(item: quarantine.Item, model: Model, mended: bool) -> Quarantined:
    each = item.delivery
    more = f" (and {len(each.stops) - 1} more)" if len(each.stops) > 1 else ""
    return Quarantined(
        source=each.source,
        when=each.until,
        rule=page.STOPPED if each.stops else "rows set aside",
        rows=item.rows,
        sentence=each.stops[0] + more if each.stops else "; ".join(each.notes),
        stands=item.rows > 0 and not (each.stops and (mended or item.replays)),
        command=f"headway quarantine show {model.domain} {each.source} {item.stamp}",
    )


def _good_since(at: Home, item: quarantine.Item, as_of: datetime) -> bool:
    """Whether a later batch of the source was good: it was read again together with what was stopped."""
    after = deliveries(at, item.delivery.domain, datetime.fromisoformat(item.delivery.until), as_of)
    return any(each.source == item.delivery.source and not each.stops for each in after)


def _parity(found: list[Parity]) -> Parity | None:
    """The worst night's, so that a breach cannot hide behind a clean one; the latest of equals."""
    return max(reversed(found), key=lambda each: each.rate) if found else None


def _serving(seen: list[night.Night]) -> Serving | None:
    count = sum(each.profile.rows for each in seen)
    return Serving(count, sum(each.degraded for each in seen) / count) if count else None


def _unsent(at: Home, model: Model, since: datetime, until: datetime) -> list[Unsent]:
    found = alerts.unsent(at, model, since, until)
    return [Unsent(each.as_of, label, each.line, why) for each in found for label, why in each.unsent.items()]


def _opinion(at: Home, model: Model, as_of: datetime) -> Opinion | None:
    """What the latest replay that had ended by `as_of` said, if one was kept."""
    found = [
        opinion
        for path in at.reports.glob(f"replay-{model.name}-????-??-??.json")
        for opinion in [msgspec.structs.replace(read_json(path, Opinion), page=path.with_suffix(".html").name)]
        if opinion.until <= as_of.date().isoformat()
    ]
    return max(found, key=lambda each: each.until, default=None)


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
