"""The durable prediction log: what was answered is on disk before the caller hears of it.

One JSON Lines file a worker. Requests queue their lines; one committer writes all that wait and calls `fdatasync`
once for them (group commit), so the cost of the disk is shared. A segment is held under `flock` while its writer
lives: the kernel lets go when the process dies, however it dies, and the next worker closes what it left behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pipelines.files import half_of, sweep, sync_folder
from services.report import report

CLOSED = ".closed.jsonl"
Waiting = list[tuple[bytes, asyncio.Future[None]]]


class LogUnavailable(Exception):  # noqa: N818 - a state of the disk, answered with a 503
    """The lines could not be made durable; the request they belong to must not be answered."""


def lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a segment, open or closed; never the torn one that a killed writer left at its end.

    A segment that its worker closed since its name was read is found by its new name.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        file = path.with_name(path.name.removesuffix(".jsonl") + CLOSED).open("rb")
    with file:
        yield from (line for line in file if line.endswith(b"\n"))


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a segment as they were written. A line that is torn or is no JSON object is none."""
    for line in lines(path):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            record = msgspec.json.decode(line)
            if isinstance(record, dict):
                yield record


def close_leftovers(folder: Path) -> list[Path]:
    """Close the segments whose writers are dead, and return them by their new names. Living writers keep theirs."""
    closed = []
    sweep(folder)
    for path in sorted(folder.glob("*.jsonl")):
        if path.name.endswith(CLOSED):
            continue
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                closed.append(_closed(path))
            finally:
                os.close(handle)
    return closed


@dataclass
class Segment:
    """One open file of one worker."""

    path: Path
    handle: int
    opened: float
    """Monotonic seconds."""
    size: int = 0

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new, locked, empty segment whose directory entry is on disk. Raises OSError."""
        # It gets its name only once it is locked, so nobody can take it for a dead worker's.
        fresh = half_of(path)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(path)
            sync_folder(path.parent)
        except OSError:
            os.close(handle)
            raise
        return cls(path, handle, time.monotonic())

    def write(self, lines: bytes) -> None:
        """Append `lines` and wait for the disk. Raises OSError; what was half written is then cut off if it can be."""
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self.handle, rest) :]
            os.fdatasync(self.handle)
            # The folder may have been removed or moved away under the open file: its lines would be nowhere.
            if self.path.stat().st_ino != os.fstat(self.handle).st_ino:
                raise OSError(f"{self.path.name} was replaced")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.handle, self.size)
            raise
        self.size += len(lines)

    def close(self) -> None:
        """Give it its closed name (or remove it, if empty) and let go of it."""
        with suppress(OSError):
            _closed(self.path)
        os.close(self.handle)


def _untold(seconds: float, failed: bool) -> None:
    """Nobody wants to know."""


@dataclass
class DurableLog:
    """The log of one worker.

    `await append(line)` returns once the line is on disk. After a failed write the segment is given up and the next
    batch starts a new one, so the log recovers by itself as soon as writing works again.
    """

    folder: Path
    segment_bytes: int = 64 * 2**20
    segment_seconds: float = 600.0
    worker: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:12]}")
    committed: Callable[[float, bool], None] = _untold
    """Told of every commit: how many seconds it took, and whether it failed."""

    def __post_init__(self) -> None:
        self.failure: str | None = None
        """Why the last commit failed; None when it worked."""
        self._waiting: Waiting = []
        self._segment: Segment | None = None
        self._count = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._committing: asyncio.Task[None] | None = None
        self._aging: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Close what dead workers left, and watch the age of the segment."""
        with suppress(OSError):
            await self._in_thread(close_leftovers, self.folder)
        self._aging = asyncio.create_task(self._watch_age())

    async def append(self, lines: bytes) -> None:
        """Make whole lines (each ends with a newline) durable. Raises LogUnavailable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        await done

    async def stop(self) -> None:
        """Commit what waits, then close the segment."""
        if self._aging is not None:
            self._aging.cancel()
        if self._committing is not None:
            await self._committing
        await self._in_thread(self._roll)
        self._thread.shutdown()

    async def _commit(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            began, failure = time.perf_counter(), None
            try:
                await self._in_thread(self._write, b"".join(lines for lines, _ in batch))
            except OSError as error:
                failure = f"{type(error).__name__}: {error.strerror or error}"
            self._tell(failure)
            self.committed(time.perf_counter() - began, failure is not None)
            for _, done in batch:
                if not done.done():
                    done.set_exception(LogUnavailable(self.failure)) if self.failure else done.set_result(None)

    def _tell(self, failure: str | None) -> None:
        """Say it once when writing begins to fail, and once when it works again."""
        if failure is not None and self.failure is None:
            report("log_failing", level="error", why=failure)
        elif failure is None and self.failure is not None:
            report("log_recovered")
        self.failure = failure

    async def _watch_age(self) -> None:
        while True:
            await asyncio.sleep(self.segment_seconds / 10)
            await self._in_thread(self._roll_if_due)

    def _write(self, lines: bytes) -> None:
        segment = self._segment or self._create()
        try:
            segment.write(lines)
        except OSError:
            self._roll()
            raise
        self._roll_if_due()

    def _roll_if_due(self) -> None:
        segment = self._segment
        if segment and (
            segment.size >= self.segment_bytes or time.monotonic() - segment.opened >= self.segment_seconds
        ):
            self._roll()

    def _create(self) -> Segment:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._count += 1
        self._segment = Segment.create(self.folder / f"{self.worker}-{self._count}.jsonl")
        return self._segment

    def _roll(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


def _closed(path: Path) -> Path:
    name = path.with_name(path.name.removesuffix(".jsonl") + CLOSED)
    if path.stat().st_size == 0:
        path.unlink()
    else:
        path.rename(name)
    sync_folder(path.parent)
    return name
