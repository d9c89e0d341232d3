"""The demo: past nights replayed against the real parts, by the same steps as live.

A stack (Prefect's server and worker, the service) runs beside it. Each day's examples are asked for at the endpoint
over HTTP as of their decision times, between the refreshes that feature tables had; each night is checked by flows.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pandas as pd

import features
import models
from features import Domain, HeadwayError
from models import Model
from pipelines.commands.asking import Caller
from pipelines.home import PROJECT, Home, utc
from pipelines.nights import night
from pipelines.orchestration.stack import Stack, deploy
from pipelines.progress import console, step
from pipelines.registry.ledger import Ledger
from pipelines.registry.promotion import Pointer, read_pointer
from pipelines.store import feature_store, feature_tables
from pipelines.training import retraining
from services import keys

CHECKED_AT = timedelta(minutes=30)
"""After midnight UTC: when the nightly check of the demo runs."""
INSTANT = timedelta(microseconds=1)
PATIENCE = 120.0
"""Seconds to wait for the retraining that the trigger started, and for the service to swap."""


class Fault(msgspec.Struct, frozen=True):
    """One delivery that is spoiled: the numbers of a column come multiplied by a factor."""

    source: str
    column: str
    factor: float
    tick: str


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is replayed: `[tool.headway.demo]` of `pyproject.toml`."""

    domain: str
    models: tuple[str, ...]
    history_since: str
    start: str
    nights: int
    fault: Fault


class Told(msgspec.Struct, frozen=True):
    """What happened, for the summary."""

    night: str
    model: str
    sentence: str


def script() -> Script:
    """The script in `pyproject.toml`. Raises HeadwayError naming the field that is wrong."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    try:
        return msgspec.convert(settings["tool"]["headway"]["demo"], Script)
    except (KeyError, msgspec.ValidationError) as error:
        raise HeadwayError(
            f"pyproject.toml, [tool.headway.demo]: {error}. It needs: {Script.__struct_fields__}"
        ) from None


class Demo:
    """One run of the script on a root of its own."""

    def __init__(self, at: Home, script: Script) -> None:
        self.at, self.script = at, script
        self.domain = features.load(script.domain)
        self.models = [models.load(name) for name in script.models]
        self.start = utc(script.start)
        self.lag = max(table.lag for table in self.domain.tables)
        self.told: list[Told] = []

    def history(self) -> None:
        """Ingest what happened before the first night, and train the first champions."""
        with step(f"ingest and check everything known by {self.start:%d %B %Y}"):
            found = night.ingest(self.at, self.domain.name, self.start)
        for delivery in found:
            console.print(
                f"          {delivery.source}: {delivery.kept:,} rows kept, {delivery.quarantined} quarantined"
            )
        with step("compute the feature tables at every tick of their cadence"):
            feature_tables.backfill(self.at, self.domain.name, utc(self.script.history_since), self.start)
        with step("bring the features to the online store"):
            feature_store.apply(self.at)
            night.materialize(self.at, self.domain.name, self.start)
        for model in self.models:
            with step(f"{model.name}: train, judge, package, promote"):
                outcome = retraining.retrain(self.at, model, self.start, actor="demo")
            console.print(f"          {outcome.sentence}")
            if not outcome.promoted:
                raise HeadwayError(f"{model.name}: the first champion did not pass its gates: {outcome.sentence}")

    def nights(self, caller: Caller) -> None:
        """Live through the days and nights of the script."""
        for number in range(self.script.nights):
            day = self.start + number * timedelta(days=1)
            with step(f"{day:%a %d %B}: requests, deliveries, checks"):
                asked = self._day(caller, day)
                verdicts = [self._check(model, day + timedelta(days=1)) for model in self.models]
            console.print(f"          {asked:,} predictions")
            for model, verdict in zip(self.models, verdicts, strict=True):
                self.told.append(Told(f"{day:%a %d %b}", model.name, verdict.sentence))
                console.print(f"          {model.name}: {verdict.sentence}")
            for model, verdict in zip(self.models, verdicts, strict=True):
                if verdict.action == "retrain":
                    self._retrained(caller, model, day + timedelta(days=1))

    def _day(self, caller: Caller, day: datetime) -> int:
        """Ask and refresh, in the order of the clock; returns how many predictions were made."""
        asked, tick = 0, day
        while tick < day + timedelta(days=1):
            following = tick + self.domain.cadence
            for model in self.models:
                # What is decided at the very instant that a snapshot becomes visible sees it already.
                seen = (moment + self.lag - INSTANT for moment in (tick, following))
                asked += caller.ask(self.at, model, *seen, known_by=tick)
            with self._spoiled(following):
                night.refresh(self.at, self.domain.name, following)
            tick = following
        return asked

    def _check(self, model: Model, midnight: datetime) -> Any:
        from pipelines.orchestration.flows import check_flow

        return check_flow(model.name, (midnight + CHECKED_AT).isoformat())

    def _retrained(self, caller: Caller, model: Model, midnight: datetime) -> None:
        """Wait until the retraining that the event triggered has ended, and the service serves its outcome."""
        before = read_pointer(self.at.pointers, model.name)
        assert before is not None
        with step(f"{model.name}: Prefect's trigger starts the retraining, the service swaps"):
            self._await(lambda: self._acted(model, midnight), f"the retraining of {model.name}")
            after = read_pointer(self.at.pointers, model.name)
            assert after is not None
            self._await(lambda: caller.generation(model.name) == after.generation, "the service to swap")
        self.told.append(Told("", model.name, self._swapped(model, before, after)))
        console.print(f"          {self.told[-1].sentence}")

    def _acted(self, model: Model, midnight: datetime) -> bool:
        versions = Ledger(self.at.ledger_url).entries(model.name, "version")
        if not versions or versions[-1].as_of < midnight:
            return False
        body = versions[-1].body
        pointer = read_pointer(self.at.pointers, model.name)
        refused = not body["passed"] or body["awaiting_approval"]
        return refused or (pointer is not None and pointer.version == body["version"])

    def _swapped(self, model: Model, before: Pointer, after: Pointer) -> str:
        latest = Ledger(self.at.ledger_url).entries(model.name, "version")[-1]
        if after.generation == before.generation:
            return f"{latest.body['sentence']}: version {before.version} goes on serving"
        return (
            f"{latest.body['sentence']}; the running service swapped from version {before.version} to {after.version}"
        )

    @contextlib.contextmanager
    def _spoiled(self, tick: datetime) -> Iterator[None]:
        """The feed, not the platform, is tampered with: the domain's declaration reads a spoiled delivery."""
        fault = self.script.fault
        if tick != utc(fault.tick):
            yield
            return
        sources = tuple(_spoil(s, fault) if s.name == fault.source else s for s in self.domain.sources)
        module = importlib.import_module(f"features.{self.domain.name}")
        name = next(name for name, value in vars(module).items() if isinstance(value, Domain))
        setattr(module, name, replace(self.domain, sources=sources))
        try:
            yield
        finally:
            setattr(module, name, self.domain)

    def _await(self, there: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not there():
            if time.monotonic() > deadline:
                raise HeadwayError(f"waited {PATIENCE:.0f} s for {what}. See {self.at.logs} and `headway doctor`.")
            time.sleep(0.3)


def run(at: Home, *, keep: bool) -> int:
    """Run the demo on a fresh root; with `keep` the stack goes on running until interrupted."""
    began = time.monotonic()
    shutil.rmtree(at.root, ignore_errors=True)
    at.root.mkdir(parents=True, mode=0o700)
    demo = Demo(at, script())
    key = keys.make(at.keys, "demo")
    stack = Stack(at, extra={"HEADWAY_CLOCK": "request"})
    with contextlib.ExitStack() as ending:
        ending.callback(stack.stop)
        stack.start()
        demo.history()
        with step("Prefect's server and worker, the service (started meanwhile)"):
            stack.wait()
        os.environ.update(stack.environment, PREFECT_LOGGING_LEVEL="WARNING")
        # The schedules go by the real clock, and these nights are long past: only the trigger is deployed.
        with step("prefect deploy: retraining, with its event trigger"):
            deploy(stack.environment, "retrain-*")
        with Caller(stack.service_url, key) as caller:
            demo.nights(caller)
        pages = _pages(demo)
        _summary(demo, stack, key, pages, time.monotonic() - began, keep=keep)
        if keep:
            _wait()
    return 0


def _pages(demo: Demo) -> list[str]:
    from pipelines.nights.weekly import weekly

    until = demo.start + demo.script.nights * timedelta(days=1) + CHECKED_AT
    pages = []
    for model in demo.models:
        with step(f"{model.name}: the weekly page and Evidently's report"):
            pages.append(str(weekly(demo.at, model, until)))
    return pages


def _summary(demo: Demo, stack: Stack, key: str, pages: list[str], seconds: float, *, keep: bool) -> None:
    from pipelines.nights.quality import quality

    console.rule("what happened")
    for told in demo.told:
        if not told.sentence.startswith("Nothing to do"):
            console.print(f"{told.night:12} {told.model}: {told.sentence}")
    until = demo.start + demo.script.nights * timedelta(days=1) + CHECKED_AT
    for model in demo.models:
        console.print(f"\n{model.name} ({model.metric}), by week as served:")
        for week in quality(demo.at, model, until):
            if week.value is None or week.low is None or week.high is None:
                continue
            low, high = sorted((abs(week.low), abs(week.high)))
            console.print(
                f"  week of {week.week}: {abs(week.value):.3f}, interval {low:.3f} to {high:.3f}, "
                f"{week.labels:,} labels ({week.maturity:.0%} in), version {week.version} at its end"
            )
    console.print("\npages (open in a browser):")
    for page in pages:
        console.print(f"  {page}")
    root = os.path.relpath(demo.at.root)
    console.print(f"\ndone in {seconds:.0f} s. Try next:")
    console.print(f"  HEADWAY_HOME={root} .venv/bin/headway history {demo.models[0].name}")
    console.print(f"  HEADWAY_HOME={root} .venv/bin/headway verify")
    if keep:
        console.print(f"\nservice  {stack.service_url}/v1/docs   key: {key}")
        console.print(f"Prefect  {stack.prefect_url}   user and password: {demo.at.prefect / 'auth'}")
        console.print("Ctrl-C ends the stack.")
    else:
        console.print("  .venv/bin/headway demo --keep   plays it again, and leaves the stack running to look at")


def _wait() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def _spoil(source: features.Source, fault: Fault) -> features.Source:
    def read(since: datetime, until: datetime) -> pd.DataFrame:
        rows = source.read(since, until)
        return rows.assign(**{fault.column: rows[fault.column] * fault.factor})

    return replace(source, read=read)
