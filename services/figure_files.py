"""Where a worker's figures are kept, so that others can add them up. Two small files a worker, each replaced whole:

- `serving/<day>/<worker>.json`: its counts of that day, for the weekly page;
- `serving/live/<service>/<worker>.json`: its counts since it began, and how it is now, for `/metrics`.

A scrape meets one worker of a service, and is told the sum over all of them. Dead workers' counts stay in it, and a
worker writes its own before it tells them, so that no counter runs backwards whichever worker is met next. One that
is killed takes the counts of its last two seconds with it.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from pipelines.home import Home
from services.report import report
from services.tallies import Stored, Tally, read

ALIVE_SECONDS = 10.0
"""A worker that has not written for so long is dead, or stuck: what it is now is not told any more."""
KEPT_SECONDS = 100 * 86400.0
"""How long a day is kept after it was last written: the weekly page shows twelve weeks."""
ENDED_SECONDS = 3600.0
"""How long the live files of a service that has ended are kept."""
SWEEP_SECONDS = 86400.0
LIVE, NO_DAY = "live", ""


class Version(msgspec.Struct, frozen=True):
    """What a worker serves of one model."""

    model: str
    version: int
    generation: int
    trained_as_of: str


class Now(msgspec.Struct, frozen=True):
    """How a worker is at the moment."""

    in_flight: int = 0
    log_failing: bool = False
    versions: list[Version] = []


class Worker(msgspec.Struct, frozen=True):
    """A worker's live file. `at` is in seconds since 1970; `now` is None once the worker has ended."""

    at: float
    now: Now | None
    since_start: Stored

    @property
    def alive(self) -> Now | None:
        """How it is now, if it wrote lately."""
        return self.now if time.time() - self.at < ALIVE_SECONDS else None


class Files:
    """The files of one worker. Its methods may be called from any thread."""

    def __init__(self, at: Home, worker: str) -> None:
        self._days, self._live = at.room("serving"), at.room("serving", LIVE, _service())
        self._name = f"{worker}.json"
        self._at_work, self._failing, self._swept = threading.Lock(), False, 0.0
        self._since_start = Tally()
        self._unwritten: dict[str, Tally] = {}
        self._self = Worker(0.0, None, Stored())

    def write(self, fresh: dict[str, Tally], day: str, now: Now | None) -> None:
        """Add `fresh`, by day, to what is written.

        A disk that refuses is told about once, and nothing is lost: the next time writes it too.

        Args:
            day: the latest one; what was counted on `NO_DAY` is written with it, once there is one.
            now: how the worker is; None when it ends.
        """
        with self._at_work:
            for each, tally in fresh.items():
                self._since_start.add(tally)
                self._unwritten.setdefault(each, Tally()).add(tally)
            if day != NO_DAY and NO_DAY in self._unwritten:
                self._unwritten.setdefault(day, Tally()).add(self._unwritten.pop(NO_DAY))
            self._self = Worker(time.time(), now, Stored.of(self._since_start))
            try:
                self._write_all()
            except OSError as error:
                if not self._failing:
                    report("figures_unwritten", level="error", error=type(error).__name__, why=error.strerror)
                self._failing = True
            else:
                self._failing = False

    def workers(self) -> list[Worker]:
        """All workers of this service, dead ones too; this one as of the last `write`, even if it failed."""
        found = [self._self]
        for path in sorted(self._live.glob("*.json")):
            if path.name != self._name:
                with suppress(OSError, msgspec.MsgspecError):
                    found.append(msgspec.json.decode(path.read_bytes(), type=Worker))
        return found

    def _write_all(self) -> None:
        _replace(self._live / self._name, msgspec.json.encode(self._self))
        for day in [day for day in self._unwritten if day != NO_DAY]:
            path = self._days / day / self._name
            total = read([path] if path.exists() else []).add(self._unwritten[day])
            _replace(path, msgspec.json.encode(Stored.of(total)))
            del self._unwritten[day]
        if time.time() - self._swept > SWEEP_SECONDS:
            self._swept = time.time()
            _sweep(self._live.parent, self._swept - ENDED_SECONDS)
            _sweep(self._days, self._swept - KEPT_SECONDS)


def _sweep(parent: Path, before: float) -> None:
    """Remove the folders in `parent` in which nothing was written since the instant `before`."""
    for folder in parent.iterdir():
        if folder.name != LIVE and max(path.stat().st_mtime for path in [folder, *folder.iterdir()]) < before:
            shutil.rmtree(folder, ignore_errors=True)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file whole, without waiting for the disk: it is the log that may not be kept waiting for it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_bytes(content)
    half.replace(path)


def _service() -> str:
    """Names the service that this worker is part of: the workers of one supervisor are its children."""
    process = psutil.Process()
    with suppress(psutil.Error):
        parent = process.parent()
        if parent is not None and parent.exe() == process.exe():
            process = parent
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-") or "host"
    return f"{host}-{process.pid}-{process.create_time():.0f}"
