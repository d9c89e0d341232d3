"""What a worker counts while it serves, for `/metrics` and, by day, for the weekly page.

Counting is an addition to a dictionary, in the event loop's thread only: 1 us a request, where prometheus_client's
own multi-process counters take 10. Every two seconds, before a scrape and at the end, what was counted since is
added to two small files (`services.figure_files`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import date, datetime

from pipelines.home import Home
from services.figure_files import NO_DAY, Files, Now, Worker
from services.tallies import Tally

TICK_SECONDS = 2.0


class Figures:
    """The figures of one worker.

    Args:
        at: the root.
        worker: a name that no other worker has or had.
        clock: the server's clock; None when requests carry the clock: then the latest decision time tells the day.
        now: how the worker is; asked for whenever files are written.
    """

    def __init__(
        self, at: Home, worker: str, clock: Callable[[], datetime] | None, now: Callable[[], Now] = Now
    ) -> None:
        self._files = Files(at, worker)
        self._clock, self._now = clock, now
        self._ordinal, self._day = 0, NO_DAY
        self._fresh: dict[str, Tally] = {}
        self._cpu = time.process_time()
        self._turn()

    def answered(self, route: str, model: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is its template, `model` one that is served, or empty."""
        self._tally.time(("request", route, model, str(status)), seconds)

    def refused(self, model: str, code: str) -> None:
        """A request was refused with this code of ours ("overloaded", "too_many", ...)."""
        self._tally.count(("refused", model, code))

    def predicted(
        self, model: str, version: int, instances: int, degraded: int, decision_time: datetime, role: str = "champion"
    ) -> None:
        """A call was answered: so many instances, for so many of which a default stood in for some feature.

        Call it before `answered`: what follows is counted on the UTC day of `decision_time`.
        """
        if (ordinal := decision_time.toordinal()) != self._ordinal:
            self._turn(ordinal)
        self._tally.count(("predictions", model, role, str(version)), instances)
        if degraded:
            self._tally.count(("degraded", model), degraded)

    def canary_failed(self, model: str) -> None:
        """A canary could not answer a call, and the champion did."""
        self._tally.count(("canary_failures", model))

    def committed(self, seconds: float, failed: bool = False) -> None:
        """The log made a batch durable, or failed to."""
        if failed:
            self._tally.count(("log_failures",))
        else:
            self._tally.time(("commit",), seconds)

    def swapped(self, model: str, outcome: str) -> None:
        """A champion was "loaded" for the first time, "swapped" for another, or "refused"."""
        self._tally.count(("swaps", model, outcome))

    async def watch(self) -> None:
        """Write what was counted every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self.write()

    async def write(self, *, last: bool = False) -> None:
        """Write what was counted since the last time; `last` says that the worker ends."""
        fresh, self._fresh = self._fresh, {}
        self._turn()
        self._spread_cpu(fresh)
        await asyncio.to_thread(self._files.write, fresh, self._day, None if last else self._now())

    async def workers(self) -> list[Worker]:
        """All workers of this service, dead ones too, this one as it is this moment."""
        await self.write()
        return await asyncio.to_thread(self._files.workers)

    def _turn(self, ordinal: int | None = None) -> None:
        """From now on count on the day with this ordinal; by default the clock's, or without one the same as before."""
        if ordinal is None:
            ordinal = self._clock().toordinal() if self._clock else self._ordinal
        if ordinal != self._ordinal:
            self._ordinal, self._day = ordinal, date.fromordinal(ordinal).isoformat()
        self._tally = self._fresh.setdefault(self._day, Tally())

    def _spread_cpu(self, fresh: dict[str, Tally]) -> None:
        """The process's CPU seconds since the last time go to the days of the requests, by their number."""
        spent, self._cpu = time.process_time() - self._cpu, time.process_time()
        weights = {day: sum(timing.count for timing in tally.timings.values()) for day, tally in fresh.items()}
        if not any(weights.values()):
            weights = {self._day: 1}
        for day, weight in weights.items():
            fresh.setdefault(day, Tally()).count(("cpu",), spent * weight / sum(weights.values()))
