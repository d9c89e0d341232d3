"""The night, as plain steps: what happens for a domain, then for each model. Flows, the CLI and replay call these.

Every step takes `as_of`, the instant it speaks for, and can be run again for it: nothing is doubled.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pandas as pd

import features
import models
from features import HeadwayError
from models import Model
from monitoring import budget, drift, parity, profile, relation, verdict
from monitoring.parity import Parity
from monitoring.profile import Profile
from monitoring.relation import Day
from monitoring.verdict import Fault, Verdict
from pipelines import feature_tables, gain, outcomes, package, predictions, promotion, skew
from pipelines.files import read_json, write_json
from pipelines.frame import with_features
from pipelines.home import Home
from pipelines.ingest import Delivery, deliveries, ingest
from pipelines.ledger import Ledger
from pipelines.package import Packaged
from pipelines.promotion import Pointer
from pipelines.retention import expire
from pipelines.retraining import champion, reigning
from services.answers import Role

DAY = timedelta(days=1)
CHAMPION: tuple[Role, ...] = ("champion",)

__all__ = [
    "Night", "build_tables", "check_parity", "compact", "expire", "ingest", "judge", "match_labels", "materialize",
    "night", "nights", "refresh", "take_profile",
]  # fmt: skip


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


def refresh(at: Home, domain: str, as_of: datetime) -> list[Delivery]:
    """Ingest what is new, compute the feature tables that are due, and bring them to serving once they are visible.

    For past instants it does not wait; for the present one it waits until the tables' lag is over.
    """
    found = ingest(at, domain, as_of)
    build_tables(at, domain, as_of)
    materialize(at, domain, as_of)
    return found


def build_tables(at: Home, domain: str, as_of: datetime) -> dict[str, int]:
    """Compute the feature tables that are due, except those that read a source whose batch was stopped."""
    latest = {delivery.source: delivery for delivery in deliveries(at, domain, as_of - DAY, as_of)}
    broken = frozenset(name for name, delivery in latest.items() if delivery.stops)
    return feature_tables.build_tables(at, domain, as_of, broken)


def materialize(at: Home, domain: str, as_of: datetime) -> None:
    """Bring the snapshots of `as_of` to the online store, at the instant from which training may see them too.

    Earlier would be a skew of its own: the value they replace would be gone from serving, but not from training.
    """
    from pipelines import feature_store  # Feast is slow to import: only steps that need it do

    visible = as_of + max(table.lag for table in features.load(domain).tables)
    wait = (visible - datetime.now(UTC)).total_seconds()
    if 0 < wait <= (visible - as_of).total_seconds():
        time.sleep(wait)
    feature_store.materialize(at, domain, visible)


def night(at: Home, model: Model, as_of: datetime) -> Verdict:
    """All steps of a model's night, in order; its domain was refreshed before."""
    compact(at, model)
    expire(at, model, as_of)
    take_profile(at, model, as_of, check_parity(at, model, as_of), match_labels(at, model, as_of))
    return judge(at, model, as_of)


def compact(at: Home, model: Model) -> int:
    """Bring the log of predictions, and that of outcomes, of every declared model into Parquet.

    Returns how many predictions are new.
    """
    declared = {model.name: model, **{name: models.load(name) for name in models.names()}}
    outcomes.compact(at, declared)
    return predictions.compact(at, declared)


def match_labels(at: Home, model: Model, as_of: datetime) -> int:
    """How many of the day's predictions have a label by now."""
    since, until = day_before(as_of)
    return int(predictions.labelled(at, model, since, until, as_of=as_of)["label"].notna().sum())


def check_parity(at: Home, model: Model, as_of: datetime) -> Parity | None:
    """Recompute a sample of the day's predictions' features through the offline path and compare cell by cell."""
    since, until = day_before(as_of)
    rows = predictions.predictions(at, model, since, until)
    if rows.empty:
        return None
    rows.index = pd.Index(rows["request_id"] + "/" + rows["instance"].astype(str))
    order = pd.util.hash_pandas_object(pd.Series(rows.index), index=False).to_numpy().argsort(kind="stable")
    of, rows = len(rows), rows.iloc[sorted(order[: model.monitoring.parity_sample])]
    served = predictions.served_features(rows).assign(degraded=rows["degraded"])
    recomputed = with_features(at, model, predictions.asked_examples(rows)).inputs.set_index(rows.index)
    served = _where_served(at, model, rows["digest"], served, recomputed)
    declared = features.load(model.domain).features_of(model.feature_service)
    found = parity.compare(served, recomputed, declared, of=of)
    if not found.differences:
        return found
    past = skew.history(at, model, rows, served, recomputed)
    return parity.compare(served, recomputed, declared, of=of, decided=rows["decision_time"], history=past)


def _where_served(
    at: Home, model: Model, digests: pd.Series, served: pd.DataFrame, recomputed: pd.DataFrame
) -> pd.DataFrame:
    """`served` without fault where a version was served no such feature: a canary may read fewer than are declared."""
    for digest in digests.unique():
        try:
            version = package.manifest_of(at, package.tag_of(model.name, digest))
        except HeadwayError:  # it was removed since: nothing is known of it
            continue
        read = {feature.name for feature in version.features}
        if unread := [name for name in recomputed if name not in read]:
            inside = digests == digest
            served.loc[inside, unread] = recomputed.loc[inside, unread]
    return served


def take_profile(at: Home, model: Model, as_of: datetime, found: Parity | None, labels: int) -> Night | None:
    """Profile what serving saw on the day, and keep it with parity and labels; None while there is no champion.

    The bins are those of the champion at the day's end, whatever was promoted since: taken again, it is the same.
    """
    since, until = day_before(as_of)
    pointer = reigning(promotion.reigns(Ledger(at.ledger_url), model.name, as_of), until)
    if pointer is None:
        return None
    packaged = package.load(at, pointer.tag)
    # A canary is not what the bins and the score's profile are of; the rest of the entities are a fair sample of all.
    rows = predictions.predictions(at, model, since, until, roles=CHAMPION)
    seen = predictions.served_features(rows).assign(**{profile.SCORE: rows["prediction"]})
    result = Night(
        model=model.name, day=since.date().isoformat(), as_of=as_of.isoformat(), version=pointer.version,
        digest=pointer.digest, profile=profile.take(seen, packaged.reference.bins),
        degraded=int(sum(len(names) > 0 for names in rows["degraded"])), parity=found, labels=labels,
    )  # fmt: skip
    write_json(at.room("nights", model.name) / f"{result.day}.json", result)
    return result


def nights(at: Home, model: Model, since: datetime, until: datetime) -> list[Night]:
    """What the nights found of the days that began in [since, until), oldest first."""
    found = sorted(at.room("nights", model.name).glob("*.json"))
    inside = [path for path in found if f"{since:%Y-%m-%d}" <= path.stem < f"{until:%Y-%m-%d}"]
    return [read_json(path, Night) for path in inside]


def judge(at: Home, model: Model, as_of: datetime) -> Verdict:
    """Decide what to do about a model, and store the verdict in the ledger before anything acts on it.

    Run again for the same instant, it returns the verdict that is stored.

    Raises HeadwayError when the model has no champion yet.
    """
    ledger, key = Ledger(at.ledger_url), f"verdict/{model.name}/{as_of.isoformat()}"
    if stored := ledger.find(key):  # it stands, and may have been acted on since
        return msgspec.convert(stored.body, Verdict)
    reign = champion(at, model, as_of)
    if reign is None:
        raise HeadwayError(f"{model.name} has no champion to judge. Train one: `headway train {model.name}`.")
    pointer, packaged = reign
    found = _decide(at, model, as_of, pointer, packaged)
    ledger.append("verdict", model.name, as_of=as_of, body=msgspec.to_builtins(found), actor="night", key=key)
    return found


def _decide(at: Home, model: Model, as_of: datetime, pointer: Pointer, packaged: Packaged) -> Verdict:
    _, until = day_before(as_of)
    began = _midnight(datetime.fromisoformat(pointer.as_of))
    window = model.monitoring.window
    days_in = max(0, (until - began) // DAY)
    closes = days_in > 0 and (until - began) % window == timedelta(0)
    tonight = nights(at, model, until - DAY, until)
    trained = Ledger(at.ledger_url).entries(model.name, "version", as_of)
    return verdict.decide(
        model,
        as_of=as_of,
        champion_version=pointer.version,
        trained_as_of=datetime.fromisoformat(packaged.manifest.trained_as_of),
        # What was trained at `as_of` itself was trained because of this night.
        trainings=[entry.as_of for entry in trained if entry.as_of < as_of],
        faults=_faults(at, model, until - DAY, as_of),
        parity=tonight[-1].parity if tonight else None,
        days_in=days_in % (window // DAY),
        **(_closed(at, model, as_of, pointer, packaged) if closes else {}),
    )


def _closed(at: Home, model: Model, as_of: datetime, pointer: Pointer, packaged: Packaged) -> dict[str, Any]:
    """What a window that closed tonight adds to the evidence, by the names that `verdict.decide` has for it."""
    _, until = day_before(as_of)
    window, level, reference = model.monitoring.window, budget.alpha(model.monitoring), packaged.reference
    days = _window(at, model, until - window, until, pointer)
    labels = _surprise(at, model, until - window, as_of, reference)
    tables = features.load(model.domain).tables_of(model.feature_service)
    return {
        "drift": drift.judge(reference, days, window=window, alpha=level),
        "relation": relation.judge(model.task, reference.surprise, labels, window=window, alpha=level),
        "earlier": _earlier(at, model, pointer, as_of),
        "gain": gain.expected(at, model, as_of, packaged) if model.monitoring.expected_gain else None,
        "days": days,
        "sources": {each.name: " and ".join(table.sources) for table in tables for each in table.features},
    }


def _earlier(at: Home, model: Model, pointer: Pointer, as_of: datetime) -> list[bool]:
    """Which windows that closed in the champion's reign, before this night, alarmed, oldest first: the ledger knows."""
    began, tonight = datetime.fromisoformat(pointer.as_of), _midnight(as_of)
    closed = {
        _midnight(entry.as_of): verdict.alarmed(msgspec.convert(entry.body, Verdict))
        for entry in Ledger(at.ledger_url).entries(model.name, "verdict", tonight)
        if began < entry.as_of < tonight and entry.body["champion_version"] == pointer.version
    }
    return [alarm for alarm in closed.values() if alarm is not None]


def _window(at: Home, model: Model, since: datetime, until: datetime, pointer: Pointer) -> dict[str, Profile]:
    """The profiles of a window's days; days on which a feed was broken are the fault's, not the world's."""
    found = [each for each in nights(at, model, since, until) if each.digest == pointer.digest]
    starts = {each.day: datetime.fromisoformat(each.day).replace(tzinfo=until.tzinfo) for each in found}
    return {
        each.day: each.profile for each in found if not _faults(at, model, starts[each.day], starts[each.day] + DAY)
    }


def _surprise(at: Home, model: Model, since: datetime, as_of: datetime, reference: profile.Reference) -> dict[str, Day]:
    """Surprise of the window's days whose labels have matured by `as_of`."""
    until = _midnight(as_of - model.examples.label_matures)
    if until <= since:
        return {}
    rows = predictions.labelled(at, model, since, until, as_of=as_of)
    rows = rows[rows["role"] == "champion"]  # what a canary knows less well is no change of the world
    days = profile.iso_days(rows["decision_time"])
    return relation.daily(
        model.task, rows["label"].to_numpy(), rows["prediction"].to_numpy(), days, reference.residual_sd
    )


def _faults(at: Home, model: Model, since: datetime, until: datetime) -> list[Fault]:
    """What ingest stopped in (since, until], each fault once."""
    found = deliveries(at, model.domain, since, until)
    stops = dict.fromkeys((delivery.source, sentence) for delivery in found for sentence in delivery.stops)
    return [Fault(source, sentence) for source, sentence in stops]


def day_before(as_of: datetime) -> tuple[datetime, datetime]:
    """The latest full UTC day before `as_of`: its first instant and its end."""
    until = _midnight(as_of)
    return until - DAY, until


def _midnight(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)
