"""The commands about what serves: promote, rollback, approve, repair, canary, shadow, compare."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import models
from features import HeadwayError
from pipelines import promotion, trials, versions
from pipelines.cli import UNSAID
from pipelines.home import Home, home, utc
from pipelines.ledger import Ledger
from pipelines.lifecycle import as_of
from pipelines.pointers import Pointer, TrialKind, Trials, read_pointer
from pipelines.progress import step

PATIENCE = 10.0
"""Seconds that a command waits for the service to take in what it did."""


def promote(given: argparse.Namespace) -> int:
    """Make a stored version champion by hand."""
    from pipelines import package

    at, model, instant = home(), models.load(given.model), as_of(given)
    ledger = Ledger(at.ledger_url)
    body = versions.find(ledger, model.name, given.version).body
    now = read_pointer(at.pointers, model.name)
    if now is not None and now.version == given.version:
        print(f"{model.name}: version {given.version} is champion already")
        return 0
    package.load(at, body["tag"])  # what workers would refuse is not promoted
    pointer = promotion.promote(
        ledger, at.pointers, model=model.name, version=given.version, tag=body["tag"], digest=body["digest"],
        as_of=instant, actor=given.actor, why=given.why, despite_gates=given.despite_gates,
        key=f"promotion/by hand/{model.name}/{given.version}/{instant.isoformat()}",
    )  # fmt: skip
    print(f"{model.name}: version {pointer.version} is champion{_served(at, pointer)}")
    return 0


def approve(given: argparse.Namespace) -> int:
    """Approve a version that waits, and promote it."""
    at, model, instant = home(), models.load(given.model), as_of(given)
    ledger = Ledger(at.ledger_url)
    version = versions.find(ledger, model.name, given.version).body
    promotion.approve(
        ledger, model=model.name, version=given.version, as_of=instant, actor=given.actor, why=given.why,
        key=f"approval/{model.name}/{given.version}",
    )  # fmt: skip
    pointer = promotion.promote(
        ledger, at.pointers, model=model.name, version=given.version, tag=version["tag"], digest=version["digest"],
        as_of=instant, actor=given.actor, why=given.why, key=f"promotion/approved/{model.name}/{given.version}",
    )  # fmt: skip
    print(f"{model.name}: version {pointer.version} is champion{_served(at, pointer)}")
    return 0


def rollback(given: argparse.Namespace) -> int:
    """Make the version before the champion champion again."""
    at, model, instant = home(), models.load(given.model), as_of(given)
    pointer = promotion.rollback(
        Ledger(at.ledger_url), at.pointers, model=model.name, as_of=instant, actor=given.actor, why=given.why,
        key=f"rollback/{model.name}/{instant.isoformat()}",
    )  # fmt: skip
    print(f"{model.name}: version {pointer.version} is champion again{_served(at, pointer)}")
    return 0


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
    from pipelines import compare as comparing
    from pipelines import night

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
    at, model, instant = home(), models.load(given.model), as_of(given)
    ledger = Ledger(at.ledger_url)
    said: dict[str, Any] = {"kind": kind, "model": model.name, "as_of": instant, "actor": given.actor, "why": given.why}
    if given.end:
        trials.end(ledger, at.pointers, **said, key=f"{kind}/{model.name}/end/{instant.isoformat()}")
        print(f"{model.name}: the {kind} has ended")
        return 0
    champion = read_pointer(at.pointers, model.name)
    version = given.version or versions.challenger(ledger, model.name, champion.version if champion else None)
    key = f"{kind}/{model.name}/{version}/{instant.isoformat()}"
    found = trials.start(ledger, at.pointers, **said, version=version, key=key, **more)
    print(_begun(model.name, kind, found))
    print(f"see how it does: headway compare {model.name}; end it: headway {kind} {model.name} --end")
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
    from pipelines import stack

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
