"""The hot path: what happens to a request, in this order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from features import HeadwayError
from services.asked import Answered, Asked
from services.batches import Batches
from services.exchange import Exchange, Gone
from services.keys import Key, KeyRing, unasked
from services.log import DurableLog, LogUnavailable
from services.observer import Observer
from services.rates import Rates
from services.refusals import Refused, busy
from services.report import report
from services.schema import Call
from services.settings import Settings

if TYPE_CHECKING:
    from services.champion import Served
    from services.swap import Champions

THREADS = 4
"""Calls that are too slow for the event loop, and computed at once in a worker."""


class Endpoint:
    """Answers predictions: sheds, authorizes, reads, checks, predicts, remembers, answers.

    Args:
        champions: what is served.
        log: where it is remembered, before the caller hears of it.
        keys: who may ask.
        now: the server's clock.
        observer: is told of every request.
    """

    def __init__(
        self,
        champions: Champions,
        log: DurableLog,
        keys: KeyRing,
        settings: Settings,
        now: Callable[[], datetime],
        observer: Observer,
    ) -> None:
        self.champions, self.log, self.settings, self.observer = champions, log, settings, observer
        self._keys, self._now = keys, now
        self._rates = Rates(keys.path.with_name("rates"), settings.rate)
        self._batches = Batches()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
        self.in_flight = 0
        self.shed = 0

    def close(self) -> None:
        """Let go of the threads, once no request is at work."""
        self._threads.shutdown()
        self._rates.close()

    async def predict(self, exchange: Exchange) -> None:
        """POST /v1/models/{model}/predict, once `guard` has shed (1) what is too much. Raises Refused, Gone."""
        model = exchange.params["model"]
        self.authorize(exchange, model)  # 2 key, 3 rate
        champion = self.find(model)
        body = await exchange.body(self.settings.body_limit)  # 4 body
        exchange.mark("read")
        call = champion.schema.parse(body)  # 5 parse
        exchange.mark("parse")
        decision_time = call.as_of or self._now()
        served, answered = await self._answered(champion, call, exchange, decision_time)  # 6 choose, 7 answer
        await self._logged(answered)  # 8 log
        exchange.mark("log")
        await exchange.answer(answered.body, headers=served.headers)
        # 9 shadow: a process of its own, which reads what was logged.
        self.observer.predicted(served, answered, decision_time)  # 10 figures; `guard` tells how long it took

    async def guard(self, exchange: Exchange, answer: Callable[[Exchange], Awaitable[None]]) -> None:
        """Let `answer` answer, within the bound on requests at work, and make every way it can fail clear JSON."""
        self.observer.began(exchange)
        self.in_flight += 1
        try:
            if self.in_flight > self.settings.in_flight:  # 1 shed
                self.shed += 1
                raise busy("overloaded", "Too many requests at work; come back")
            await answer(exchange)
        except Exception as error:
            with suppress(Gone):
                await self._failed(exchange, error)
        finally:
            self.in_flight -= 1
            self.observer.ended(exchange)

    async def _failed(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, Gone):
            return
        if isinstance(error, Refused):
            self.observer.refused(exchange, error)
            await exchange.refuse(error)
            return
        self.observer.broke(exchange, error)
        if not exchange.status:
            await exchange.refuse(Refused(500, "internal", "Something broke here; the log tells under the request id"))

    def authorize(self, exchange: Exchange, model: str | None) -> Key | None:
        """The key of the request, if it opens `model` (None: any key does) and its rate allows another call.

        None where keys are off. Raises Refused: 401, 403, 429.
        """
        key = self._key(exchange)
        if key is not None and model is not None and not key.opens(model):
            raise Refused(403, "wrong_key", f"The key {key.name} is for {', '.join(key.models or ())} only")
        self._rates.take(*(key.account if key else ()))
        return key

    def find(self, model: str) -> Served:
        """The champion of `model`. Raises Refused (404) naming the models that are served."""
        served = self.champions.served
        if model not in served:
            known = ", ".join(sorted(served)) or "none yet"
            raise Refused(404, "unknown_model", f"No such model is served. Served are: {known}")
        return served[model]

    def _key(self, exchange: Exchange) -> Key | None:
        if not self.settings.keys and unasked((exchange.scope.get("server") or ("", 0))[0], exchange.headers):
            return None
        bearer = exchange.header(b"authorization")
        secret = bearer[7:].strip() if bearer[:7].lower() == "bearer " else exchange.header(b"x-api-key")
        try:
            key = self._keys.find(secret)
        except HeadwayError:
            report("keys_unreadable", level="error", file=self._keys.path.name)
            raise busy("keys_unreadable", "The keys cannot be read") from None
        if key is None:
            message = "Send a valid key: Authorization: Bearer <key>. `headway keys make NAME` makes one"
            raise Refused(401, "no_key", message, headers={"WWW-Authenticate": "Bearer"})
        return key

    async def _answered(
        self, champion: Served, call: Call, exchange: Exchange, decision_time: datetime
    ) -> tuple[Served, Answered]:
        """Who answers, one version all of the call, and the answer. What a canary cannot answer, the champion does."""
        challengers = self.champions.challengers
        canary = challengers.canary(champion, call)
        if canary is None:
            return champion, await self._computed(champion, call, exchange, decision_time)
        try:
            return canary, await self._computed(canary, call, exchange, decision_time)
        except Exception as error:
            answered = await self._computed(champion, call, exchange, decision_time)
            # Only now: what neither can answer is not the canary's fault.
            challengers.failed(canary, error)
            self.observer.canary_failed(exchange, error)
            return champion, answered

    async def _computed(self, served: Served, call: Call, exchange: Exchange, decision_time: datetime) -> Answered:
        asked = Asked(call, exchange.request_id, decision_time, exchange.mark)
        if served.quick(call):
            # Nobody else is here to share a batch with: one turn of the event loop less.
            return served.answer([asked])[0] if self.in_flight == 1 else await self._batches.answer(served, asked)
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self._threads, served.answer, [asked]))[0]

    async def _logged(self, answered: Answered) -> None:
        try:
            await self.log.append(answered.lines)
        except LogUnavailable:
            raise busy("log_unavailable", "The prediction could not be made durable, so it is not given") from None
