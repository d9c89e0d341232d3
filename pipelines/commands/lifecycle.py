"""The commands of a model's life: ingest, night, train, promote, and the ledger's story. Each is one small function."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from typing import Any

import features
import models
from features import HeadwayError
from pipelines.home import Home, home, settle, utc
from pipelines.progress import step
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger, story


def as_of(given: argparse.Namespace) -> datetime:
    """The instant a command speaks for: `--as-of`, else now."""
    return utc(given.as_of) if given.as_of else datetime.now(UTC)


def ingest(given: argparse.Namespace) -> int:
    """Ingest a domain, compute its feature tables, and bring them to serving. 1 when a batch was stopped."""
    from pipelines.nights import night
    from pipelines.store import feature_store, feature_tables

    at, instant = home(), as_of(given)
    features.load(given.domain)
    feature_store.apply(at)
    if given.history:
        with step(f"features of {given.domain} since {given.history}"):
            found = night.ingest(at, given.domain, instant)
            feature_tables.backfill(at, given.domain, utc(given.history), instant)
            night.materialize(at, given.domain, instant)
    else:
        with step(f"{given.domain} up to {instant:%Y-%m-%d %H:%M}"):
            found = night.refresh(at, given.domain, instant)
    for delivery in found:
        print(f"  {delivery.source:12} {delivery.read} rows, {delivery.kept} kept, {delivery.quarantined} quarantined")
        for sentence in (*delivery.stops, *delivery.notes):
            print(f"    {'STOPPED' if sentence in delivery.stops else 'note'}: {sentence}")
    return 1 if any(delivery.stops for delivery in found) else 0


def night(given: argparse.Namespace) -> int:
    """Run a model's night: refresh its domain, compact, check, profile, judge. 1 when the verdict is a veto."""
    from pipelines.nights import night as steps

    at, model, instant = home(), models.load(given.model), as_of(given)
    with step(f"{model.domain} up to {instant:%Y-%m-%d %H:%M}"):
        steps.refresh(at, model.domain, instant)
    with step(f"night of {model.name}"):
        verdict = steps.night(at, model, instant)
    print(verdict.sentence)
    return 1 if verdict.action == "veto" else 0


def train(given: argparse.Namespace) -> int:
    """Train a challenger and promote it if it passes its gates. 1 when it does not."""
    from pipelines.training import retraining

    at, model, instant = home(), models.load(given.model), as_of(given)
    with step(f"{model.name}: training as of {instant:%Y-%m-%d}"):
        outcome = retraining.retrain(at, model, instant, actor=given.actor)
    entry = Ledger(at.ledger_url).last(model.name, "version")
    for gate in entry.body["gates"] if entry else []:
        print(f"  {'pass' if gate['passed'] else 'FAIL'}  {gate['name']}: {gate['sentence']}")
    print(outcome.sentence)
    return 0 if outcome.promoted or outcome.waiting else 1


def history(given: argparse.Namespace) -> int:
    """Tell what happened to a model, from the ledger."""
    model = models.load(given.model)
    entries = Ledger(home().ledger_url).entries(model.name)
    for line in story(entries):
        print(line)
    if not entries:
        print(f"{model.name}: nothing yet. Train it: headway train {model.name}")
    return 0


def verify(_: argparse.Namespace) -> int:
    """Check the ledger's chain and every champion's artefact. 1 when something was changed."""
    from pipelines.registry import package

    at = home()
    try:
        count = Ledger(at.ledger_url).verify(promotion.heads(at.pointers))
        print(f"ledger: {count} entries, the chain holds")
        for name in promotion.champions(at.pointers):
            pointer = promotion.read_pointer(at.pointers, name)
            assert pointer is not None
            package.load(at, pointer.tag)
            print(f"{name}: version {pointer.version}, files and golden rows hold")
    except HeadwayError as error:
        print(error)
        return 1
    return 0


def report(given: argparse.Namespace) -> int:
    """Write the weekly page of a model and its JSON."""
    from pipelines.nights import weekly

    at, model, instant = home(), models.load(given.model), as_of(given)
    with step(f"weekly page of {model.name}"):
        path = weekly.weekly(at, model, instant, evidently=not given.quick)
    print(path)
    return 0


def show_models(_: argparse.Namespace) -> int:
    """List the declared models and their champions."""
    at = home()
    for name in models.names():
        model = models.load(name)
        pointer = promotion.read_pointer(at.pointers, name)
        live = f"version {pointer.version} since {pointer.as_of[:10]}" if pointer else "no champion yet"
        print(f"{name:20} {model.task:11} {live:28} {model.description}")
    return 0


def api_keys(given: argparse.Namespace) -> int:
    """Make an API key and show it once, list the keys, or revoke one."""
    from services import keys

    path = home().keys
    if given.action == "list":
        for key in keys.list_keys(path):
            rate = key.rate or "no rate of its own"
            print(f"{key.name:20} {', '.join(key.models) if key.models else 'all models':30} {rate}")
        return 0
    if not given.name:
        raise HeadwayError(f"whose key? headway keys {given.action} NAME")
    if given.action == "make":
        opens = [models.load(model).name for model in given.model] if given.model else None
        print(keys.make(path, given.name, opens, _rate(given)))
    else:
        keys.revoke(path, given.name)
        print(f"revoked {given.name}")
    return 0


def _rate(given: argparse.Namespace) -> Any:
    from services import rates

    if given.rate is not None:
        return rates.parse(given.rate, given.burst)
    if given.burst is not None:
        raise HeadwayError("--burst goes with --rate, such as --rate 100/s --burst 200")
    return None


def demo(given: argparse.Namespace) -> int:
    """Run the demo on a root of its own, below the usual one."""
    at = Home(home().root / "demo")
    settle(at)
    from pipelines.commands import demo as played

    return played.run(at, keep=given.keep)


def predict(given: argparse.Namespace) -> int:
    """Ask the running service: the body is JSON, the answer is printed as JSON. 1 when the service refuses it."""
    import httpx

    models.load(given.model)
    key = os.environ.get("HEADWAY_API_KEY", "")
    try:
        answer = httpx.post(
            f"{given.url}/v1/models/{given.model}/predict",
            content=given.body,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            timeout=30,
        )
        print(json.dumps(answer.json(), indent=2))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise HeadwayError(
            f"no prediction service answers at {given.url} ({error}). Start it with `headway up`, or say where it is "
            "with --url: `headway status` tells."
        ) from None
    return 0 if answer.is_success else 1
