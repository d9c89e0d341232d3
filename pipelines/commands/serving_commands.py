"""The commands about what serves: promote, rollback, approve, repair, canary, shadow, compare."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import models
from features import HeadwayError
from pipelines.commands.cli import UNSAID
from pipelines.commands.lifecycle import as_of
from pipelines.home import Home, home, utc
from pipelines.progress import step
from pipelines.registry import promotion, trials, versions
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Pointer, TrialKind, Trials, read_pointer

PATIENCE = 10.0
"""Seconds that a command waits for the service to take in what it did."""


def promote(given: argparse.Namespace) -> int:
    """Make a stored version champion by hand."""
    at, act = home(), _act(given)
    now = read_pointer(at.pointers, given.model)
    if now is not None and now.version == given.version:
        print(f"{given.model}: version {given.version} is champion already")
        return 0
    key = f"promotion/by hand/{given.model}/{given.version}/{act['as_of'].isoformat()}"
    ledger, stored = Ledger(at.ledger_url), _stored(at, given)
    made = promotion.promote(ledger, at.pointers, **stored, **act, despite_gates=given.despite_gates, key=key)
    return _champion(at, made, "champion")


def approve(given: argparse.Namespace) -> int:
    """Approve a version that waits, and promote it."""
    at, act = home(), _act(given)
    name = f"{given.model}/{given.version}"
    ledger, stored = Ledger(at.ledger_url), _stored(at, given)
    promotion.approve(ledger, version=given.version, **act, key=f"approval/{name}")
    made = promotion.promote(ledger, at.pointers, **stored, **act, key=f"promotion/approved/{name}")
    return _champion(at, made, "champion")


def rollback(given: argparse.Namespace) -> int:
    """Make the version before the champion champion again."""
    at, act = home(), _act(given)
    key = f"rollback/{given.model}/{act['as_of'].isoformat()}"
    return _champion(at, promotion.rollback(Ledger(at.ledger_url), at.pointers, **act, key=key), "champion again")


def repair(given: argparse.Namespace) -> int:
    """Write the files that tell serving of a model again from the ledger."""
    at, model = home(), models.load(given.model)
    pointer = promotion.repair(Ledger(at.ledger_url), at.pointers, model.name)
    print(f"{model.name}: version {pointer.version} is champion" if pointer else f"{model.name}: never promoted")
    return 0


def canary(given: argparse.Namespace) -> int:
    """Let a version answer a share of entities, or end that."""
    if not given.end and given.share is None:
        raise HeadwayError(f"how much is it to answer? headway canary {given.model} --share 10%")
    if given.despite_gates and given.why == UNSAID:
        raise HeadwayError("--despite-gates needs a reason: --why REASON")
    return _trial(given, "canary", share=given.share, despite_gates=given.despite_gates)


def shadow(given: argparse.Namespace) -> int:
    """Let a version score what the champion answers, for nobody to see but us; or end that."""
    return _trial(given, "shadow")


def compare(given: argparse.Namespace) -> int:
    """Compare a version with the champion on the same logged requests."""
    from pipelines.nights import night
    from pipelines.training import compare as comparing

    at, model, instant = home(), models.load(given.model), as_of(given)
    version = given.version or comparing.challenger(at, model.name)
    with step(f"{model.name}: version {version} beside the champion"):
        night.compact(at, model)
        since = utc(given.since) if given.since else None
        found = comparing.compare(at, model, version, instant, since=since, actor=given.actor)
    for line in _told(at, model.name, found):
        print(f"  {line}")
    print(found.sentence)
    return 0


def _trial(given: argparse.Namespace, kind: TrialKind, **more: Any) -> int:
    at, model, act = home(), given.model, {"kind": kind, **_act(given)}
    ledger, instant = Ledger(at.ledger_url), act["as_of"].isoformat()
    if given.end:
        trials.end(ledger, at.pointers, **act, key=f"{kind}/{model}/end/{instant}")
        print(f"{model}: the {kind} has ended")
        return 0
    champion = read_pointer(at.pointers, model)
    version = given.version or versions.challenger(ledger, model, champion.version if champion else None)
    found = trials.start(ledger, at.pointers, **act, version=version, key=f"{kind}/{model}/{version}/{instant}", **more)
    print(_begun(model, kind, found))
    print(f"see how it does: headway compare {model}; end it: headway {kind} {model} --end")
    return 0


def _act(given: argparse.Namespace) -> dict[str, Any]:
    """What the ledger keeps of every act upon a model. Raises HeadwayError for a model that is not declared."""
    model, instant = models.load(given.model), as_of(given)
    return {"model": model.name, "as_of": instant, "actor": given.actor, "why": given.why}


def _stored(at: Home, given: argparse.Namespace) -> dict[str, Any]:
    """The version that was named, as `promotion.promote` takes it: what workers would refuse is not promoted."""
    from pipelines.registry import package

    body = versions.find(Ledger(at.ledger_url), given.model, given.version).body
    package.load(at, body["tag"])
    return {name: body[name] for name in ("version", "tag", "digest")}


def _champion(at: Home, made: Pointer, what: str) -> int:
    print(f"{made.model}: version {made.version} is {what}{_served(at, made)}")
    return 0


def _begun(model: str, kind: TrialKind, found: Trials) -> str:
    trial = getattr(found, kind)
    if kind == "canary":
        return f"{model}: version {trial.version} answers {trial.share:.3g} of entities in the champion's place"
    return f"{model}: version {trial.version} scores what the champion answers; callers are given none of it"


def _told(at: Home, model: str, found: Any) -> list[str]:
    from services.shadow import progress

    how = {
        "shadow": "the shadow's records of the champion's own requests: the same rows",
        "rescored": "no records of a shadow: scored now on the features that the champion's requests were logged with",
        "canary": "the canary's answers beside the champion's: other entities, two samples",
    }
    lines = [
        f"compared on {how[found.how]}",
        f"{found.answers:,} answers of the champion, {found.pairs:,} of them paired",
    ]
    if found.how == "shadow" and found.answers > found.pairs:
        lines.append(f"{found.answers - found.pairs:,} not scored: dropped, or answered before the shadow was up")
    if (now := progress(at, model)) and now.version == found.version:
        lines.append(
            f"the shadow since {now.since[:16]}: {now.scored:,} scored, {now.dropped:,} dropped, {now.ms:.2f} ms"
        )
    if found.apart is not None:
        lines.append(f"the two differ by {found.apart:.4g} on average")
    if found.disagree is not None:
        lines.append(f"their labels differ in {found.disagree:.1%}")
    if found.canary and found.how != "canary" and found.canary.value is not None:
        c = found.canary
        lines.append(
            f"the canary's own {c.labels:,} labels: {c.value:+.4g}, interval {c.low} to {c.high} (two samples)"
        )
    return lines


def _served(at: Home, pointer: Pointer) -> str:
    """When the running service took it in; nothing when none runs."""
    from pipelines.orchestration import stack

    running = stack.status(at)
    if running is None or not running.ready:
        return ""
    began = time.monotonic()
    if _until(lambda: _generation(running.service_url, pointer.model) >= pointer.generation):
        return f", and serves since {time.monotonic() - began:.1f} s"
    return f"; the service does not serve it yet: see {running.service_url}/v1/ready"


def _generation(url: str, model: str) -> int:
    import httpx

    try:
        return int(httpx.get(f"{url}/v1/ready", timeout=2).json()["models"][model]["generation"])
    except (httpx.HTTPError, ValueError, LookupError):
        return 0


def _until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
