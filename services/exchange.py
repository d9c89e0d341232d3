"""One HTTP exchange, straight over ASGI: what was asked, read with care, and what is answered.

Starlette's Request and Response serve every case there is, at several times the cost of these few.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

import msgspec
from starlette.types import Receive, Scope, Send

from services.refusals import ErrorBody, Refused

BODY_SECONDS = 10.0
"""How long a caller may take to send a body: a place is held for it."""
SEND_SECONDS = 10.0
"""How long a caller may take to make room for an answer, by reading those that it got before."""


class Gone(Exception):  # noqa: N818 - nobody is left to be told
    """The caller hung up before the body was whole, or does not take the answer."""


class Exchange:
    """A request, and the way back to its caller.

    Attributes:
        route: the template of its path, for figures; never the path itself, which callers choose.
        params: what the path says, by the template's names.
        request_id: 128 random bits as hex: no two alike, across workers and restarts too.
        began: `time.perf_counter()` when it came.
        status: of the answer, once it is being sent; 0 before.
        marks: steps and when each ended, by `time.perf_counter()`; None when nobody wants them.
    """

    __slots__ = ("_receive", "_send", "began", "headers", "marks", "params", "request_id", "route", "scope", "status")

    def __init__(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        self.route, self.scope, self._receive, self._send = route, scope, receive, send
        self.params: dict[str, str] = scope.get("path_params", {})
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = os.urandom(16).hex()
        self.began = time.perf_counter()
        self.status = 0
        self.marks: list[tuple[str, float]] | None = None

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    def mark(self, step: str) -> None:
        """The step ended now. From any thread."""
        if self.marks is not None:
            self.marks.append((step, time.perf_counter()))

    def header(self, name: bytes) -> str:
        """A header by its lower-case name; "" when it is not there."""
        return self.headers.get(name, b"").decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole body, which must be JSON by its content type.

        Raises:
            Refused: 413 past `limit` bytes, 408 past BODY_SECONDS, 415 for another content type.
            Gone: the caller hung up.
        """
        body = await self._read(limit)
        if self.header(b"content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "not_json", "Send the body with Content-Type: application/json")
        return body

    async def answer(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a JSON body. Raises Gone when it is not taken."""
        self.status = status
        lines = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode()),
        ]
        for name, text in (headers or {}).items():
            lines.append((name.lower().encode("latin-1"), text.encode("latin-1")))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send({"type": "http.response.start", "status": status, "headers": lines})
                await self._send({"type": "http.response.body", "body": body})
        except TimeoutError:
            raise Gone from None

    async def refuse(self, refused: Refused) -> None:
        """Send a refusal."""
        body = msgspec.json.encode(ErrorBody(refused.complaint, self.request_id))
        await self.answer(body, refused.status, refused.headers)

    async def _read(self, limit: int) -> bytes:
        too_large = Refused(413, "too_large", f"The body is larger than {limit} bytes: send fewer instances a call")
        if (length := self.header(b"content-length")).isdecimal() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Refused(408, "too_slow", f"The body took longer than {BODY_SECONDS:.0f} s") from None
