"""Rate limits: so many calls a second or a minute for each key, exact across the workers of one machine.

The algorithm is GCRA (the generic cell rate algorithm, ITU-T I.371): all that is remembered of a key is one number,
the theoretical arrival time of its next call had all calls come evenly. It lies in a small file that the workers
share, eight bytes a key. A worker that changes it holds a lock on those bytes, which the kernel takes back should the
worker be killed; the number itself is then the old or the new one.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from features import HeadwayError
from services.refusals import Refused, busy
from services.report import report

MOST = 1_000_000
SECOND = 10**9
UNITS: dict[str, Literal[1, 60]] = {"s": 1, "min": 60}
ARRIVAL = struct.Struct("=q")
Count = Annotated[int, Meta(ge=1, le=MOST)]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`calls` every `seconds`, and `burst` of them at once by a caller who was silent before."""

    calls: Count
    seconds: Literal[1, 60]
    burst: Count

    @property
    def interval(self) -> int:
        """Nanoseconds from one call to the next, rounded up: so the rate is never exceeded."""
        return -(-self.seconds * SECOND // self.calls)

    def __str__(self) -> str:
        return f"{self.calls}/{'s' if self.seconds == 1 else 'min'}, burst {self.burst}"


def parse(text: str, burst: int | None = None) -> Rate:
    """The rate that `100/s` or `600/min` says; `burst` is by default as many calls. Raises HeadwayError."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})/(s|min)", text)
    counts = (int(match[1]), burst or int(match[1])) if match and burst != 0 else (0, 0)
    if match is None or not all(1 <= count <= MOST for count in counts):
        said = text if burst is None else f"{text} with a burst of {burst}"
        raise HeadwayError(
            f"{said} is not a rate. Write calls a second or a minute, such as 100/s or 600/min, and a burst in calls; "
            f"both from 1 to {MOST}."
        )
    return Rate(counts[0], UNITS[match[2]], counts[1])


def admit(arrival: int, now: int, rate: Rate) -> tuple[int, int]:
    """Let a call through, or not.

    Args:
        arrival: the theoretical arrival time kept of the calls before, in nanoseconds.
        now: nanoseconds on the same clock.

    Returns:
        The arrival time to keep, and the nanoseconds to wait before the next try: 0 when the call is let through.
        In any span of time t at most `burst + t / interval` calls are let through.
    """
    full = rate.burst * rate.interval
    # No call leaves a time further ahead than this: it is from before a restart of the machine's clock.
    due = now if arrival > now + full else max(arrival, now)
    wait = due + rate.interval - full - now
    return (arrival, wait) if wait > 0 else (due + rate.interval, 0)


class Rates:
    """The limits as one worker enforces them. Called from one thread: the lock is between processes.

    Args:
        path: the file that the workers share; made when it is first needed.
        default: for keys that carry no rate, and for all callers together where keys are off; None for no limit.
        clock: nanoseconds, the same for all processes of the machine.
    """

    def __init__(self, path: Path, default: Rate | None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._path, self._default, self._clock = path, default, clock
        self._file: int | None = None

    def take(self, slot: int = 0, own: Rate | None = None) -> None:
        """Count one call of the key with this slot and rate of its own (slot 0: nobody was asked for a key).

        Raises:
            Refused: 429 with Retry-After when it comes too early; it is then not counted. 503 when the file that the
                workers share cannot be used: no limit that was set is ever silently not kept.
        """
        rate = own or self._default
        if rate is None:
            return
        try:
            wait = self._wait(slot, rate)
        except OSError as error:
            report("rates_unusable", level="error", file=self._path.name, error=type(error).__name__)
            raise busy("rates_unusable", "The rate limit cannot be counted") from None
        if wait:
            message = f"Too many calls: {rate} are allowed. Come back in {math.ceil(wait / 1e6)} ms"
            raise Refused(429, "too_many", message, headers={"Retry-After": str(math.ceil(wait / SECOND))})

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _wait(self, slot: int, rate: Rate) -> int:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        # Read and written, not mapped: a mapped file that somebody cuts short would kill the worker (SIGBUS).
        file, size, at = self._file, ARRIVAL.size, slot * ARRIVAL.size
        fcntl.lockf(file, fcntl.LOCK_EX, size, at)
        try:
            kept = os.pread(file, size, at)
            arrival = ARRIVAL.unpack(kept)[0] if len(kept) == size else 0
            later, wait = admit(arrival, self._clock(), rate)
            if later != arrival:
                os.pwrite(file, ARRIVAL.pack(later), at)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, size, at)
        return wait
