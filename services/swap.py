"""The champions, as one worker serves them: watched, checked in a thread, swapped by replacing one reference.

A request takes the reference once and works with that version to its end. Whatever is wrong with a new version or
its pointer, the old one goes on serving, and health says what was refused and why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from feast import FeatureStore

import expectations
import features
import models
from features import HeadwayError
from pipelines import package
from pipelines.feature_store import open_store
from pipelines.home import Home
from pipelines.pointers import Pointer, champions, pointer_path, read_pointer
from services.champion import Served
from services.lookup import Lookup
from services.report import report
from services.schema import RequestSchema

POLL_SECONDS = 0.2
RETRY_SECONDS = 30.0
"""A version that was refused is tried again this often: what it lacked may have been put right."""

Mark = tuple[int, int, int] | None


@dataclass(frozen=True)
class Refusal:
    """A pointer that did not come to serve."""

    at: datetime
    why: str


class Champions:
    """What this worker serves. `served` and `refusals` are replaced, never changed.

    Args:
        at: the root.
        request_clock: whether requests may carry `as_of`.
        now: the clock, for `since` and for the time of refusals.
    """

    def __init__(self, at: Home, *, request_clock: bool, now: Callable[[], datetime]) -> None:
        self._at, self._request_clock, self._now = at, request_clock, now
        self.served: Mapping[str, Served] = MappingProxyType({})
        self.refusals: Mapping[str, Refusal] = MappingProxyType({})
        self._marks: dict[str, Mark] = {}
        self._tried: dict[str, float] = {}
        self._store: FeatureStore | None = None

    async def watch(self) -> None:
        """Follow the pointers until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Take in every pointer that changed since the last look."""
        folder = self._at.pointers
        with suppress(OSError):
            for model in {*champions(folder), *self._marks}:
                mark = _mark(pointer_path(folder, model))
                again = model in self.refusals and time.monotonic() - self._tried[model] > RETRY_SECONDS
                if mark != self._marks.get(model) or again:
                    self._marks[model] = mark
                    self._tried[model] = time.monotonic()
                    await self._take(model)

    async def _take(self, model: str) -> None:
        try:
            new = await asyncio.to_thread(self._load, model)
        except Exception as error:  # whatever it is, what serves now keeps serving
            self._refuse(model, str(error) if isinstance(error, HeadwayError) else f"{type(error).__name__}: {error}")
            return
        self.served = MappingProxyType({**self.served, model: new})
        self.refusals = MappingProxyType({name: why for name, why in self.refusals.items() if name != model})
        report("swapped", model=model, version=new.pointer.version, generation=new.pointer.generation)

    def _refuse(self, model: str, why: str) -> None:
        known = self.refusals.get(model)
        if known is None or known.why != why:
            report("refused", level="error", model=model, why=why)
        self.refusals = MappingProxyType({**self.refusals, model: Refusal(self._now(), why)})

    def _load(self, model: str) -> Served:
        pointer = read_pointer(self._at.pointers, model)
        if pointer is None:
            raise HeadwayError(f"the pointer of {model} is gone. `headway repair {model}` writes it again.")
        old = self.served.get(model)
        if old is not None and (old.pointer.tag, old.pointer.digest) == (pointer.tag, pointer.digest):
            packaged = old.packaged
        else:
            packaged = package.load(self._at, pointer.tag)
        if (packaged.manifest.model, packaged.manifest.digest) != (model, pointer.digest):
            raise HeadwayError(
                f"{pointer.tag} is not the version that the pointer of {model} names. The champion stays."
            )
        return self._assemble(pointer, packaged)

    def _fresh_store(self) -> FeatureStore:
        """Feast, as the registry is now; one for all versions."""
        if self._store is None:
            self._store = open_store(self._at)
        else:
            self._store.refresh_registry()
        return self._store

    def _assemble(self, pointer: Pointer, packaged: package.Packaged) -> Served:
        manifest = packaged.manifest
        declared, domain = models.load(manifest.model), features.load(manifest.domain)
        computed = domain.request_features_of(manifest.feature_service)
        lookup = Lookup(self._fresh_store(), manifest, computed)
        lookup.check()
        schema = RequestSchema(
            manifest.model,
            manifest.keys,
            manifest.inputs,
            required=[name for part in computed for name in part.inputs],
            rules=_rules(declared),
            clock=self._request_clock,
        )
        return Served(pointer, packaged, schema, lookup, declared.description, self._now())


def _rules(model: models.Model) -> list[expectations.Rule]:
    """The rules on the sources that examples are made from: a request's fields are columns of those."""
    if model.domain not in expectations.names():
        return []
    suites = {suite.source: suite for suite in expectations.load(model.domain).suites}
    return [rule for source in model.examples.sources if source in suites for rule in suites[source].rules]


def _mark(path: Path) -> Mark:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
