"""One policy's own past: its ledger, its champions, its answers; night by night, by the steps that live nights take."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from models import Model
from monitoring import verdict
from monitoring.parity import Parity
from monitoring.profile import Profile
from monitoring.verdict import MISSING_FAULT, Verdict
from pipelines.nights import decision
from pipelines.nights.decision import DAY, Night, Seen, day_before
from pipelines.registry import package, promotion
from pipelines.registry.chain import Entry
from pipelines.registry.package import Packaged
from pipelines.registry.promotion import Pointer
from pipelines.replay.common import Common
from pipelines.replay.fits import Fitted, Order, read
from pipelines.replay.past import Past
from pipelines.replay.policies import Named, Signal, Tonight
from pipelines.replay.recall import Recalled
from pipelines.scorers.tasks import columns
from pipelines.training import retraining
from pipelines.training.retraining import Evaluation, reigning

ACTOR = "replay"
Course = Generator[Order, Fitted, None]
"""Asks for fits, and is sent them."""


class Branch:
    """What would have happened under a policy, in [first, last] of `nights`."""

    def __init__(self, past: Past, common: Common, named: Named, nights: Sequence[datetime]) -> None:
        self.past, self.common, self.named, self.nights = past.with_window(named.window), common, named, nights
        model = self.past.model
        self.model = replace(
            model, approval=named.approval is not None, monitoring=replace(model.monitoring, expected_gain=False)
        )
        self.ledger = Recalled()
        self.reigns: list[Pointer] = []
        self.orders: list[Order] = []
        self.vetoed: list[datetime] = []
        self.failed: list[tuple[datetime, str]] = []
        self.judged: dict[datetime, Verdict] = {}
        self.done = 0
        """Nights that were lived through."""
        self._champions: dict[str, Packaged] = {}
        self._pointers = tempfile.TemporaryDirectory(prefix="headway-replay-")
        self.seen = Seen(
            self.ledger, self._nights, self.past.faults, self.past.broken, self._labelled, _untold, _unexplained
        )

    def course(self) -> Course:
        """Live through all nights. The first champion is trained on the first one, and put in charge whatever it is."""
        first, *rest = self.nights
        yield from self._train(first, replace(self.model, approval=False))
        if not self.reigns and (made := self.ledger.last(self.model.name, "version")):
            self._promote(made, first, despite=True)
        for number, as_of in enumerate(rest, start=1):
            self._approve(as_of)
            yield from self._night(number, as_of)
            self.done = number + 1

    def champion(self, as_of: datetime) -> tuple[Pointer, Packaged] | None:
        """The champion that a night finds; None while there is none."""
        pointer = reigning(self.reigns, as_of)
        return (pointer, self._champions[pointer.tag]) if pointer else None

    def look(self, as_of: datetime) -> Verdict:
        """The night's verdict, kept in the ledger as live."""
        if as_of not in self.judged:
            reign = self.champion(as_of)
            assert reign is not None
            found = decision.decide(self.seen, self.model, as_of, *reign)
            key = f"verdict/{self.model.name}/{as_of.isoformat()}"
            self.ledger.append(
                "verdict", self.model.name, as_of=as_of, body=msgspec.to_builtins(found), actor="night", key=key
            )
            self.judged[as_of] = found
        return self.judged[as_of]

    def given(self, day: datetime) -> np.ndarray:
        """What callers were answered on a UTC day."""
        return self.common.given(self.reigns, day)

    def alarms(self, version: int, signal: Signal) -> list[bool]:
        """Which windows of a version's reign raised an alarm, oldest first; those of vetoed nights did not."""
        closed = [each for each in self.judged.values() if each.champion_version == version]
        return [raised(each, signal) for each in closed if verdict.alarmed(each) is not None]

    def _night(self, number: int, as_of: datetime) -> Course:
        reign = self.champion(as_of)
        if reign is None:  # no version could be trained so far
            yield from self._train(as_of)
            return
        pointer, packaged = reign
        if not self.named.blind:
            yield from self._refer(as_of, pointer)
            self.look(as_of)
        trainings = [each.as_of for each in self.ledger.entries(self.model.name, "version")]
        tonight = Tonight(
            as_of=as_of,
            number=number,
            nights=len(self.nights),
            trained=datetime.fromisoformat(packaged.manifest.trained_as_of),
            trainings=trainings,
            look=partial(self.look, as_of),
            alarms=partial(self.alarms, pointer.version),
            closed=lambda: decision.closes(self.model, pointer, as_of),
        )
        if not self.named.asks(tonight):
            return
        if (yield from self._veto(as_of, pointer)):
            self.vetoed.append(as_of)
            return
        yield from self._train(as_of)

    def _veto(self, as_of: datetime, pointer: Pointer) -> Generator[Order, Fitted, bool]:
        """Whether the night's verdict forbids training: a blind policy has it judged only if it might."""
        if self.named.blind:
            if not self._doubtful(as_of, pointer):
                return False
            yield from self._refer(as_of, pointer)
        return self.look(as_of).action == "veto"

    def _refer(self, as_of: datetime, pointer: Pointer) -> Course:
        """Have the champion's reference made once a window of its reign closes: before that, nothing asks for it."""
        if decision.closes(self.model, pointer, as_of):
            yield replace(self._order(pointer), evidence=True)

    def _order(self, pointer: Pointer) -> Order:
        return next(each for each in self.orders if each.key == self.common.key(pointer.tag))

    def _doubtful(self, as_of: datetime, pointer: Pointer) -> bool:
        """Whether something tonight could be a veto: see `verdict.decide` and `verdict.missing_faults`."""
        _, until = day_before(as_of)
        parity = self.past.parity(until - DAY, as_of)
        if self.past.faults(until - DAY, as_of) or (parity and parity.breach):
            return True
        if not decision.closes(self.model, pointer, as_of):
            return False
        days = pd.date_range(until - self.model.monitoring.window, until, freq="D", inclusive="left")
        seen = [self.common.missing(day.to_pydatetime()) for day in days]
        rows, gone = sum(count for count, _ in seen), sum(gone for _, gone in seen)
        limit = pd.Series(read(self._order(pointer)).missing) + MISSING_FAULT
        return rows > 0 and bool(gone.ge(limit * rows).any())

    def _train(self, as_of: datetime, model: Model | None = None) -> Course:
        order = Order(self.past, self.common.frames.folder.name, as_of)
        fitted = yield order
        if fitted.manifest is None:
            self.failed.append((as_of, fitted.error))
            return
        reign = self.champion(as_of)
        gates, metrics = fitted.manifest.gates, fitted.manifest.metrics
        if reign:
            gates, metrics = self.common.meet(order, fitted.manifest, reign[1])
        manifest = package.vouch(msgspec.structs.replace(fitted.manifest, gates=gates, metrics=metrics), {})
        self.orders.append(order)
        self._champions[manifest.tag] = self.common.enlist(manifest, order)
        evaluation = Evaluation(list(gates), metrics, {}, np.empty(0), manifest.scorer, manifest.scorer_note)
        asked = self.ledger.find(f"verdict/{self.model.name}/{as_of.isoformat()}")
        retraining.enter(
            self.ledger, self._folder, model or self.model, as_of, manifest, evaluation, actor=ACTOR, verdict=asked
        )
        self.reigns = promotion.reigns(self.ledger, self.model.name)

    def _approve(self, as_of: datetime) -> None:
        """Have the owner approve what has waited long enough."""
        if self.named.approval is None:
            return
        for entry in promotion.pending(self.ledger, self.model.name)[-1:]:
            if as_of - entry.as_of >= self.named.approval:
                number, key = int(entry.body["version"]), f"approval/{entry.key}"
                promotion.approve(
                    self.ledger, model=self.model.name, version=number, as_of=as_of, actor=ACTOR, why=ACTOR, key=key
                )
                self._promote(entry, as_of)

    def _promote(self, made: Entry, as_of: datetime, *, despite: bool = False) -> None:
        promotion.promote(
            self.ledger, self._folder, model=self.model.name, version=int(made.body["version"]), tag=made.body["tag"],
            digest=made.body["digest"], as_of=as_of, actor=ACTOR, why="first champion" if despite else "approved",
            key=f"promotion/{made.key}", despite_gates=despite,
        )  # fmt: skip
        self.reigns = promotion.reigns(self.ledger, self.model.name)

    @property
    def _folder(self) -> Path:
        return Path(self._pointers.name)

    def _nights(self, since: datetime, until: datetime) -> list[Night]:
        days = pd.date_range(since, until, freq="D", inclusive="left")
        return [self._found(day.to_pydatetime()) for day in days]

    def _found(self, day: datetime) -> Night:
        """What the night after a day finds: see `night.take_profile`. Profiles are looked at when a window closes, and
        until then there are no bins for them."""
        pointer = reigning(self.reigns, day + DAY)
        assert pointer is not None
        packaged, taken = self._champions[pointer.tag], Profile(0, {}, {})
        if (packaged.folder / package.REFERENCE).exists():
            taken = self.common.profile(self.reigns, day, pointer.tag, lambda: packaged.reference.bins)
        return Night(
            model=self.model.name, day=day.date().isoformat(), as_of="", version=pointer.version,
            digest=pointer.digest, degraded=0, parity=self._parity(day), labels=0,
            profile=taken,
        )  # fmt: skip

    def _parity(self, day: datetime) -> Parity | None:
        return self.past.parity(day, day + 2 * DAY)

    def _labelled(self, since: datetime, until: datetime, *, as_of: datetime) -> pd.DataFrame:
        days = [day.to_pydatetime() for day in pd.date_range(since, until, freq="D", inclusive="left")]
        asked = pd.concat([self.common.frames.day(day).rows for day in days], ignore_index=True)
        rows = self.past.labels(asked, since, until, as_of=as_of)
        answers = np.concatenate([self.given(day) for day in days])[rows["row"].to_numpy()]
        return rows.assign(**columns(self.model.classes, answers))


def raised(found: Verdict, signal: Signal) -> bool:
    """Whether a night's verdict holds this alarm; that of a vetoed night may be the fault's."""
    part = found.evidence.drift if signal == "drift" else found.evidence.relation
    return found.action != "veto" and part is not None and part.alarm


def _unexplained(as_of: datetime, pointer: Pointer, packaged: Packaged) -> None:
    """What tells a window's rows apart decides nothing: it is left out to save time."""


def _untold(as_of: datetime, packaged: Packaged) -> verdict.Gain:
    raise NotImplementedError("a replayed night does not fit the model once more to tell what that would gain")
