"""Which requests get a line: enough to be woken by, not so many that a flood of bad calls hides the rest."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.home import Home
from services import told
from services.app import create_app
from services.exchange import Exchange
from services.told import Told
from tests.services import world
from tests.services.test_processes import PREDICT


def exchange() -> Exchange:
    async def nothing(*_: Any) -> Any: ...

    return Exchange("/v1/x", {"type": "http", "headers": [], "method": "POST"}, nothing, nothing)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


def test_a_flood_of_refusals_is_two_lines_and_its_number(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "SUM_UP_SECONDS", 0.05)
    last = exchange()

    async def flood() -> None:
        lines_of = Told()
        for _ in range(500):
            lines_of.refused(exchange(), 503, "overloaded")
        lines_of.refused(last, 503, "overloaded")
        lines_of.refused(exchange(), 400, "invalid")
        while lines_of._quiet:  # until it was summed up, and the quiet after that has ended
            await asyncio.sleep(0.01)
        lines_of.refused(exchange(), 503, "overloaded")
        lines_of.refused(exchange(), 503, "overloaded")
        lines_of.close()

    asyncio.run(flood())
    found = lines(capfd)
    assert [(line["event"], line["code"], line.get("more")) for line in found] == [
        ("request", "overloaded", None), ("request", "invalid", None), ("refusals", "overloaded", 500),
        ("request", "overloaded", None), ("refusals", "overloaded", 1),
    ]  # fmt: skip
    assert (found[2]["last_request_id"], found[2]["level"], found[1]["level"]) == (last.request_id, "error", "warning")


@pytest.mark.parametrize("setting", ["off", "on"])
def test_answers_get_a_line_only_where_asked_for(
    root: Home, manifests: world.Manifests, setting: str, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    world.crowned(root, manifests[0], 1)
    monkeypatch.setenv("HEADWAY_ACCESS_LOG", setting)
    monkeypatch.setenv("HEADWAY_SENTRY_DSN", "http://SECRET@127.0.0.1:9/1")
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        answer = client.post(PREDICT, json=world.call(world.instance(tailnum="SECRET")))
        for _ in range(2):
            assert client.post(f"{PREDICT}?SECRET", json={"instances": ["SECRET"]}).status_code == 400
    found = lines(capfd)
    assert "SECRET" not in json.dumps(found)
    events = [line["event"] for line in found]
    assert events[0] == "swapped"
    assert events[1] == "started"
    assert found[1]["settings"]["access_log"] is (setting == "on")
    assert events[-1] == "stopped"
    asked = [(line["status"], line["request_id"]) for line in found if line["event"] == "request"]
    assert [status for status, _ in asked] == ([200, 400, 400] if setting == "on" else [400])
    assert (answer.json()["request_id"] in dict(map(reversed, asked))) is (setting == "on")  # type: ignore[call-overload]
    assert events.count("refusals") == (0 if setting == "on" else 1)
