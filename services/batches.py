"""Micro-batches: calls that wait at the same time are answered in one pass.

Nobody waits for a batch to fill: whatever is there when the event loop comes round is one. With one caller that is
one call; with many, one read of each feature table and one pass of the scorer serve them all. Measured with five
tables: a call costs 0.22 ms alone and 0.03 ms in a batch of 32. A batch is bounded, so that between two of them the
event loop reads, sends and takes in new connections (uvloop accepts one each time round).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.asked import Answered, Asked

if TYPE_CHECKING:
    from services.champion import Served

MOST_INSTANCES = 32
"""In a batch: about a millisecond."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    served: Served
    asked: Asked
    done: asyncio.Future[Answered]


class Batches:
    """The calls that wait, oldest first. For the event loop's thread only."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    async def answer(self, served: Served, asked: Asked) -> Answered:
        """What `served` answers, within the next batches. Raises what answering this call raises."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._next)
        waiting = _Waiting(served, asked, loop.create_future())
        self._waiting.append(waiting)
        return await waiting.done

    def _next(self) -> None:
        """Answer the oldest call, and with it those that wait for the same version, as many as a batch may hold."""
        served, room = self._waiting[0].served, MOST_INSTANCES
        batch: list[_Waiting] = []
        rest: list[_Waiting] = []
        for waiting in self._waiting:
            fits = waiting.served is served and (not batch or len(waiting.asked.call) <= room)
            (batch if fits else rest).append(waiting)
            room -= len(waiting.asked.call) if fits else 0
        self._waiting = rest
        if rest:
            asyncio.get_running_loop().call_soon(self._next)
        _answer(served, batch)


def _answer(served: Served, batch: list[_Waiting]) -> None:
    try:
        answers = served.answer([waiting.asked for waiting in batch])
    except Exception as error:
        if len(batch) > 1:  # one of them is at fault: each by itself, so that it harms nobody else
            for waiting in batch:
                _answer(served, [waiting])
        elif not batch[0].done.done():
            batch[0].done.set_exception(error)
        return
    for waiting, answered in zip(batch, answers, strict=True):
        if not waiting.done.done():
            waiting.done.set_result(answered)
