"""A call on its way through a version: as it was asked, and as it was answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from services.schema import Call


def _unmarked(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that is to be answered. `mark` is told the name of each step when it ends."""

    call: Call
    request_id: str
    decision_time: datetime
    mark: Callable[[str], None] = _unmarked


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that was answered: the body for its caller, and the lines for the durable log, one `Record` an instance.

    `degraded` counts the instances for which some default stood in.
    """

    body: bytes
    lines: bytes
    instances: int
    degraded: int
