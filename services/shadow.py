"""Shadows, as the workers see them: one process beside them scores what they logged, and tells how it gets on.

Nothing of a shadow is on the path of a request. A thread in the worker would be: it shares the interpreter's lock with
the event loop, and an answer would wait for it. So the workers keep one follower (`services.follower`) running for the
whole machine while some model has a shadow: at the lowest priority there is, reading the log that they write anyway.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from features import HeadwayError
from pipelines.files import read_json
from pipelines.home import PROJECT, Home, environment
from services.log import CLOSED
from services.report import report
from services.watched import RETRY_SECONDS

NAME = "shadow-"
"""How the names of the follower's own segments of the log begin."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 3.0


class Progress(msgspec.Struct, frozen=True):
    """How the shadow of a model gets on, since its follower started. Counts are of instances."""

    version: int
    ledger: str
    """The entry that began the trial."""
    since: str
    scored: int = 0
    dropped: int = 0
    """Logged faster than it could score: the oldest that waited were left out."""
    failed: int = 0
    """It could not score them."""
    waiting: int = 0
    ms: float = 0.0
    """Mean milliseconds an instance, when scored in batches."""
    why: str | None = None
    """Why it does not score, or why it last failed."""


def progress(at: Home, model: str) -> Progress | None:
    """How the shadow of a model gets on, as its follower told last; None before it told anything."""
    path = progress_path(at, model)
    try:
        return read_json(path, Progress)
    except (FileNotFoundError, HeadwayError):
        return None


def progress_path(at: Home, model: str) -> Path:
    """Where the follower tells it."""
    return at.room("shadows") / f"{model}.json"


def followed_path(at: Home) -> Path:
    """Where the follower tells which segments of the log it has opened: a list of names."""
    return at.room("shadows") / ".followed"


def unread(at: Home, segment: Path) -> bool:
    """Whether a follower runs that has yet to open a closed segment: were it removed, its lines would be lost to it."""
    if segment.name.startswith(NAME) or not _runs(at):
        return False
    try:
        return segment.name.removesuffix(CLOSED) not in read_json(followed_path(at), list[str])
    except (FileNotFoundError, HeadwayError):  # it has only begun
        return True


def _runs(at: Home) -> bool:
    """Whether a follower lives on this machine: it holds the lock for as long."""
    with (at.room("shadows") / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Keeper:
    """Sees to it, in each worker, that one follower runs on this machine while it is wanted."""

    def __init__(self, at: Home) -> None:
        self._at = at
        self._child: subprocess.Popen[bytes] | None = None
        self._started = -RETRY_SECONDS

    async def watch(self, wanted: Callable[[], bool]) -> None:
        """Look after it until cancelled; the follower ends by itself when no trial needs it."""
        while True:
            if wanted():
                with suppress(OSError):
                    await asyncio.to_thread(self.start)
            await asyncio.sleep(LOOK_SECONDS)

    def start(self) -> bool:
        """Start the follower, unless one runs on this machine or ours failed just now. Whether it did."""
        failed = self._child is not None and self._child.poll() not in (None, 0)
        if self.running or (failed and time.monotonic() - self._started < RETRY_SECONDS):
            return False
        lock = os.open(self._at.room("shadows") / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The child inherits the lock and holds it as long as it lives; and no session of its own: priorities
            # are weighed within one. It ends when its standard input does, that is with this worker.
            self._child = subprocess.Popen(
                [sys.executable, "-m", "services.follower"],
                stdin=subprocess.PIPE, env=environment(self._at), cwd=PROJECT, pass_fds=[lock],
            )  # fmt: skip
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        self._started = time.monotonic()
        report("follower_started", pid=self._child.pid)
        return True

    @property
    def running(self) -> bool:
        """Whether this worker's own follower runs."""
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """End our follower, if it runs; another worker then starts its own."""
        if self._child is None:
            return
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.terminate()  # at once while it still imports; later it heeds its standard input
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
