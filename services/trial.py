"""Trials, as a worker serves them: whose calls a canary answers, and what becomes of it when it cannot.

Whose calls: the entity keys of the call's first instance are hashed with the model's name and the version's digest,
and the canary answers where the hash, as a number in [0, 1), lies below its share. So an entity is always answered by
the same version, on every worker and after every restart; a larger share keeps those that it had and adds others; and
two versions, or two models, try themselves on different entities.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec

from features import HeadwayError
from pipelines.home import Home
from pipelines.registry.package import Packaged
from pipelines.registry.pointers import Pointer, Trial, Trials, read_trials, trials_path
from services.answers import iso
from services.assembly import Assembly
from services.champion import Served
from services.report import report
from services.schema import Call
from services.shadow import progress
from services.watched import Refusal, Watched, having, why


@dataclass(frozen=True)
class Canary:
    """A version that answers the calls of a share of entities in the champion's place."""

    served: Served
    share: float

    def takes(self, call: Call) -> bool:
        """Whether it answers this call."""
        salt = (self.served.pointer.model, self.served.pointer.digest)
        return place(salt, [call.columns[name][0] for name in self._names]) < self.share

    @cached_property
    def _names(self) -> list[str]:
        """The columns that are hashed. A model without entities tries its canary on a share of inputs."""
        manifest = self.served.packaged.manifest
        return sorted(manifest.keys or manifest.inputs)


@dataclass(frozen=True)
class OnTrial:
    """The trials of a model. Never changed: others are another one of these. A canary that was refused is None."""

    trials: Trials
    canary: Canary | None = None


@dataclass(frozen=True)
class Failures:
    """Calls that a canary could not answer, so that the champion did: how many, and the last reason."""

    count: int
    why: str


class Challengers:
    """The trials that this worker takes part in. The mappings, by model, are replaced, never changed.

    Args:
        at: the root.
        assembly: makes what serves.
        now: the clock, for the time of refusals.
    """

    def __init__(self, at: Home, assembly: Assembly, now: Callable[[], datetime]) -> None:
        self._folder, self._assembly, self._now = at.pointers, assembly, now
        self.running: Mapping[str, OnTrial] = MappingProxyType({})
        self.refusals: Mapping[str, Refusal] = MappingProxyType({})
        self.failures: Mapping[str, Failures] = MappingProxyType({})
        self._watched, self._counting = Watched(), threading.Lock()

    async def refresh(self, champion: Served, *, swapped: bool) -> None:
        """Take in a model's trials if their file changed, or its champion did."""
        model = champion.pointer.model
        if not self._watched.due(trials_path(self._folder, model), refused=model in self.refusals) and not swapped:
            return
        before = now = self.running.get(model)
        try:
            found = read_trials(self._folder, model)  # a damaged file leaves what runs as it is
            now = OnTrial(found) if found and trials_of(found) else None
            if found and found.canary and found.canary.digest != champion.pointer.digest:
                now = OnTrial(found, await asyncio.to_thread(self._load, champion, found.canary))
            self.refusals = having(self.refusals, model, None)
        except Exception as error:  # whatever it is, the champion answers
            self._refuse(model, error)
        self._take(model, before, now)

    def canary(self, champion: Served, call: Call) -> Served | None:
        """The canary, if it is to answer this call in the champion's place."""
        trial = self.running.get(champion.pointer.model)
        return trial.canary.served if trial and trial.canary and trial.canary.takes(call) else None

    @property
    def shadowed(self) -> bool:
        """Whether some model has a shadow."""
        return any(trial.trials.shadow for trial in self.running.values())

    def loaded(self, model: str) -> Packaged | None:
        """The artefact of a model's canary: loaded already, should it become champion."""
        trial = self.running.get(model)
        return trial.canary.served.packaged if trial and trial.canary else None

    def failed(self, canary: Served, error: Exception) -> None:
        """Count a call that the canary could not answer. From any thread."""
        model, kind = canary.pointer.model, type(error).__name__
        with self._counting:
            known = self.failures.get(model)
            self.failures = having(self.failures, model, Failures(known.count + 1 if known else 1, kind))
        if known is None:
            report("canary_failed", level="error", model=model, version=canary.pointer.version, error=kind)

    def _take(self, model: str, before: OnTrial | None, now: OnTrial | None) -> None:
        old, new = (each.trials if each else None for each in (before, now))
        if (old and old.canary) != (new and new.canary):
            self.failures = having(self.failures, model, None)
        self.running = having(self.running, model, now)
        if old != new:
            report("trials", model=model, running={kind: trial.version for kind, trial in trials_of(new).items()})

    def _refuse(self, model: str, error: Exception) -> None:
        known, said = self.refusals.get(model), why(error)
        if known is None or known.why != said:
            report("refused", level="error", model=model, trial="canary", why=said)
        self.refusals = having(self.refusals, model, Refusal(self._now(), said))

    def _load(self, champion: Served, trial: Trial) -> Canary:
        if trial.share is None:
            raise HeadwayError(f"the canary of {champion.pointer.model} has no share: end it, and begin it again.")
        pointer = Pointer(
            champion.pointer.model, trial.version, trial.tag, trial.digest, champion.pointer.generation, trial.as_of,
            trial.ledger,
        )  # fmt: skip
        served = self._assembly.make(pointer, "canary", self.loaded(pointer.model))
        check_request(served, champion)
        return Canary(served, trial.share)


def shown(at: Home, challengers: Challengers, model: str) -> dict[str, Any]:
    """The running trials of a model as health and its own page tell them; empty when there are none."""
    running = challengers.running.get(model)
    told: dict[str, Any] = {
        kind: {"version": trial.version, "since": trial.as_of, **({"share": trial.share} if trial.share else {})}
        for kind, trial in trials_of(running.trials if running else None).items()
    }
    if "canary" in told:
        failures = challengers.failures.get(model)
        told["canary"] |= {"failed": failures.count, "why": failures.why} if failures else {"failed": 0}
    if running and running.trials.shadow:
        now = progress(at, model)
        current = now is not None and now.ledger == running.trials.shadow.ledger
        counted = ("scored", "dropped", "failed", "waiting", "ms", "why")
        told["shadow"] |= {name: getattr(now, name) for name in counted} if current else {"why": "not started yet"}
    if refusal := challengers.refusals.get(model):
        told["refused"] = {"at": iso(refusal.at), "why": refusal.why}
    return told


def trials_of(trials: Trials | None) -> dict[str, Trial]:
    """The running trials by their kind."""
    both = {"canary": trials.canary, "shadow": trials.shadow} if trials else {}
    return {kind: trial for kind, trial in both.items() if trial}


def place(salt: tuple[str, str], keys: Sequence[Any]) -> float:
    """Where keys fall in [0, 1): uniformly over keys, independently for each salt."""
    digest = hashlib.blake2b(msgspec.json.encode([*salt, *keys]), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def check_request(canary: Served, champion: Served) -> None:
    """Raise HeadwayError unless the calls that the champion takes say all that the canary needs."""
    ours, theirs = ({**s.packaged.manifest.keys, **s.packaged.manifest.inputs} for s in (canary, champion))
    if other := sorted(name for name, dtype in ours.items() if theirs.get(name) != dtype):
        raise HeadwayError(
            f"version {canary.pointer.version} needs {', '.join(other)} in a request, which calls to the champion do "
            "not send. It cannot be tried beside this champion: promote it when callers send what it needs."
        )
