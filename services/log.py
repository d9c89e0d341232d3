"""The durable prediction log: what was answered is on disk before the caller hears of it.

One JSON Lines file a worker. Requests queue their lines; one committer writes all that wait and calls `fdatasync`
once for them (group commit), so the cost of the disk is shared. A segment is held under `flock` while its writer
lives: the kernel lets go when the process dies, however it dies, and the next worker closes what it left behind.

Zeros are written ahead of the lines: to sync bytes of a file that keeps its length costs the disk one write, to sync
a longer file costs the journal's as well. So an open segment ends in zeros, and one whose writer was killed may end in
half a line and zeros; closing cuts them off. Sectors that a power cut kept from the disk are zeros too, and no line
that was written holds one (JSON escapes them): a line with a zero in it is torn.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import msgspec

from pipelines.files import half_of, sweep, sync_folder
from services.report import report

CLOSED = ".closed.jsonl"
AHEAD = memoryview(bytes(4 * 2**20))
"""What is written ahead at most; until then as much again as there is, so that a quiet segment stays small."""
LEAST = 2**16
PIECE = 2**20
"""Bytes that are read at once in search of the last line."""
Waiting = tuple[bytes, asyncio.Future[None]]


class LogUnavailable(Exception):  # noqa: N818 - a state of the disk, answered with a 503
    """The lines could not be made durable; the request they belong to must not be answered."""


def lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a segment, open or closed; never one that was torn when its writer or the power died.

    A segment that its worker closed since its name was read is found by its new name.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        file = path.with_name(path.name.removesuffix(".jsonl") + CLOSED).open("rb")
    with file:
        yield from (line for line in file if line.endswith(b"\n") and b"\0" not in line)


def end_of(handle: int) -> int:
    """Where the last whole line of an open file ends, in bytes: behind it are zeros, or a line that was torn."""
    end = os.fstat(handle).st_size
    while end > 0:
        begin = max(0, end - PIECE)
        if place := os.pread(handle, end - begin, begin).rfind(b"\n") + 1:
            return begin + place
        end = begin
    return 0


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
                os.ftruncate(handle, end_of(handle))
                closed.append(_closed(path))
            finally:
                os.close(handle)
    return closed


@dataclass
class Segment:
    """One open file of one worker."""

    path: Path
    handle: int
    inode: int
    opened: float
    """Monotonic seconds."""
    size: int = 0
    """Bytes of lines."""
    room: int = 0
    """Bytes with what was written ahead."""

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new, locked, empty segment whose directory entry is on disk. Raises OSError."""
        # It gets its name only once it is locked, so nobody can take it for a dead worker's.
        fresh = half_of(path)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(path)
            sync_folder(path.parent)
        except OSError:
            os.close(handle)
            raise
        return cls(path, handle, os.fstat(handle).st_ino, time.monotonic())

    def write(self, lines: bytes) -> None:
        """Append `lines` and wait for the disk. Raises OSError; what was half written is then cut off if it can be."""
        try:
            rest, end = memoryview(lines), self.size + len(lines)
            while rest:
                rest = rest[os.pwrite(self.handle, rest, end - len(rest)) :]
            if end > self.room:
                self.room = end
                with suppress(OSError):  # on a full disk there is room for these lines, and none ahead
                    self.room += os.pwrite(self.handle, AHEAD[: max(LEAST, end)], end)
            os.fdatasync(self.handle)
            # The folder may have been removed or moved away under the open file: its lines would be nowhere.
            if self.path.stat().st_ino != self.inode:
                raise OSError(f"{self.path.name} was replaced")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.handle, self.size)
            raise
        self.size = end

    def close(self) -> None:
        """Give it its closed name (or remove it, if empty) and let go of it."""
        with suppress(OSError):
            os.ftruncate(self.handle, self.size)
            _closed(self.path)
        with suppress(OSError):
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
        self._waiting: SimpleQueue[Waiting | None] = SimpleQueue()
        self._segment: Segment | None = None
        self._count = 0
        self._thread = Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    async def start(self) -> None:
        """Close what dead workers left."""
        with suppress(OSError):
            await asyncio.to_thread(close_leftovers, self.folder)

    async def append(self, lines: bytes) -> None:
        """Make whole lines (each ends with a newline) durable. Raises LogUnavailable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put((lines, done))
        await done

    async def stop(self) -> None:
        """Commit what waits, then close the segment."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        """The thread: commit whatever waits, until the end is asked for, and watch the age of the segment."""
        ends = False
        while not ends:
            with suppress(Empty):
                first = self._waiting.get(timeout=self.segment_seconds / 10)
                found = [first, *(self._waiting.get() for _ in range(self._waiting.qsize()))]
                batch, ends = [one for one in found if one], None in found
                if batch:
                    self._commit(batch)
            self._roll_if_due()
        self._roll()

    def _commit(self, batch: list[Waiting]) -> None:
        began, failure = time.perf_counter(), None
        try:
            segment = self._segment or self._create()
            segment.write(b"".join(lines for lines, _ in batch))
        except Exception as error:  # whatever it is: nobody may wait for ever
            failure = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
            self._roll()
        # One call for all: to wake the event loop costs about as much as to write.
        tell = batch[0][1].get_loop().call_soon_threadsafe
        tell(self._committed, batch, time.perf_counter() - began, failure)

    def _committed(self, batch: list[Waiting], seconds: float, failure: str | None) -> None:
        """On the event loop."""
        self._tell(failure)
        self.committed(seconds, failure is not None)
        for _, done in batch:
            if not done.done():
                done.set_exception(LogUnavailable(failure)) if failure else done.set_result(None)

    def _tell(self, failure: str | None) -> None:
        """Say it once when writing begins to fail, and once when it works again."""
        if failure is not None and self.failure is None:
            report("log_failing", level="error", why=failure)
        elif failure is None and self.failure is not None:
            report("log_recovered")
        self.failure = failure

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


def _closed(path: Path) -> Path:
    name = path.with_name(path.name.removesuffix(".jsonl") + CLOSED)
    if path.stat().st_size == 0:
        path.unlink()
    else:
        path.rename(name)
    sync_folder(path.parent)
    return name
