"""The load client finds what it is there to find: tried on a server that does everything wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import load
from pipelines.home import PROJECT

GOOD = b'{"version": 1, "predictions": [0.25]}'


def answer(body: bytes = GOOD, status: str = "200 OK", *more: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {size}", *more, "", ""]).encode() + body


@asynccontextmanager
async def answering(raw: bytes, *, hang_up: bool, pieces: int = 1) -> AsyncIterator[str]:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (line := await reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            await reader.readexactly(length)
            step = -(-len(raw) // pieces)
            for start in range(0, len(raw), step):
                writer.write(raw[start : start + step])
                await writer.drain()
                await asyncio.sleep(0)
            if hang_up:
                writer.close()
                return

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"


def found(raw: bytes, *, hang_up: bool = False, pieces: int = 1, expected: Any = None) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with answering(raw, hang_up=hang_up, pieces=pieces) as url:
            wanted = msgspec.json.decode(json.dumps(expected), type=load.Expected) if expected else None
            return await load.Load(url, [b"{}"], "", wanted).run(2, 0.3, quiet=True)

    return asyncio.run(run())


VERSION = ("X-Model-Version: 1", "X-Model-Generation: 7")


@pytest.mark.parametrize("pieces", [1, 7])
def test_good_answers_are_counted_by_version(pieces: int) -> None:
    summary = found(answer(GOOD, "200 OK", *VERSION), pieces=pieces, expected={"1": [[0.25]]})
    assert summary["failures"] == {}
    assert summary["answered"] == summary["versions"]["1"] == summary["statuses"][200] > 10
    assert 0 < summary["p50"] <= summary["p99"]
    within = round(summary["rate"] * summary["seconds"])
    assert within <= summary["answered"] <= within + 2
    first, last = summary["generations"]["7"]
    assert 0 <= last - first <= 0.4


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (answer(GOOD, "500 Internal Server Error"), "status 500"),
        (answer(GOOD, "503 Service Unavailable"), "status 503"),
        (answer(GOOD, length=len(GOOD) + 5), "half an answer"),
        (answer(GOOD, length=len(GOOD) - 5), "more than an answer"),
        (b"", "the connection broke"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "an answer without a length"),
    ],
)
def test_what_fails_is_told_by_its_reason(raw: bytes, why: str) -> None:
    # Only these two hang up: after a whole answer the next request is on its way, and would fail by rights.
    summary = found(raw, hang_up=why in ("half an answer", "the connection broke"))
    assert set(summary["failures"]) == {why}
    assert summary["failed"] == summary["failures"][why] >= 2


@pytest.mark.parametrize(
    ("body", "header", "why"),
    [
        (b'{"version": 1, "predictions": [0.75]}', "1", "the answer is not the version's"),
        (b'{"version": 2, "predictions": [0.25]}', "1", "header and body name two versions"),
        (b'{"version": 3, "predictions": [0.25]}', "3", "version 3 should not answer"),
        (b'{"version": 1, "predi', "1", "an answer that is no JSON"),
    ],
)
def test_an_answer_that_is_not_the_versions_is_a_failure(body: bytes, header: str, why: str) -> None:
    summary = found(answer(body, "200 OK", f"X-Model-Version: {header}"), expected={"1": [[0.25]], "2": [[0.5]]})
    assert set(summary["failures"]) == {why}


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_being_told_to_come_back_is_no_failure_and_is_heeded(status: str) -> None:
    summary = found(answer(GOOD, status, "Retry-After: 1"))
    assert summary["failed"] == summary["answered"] == 0
    assert summary["refused"] == 2  # each client once in 0.3 s


def test_the_command_tells_each_second_and_says_by_its_exit_code_that_requests_failed(tmp_path: Path) -> None:
    async def run(raw: bytes, *more: str) -> tuple[int | None, str]:
        async with answering(raw, hang_up=False) as url:
            command = ["-m", "benchmarks.load", url, "--body", "{}", "--clients", "2", "--seconds", "1.2", *more]
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=PROJECT, stdout=subprocess.PIPE
            )
            told, _ = await process.communicate()
            return process.returncode, told.decode()

    code, told = asyncio.run(run(answer(GOOD, "200 OK", *VERSION)))
    assert code == 0
    assert [line.split()[0] for line in told.splitlines()] == ["1", "1", "all", "this"]
    assert "failed 0  versions 1:" in told
    code, told = asyncio.run(run(answer(GOOD, "500 Internal Server Error"), "--json"))
    assert code == 1
    assert json.loads(told)["failures"].keys() == {"status 500"}
