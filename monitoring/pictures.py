"""Geometry of the page's pictures: numbers in, coordinates out; the templates draw them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from monitoring.drift import Input, number

MATURE = 0.9
"""A week with this share of its labels in is drawn solid."""
BESIDE = 8
"""An estimate is drawn so far to the left of the truth that it may lie on."""


@dataclass(frozen=True)
class Spark:
    """One input: its course over the reference windows, the usual band, and this window's value."""

    width: int
    height: int
    path: str
    band: tuple[float, float] | None
    """Top and height of the band."""
    dot: tuple[float, float] | None
    unusual: bool


@dataclass(frozen=True)
class Point:
    """One week's quality with its interval: y grows downwards."""

    x: float
    y: float
    low: float
    high: float
    mature: bool
    label: str


@dataclass(frozen=True)
class Between:
    """An interval beside zero: all are places from left to right."""

    width: int
    zero: float
    low: float
    dot: float
    high: float


@dataclass(frozen=True)
class Chart:
    """Quality by week."""

    width: int
    height: int
    left: int
    floor: float
    ticks: list[tuple[float, str]]
    points: list[Point]
    path: str
    baseline: str
    base: float | None
    """Height of the latest baseline, for its label."""
    dates: list[tuple[float, str]]
    versions: list[tuple[float, str]]
    """Where another version took over."""
    estimates: list[tuple[float, float, str]]
    """Where, and what, a week was expected to be without its labels."""


@dataclass(frozen=True)
class Score:
    """What the chart needs of one week, larger or smaller is better."""

    week: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    maturity: float
    version: int
    estimate: float | None = None


def spark(each: Input, width: int = 232, height: int = 60) -> Spark:
    """The picture of one input, this window's value last."""
    shown = [each.level, each.band_low, each.band_high, *each.series]
    y = scale([value for value in shown if value is not None], 8, height - 8)
    step = (width - 14) / max(1, len(each.series))
    course = [(4 + i * step, value) for i, value in enumerate(each.series)]
    band = None if each.band_low is None or each.band_high is None else (y(each.band_high), y(each.band_low))
    outside = each.level is not None and band is not None and not _within(each)
    return Spark(
        width=width,
        height=height,
        path=polyline([(x, None if value is None else y(value)) for x, value in course]),
        band=(band[0] - 1, band[1] - band[0] + 2) if band else None,
        dot=None if each.level is None else (width - 9, y(each.level)),
        unusual=outside,
    )


def chart(scores: Sequence[Score], width: int, height: int = 240) -> Chart:
    """The picture of quality by week, oldest first; a narrow one shows the latest weeks that fit."""
    left, right, top, floor = 46, 14, 22, height - 30
    scores = scores[-max(4, (width - left - right) // 22) :]
    y = scale(_values(scores), top, floor - 6)
    step = (width - left - right) / max(1, len(scores))
    xs = [left + (i + 0.5) * step for i in range(len(scores))]
    every = max(1, math.ceil(52 / step)) if scores else 1
    return Chart(
        width=width,
        height=height,
        left=left,
        floor=floor,
        ticks=[(y(value), f"{value:,.10g}") for value in _ticks(scores)],
        points=[
            Point(x, y(s.value), y(s.low), y(s.high), s.maturity >= MATURE, number(s.value))
            for x, s in zip(xs, scores, strict=True)
            if s.value is not None and s.low is not None and s.high is not None
        ],
        path=polyline([(x, None if s.value is None else y(s.value)) for x, s in zip(xs, scores, strict=True)]),
        baseline=polyline(
            [
                (x + side * step / 2, None if s.baseline is None else y(s.baseline))
                for x, s in zip(xs, scores, strict=True)
                for side in (-1, 1)
            ]
        ),
        base=next((y(s.baseline) for s in reversed(scores) if s.baseline is not None), None),
        dates=[(x, short(s.week)) for x, s in list(zip(xs, scores, strict=True))[::-every]],
        versions=[
            (x - step / 2, f"version {after.version}")
            for x, before, after in zip(xs[1:], scores, scores[1:], strict=False)
            if after.version != before.version
        ],
        estimates=[
            (x - (BESIDE if s.value is not None else 0), y(s.estimate), number(s.estimate))
            for x, s in zip(xs, scores, strict=True)
            if s.estimate is not None
        ],
    )


def between(value: float, low: float, high: float, width: int = 300) -> Between:
    """The picture of a number with its interval, zero in it."""
    ends = min(low, 0.0), max(high, 0.0)
    scale = (width - 24) / ((ends[1] - ends[0]) or 1.0)
    return Between(width, *(round(12 + scale * (each - ends[0]), 1) for each in (0.0, low, value, high)))


def short(day: str) -> str:
    """An ISO day as `7 Apr`."""
    at = date.fromisoformat(day[:10])
    return f"{at.day} {at:%b}"


def _within(each: Input) -> bool:
    return each.band_low <= each.level <= each.band_high  # type: ignore[operator]


def scale(values: Sequence[float], top: float, bottom: float) -> Callable[[float], float]:
    """Values to heights: the largest at `top`, the smallest at `bottom`; all alike in the middle."""
    if not values or max(values) == min(values):
        return lambda value: (top + bottom) / 2
    low, high = min(values), max(values)
    return lambda value: round(bottom - (value - low) / (high - low) * (bottom - top), 1)


def _values(scores: Sequence[Score]) -> list[float]:
    """Every number that is drawn."""
    return [v for s in scores for v in (s.low, s.high, s.baseline, s.estimate) if v is not None]


def _ticks(scores: Sequence[Score]) -> list[float]:
    """Three to six round numbers within the range drawn."""
    return ticks(_values(scores))


def ticks(values: Sequence[float]) -> list[float]:
    """Three to six round numbers within the range of `values`."""
    if not values or max(values) == min(values):
        return sorted(set(values))
    rough = (max(values) - min(values)) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= rough)
    return [step * i for i in range(math.ceil(min(values) / step), math.floor(max(values) / step) + 1)]


def polyline(points: Sequence[tuple[float, float | None]]) -> str:
    """An SVG path through the points; it breaks where a value is missing."""
    drawn, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        drawn.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return " ".join(drawn)
