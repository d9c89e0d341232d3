"""The picture of a model's year: who was in charge and how old, with trainings, alarms and vetoes below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from monitoring.history import Champion, Mark, day

ROWS = ("trained", "alarm", "veto")
"""One row each; a row without a mark is left out."""
TALL = 26
LETTER = 7.2
"""Width of a letter of a label: a reign too short for its label goes without."""
YEAR = timedelta(days=365)
DAY = timedelta(days=1)
X = Callable[[str], float]


@dataclass(frozen=True)
class Reign:
    """A version in charge: where its bar lies, and what is written on it."""

    x: float
    width: float
    label: str
    title: str


@dataclass(frozen=True)
class Row:
    """The marks of one kind: where, and what each says."""

    name: str
    y: float
    marks: list[tuple[float, str]]


@dataclass(frozen=True)
class Timeline:
    """The whole picture; time runs to the right."""

    width: int
    height: int
    left: int
    reigns: list[Reign]
    rows: list[Row]
    today: float
    due: float | None
    """Where the calendar retrains the champion."""
    dates: list[tuple[float, str]]
    told: str
    """The picture in words, for whoever cannot see it."""


def timeline(champions: Sequence[Champion], marks: Sequence[Mark], until: str, due: str | None, width: int) -> Timeline:
    """At most a year up to `until` (ISO day), and on to `due`, in a picture `width` pixels wide.

    Args:
        champions: oldest first, at least one.
        marks: in any order.
    """
    today = _day(until)
    begins = max(_day(champions[0].as_of), today - YEAR)
    ends = max(today + DAY, *([_day(due)] if due else []), begins + DAY)
    left, days = 72, (ends - begins).days
    scale = (width - left - 14) / days
    recent = [mark for mark in marks if begins <= _day(mark.as_of) <= today + DAY]

    def x(text: str) -> float:
        return round(left + scale * min(max(0, (_day(text) - begins).days), days), 1)

    shown = [name for name in ROWS if any(mark.occasion == name for mark in recent)]
    rows = [
        Row(name, 58 + TALL * place, [(x(m.as_of), _title(m)) for m in recent if m.occasion == name])
        for place, name in enumerate(shown)
    ]
    step = math.ceil(72 / scale)
    at = [begins + n * DAY for n in range(0, days + 1, step) if n * scale < width - left - 26]
    return Timeline(
        width, 46 + TALL * len(rows) + 30, left, _reigns(champions, begins, x, x(until)), rows, x(until),
        x(due) if due else None, [(x(each.isoformat()), f"{each.day} {each:%b}") for each in at],
        _told(champions, recent, due),
    )  # fmt: skip


def _reigns(champions: Sequence[Champion], begins: date, x: X, today: float) -> list[Reign]:
    ends = [*(champion.as_of for champion in champions[1:]), None]
    shown = [champion for champion, end in zip(champions, ends, strict=True) if end is None or _day(end) > begins]
    starts = [x(champion.as_of) for champion in shown]
    found = []
    for champion, (start, end) in zip(shown, pairwise([*starts, max(today, starts[-1] + 4)]), strict=True):
        name = f"version {champion.version}"
        label = next((text for text in (name, str(champion.version)) if len(text) * LETTER + 6 < end - start), "")
        title = f"{name} since {day(champion.as_of)}: {champion.why.replace('`', '')}"
        found.append(Reign(start, max(1.0, round(end - start - 1.5, 1)), label, title))
    return found


def _day(text: str) -> date:
    return date.fromisoformat(text[:10])


def _title(mark: Mark) -> str:
    return f"{day(mark.as_of)}: {mark.sentence.replace('`', '')}"


def _told(champions: Sequence[Champion], marks: Sequence[Mark], due: str | None) -> str:
    count = {name: sum(mark.occasion == name for mark in marks) for name in ROWS}
    said = [f"version {champions[-1].version} is in charge since {day(champions[-1].as_of)}"]
    said += [f"{name}: {number}" for name, number in count.items() if number]
    return "; ".join(said) + (f"; the calendar retrains it on {day(due)}" if due else "")
