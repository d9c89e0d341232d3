"""What a worker says of itself: one JSON object a line on standard error."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

_lock = threading.Lock()


def report(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line: time, level, event and `fields`. Never give it what a caller sent.

    A line that cannot be written (on a full disk, or with nobody at the other end) is lost, and nothing else.
    """
    line = {"time": datetime.now(UTC).isoformat(), "level": level, "event": event, **fields}
    with _lock, suppress(OSError, ValueError):
        sys.stderr.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stderr.flush()
