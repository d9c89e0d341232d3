"""Files that are followed by looking at them: which to read now, and what came of those that could not be used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from features import HeadwayError

RETRY_SECONDS = 30.0
"""What was refused is tried again this often: what it lacked may have been put right."""

Mark = tuple[int, int, int] | None
T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """A file, or the version that it names, that did not come to serve."""

    at: datetime
    why: str


class Watched:
    """Remembers how each file looked when it was last read."""

    def __init__(self) -> None:
        self._marks: dict[Path, Mark] = {}
        self._tried: dict[Path, float] = {}

    def due(self, path: Path, *, refused: bool) -> bool:
        """Whether to read a file now: it changed, or it was refused a while ago. The caller is to read it then."""
        mark = _mark(path)
        again = refused and time.monotonic() - self._tried[path] > RETRY_SECONDS
        if mark == self._marks.get(path) and not again:
            return False
        self._marks[path], self._tried[path] = mark, time.monotonic()
        return True


def why(error: Exception) -> str:
    """What to tell of an error: a message of ours as it is, another with its kind."""
    return str(error) if isinstance(error, HeadwayError) else f"{type(error).__name__}: {error}"


def having(mapping: Mapping[str, T], name: str, value: T | None) -> Mapping[str, T]:
    """A new mapping in which `name` has `value`, or which lacks it (None). Readers keep the one they took."""
    rest = {key: known for key, known in mapping.items() if key != name}
    return MappingProxyType(rest if value is None else {**rest, name: value})


def _mark(path: Path) -> Mark:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
