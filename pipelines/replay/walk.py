"""Walking the past: all policies side by side, each waiting for its own fits, each fit made once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace
from datetime import datetime
from typing import Any

from features import HeadwayError
from pipelines.nights.decision import DAY, midnight
from pipelines.progress import Told
from pipelines.replay.branch import Branch, Course
from pipelines.replay.common import Common
from pipelines.replay.fits import Fitted, Order, order, read
from pipelines.replay.frames import CHUNK, Frames
from pipelines.replay.past import Past
from pipelines.replay.policies import Named
from pipelines.replay.pool import Here


def build(past: Past, frames: Frames, since: datetime, until: datetime, executor: Executor, told: Told) -> None:
    """Build the frames that a replay of [since, until] needs, its trainings among it."""
    days = frames.missing(past.model.examples.matured(since) - past.model.training_window, midnight(until))
    size = CHUNK // DAY
    chunks = [days[start : start + size] for start in range(0, len(days), size)]
    futures = [executor.submit(_built, past, frames.folder.name, chunk) for chunk in chunks]
    for number, future in enumerate(futures):
        told("point-in-time frames", number, len(chunks))
        future.result()


def walk(
    past: Past, common: Common, policies: Sequence[Named], nights: Sequence[datetime], executor: Executor, told: Told
) -> list[Branch]:
    """What would have happened under each policy.

    Raises HeadwayError when no first champion can be trained.
    """
    if len(nights) < 2:
        raise HeadwayError(f"{past.model.name}: there is no night between the two instants. Replay a longer time.")
    branches = [Branch(past, common, policy, nights) for policy in policies]
    _Walk(branches, executor, told).run()
    if lost := [branch for branch in branches if not branch.reigns]:
        as_of, why = lost[0].failed[0]
        raise HeadwayError(f"no first champion as of {as_of:%Y-%m-%d}: {why}")
    return branches


class _Walk:
    def __init__(self, branches: Sequence[Branch], executor: Executor, told: Told) -> None:
        self.branches, self.executor, self.told = branches, executor, told
        self.running: dict[tuple[str, bool], Future[Fitted]] = {}
        self.waiting: list[tuple[Branch, Course, Order]] = []

    def run(self) -> None:
        for branch in self.branches:
            self._advance(branch, branch.course(), None)
        while self.waiting:
            wait({self._future(asked) for _, _, asked in self.waiting}, return_when=FIRST_COMPLETED)
            still, self.waiting = self.waiting, []
            for branch, course, asked in still:
                future = self._future(asked)
                if future.done() and future.result() and asked.done:
                    self._advance(branch, course, read(asked))
                else:
                    self.waiting.append((branch, course, asked))
            self._tell()
        for future in self.running.values():
            future.cancel()

    def _advance(self, branch: Branch, course: Course, fitted: Fitted | None) -> None:
        """Let a policy live on until it has to wait for a fit, or has come to its end."""
        try:
            while True:
                asked = next(course) if fitted is None else course.send(fitted)
                if not asked.done:
                    break
                fitted = read(asked)
        except StopIteration:
            return
        self.waiting.append((branch, course, asked))
        self._future(asked)
        self._ahead(branch, asked)

    def _future(self, asked: Order) -> Future[Fitted]:
        """What runs for an order: itself, or the same fit as another policy wants it, while that runs."""
        key, other = (asked.key, asked.evidence), (asked.key, not asked.evidence)
        beside = self.running.get(other)
        if key not in self.running and beside is not None and not (asked.evidence and beside.done()):
            return beside
        if key not in self.running:
            self.running[key] = self.executor.submit(order, asked)
        return self.running[key]

    def _ahead(self, branch: Branch, asked: Order) -> None:
        """A calendar tells its next training: it is fitted meanwhile, that no core waits for another."""
        every = branch.named.every
        if every is None or isinstance(self.executor, Here):
            return
        due = [night for night in branch.nights if midnight(night) - midnight(asked.as_of) == every]
        for night in due:
            following = replace(asked, as_of=night)
            if not following.done:
                self._future(following)

    def _tell(self) -> None:
        nights = sum(len(branch.nights) for branch in self.branches)
        self.told("nights of all policies", sum(branch.done for branch in self.branches), nights)


def _built(past: Past, name: str, days: Sequence[datetime]) -> Any:
    Frames(past, name).build(days)
