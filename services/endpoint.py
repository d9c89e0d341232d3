"""The hot path: what happens to a request, in this order."""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from features import HeadwayError
from services.keys import KeyRing, loopback
from services.log import DurableLog, LogUnavailable
from services.refusals import ErrorBody, Refused, busy
from services.report import report
from services.settings import Settings

if TYPE_CHECKING:
    from services.champion import Served
    from services.swap import Champions

BODY_SECONDS = 10.0
"""How long a caller may take to send a body: a place is held for it."""
THREADS = 4
"""Calls that are computed at once in a worker. Measured with 16 clients: 1 thread 15 ms a call, 2 12 ms, 6 9 ms."""


class Endpoint:
    """Answers predictions: sheds, authorizes, reads, checks, predicts, remembers, answers.

    Args:
        champions: what is served.
        log: where it is remembered, before the caller hears of it.
        keys: who may ask.
        now: the server's clock.
    """

    def __init__(
        self,
        champions: Champions,
        log: DurableLog,
        keys: KeyRing,
        settings: Settings,
        now: Callable[[], datetime],
    ) -> None:
        self.champions, self.log = champions, log
        self._keys, self._settings, self._now = keys, settings, now
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
        self.in_flight = 0
        self.shed = 0

    def close(self) -> None:
        """Let go of the threads, once no request is at work."""
        self._threads.shutdown()

    async def predict(self, request: Request) -> Response:
        """POST /v1/models/{model}/predict."""
        return await self._guarded(request, self._predict)

    async def guarded(self, request: Request, what: Callable[[], bytes]) -> Response:
        """A GET that needs a key: `what()` is its JSON."""

        async def answer(request: Request, request_id: str) -> Response:
            self.authorize(request, request.path_params.get("model"))
            return _json(what(), request_id)

        return await self._guarded(request, answer)

    async def _predict(self, request: Request, request_id: str) -> Response:
        model = request.path_params["model"]
        self.authorize(request, model)
        served = self.find(model)
        body = await self._body(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "not_json", "Send the body with Content-Type: application/json")
        answer, lines = await self._answered(served, body, request_id)
        try:
            await self.log.append(lines)
        except LogUnavailable:
            raise busy("log_unavailable", "The prediction could not be made durable, so it is not given") from None
        headers = {"X-Model-Version": str(served.pointer.version), "X-Model-Generation": str(served.pointer.generation)}
        return _json(answer, request_id, headers)

    def authorize(self, request: Request, model: str | None) -> None:
        """Raise Refused unless the request carries a key that opens `model` (None: any key)."""
        if not self._settings.keys and loopback((request.scope.get("server") or ("", 0))[0]):
            return
        bearer = request.headers.get("authorization", "")
        secret = bearer[7:].strip() if bearer[:7].lower() == "bearer " else request.headers.get("x-api-key", "")
        try:
            key = self._keys.find(secret)
        except HeadwayError:
            report("keys_unreadable", level="error", file=self._keys.path.name)
            raise busy("keys_unreadable", "The keys cannot be read") from None
        if key is None:
            message = "Send a valid key: Authorization: Bearer <key>. `headway keys make NAME` makes one"
            raise Refused(401, "no_key", message, headers={"WWW-Authenticate": "Bearer"})
        if model is not None and not key.opens(model):
            raise Refused(403, "wrong_key", f"The key {key.name} is for other models")

    def find(self, model: str) -> Served:
        """The champion of `model`. Raises Refused (404) naming the models that are served."""
        served = self.champions.served
        if model not in served:
            known = ", ".join(sorted(served)) or "none yet"
            raise Refused(404, "unknown_model", f"No such model is served. Served are: {known}")
        return served[model]

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.body_limit
        too_large = Refused(413, "too_large", f"The body is larger than {limit} bytes: send fewer instances a call")
        if (length := request.headers.get("content-length", "")).isdecimal() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise Refused(408, "too_slow", f"The body took longer than {BODY_SECONDS:.0f} s") from None
        return bytes(body)

    async def _answered(self, served: Served, body: bytes, request_id: str) -> tuple[bytes, bytes]:
        call = served.schema.parse(body)
        decision_time = call.as_of or self._now()
        # On the event loop one client would be 4% faster, and sixteen a third slower; and a call with many instances
        # would keep everybody waiting.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, served.answer, call, request_id, decision_time)

    async def _guarded(self, request: Request, answer: Callable[[Request, str], Awaitable[Response]]) -> Response:
        """`answer`, within the bound on requests at work, with every way it can fail as clear JSON."""
        request_id, began = uuid.uuid4().hex, time.perf_counter()
        if self.in_flight >= self._settings.in_flight:
            self.shed += 1
            return refusal(busy("overloaded", "Too many requests at work; come back"), request_id)
        self.in_flight += 1
        try:
            return await answer(request, request_id)
        except Refused as refused:
            _tell(request_id, refused.status, refused.complaint.code, began)
            return refusal(refused, request_id)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            # The message of an unknown error may quote the input: where it came from is enough.
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            _tell(request_id, 500, "internal", began, error=type(error).__name__, where=where[-6:])
            return refusal(
                Refused(500, "internal", "Something broke here; the log tells under the request id"), request_id
            )
        finally:
            self.in_flight -= 1


def refusal(refused: Refused, request_id: str) -> Response:
    """A refusal as JSON."""
    body = msgspec.json.encode(ErrorBody(refused.complaint, request_id))
    return _json(body, request_id, refused.headers, refused.status)


def _json(body: bytes, request_id: str, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    return Response(body, status, {"X-Request-Id": request_id, **(headers or {})}, "application/json")


def _tell(request_id: str, status: int, code: str, began: float, **more: object) -> None:
    took = round((time.perf_counter() - began) * 1000, 3)
    level = "error" if status >= 500 else "warning"
    report("request", level=level, request_id=request_id, status=status, code=code, ms=took, **more)
