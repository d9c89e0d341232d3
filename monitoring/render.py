"""Draws the weekly page and the index from what they hold: self-contained HTML, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from features import HeadwayError
from monitoring import pictures, quality
from monitoring.drift import Drift, Input, number
from monitoring.first_line import next_step
from monitoring.history import day
from monitoring.page import Listed, Night, Week
from monitoring.parity import EXPLAINED
from monitoring.timeline import timeline

SIZES = (("wide", 720, 240), ("narrow", 340, 220))
"""Pictures are drawn twice, for a desk and for a phone: class, width, height."""


def render(week: Week) -> str:
    """The page of one week. Raises HeadwayError for a link outside."""
    for link in week.links:
        if re.match(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//|/|\\)", link.href.strip()):
            raise HeadwayError(f"the link {link.label!r} leads to {link.href!r}; a page links only to files beside it.")
    scores = [quality.shown(each) for each in week.quality]
    shown = list(week.judged.inputs) if week.judged and week.drift else []
    return (
        environment()
        .get_template("week.html")
        .render(
            week=week,
            next_step=next_step(week),
            title=f"{week.model}, {day(week.since)} to {day(week.until)}",
            shown=shown,
            rest=_rest(week.drift, shown),
            metric=quality.metric_name(week.quality[-1].metric) if week.quality else "",
            meaning=quality.meaning(week.quality[-1].metric) if week.quality else "",
            spells=_spells(week.nights),
            scores=scores,
            known=[each for each in scores if each.value is not None],
            waits=quality.in_words(week.quality),
            parts=quality.latest_parts(week.quality),
            charts=[(size, pictures.chart(scores, width, height)) for size, width, height in SIZES],
            timelines=_timelines(week),
        )
    )


def render_index(weeks: Sequence[Listed]) -> str:
    """The list of all weeks and models, newest first; each line links to `<week.name>.html` beside it."""
    ordered = sorted(sorted(weeks, key=lambda week: week.model), key=lambda week: week.until, reverse=True)
    by_week = [(until, list(group)) for until, group in groupby(ordered, key=lambda week: week.until)]
    return environment().get_template("index.html").render(weeks=by_week, title="Headway: all weeks")


def prose(text: str) -> Markup:
    """Escaped text with `names` in backticks set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def sentence(text: str) -> Markup:
    """A phrase as a sentence: first letter large, a full stop, `names` as code."""
    return prose(f"{text[:1].upper()}{text[1:].rstrip('.')}.") if text else Markup()


def share(part: float) -> str:
    """A share as people say it: 0 %, under 0.1 %, 0.4 %, 12 %."""
    if 0 < part < 0.001:
        return "under 0.1\u00a0%"
    return f"{part:.1%}".replace("%", "\u00a0%") if 0 < part < 0.1 else f"{part:.0%}".replace("%", "\u00a0%")


@cache
def environment() -> Environment:
    """Where templates come from, and the filters that they may use."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "day": day,
        "short": pictures.short,
        "weekday": lambda text: f"{date.fromisoformat(text[:10]):%a}",
        "number": number,
        "share": share,
        "prose": prose,
        "sentence": sentence,
        "spark": pictures.spark,
        "between": pictures.between,
        "why": EXPLAINED.__getitem__,
    }
    return environment


def _rest(drift: Drift | None, shown: Sequence[Input]) -> list[Input]:
    names = {each.name for each in shown}
    return [each for each in drift.inputs if each.name not in names] if drift else []


def _spells(nights: Sequence[Night]) -> list[tuple[Night, Night]]:
    """First and last night of each run of nights that say the same."""
    runs = [list(run) for _, run in groupby(nights, key=lambda night: (night.status, night.sentence))]
    return [(run[0], run[-1]) for run in runs]


def _timelines(week: Week) -> list[tuple[str, object]]:
    if not week.champions:
        return []
    due = week.plan.due if week.plan else None
    return [
        (size, timeline(week.champions, week.marks, week.as_of or week.until, due, width)) for size, width, _ in SIZES
    ]
