"""The service as it is really run: BentoML's supervisor and workers, and plain uvicorn, over one root."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

import models
from pipelines.data import lake
from pipelines.home import SINGLE_THREAD, Home, environment
from pipelines.records import outcomes, predictions
from services.log import records
from tests.services import world

PROJECT = Path(__file__).parents[2]
PREDICT = f"/v1/models/{world.MODEL}/predict"
OUTCOMES = f"/v1/models/{world.MODEL}/outcomes"
DAY = timedelta(days=1)
BENTO = ["-m", "bentoml", "serve", "services.bento:Headway", "--host", "127.0.0.1", "--port"]
UVICORN = ["-m", "uvicorn", "--factory", "services.app:create_app", "--host", "127.0.0.1", "--no-access-log", "--port"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/v1/ready").json()["models"])
    except httpx.HTTPError:
        return False


@contextmanager
def serving(at: Home, command: list[str], **more: str) -> Iterator[tuple[psutil.Popen, str]]:
    """The process and its URL, once it serves; all that is left of it is killed at the end."""
    port = free_port()
    with (at.logs / "service.log").open("ab") as log:
        process = psutil.Popen(
            [sys.executable, *command, str(port)], env={**environment(at), **SINGLE_THREAD, **more}, cwd=PROJECT,
            stdout=log, stderr=log,
        )  # fmt: skip
    url, family = f"http://127.0.0.1:{port}", [process]
    try:
        until(lambda: process.poll() is not None or ready(url), 150)
        assert process.poll() is None, (at.logs / "service.log").read_text()
        family += process.children(recursive=True)
        yield process, url
    finally:
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()


def logged(at: Home) -> list[dict[str, Any]]:
    return [record for path in sorted(at.room("predictions", "open").glob("*.jsonl")) for record in records(path)]


@pytest.mark.e2e
def test_under_bentoml_our_routes_win_and_sigterm_ends_it_all(root: Home, manifests: world.Manifests) -> None:
    world.crowned(root, manifests[0], 1)
    with serving(root, BENTO) as (process, url), httpx.Client(base_url=url) as client:
        answers = [client.post(PREDICT, json=world.call()) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert client.get("/v1/models").json()["models"][0]["version"] == 1
        assert client.post(PREDICT, json={"instances": []}).json()["error"]["path"] == "instances"
        assert client.get("/v1/docs").status_code == 200
        assert "headway_requests_total{" in client.get("/metrics").text
        assert client.post(PREDICT, content=b" " * 5 * 2**20).status_code == 413
        assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/livez")] == [200] * 3
        world.crowned(root, manifests[1], 2)
        until(lambda: client.post(PREDICT, json=world.call()).json()["version"] == 2, 20)
        family = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        until(lambda: not any(child.is_running() for child in family), 10)
    assert {answer.json()["request_id"] for answer in answers} <= {record["request_id"] for record in logged(root)}
    assert all(path.name.endswith(".closed.jsonl") for path in root.room("predictions", "open").iterdir())


class Crowd:
    """Callers that ask for predictions and tell their outcomes, over and over, whatever becomes of the workers.

    Attributes:
        predicted: request ids of the predictions that were answered.
        told: request ids of the outcomes that were accepted.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._over = False
        self.predicted: set[str] = set()
        self.told: set[str] = set()

    async def __aenter__(self) -> Self:
        self._callers = [asyncio.create_task(self._call()) for _ in range(self._size)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def busy(self, answers: int) -> None:
        """Wait until so many more were answered."""
        enough = len(self.predicted) + answers
        async with asyncio.timeout(60):
            while len(self.predicted) < enough or not self.told:
                await asyncio.sleep(0.005)

    async def _call(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            while True:
                with suppress(httpx.HTTPError):  # its worker was killed: what was not answered does not count
                    answer = await client.post(PREDICT, json=world.call())
                    answer.raise_for_status()
                    self.predicted.add(answer.json()["request_id"])
                    truth = {"request_id": answer.json()["request_id"], "instance": 0, "label": 1}
                    answer = await client.post(OUTCOMES, json={"outcomes": [truth]})
                    answer.raise_for_status()
                    self.told.add(answer.json()["request_id"])


@pytest.mark.e2e
def test_kill_9_of_all_workers_ten_times_under_load_loses_nothing_acknowledged(
    root: Home, manifests: world.Manifests
) -> None:
    world.crowned(root, manifests[0], 1)
    declared = {world.MODEL: models.load(world.MODEL)}
    compacted = 0

    async def rounds(supervisor: subprocess.Popen[str], crowd: Crowd) -> None:
        nonlocal compacted
        async with crowd:
            for number in range(10):
                workers = await asyncio.to_thread(forked, supervisor)
                await crowd.busy(25)
                if number % 4 == 3:  # while they write
                    compacted += await asyncio.to_thread(predictions.compact, root, declared)
                for worker in workers:
                    os.kill(worker, signal.SIGKILL)

    def forked(supervisor: subprocess.Popen[str]) -> list[int]:
        assert supervisor.stdin is not None and supervisor.stdout is not None
        supervisor.stdin.write("\n")
        supervisor.stdin.flush()
        return [int(worker) for worker in supervisor.stdout.readline().split()]

    with subprocess.Popen(
        [sys.executable, "-m", "tests.services.workers", "2"], env={**environment(root), **SINGLE_THREAD}, text=True,
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(root.logs / "service.log").open("a"),
    ) as supervisor:  # fmt: skip
        assert supervisor.stdout is not None
        crowd = Crowd(f"http://127.0.0.1:{int(supervisor.stdout.readline())}", 8)
        asyncio.run(rounds(supervisor, crowd))
    assert len(crowd.predicted) >= 250 and len(crowd.told) >= 100 and compacted > 0
    compacted += predictions.compact(root, declared)
    outcomes.compact(root, declared)
    rows = predictions.predictions(root, declared[world.MODEL], world.NOW - DAY, world.NOW + DAY)
    assert len(rows) == compacted == rows["request_id"].nunique()
    assert crowd.predicted <= set(rows["request_id"])
    told = lake.read(root.room("outcomes", world.MODEL))
    assert told is not None and crowd.told <= set(told.column("call").to_pylist())
    # A line that could not be read as a record would have kept its segment here.
    assert not list(root.room("predictions", "open").iterdir())


def test_a_worker_with_thread_pools_does_not_start(root: Home) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "import services.bento"], env={**environment(root), "OMP_NUM_THREADS": "8"},
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode != 0
    assert "OMP_NUM_THREADS=1" in process.stderr
    assert "bentoml serve services.bento:Headway" in process.stderr
