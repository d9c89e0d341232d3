"""The service as it is really run: BentoML's supervisor and workers, and plain uvicorn, over one root."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines.home import SINGLE_THREAD, Home, environment
from services.log import records
from tests.services import world

PROJECT = Path(__file__).parents[2]
PREDICT = f"/v1/models/{world.MODEL}/predict"
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


@pytest.mark.e2e
def test_kill_9_under_load_loses_no_answered_prediction(root: Home, manifests: world.Manifests) -> None:
    world.crowned(root, manifests[0], 1)
    answered: list[str] = []

    async def caller(url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            while True:
                try:
                    response = await client.post(PREDICT, json=world.call())
                except httpx.HTTPError:
                    return
                answered.append(response.json()["request_id"])

    async def load(process: psutil.Popen, url: str) -> None:
        callers = [asyncio.create_task(caller(url)) for _ in range(8)]
        while len(answered) < 100:
            await asyncio.sleep(0.01)
        process.kill()
        await asyncio.gather(*callers)

    with serving(root, UVICORN) as (process, url):
        asyncio.run(load(process, url))
    assert len(answered) >= 100
    assert set(answered) <= {record["request_id"] for record in logged(root)}


def test_a_worker_with_thread_pools_does_not_start(root: Home) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "import services.bento"], env={**environment(root), "OMP_NUM_THREADS": "8"},
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode != 0
    assert "OMP_NUM_THREADS=1" in process.stderr
    assert "bentoml serve services.bento:Headway" in process.stderr
