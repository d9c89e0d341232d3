"""The champions, as one worker serves them: watched, checked in a thread, swapped by replacing one reference.

A request takes the reference once and works with that version to its end. Whatever is wrong with a new version or
its pointer, the old one goes on serving, and health says what was refused and why. Trials are followed beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType

from features import HeadwayError
from pipelines.home import Home
from pipelines.registry.pointers import champions, pointer_path, read_pointer
from services.assembly import Assembly
from services.champion import Served
from services.report import report
from services.trial import Challengers
from services.watched import Refusal, Watched, having, why

POLL_SECONDS = 0.2


class Champions:
    """What this worker serves. `served` and `refusals` are replaced, never changed.

    Args:
        at: the root.
        request_clock: whether requests may carry `as_of`.
        now: the clock, for `since` and for the time of refusals.
        told: of every champion that was "loaded", "swapped" in or "refused": the model, and which.
    """

    def __init__(
        self,
        at: Home,
        *,
        request_clock: bool,
        now: Callable[[], datetime],
        told: Callable[[str, str], None] = lambda model, outcome: None,
    ) -> None:
        self._told = told
        self._folder, self._now = at.pointers, now
        self._assembly, self._watched = Assembly(at, request_clock=request_clock, now=now), Watched()
        self.challengers = Challengers(at, self._assembly, now)
        self.served: Mapping[str, Served] = MappingProxyType({})
        self.refusals: Mapping[str, Refusal] = MappingProxyType({})

    async def watch(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Take in every pointer, and the trials beside it, that changed since the last look."""
        with suppress(OSError):
            for model in sorted({*champions(self._folder), *self.served, *self.refusals}):
                changed = self._watched.due(pointer_path(self._folder, model), refused=model in self.refusals)
                swapped = changed and await self._take(model)
                if model in self.served:
                    await self.challengers.refresh(self.served[model], swapped=swapped)

    async def _take(self, model: str) -> bool:
        try:
            new = await asyncio.to_thread(self._load, model)
        except Exception as error:  # whatever it is, what serves now keeps serving
            self._refuse(model, why(error))
            return False
        self._told(model, "swapped" if model in self.served else "loaded")
        self.served, self.refusals = having(self.served, model, new), having(self.refusals, model, None)
        report("swapped", model=model, version=new.pointer.version, generation=new.pointer.generation)
        return True

    def _refuse(self, model: str, said: str) -> None:
        known = self.refusals.get(model)
        if known is None or known.why != said:
            report("refused", level="error", model=model, why=said)
            self._told(model, "refused")
        self.refusals = having(self.refusals, model, Refusal(self._now(), said))

    def _load(self, model: str) -> Served:
        pointer = read_pointer(self._folder, model)
        if pointer is None:
            raise HeadwayError(f"the pointer of {model} is gone. `headway repair {model}` writes it again.")
        now, canary = self.served.get(model), self.challengers.loaded(model)
        return self._assembly.make(pointer, "champion", now.packaged if now else None, canary)
