"""`headway run PART`: each part a process of its own, as systemd and containers run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from features import HeadwayError
from pipelines.children import MARK, free_port, marked
from pipelines.commands import foreground
from pipelines.commands.cli import parser
from pipelines.home import PROJECT, Home
from pipelines.orchestration import deployments
from pipelines.orchestration.orchestrator import POOL, Api, answers, client_environment

SECONDS = 120.0


def until(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None and time.monotonic() < deadline, "it did not come up"
        time.sleep(0.2)


@contextmanager
def running(at: Home, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The part, ended as a supervisor ends it; fails when SIGTERM does not."""
    environ = {name: value for name, value in os.environ.items() if name != MARK}
    with (at.logs / f"{arguments[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.commands.cli", "run", *arguments],
            cwd=PROJECT,
            env=environ,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_a_worker_without_a_server_says_what_to_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "PATIENCE", 0.0)
    given = parser().parse_args(["run", "worker", "--server", f"http://127.0.0.1:{free_port()}"])
    with pytest.raises(HeadwayError, match="headway run server"):
        foreground.run(given)


@pytest.mark.slow
@pytest.mark.e2e
def test_the_parts_come_up_by_themselves_and_end_on_sigterm(home: Home) -> None:
    server, service = (str(free_port()) for _ in range(2))
    url = f"http://127.0.0.1:{server}"
    with (
        running(home, "server", "--port", server) as planning,
        running(home, "service", "--port", service) as serving,
        running(home, "worker", "--server", url) as working,
    ):
        until(lambda: answers(f"http://127.0.0.1:{service}/v1/ready"), serving)
        until(lambda: answers(f"{url}/api/health"), planning)
        api = Api(url, client_environment(home, url))
        until(lambda: bool(api.post(f"/work_pools/{POOL}/workers/filter", {})), working)
        known = {one["name"] for one in api.post("/deployments/filter", {})}
        assert known == {one["name"] for one in deployments.declared()["deployments"]}
        assert marked(str(home.root)) == [], "`headway down` would end what another supervisor started"
