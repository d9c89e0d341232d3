"""Reading the durable log while it is written: the lines that were added since the last look."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.log import CLOSED, end_of

CHUNK = 2**20
"""Bytes that are read of a segment at a time."""


@dataclass
class _Segment:
    handle: int
    place: int
    torn: bytes = b""
    """The beginning of a line whose end is not written yet."""

    def lines(self) -> list[bytes]:
        # After a write that failed the log cuts its segment back to what it acknowledged.
        if os.fstat(self.handle).st_size < self.place:
            self.place, self.torn = os.fstat(self.handle).st_size, b""
        found, _, _ = os.pread(self.handle, CHUNK, self.place).partition(b"\0")  # zeros: not written yet
        self.place += len(found)
        *whole, self.torn = (self.torn + found).split(b"\n")
        return whole


class Tail:
    """Follows every segment in a folder, from where each stood when this began; later ones from their beginning.

    Args:
        folder: of the log.
        but: the beginning of the names that are left out.
    """

    def __init__(self, folder: Path, *, but: str) -> None:
        self._folder, self._but = folder, but
        self._open: dict[str, _Segment] = {}
        self._done: set[str] = set()
        for name, path in self._listed().items():
            self._follow(name, path, from_end=True)

    def lines(self) -> list[bytes]:
        """The lines that were added, without their newlines; at most CHUNK bytes of each segment."""
        listed = self._listed()
        self._done &= listed.keys()
        for name, path in listed.items():
            if name not in self._open and name not in self._done:
                self._follow(name, path)
        found: list[bytes] = []
        for name, segment in list(self._open.items()):
            added = segment.lines()
            found += added
            if not added and (name not in listed or listed[name].name.endswith(CLOSED)):
                os.close(self._open.pop(name).handle)
                self._done.add(name)
        return found

    @property
    def followed(self) -> set[str]:
        """The segments there are that were opened, by the name that each keeps."""
        return {*self._open, *self._done}

    def close(self) -> None:
        """Let go of the files."""
        while self._open:
            os.close(self._open.popitem()[1].handle)

    def _listed(self) -> dict[str, Path]:
        """The segments by the name that each keeps when it is closed."""
        paths = [path for path in self._folder.glob("*.jsonl") if not path.name.startswith(self._but)]
        return {path.name.removesuffix(CLOSED).removesuffix(".jsonl"): path for path in paths}

    def _follow(self, name: str, path: Path, *, from_end: bool = False) -> None:
        with suppress(FileNotFoundError):  # closed since it was listed: the next look finds its other name
            handle = os.open(path, os.O_RDONLY)
            self._open[name] = _Segment(handle, end_of(handle) if from_end else 0)
