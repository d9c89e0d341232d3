"""The night, as plain steps: what happens for a domain, then for each model. Flows, the CLI and replay call these.

Every step takes `as_of`, the instant it speaks for, and can be run again for it: nothing is doubled.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import pandas as pd

import features
import models
from features import HeadwayError
from models import Model
from monitoring import parity, profile
from monitoring.parity import Parity
from monitoring.verdict import Fault, Verdict
from pipelines.data.ingest import Delivery, delivered, deliveries, ingest
from pipelines.files import read_json, write_json
from pipelines.home import Home
from pipelines.nights import decision, skew
from pipelines.nights.decision import Night, Seen, day_before, told_apart
from pipelines.records import outcomes, predictions
from pipelines.records.frame import with_features
from pipelines.records.retention import expire
from pipelines.registry import package, promotion
from pipelines.registry.ledger import Ledger
from pipelines.store import feature_tables
from pipelines.training import gain
from pipelines.training.retraining import champion, reigning
from services.answers import Role

DAY = timedelta(days=1)
CHAMPION: tuple[Role, ...] = ("champion",)

__all__ = [
    "Night", "build_tables", "check_parity", "compact", "day_before", "expire", "ingest", "judge", "match_labels",
    "materialize", "night", "nights", "refresh", "seen", "take_profile",
]  # fmt: skip


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
    from pipelines.store import feature_store  # Feast is slow to import: only steps that need it do

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
    found = decision.decide(seen(at, model), model, as_of, pointer, packaged)
    ledger.append("verdict", model.name, as_of=as_of, body=msgspec.to_builtins(found), actor="night", key=key)
    return found


def seen(at: Home, model: Model) -> Seen:
    """What a night's decision may look at, of this root."""
    labelled = partial(predictions.labelled, at, model)
    return Seen(
        ledger=Ledger(at.ledger_url),
        nights=partial(nights, at, model),
        faults=partial(_faults, at, model),
        broken=partial(_broken, at, model),
        labelled=labelled,
        gain=partial(gain.expected, at, model),
        apart=partial(told_apart, labelled, model),
    )


def _faults(at: Home, model: Model, since: datetime, until: datetime) -> list[Fault]:
    """What ingest stopped in (since, until] and nothing had mended by then, each fault once.

    A source whose batch was stopped keeps its place: a later good batch that begins no later holds the same span.
    """
    found = deliveries(at, model.domain, since, until)
    good = [each for each in found if not each.stops]
    standing = [each for each in found if each.stops and not any(_holds(later, each) for later in good)]
    stops = dict.fromkeys((delivery.source, sentence) for delivery in standing for sentence in delivery.stops)
    return [Fault(source, sentence) for source, sentence in stops]


def _holds(later: Delivery, earlier: Delivery) -> bool:
    edges = (later.since, earlier.since, earlier.until, later.until)
    begins, began, ended, ends = map(datetime.fromisoformat, edges)
    return later.source == earlier.source and begins <= began and ended < ends


def _broken(at: Home, model: Model, since: datetime, until: datetime) -> bool:
    """Whether ingest stopped anything in (since, until]: what was mended later was not served then."""
    return any(each.stops for each in delivered(at, model.domain, since, until))
