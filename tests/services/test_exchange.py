"""Callers who are slow, stop half-way or hang up: each is let go, and none keeps its place."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from pipelines.home import Home
from services import exchange
from tests.services import world
from tests.services.test_app import PREDICT, logged, service

BODY = json.dumps(world.call()).encode()


def ask(
    client: TestClient, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """One request to the running app, with a transport of the test's own."""
    scope = {
        "type": "http", "method": "POST", "path": PREDICT, "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 9),
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")], "query_string": b"",
    }  # fmt: skip

    async def call() -> None:
        await client.app(scope, receive, send)

    assert client.portal is not None
    client.portal.call(call)
    assert service(client).endpoint.in_flight == 0


def parts(*messages: Message) -> Callable[[], Awaitable[Message]]:
    """A caller who sends these, and then nothing more."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("nothing wakes it")

    return receive


def chunk(body: bytes, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def keeping(sent: list[Message]) -> Callable[[Message], Awaitable[None]]:
    async def send(message: Message) -> None:
        sent.append(message)

    return send


def test_a_body_in_parts_is_whole(client: TestClient, root: Home) -> None:
    sent: list[Message] = []
    ask(client, parts(chunk(BODY[:9], True), chunk(b"", True), chunk(BODY[9:], False)), keeping(sent))
    start, body = sent
    assert start["status"] == 200
    assert json.loads(body["body"])["version"] == 1
    assert len(logged(root)) == 1


@pytest.mark.parametrize("begun", [(), (chunk(BODY[:40], True),)], ids=["nothing", "half"])
def test_a_body_that_does_not_come_is_given_up(
    client: TestClient, root: Home, monkeypatch: pytest.MonkeyPatch, begun: tuple[Message, ...]
) -> None:
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.05)
    sent: list[Message] = []
    ask(client, parts(*begun), keeping(sent))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "too_slow"
    assert logged(root) == []


def test_who_hangs_up_within_the_body_is_not_answered(client: TestClient, root: Home) -> None:
    sent: list[Message] = []
    ask(client, parts(chunk(BODY[:40], True), {"type": "http.disconnect"}), keeping(sent))
    assert sent == []
    assert logged(root) == []


@pytest.mark.parametrize("body", [BODY, b"{"], ids=["answer", "refusal"])
def test_who_does_not_take_the_answer_keeps_no_place(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(exchange, "SEND_SECONDS", 0.05)

    async def stuck(_: Message) -> None:
        await asyncio.Event().wait()

    ask(client, parts(chunk(body, False)), stuck)


def test_a_connection_that_breaks_while_sending_keeps_no_place(
    client: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(_: Message) -> None:
        raise ConnectionResetError("SECRET")

    ask(client, parts(chunk(BODY, False)), broken)
    assert "SECRET" not in capfd.readouterr().err
