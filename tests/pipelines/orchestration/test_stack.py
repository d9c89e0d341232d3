"""The stack, with a real Prefect server for its only part: it comes back, refuses a rival, and leaves nothing."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import pytest

from features import HeadwayError
from pipelines import children
from pipelines.commands.cli import main
from pipelines.home import PROJECT, Home
from pipelines.orchestration import stack
from pipelines.orchestration.orchestrator import Api, auth_string
from pipelines.orchestration.stack import Stack

SUPERVISOR = """
import sys, threading
from pipelines.home import home
from pipelines.orchestration.stack import Stack
with Stack(home(), parts=("server",)):
    threading.Event().wait()
"""


def until(there: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_a_server_comes_up_private_comes_back_when_killed_and_ends(home: Home) -> None:
    with Stack(home, parts=("server",)) as running:
        url, told = running.prefect_url, stack.status(home)
        assert url.startswith("http://127.0.0.1:")
        assert told is not None
        assert told.ready
        assert told.prefect_url == url

        assert httpx.post(f"{url}/api/flows/filter", json={}).status_code == 401
        assert running.api.post("/flows/filter", {}) == []
        assert stat.S_IMODE((home.prefect / "auth").stat().st_mode) == 0o600
        assert auth_string(home) == auth_string(home)
        names = [automation["name"] for automation in running.api.post("/automations/filter", {})]
        assert names == ["headway: fail runs whose heartbeat stopped"]

        with pytest.raises(HeadwayError, match=r"runs on .* already"), Stack(home, parts=("server",)):
            pass
        assert healthy(url), "a rival that is refused must not harm the stack it found"

        first = running.children["server"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: running.children["server"].pid != first and healthy(url))
        running.api.install()
        assert len(running.api.post("/automations/filter", {})) == 1, "set-up twice is set-up once"
    assert not healthy(url)
    assert stack.status(home) is None
    assert children.marked(str(home.root)) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_supervisor(home: Home, number: int) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR], cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        until(lambda: bool(children.marked(str(home.root))))
        # It comes while the server is still starting: the moment at which strays are made.
        supervisor.send_signal(number)
        supervisor.wait(60)
        until(lambda: not children.marked(str(home.root)))
        assert stack.status(home) is None
        assert stack.down(home) is False
    finally:
        supervisor.kill()
        children.sweep(str(home.root))


def test_a_part_that_cannot_start_is_reported_with_the_end_of_its_log(home: Home) -> None:
    broken = Stack(home, parts=("server",), extra={"PREFECT_SERVER_DATABASE_CONNECTION_URL": "nonsense://"})
    with pytest.raises(HeadwayError, match=r"(?s)The server ended with exit code .*nonsense"), broken:
        pass
    assert children.marked(str(home.root)) == []


def test_a_server_that_is_not_there_is_named(home: Home) -> None:
    url = f"http://127.0.0.1:{children.free_port()}"
    with pytest.raises(HeadwayError, match="No Prefect server answers at"):
        Api(url, {"PREFECT_API_AUTH_STRING": "headway:x"}).post("/flows/filter", {})


def test_the_commands_say_that_nothing_runs(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert "Start it with `headway up`" in capsys.readouterr().out
    assert main(["doctor"]) == 1
    assert main(["down"]) == 0
    assert "Nothing was running" in capsys.readouterr().out
