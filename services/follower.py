"""The process that scores shadows: `python -m services.follower`, started by a worker (`services.shadow`).

It reads what the workers log, lets each model's shadow predict for the instances that the champion answered, and logs
what it says as records with the role "shadow". The champion's own features are given to it, so that both judged the
same rows; a shadow that reads others looks them up. What it cannot keep up with is dropped, the oldest first, and
counted.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from features import HeadwayError
from pipelines.files import write_json
from pipelines.home import Home, home, settle
from pipelines.registry.pointers import Trial, champions, read_pointer, read_trials
from services.answers import Record, iso
from services.log import Segment
from services.report import report
from services.settings import Settings
from services.shadow import NAME, Progress, followed_path, progress_path
from services.shadow_version import ShadowVersion
from services.tail import Tail
from services.watched import why

BATCH = 256
WRITE_SECONDS = 1.0
IDLE_SECONDS = 0.25
SEGMENT_BYTES, SEGMENT_SECONDS = 64 * 2**20, 600.0


class _Head(msgspec.Struct):
    """What tells whether a line is the champion's answer; lines that do not say all of it are not."""

    model: str
    prediction: float
    role: str = "champion"


ENCODER, HEAD, RECORD = msgspec.json.Encoder(), msgspec.json.Decoder(_Head), msgspec.json.Decoder(Record)


@dataclass
class Shadow:
    """One model's shadow at work."""

    trial: Trial
    queue: deque[bytes]
    progress: Progress
    version: ShadowVersion | None = None

    def add(self, line: bytes) -> None:
        """Let a line wait, in the place of the oldest if too many do."""
        full = len(self.queue) == self.queue.maxlen
        self.queue.append(line)
        self.told(dropped=self.progress.dropped + full)

    def told(self, **change: Any) -> None:
        """Remember how it gets on."""
        self.progress = msgspec.structs.replace(self.progress, **change)


class Follower:
    """Scores the shadows of all models.

    Args:
        at: the root.
        waiting: lines of a model that may wait.
    """

    def __init__(self, at: Home, waiting: int) -> None:
        self._at, self._waiting = at, waiting
        self._log = at.room("predictions", "open")
        self._tail = Tail(self._log, but=NAME)
        self._followed: set[str] = set()
        self._shadows: dict[str, Shadow] = {}
        self._segment: Segment | None = None
        self._lines: list[bytes] = []
        self._written = time.monotonic()

    def round(self) -> bool:
        """One look at trials and log, and one batch of each shadow. Whether there is more to do at once."""
        self._follow_trials()
        for line in self._tail.lines():
            with suppress(msgspec.MsgspecError):
                head = HEAD.decode(line)
                if head.role == "champion" and head.model in self._shadows:
                    self._shadows[head.model].add(line)
        self._tell_followed()
        for shadow in self._shadows.values():
            self._score(shadow)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()
        return any(shadow.queue for shadow in self._shadows.values())

    def _tell_followed(self) -> None:
        """Compaction may remove what was opened: it is read to its end all the same."""
        if (followed := self._tail.followed) != self._followed:
            with suppress(OSError):
                write_json(followed_path(self._at), sorted(followed))
                self._followed = followed

    @property
    def wanted(self) -> bool:
        """Whether any model has a shadow."""
        return bool(self._shadows)

    def write(self) -> None:
        """Bring what was scored to the log, and tell how all get on."""
        lines, self._lines = self._lines, []
        try:
            if lines:
                if self._segment is None:
                    name = f"{NAME}{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
                    self._segment = Segment.create(self._log / name)
                self._segment.write(b"".join(lines))
            if self._segment and self._old(self._segment):
                self.close()
        except OSError as error:
            report("shadow_unwritten", level="error", lines=len(lines), why=why(error))
            self.close()
        for model, shadow in self._shadows.items():
            shadow.told(waiting=len(shadow.queue))
            with suppress(OSError):
                write_json(progress_path(self._at, model), shadow.progress)
        self._written = time.monotonic()

    def close(self) -> None:
        """Close our segment; the next line begins another."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _old(self, segment: Segment) -> bool:
        return segment.size > SEGMENT_BYTES or time.monotonic() - segment.opened > SEGMENT_SECONDS

    def _follow_trials(self) -> None:
        """Take in the shadows that began, and let go of those that ended."""
        for model in {*champions(self._at.pointers), *self._shadows}:
            with suppress(HeadwayError):  # a damaged file: what is known of the trial stands
                trials, champion = read_trials(self._at.pointers, model), read_pointer(self._at.pointers, model)
                trial, known = trials.shadow if trials else None, self._shadows.get(model)
                if trial is None or (champion and champion.digest == trial.digest):
                    self._shadows.pop(model, None)
                elif known is None or known.trial != trial:
                    self._shadows[model] = self._begun(model, trial)

    def _begun(self, model: str, trial: Trial) -> Shadow:
        progress = Progress(trial.version, trial.ledger, iso(datetime.now(UTC)))
        shadow = Shadow(trial, deque(maxlen=self._waiting), progress)
        try:
            shadow.version = ShadowVersion(self._at, model, trial)
        except Exception as error:  # told; to try it again, end the trial and begin it
            shadow.told(why=why(error))
        report("shadow", model=model, version=trial.version, why=shadow.progress.why)
        return shadow

    def _score(self, shadow: Shadow) -> None:
        lines = [shadow.queue.popleft() for _ in range(min(BATCH, len(shadow.queue)))]
        if not lines:
            return
        began, found, said = time.perf_counter(), [], shadow.progress.why
        if shadow.version is not None:
            try:
                found = shadow.version.score([RECORD.decode(line) for line in lines])
            except Exception as error:  # a shadow's trouble is nobody else's; its message may quote a caller
                said = str(error) if isinstance(error, HeadwayError) else type(error).__name__
        self._lines += [ENCODER.encode(record) + b"\n" for record in found]
        before, scored = shadow.progress, shadow.progress.scored + len(found)
        failed = before.failed + len(lines) - len(found)
        spent = before.ms * before.scored + 1000 * (time.perf_counter() - began)
        shadow.told(scored=scored, failed=failed, ms=spent / scored if scored else 0.0, why=said)


def lowest_priority() -> None:
    """Run only when nobody else wants to."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Score until no model has a shadow, or the worker that started us is gone: our standard input ends with it."""
    at = home()
    settle(at)
    lowest_priority()
    for number in (signal.SIGTERM, signal.SIGINT):  # meant for the worker, whose end then tells us
        signal.signal(number, lambda *_: None)
    follower = Follower(at, Settings.read(os.environ).shadow_queue)
    more, spent = follower.round(), 0.0
    # As long a pause as the work took, so that half of a core is left even where all else is idle.
    while follower.wanted and not select.select([sys.stdin], [], [], max(spent, 0 if more else IDLE_SECONDS))[0]:
        began = time.monotonic()
        more = follower.round()
        spent = time.monotonic() - began
    follower.write()
    follower.close()


if __name__ == "__main__":
    main()
