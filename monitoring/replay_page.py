"""The page of a replay: which policy to choose, quality over time for each, and the table behind the sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from monitoring.pictures import polyline, scale, short, ticks
from monitoring.quality import metric_name
from monitoring.render import environment
from monitoring.replayed import Outcome, Replayed

SIZES = (("wide", 720, 250), ("narrow", 340, 220))
"""Pictures are drawn twice, for a desk and for a phone: class, width, height."""
LEFT, RIGHT = 46, 12
ROW = 58
"""Height of a policy's own picture."""


@dataclass(frozen=True)
class Line:
    """One policy's quality over time."""

    policy: str
    path: str
    kind: str
    """chosen, current, never or other."""


@dataclass(frozen=True)
class Lines:
    """Quality by window, a line for each policy."""

    width: int
    height: int
    ticks: list[tuple[float, str]]
    dates: list[tuple[float, str]]
    lines: list[Line]


@dataclass(frozen=True)
class Course:
    """One policy: what it gained over never retraining, window by window, and when it trained."""

    width: int
    height: int
    zero: float
    area: str
    trained: list[tuple[float, str]]
    alarmed: list[tuple[float, str]]


def render(found: Replayed) -> str:
    """The page: self-contained HTML, every text escaped."""
    real = [each for each in found.outcomes if not each.dummy]
    never = next((each for each in real if set(each.trained) == set() and not each.retrainings), None)
    return (
        environment()
        .get_template("replay.html")
        .render(
            found=found,
            title=f"{found.model}: replay of {found.since} to {found.until}",
            real=real,
            metric=metric_name(found.metric),
            lower_is_better=found.metric.startswith("neg_"),
            charts=[(size, lines(found, real, width, height)) for size, width, height in SIZES],
            courses=[
                (each, [(size, course(found, each, never, width)) for size, width in (("wide", 430), ("narrow", 330))])
                for each in real
                if each is not never
            ],
            shown=found.shown,
            never=never,
        )
    )


def lines(found: Replayed, real: Sequence[Outcome], width: int, height: int) -> Lines:
    """The picture of quality over time."""
    floor = height - 28
    turn = -1.0 if found.metric.startswith("neg_") else 1.0
    values = [turn * value for each in real for value in each.series]
    y = scale(values, 12, floor - 6)
    step = (width - LEFT - RIGHT) / max(1, len(found.windows))
    xs = [LEFT + (place + 0.5) * step for place in range(len(found.windows))]
    every = max(1, round(70 / step))
    order = {"other": 0, "never": 1, "current": 2, "chosen": 3}
    drawn = [
        Line(each.policy, polyline([(x, y(turn * value)) for x, value in zip(xs, each.series, strict=True)]), kind)
        for each in real
        for kind in [_kind(found, each)]
    ]
    return Lines(
        width=width,
        height=height,
        ticks=[(y(value), f"{value:,.10g}") for value in ticks(values)],
        dates=[(x, short(day)) for x, day in list(zip(xs, found.windows, strict=True))[::every]],
        lines=sorted(drawn, key=lambda line: order[line.kind]),
    )


def course(found: Replayed, each: Outcome, never: Outcome | None, width: int) -> Course:
    """The picture of one policy; all of a page have one scale."""
    top, floor = 8, ROW - 18
    base = never.series if never else [0.0] * len(each.series)
    apart = [
        one - other
        for outcome in found.outcomes
        if not outcome.dummy
        for one, other in zip(outcome.series, base, strict=True)
    ]
    y = scale([0.0, *apart], top, floor)
    step = (width - 8) / max(1, len(found.windows))
    days = {day: 4 + place * step for place, day in enumerate(found.windows)}
    points = [
        (4 + (place + side) * step, y(one - other))
        for place, (one, other) in enumerate(zip(each.series, base, strict=True))
        for side in (0, 1)
    ]
    zero = y(0.0)
    return Course(
        width=width,
        height=ROW,
        zero=zero,
        area=polyline([(4.0, zero), *points, (4 + len(each.series) * step, zero)]) + " Z",
        trained=[(_place(days, day, step), short(day)) for day in each.trained],
        alarmed=[(_place(days, day, step), short(day)) for day in each.alarmed],
    )


def _place(days: dict[str, float], day: str, step: float) -> float:
    """Where a day lies among the windows that begin on `days`."""
    before = max((start for start in days if start <= day), default=next(iter(days)))
    span = max(1, _apart(days))
    return round(days[before] + step * min(1.0, (date.fromisoformat(day) - date.fromisoformat(before)).days / span), 1)


def _apart(days: dict[str, float]) -> int:
    first = [date.fromisoformat(day) for day in list(days)[:2]]
    return (first[1] - first[0]).days if len(first) > 1 else 1


def _kind(found: Replayed, each: Outcome) -> str:
    if each.policy == found.choice:
        return "chosen"
    if each.policy == found.current:
        return "current"
    return "never" if not each.retrainings else "other"
