"""Counts and timings that add up: over requests in a worker, over workers, over days. Light to import."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec

Key = tuple[str, ...]
"""What is counted, then its labels: ("degraded", model)."""

BOUNDS = (
    0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
"""Upper ends of the buckets of a timing, in seconds, inclusive; what took longer is in one more."""
JOINT = "|"


class Timing(msgspec.Struct):
    """How long something took, every time: the sum of seconds, and how often in each bucket of `BOUNDS`."""

    seconds: float = 0.0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    @property
    def count(self) -> int:
        """How often."""
        return sum(self.buckets)

    def take(self, seconds: float) -> None:
        """Count one."""
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    def add(self, other: Timing) -> None:
        """Count all of `other` too."""
        self.seconds += other.seconds
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def quantile(self, share: float) -> float | None:
        """The seconds within which `share` (0 to 1) of them ended, linear within a bucket; None when there are none.

        What lies beyond the last bound is told as that bound, as Prometheus' histogram_quantile does.
        """
        wanted, below = share * self.count, 0
        for number, inside in enumerate(self.buckets[:-1]):
            if inside and below + inside >= wanted:
                low = BOUNDS[number - 1] if number else 0.0
                return low + (BOUNDS[number] - low) * max(0.0, wanted - below) / inside
            below += inside
        return BOUNDS[-1] if self.count else None


class Tally:
    """Counts and timings by key. Adding is plain arithmetic on dictionaries: use one from one thread at a time."""

    def __init__(self) -> None:
        self.counts: dict[Key, float] = {}
        self.timings: dict[Key, Timing] = {}

    def count(self, key: Key, amount: float = 1) -> None:
        """Count `amount` more of `key`."""
        self.counts[key] = self.counts.get(key, 0) + amount

    def time(self, key: Key, seconds: float) -> None:
        """One more of `key` took `seconds`."""
        timing = self.timings.get(key)
        if timing is None:
            timing = self.timings[key] = Timing()
        timing.take(seconds)

    def add(self, other: Tally) -> Self:
        """Count all of `other` too."""
        for key, amount in other.counts.items():
            self.count(key, amount)
        for key, timing in other.timings.items():
            self.timings.setdefault(key, Timing()).add(timing)
        return self


class Stored(msgspec.Struct):
    """A tally in a file; a key's parts are joined by `|`."""

    counts: dict[str, float] = {}
    timings: dict[str, Timing] = {}

    @classmethod
    def of(cls, tally: Tally) -> Stored:
        """`tally`, to be written."""
        return cls(
            {JOINT.join(key): amount for key, amount in tally.counts.items()},
            {JOINT.join(key): timing for key, timing in tally.timings.items()},
        )

    def tally(self) -> Tally:
        """The tally that was written."""
        found = Tally()
        found.counts = {tuple(key.split(JOINT)): amount for key, amount in self.counts.items()}
        found.timings = {tuple(key.split(JOINT)): timing for key, timing in self.timings.items()}
        return found


def read(paths: Iterable[Path]) -> Tally:
    """The sum of the tallies in `paths`. Files that are none (a power cut can leave such) count as `unreadable`."""
    found = Tally()
    for path in paths:
        try:
            found.add(msgspec.json.decode(path.read_bytes(), type=Stored).tally())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            found.count(("unreadable",))
    return found
