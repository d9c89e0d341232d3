"""Everybody who wants to know of a request, told in one place: the figures, the worker's log, traces, alarms."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Container
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.alarms import Alarms
from services.exchange import Exchange
from services.figures import Figures
from services.refusals import Refused
from services.settings import Settings
from services.told import Told
from services.tracing import Traces

if TYPE_CHECKING:
    from services.asked import Answered
    from services.champion import Served

HUNG_UP = 499
"""What is counted for a caller who went away before the answer, as other servers do."""
COUNTED = "headway.counted"
"""Set in the scope of a request that has an `Exchange`: the observer hears of it from the hot path."""


class Observer:
    """The one object that the hot path speaks to.

    Args:
        served: the names of the models that are served: no other is told, since callers choose what they ask for.

    Raises HeadwayError for settings that cannot be met.
    """

    def __init__(self, figures: Figures, settings: Settings, served: Callable[[], Container[str]]) -> None:
        self.figures, self._served = figures, served
        self._told = Told(all=settings.access_log)
        self._traces = Traces(settings.traces) if settings.traces else None
        self._alarms = Alarms(settings.sentry_dsn) if settings.sentry_dsn else None

    def began(self, exchange: Exchange) -> None:
        """A request came: its steps are marked if somebody wants to see them."""
        if self._traces is not None:
            exchange.marks = []

    def refused(self, exchange: Exchange, refused: Refused) -> None:
        """It was refused."""
        self.figures.refused(self._model(exchange), refused.complaint.code)
        self._told.refused(exchange, refused.status, refused.complaint.code)

    def broke(self, exchange: Exchange, error: Exception) -> None:
        """Something broke that nobody foresaw."""
        # The message of an unknown error may quote the input: where it came from is enough.
        where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        self._told.broke(exchange, type(error).__name__, where[-6:])
        self._alarm(exchange, error)

    def canary_failed(self, exchange: Exchange, error: Exception) -> None:
        """A canary could not answer; the champion did in its place."""
        self.figures.canary_failed(self._model(exchange))
        if not isinstance(error, Refused):
            self._alarm(exchange, error)

    def predicted(self, served: Served, answered: Answered, decision_time: datetime) -> None:
        """It was answered with predictions, by this version."""
        pointer = served.pointer
        self.figures.predicted(
            pointer.model, pointer.version, answered.instances, answered.degraded, decision_time, served.role
        )

    def ended(self, exchange: Exchange) -> None:
        """It was answered, or its caller has gone."""
        model = self._model(exchange)
        self.figures.answered(exchange.route, model, exchange.status or HUNG_UP, exchange.seconds)
        if self._told.all and exchange.status < 400:
            self._told.answered(exchange)
        if self._traces is not None:
            with suppress(Exception):
                self._traces.tell(exchange, model)

    def close(self) -> None:
        """Say and send what waits."""
        self._told.close()
        for each in (self._traces, self._alarms):
            if each is not None:
                each.close()

    def _alarm(self, exchange: Exchange, error: Exception) -> None:
        if self._alarms is not None:
            with suppress(Exception):  # who watches may not break what is watched
                self._alarms.tell(error, exchange, self._model(exchange))

    def _model(self, exchange: Exchange) -> str:
        model = exchange.params.get("model", "")
        return model if model in self._served() else ""


class Others:
    """A middleware that counts the requests that have no `Exchange`: documents, health, and what is not there."""

    def __init__(self, app: ASGIApp, figures: Callable[[], Figures]) -> None:
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), HUNG_UP

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if COUNTED not in scope:
                # The template, never the path: that is the caller's to choose.
                route = getattr(scope.get("route"), "path", "none")
                self._figures().answered(route, "", status, time.perf_counter() - began)
