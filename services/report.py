"""What a worker says of itself: one JSON object a line on standard error."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec

_lock = threading.Lock()


def report(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line: time, level, event and `fields`. Never give it what a caller sent."""
    line = {"time": datetime.now(UTC).isoformat(), "level": level, "event": event, **fields}
    with _lock:
        sys.stderr.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stderr.flush()
