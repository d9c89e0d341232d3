"""Load on an endpoint, and what it answers, told each second. Watch a promotion happen:

    python -m benchmarks.load http://127.0.0.1:3000/v1/models/late_arrival/predict --body '{"instances": [...]}'
        --key $HEADWAY_API_KEY --clients 16 --seconds 60

Each client sends its next request when the last one is answered, on a connection of its own that is kept (a closed
loop, as wrk has it). Told are answers a second, latency in milliseconds, what failed and why, and which versions of the
model answered (X-Model-Version). A 429 or 503 with Retry-After is no failure: the client comes back after that time, a
second at most. Ctrl-C ends it early, with the summary. The exit code is 1 when a request failed.

It shares the machine with the server, so it does little for a request (about 20 us) and tells its own share of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import resource
import signal
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

try:
    from uvloop import run
except ImportError:  # slower, and the same
    from asyncio import run

TIMEOUT = 30.0
"""Seconds without an answer, after which a request has failed."""
LONGEST_WAIT = 1.0
APART = 0.001
"""Seconds between the first requests of two clients: of a burst of connections, one worker may take them all."""
Expected = dict[str, list[msgspec.Raw]]
"""{version: the predictions that it must give for each body}, as JSON."""


class Shown(msgspec.Struct):
    """What is compared of an answer."""

    version: int
    predictions: msgspec.Raw


@dataclass
class Tally:
    """What came back."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    """Latency of each answer with a status below 300."""
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """429 and 503 that say when to come back."""

    def add(self, other: Tally) -> None:
        """Take in another one."""
        self.seconds.extend(other.seconds)
        self.statuses.update(other.statuses)
        self.versions.update(other.versions)
        self.failures.update(other.failures)
        self.refused += other.refused

    def quantile(self, share: float) -> float:
        """Latency in milliseconds that `share` of answers did not exceed; 0 when nothing was answered."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[int(share * (len(ordered) - 1))] if ordered else 0.0

    def told(self, seconds: float) -> str:
        """One line about `seconds` of load."""
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        parts = [f"{len(self.seconds) / seconds:8,.0f}/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms"]
        parts.append(f"failed {self.failures.total()}")
        parts += [f"told to come back {self.refused}"] if self.refused else []
        parts += [f"{why}: {count}" for why, count in self.failures.most_common(3)]
        if self.versions:
            ordered = sorted(self.versions, key=lambda version: (len(version), version))
            parts.append(f"versions {', '.join(f'{version}: {self.versions[version]:,}' for version in ordered)}")
        return "  ".join(parts)


class Load:
    """The clients and what they share.

    Args:
        url: where to post.
        bodies: sent in turn.
        key: an API key, if one is needed.
        expected: what each version must answer to each body; a 200 that is something else is a failure.
    """

    def __init__(self, url: str, bodies: Sequence[bytes], key: str = "", expected: Expected | None = None) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.requests = [_request(parts.netloc, parts.path, body, key) for body in bodies]
        self.expected = expected
        self.turns: Iterator[int] = itertools.cycle(range(len(bodies)))
        self.now, self.all = Tally(), Tally()
        self.generations: dict[str, list[float]] = {}
        """When each generation of champions (X-Model-Generation) answered first and last, by `time.monotonic()`."""
        self.clients: list[Client] = []
        self._stopped = asyncio.Event()

    async def run(self, clients: int, seconds: float, warmup: float = 0.0, quiet: bool = False) -> dict[str, Any]:
        """Send for `seconds` after `warmup` that is not counted, and return all that was found.

        `rate` is answers a second while it sent; `seconds` how long that was, `whole` until the last answer was in.
        """
        for ending in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(ending, self.stop)
        began, cpu = time.monotonic(), _cpu()
        self.clients = [Client(self) for _ in range(clients)]
        for client in self.clients:
            client.start()
            await asyncio.sleep(APART)
        if warmup:
            await asyncio.sleep(warmup)
            self.now = Tally()
            self.generations.clear()
            began, cpu = time.monotonic(), _cpu()
        while not self.stopping and (left := began + seconds - time.monotonic()) > 0:
            second = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), min(1.0, left))
            self._turn_over(None if quiet else second - began, time.monotonic() - second)
        took, spent, answered = time.monotonic() - began, _cpu() - cpu, len(self.all.seconds)
        self.stop()
        while any(client.waiting for client in self.clients):
            await asyncio.sleep(0.01)
            self._give_up()
        self._turn_over(None, 1.0)
        # What came late counts for latency and as a failure, but not as if it had come in time.
        whole = time.monotonic() - began
        return {"seconds": took, "whole": whole, "rate": answered / took, "client_cpu": spent / took} | self._summary()

    def stop(self) -> None:
        """Send no more; what is on its way is still waited for."""
        self._stopped.set()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._stopped.is_set()

    def _turn_over(self, at: float | None, took: float) -> None:
        self._give_up()
        last, self.now = self.now, Tally()
        self.all.add(last)
        if at is not None:
            print(f"{at + took:5.0f} s {last.told(took)}", flush=True)

    def _give_up(self) -> None:
        late = time.perf_counter() - TIMEOUT
        for client in self.clients:
            if client.waiting and client.began < late:
                client.fail("no answer in time")

    def _summary(self) -> dict[str, Any]:
        return {
            "answered": len(self.all.seconds),
            "p50": self.all.quantile(0.5),
            "p99": self.all.quantile(0.99),
            "refused": self.all.refused,
            "failed": self.all.failures.total(),
            "failures": dict(self.all.failures),
            "statuses": dict(self.all.statuses),
            "versions": dict(self.all.versions),
            "generations": self.generations,
        }


class Client(asyncio.Protocol):
    """One client: sends, waits for the whole answer, sends again."""

    def __init__(self, load: Load) -> None:
        self._load, self._loop = load, asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._connecting: asyncio.Task[None] | None = None
        self._body = 0
        self.waiting, self.began = False, 0.0

    def start(self) -> None:
        """Send the next request, over a new connection if there is none."""
        if self._load.stopping:
            return
        self._body = next(self._load.turns)
        self.waiting, self.began = True, time.perf_counter()
        if self._transport is None:
            self._connecting = self._loop.create_task(self._connect())
        else:
            self._transport.write(self._load.requests[self._body])

    def fail(self, why: str, pause: float = 0.1) -> None:
        """Count a failure, and go on over a new connection."""
        self._load.now.failures[why] += 1
        self._hang_up()
        self.waiting = False
        self._loop.call_later(pause, self.start)

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: self, self._load.host, self._load.port)
        except OSError as error:
            self.fail(f"no connection: {type(error).__name__}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport, self._read = transport, b""  # type: ignore[assignment]
        transport.write(self._load.requests[self._body])  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's: between answers a server may hang up; with a request on its way it is a failure."""
        if self._transport is None:
            return
        self._transport = None
        if self.waiting:
            self.fail("the connection broke" if not self._read else "half an answer")

    def data_received(self, data: bytes) -> None:
        """asyncio's: an answer, or a part of one."""
        self._read = data = self._read + data if self._read else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower() + b"\r\n"
        length = _field(head, b"\r\ncontent-length:")
        if not length:
            self.fail("an answer without a length")
        elif (missing := end + 4 + int(length) - len(data)) < 0:
            self.fail("more than an answer")
        elif not missing:
            self._read = b""
            self._answered(head, data[end + 4 :])

    def _answered(self, head: bytes, body: bytes) -> None:
        took, tally, status = time.perf_counter() - self.began, self._load.now, int(head[9:12])
        self.waiting, pause = False, 0.0
        tally.statuses[status] += 1
        if status < 300:
            self._good(took, head, body)
        elif status in (429, 503) and (wait := _field(head, b"\r\nretry-after:")):
            tally.refused += 1
            pause = min(float(wait), LONGEST_WAIT)
        else:
            tally.failures[f"status {status}"] += 1
        if b"\r\nconnection: close" in head:
            self._hang_up()
        if pause:
            self._loop.call_later(pause, self.start)
        else:
            self.start()

    def _good(self, took: float, head: bytes, body: bytes) -> None:
        load = self._load
        load.now.seconds.append(took)
        if version := _field(head, b"\r\nx-model-version:"):
            load.now.versions[version] += 1
        if generation := _field(head, b"\r\nx-model-generation:"):
            at = self.began + took - time.perf_counter() + time.monotonic()
            load.generations.setdefault(generation, [at, at])[1] = at
        if load.expected is not None and (why := _wrong(load.expected, self._body, version, body)):
            load.now.failures[why] += 1

    def _hang_up(self) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()


def _wrong(expected: Expected, number: int, version: str, body: bytes) -> str:
    """How an answer differs from what the version that it names must give; empty when it does not."""
    try:
        shown = msgspec.json.decode(body, type=Shown)
    except msgspec.MsgspecError:
        return "an answer that is no JSON"
    if str(shown.version) != version:
        return "header and body name two versions"
    if version not in expected:
        return f"version {version} should not answer"
    return "" if expected[version][number] == shown.predictions else "the answer is not the version's"


def _field(head: bytes, name: bytes) -> str:
    at = head.find(name)
    return head[at + len(name) : head.index(b"\r", at + 2)].strip().decode() if at >= 0 else ""


def _request(host: str, path: str, body: bytes, key: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def bodies(given: str) -> list[bytes]:
    """The bodies that `--body` names: JSON itself, or a file; one whose name ends in .jsonl has one a line."""
    if given.lstrip().startswith(("{", "[")):
        return [given.encode()]
    raw = Path(given).read_bytes()
    return raw.splitlines() if given.endswith(".jsonl") else [raw.strip()]


def main() -> int:
    """Send, tell, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.split("\n")[0])
    parser.add_argument("url", help="where to post, http only")
    parser.add_argument("--body", required=True, help="JSON, or a file of it (.jsonl: one body a line, sent in turn)")
    parser.add_argument("--key", default="", help="an API key")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warmup", type=float, default=0.0, help="seconds before counting begins")
    parser.add_argument("--expect", type=Path, help="a JSON file: {version: [predictions for each body]}")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    given = parser.parse_args()
    expected = msgspec.json.decode(given.expect.read_bytes(), type=Expected) if given.expect else None
    load = Load(given.url, bodies(given.body), given.key, expected)
    gc.disable()  # nothing here makes cycles, and a collection would show as latency
    found = run(load.run(given.clients, given.seconds, given.warmup, given.json))
    if given.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(f"  all  {load.all.told(found['whole'])}")
        print(f"       this client took {found['client_cpu']:.0%} of a core")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
