"""The figures of `benchmarks.serving`, and the tables that are made of them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SENT, LOOKED_UP = "Headway, features sent", "Headway, features looked up"
UNDER_UVICORN = "Headway under uvicorn, sent"
PIPELINE, TREELITE, SYNCED = "FastAPI + pipeline", "FastAPI + treelite", "FastAPI + treelite + fdatasync"
RATIOS_TO = (PIPELINE, TREELITE, SYNCED)


@dataclass(frozen=True)
class Measured:
    """A server under so many clients for some seconds.

    Attributes:
        rate: answers a second.
        p50: milliseconds, as `p99`.
        refused: answers that say when to come back.
        failed: requests that got no answer or a wrong one.
        failures: {why: count}.
        cpu: share of a core that a worker took, supervisor and all divided by workers.
        cpu_ms: milliseconds of CPU an answer.
        memory: megabytes a worker (proportional set size, supervisor and all divided by workers).
        client: share of a core that the load client took.
        others: the same of everything else on the machine, starting the load client among it.
    """

    rate: float
    p50: float
    p99: float
    refused: int
    failed: int
    failures: Mapping[str, int]
    cpu: float
    cpu_ms: float
    memory: float
    client: float
    others: float

    def told(self) -> str:
        """One line."""
        more = f"  {dict(self.failures)}" if self.failures else ""
        return f"{self.rate:7.0f}/s  p50 {self.p50:7.2f} ms  p99 {self.p99:7.2f} ms  {self.cpu_ms:5.2f} ms CPU{more}"


Found = Mapping[str, Mapping[int, list[Measured]]]
"""{server: {clients: one measurement a round}}."""

COLUMNS: dict[str, Callable[[list[Measured]], str]] = {
    "requests/s": lambda turns: f"{_median(turns, 'rate'):,.0f}",
    "p50 ms": lambda turns: f"{_median(turns, 'p50'):.2f}",
    "p99 ms": lambda turns: f"{_median(turns, 'p99'):.2f}",
    "CPU/worker": lambda turns: f"{_median(turns, 'cpu'):.0%}",
    "CPU ms/request": lambda turns: f"{_median(turns, 'cpu_ms'):.2f}",
    "MB/worker": lambda turns: f"{_median(turns, 'memory'):.0f}",
    "503": lambda turns: f"{sum(turn.refused for turn in turns):,}",
    "failed": lambda turns: f"{sum(turn.failed for turn in turns):,}",
    "client CPU": lambda turns: f"{_median(turns, 'client'):.0%}",
}


def probability(shown: Any) -> float:
    """The probability in one prediction, however a server shows it."""
    if isinstance(shown, dict):
        return float(shown["probability"])
    return float(shown[-1] if isinstance(shown, list) else shown)


def text(found: Found) -> str:
    """Tables to read in a terminal, one for each number of clients, and how the aims were met."""
    parts = []
    for clients, rows in _tables(found).items():
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        parts.append(f"\n{_many(clients, 'client')}")
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            parts.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join([*parts, "", *aims(found)])


def markdown(found: Found, folder: Path, repeats: int, seconds: float) -> str:
    """The same for a page, with where and how it was measured. `folder` is on the disk of the durable log."""
    parts = [f"{machine()}; a synced write to its disk takes {_sync_ms(folder):.1f} ms.", versions()]
    parts += [f"Medians of {_many(repeats, 'round')} of {seconds:.0f} s each, {datetime.now(UTC):%Y-%m-%d}."]
    parts += [quiet(found)]
    for clients, (head, *rows) in _tables(found).items():
        parts += ["", f"**{_many(clients, 'client')}**", ""]
        parts += [_line(row) for row in (head, ["---", *["--:"] * (len(head) - 1)], *rows)]
    return "\n".join([*parts, "", *(f"- {aim}" for aim in aims(found)), ""])


def aims(found: Found) -> list[str]:
    """What was aimed at, and what was found; only what was measured."""
    told = []
    for clients in sorted(found.get(SENT, {})):
        told.append(_aim(f"sent, {_many(clients, 'client')}: x {PIPELINE}", ratio(found, SENT, PIPELINE, clients), 8.0))
        told.append(_aim(f"sent, {_many(clients, 'client')}: x {TREELITE}", ratio(found, SENT, TREELITE, clients), 0.9))
    looked = found.get(LOOKED_UP, {})
    if 1 in looked:
        told.append(_aim("looked up, 1 client: p50 ms", _median(looked[1], "p50"), 2.0, least=False))
        told.append(_aim("looked up, 1 client: p99 ms", _median(looked[1], "p99"), 10.0, least=False))
    if looked:
        best = max(_median(turns, "rate") for turns in looked.values())
        told.append(_aim("looked up: requests/s at best", best, 1000.0))
    for name in (SENT, LOOKED_UP):
        if 500 in found.get(name, {}):
            failed = sum(turn.failed for turn in found[name][500])
            told.append(_aim(f"{name}, 500 clients: failed", failed, 0.0, least=False))
    if found.get(UNDER_UVICORN):
        for clients in sorted(found.get(SENT, {})):
            share = ratio(found, SENT, UNDER_UVICORN, clients)
            told.append(f"`bentoml serve` beside plain uvicorn, the same app, {_many(clients, 'client')}: {share:.2f}x")
    return told


def ratio(found: Found, name: str, to: str, clients: int) -> float:
    """The median over rounds of one server's rate divided by another's."""
    pairs = zip(found[name][clients], found[to][clients], strict=True)
    return statistics.median(one.rate / other.rate if other.rate else float("inf") for one, other in pairs)


def quiet(found: Found) -> str:
    """A sentence on how much else the machine did meanwhile."""
    others = [turn.others for levels in found.values() for turns in levels.values() for turn in turns]
    return f"Everything else on the machine took {statistics.median(others):.0%} of a core, {max(others):.0%} at worst."


def machine() -> str:
    """What it was measured on."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else platform.machine()}), {platform.system()}"


def versions() -> str:
    """Of what serves."""
    names = ("bentoml", "fastapi", "uvicorn", "starlette", "scikit-learn", "treelite", "feast")
    told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"Python {platform.python_version()}, {told}."


def _tables(found: Found) -> dict[int, list[list[str]]]:
    levels = sorted({clients for turns in found.values() for clients in turns})
    head = ["", *COLUMNS, *(f"x {name}" for name in RATIOS_TO)]
    return {
        clients: [
            head,
            *(
                [name, *(show(turns[clients]) for show in COLUMNS.values())]
                + [f"{ratio(found, name, to, clients):.2f}" for to in RATIOS_TO]
                for name, turns in found.items()
            ),
        ]
        for clients in levels
    }


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _median(turns: list[Measured], what: str) -> float:
    return statistics.median(getattr(turn, what) for turn in turns)


def _aim(what: str, value: float, limit: float, least: bool = True) -> str:
    met = value >= limit if least else value <= limit
    return f"{'met' if met else 'MISSED'}: {what} {value:.2f} ({'at least' if least else 'at most'} {limit:g})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sync_ms(folder: Path) -> float:
    took = []
    with (folder / "sync").open("wb") as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 500)
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)
