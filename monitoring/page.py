"""The weekly page: one self-contained HTML file whose first line says what to do, and the same as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from features import HeadwayError
from monitoring import pictures, quality
from monitoring.drift import Drift, Input, number
from monitoring.estimate import Trust
from monitoring.health import Health
from monitoring.parity import EXPLAINED, Parity
from monitoring.quality import Quality
from monitoring.relation import Relation
from monitoring.verdict import Verdict

Status = Literal["quiet", "retrained", "promoted", "fault", "missed"]
Kind = Literal["calm", "look", "ask"]

SHOWN = 6
"""Inputs that get a picture; the others are in a table."""


class Champion(msgspec.Struct, frozen=True):
    """A version that was put in charge, when and why; `metric` on its holdout."""

    version: int
    as_of: str
    why: str
    metric: float | None = None


class Night(msgspec.Struct, frozen=True):
    """What happened on one night."""

    date: str
    status: Status
    sentence: str


class Quarantined(msgspec.Struct, frozen=True):
    """Rows that were kept out, and the rule that they broke."""

    source: str
    when: str
    rule: str
    rows: int
    sentence: str


class Serving(msgspec.Struct, frozen=True):
    """How many predictions were answered, and the share with at least one input missing or stale."""

    predictions: int
    degraded: float


class Approval(msgspec.Struct, frozen=True):
    """A challenger that waits for a person: gain over the champion, with its interval, in `unit`."""

    version: int
    gain: float
    low: float
    high: float
    unit: str = "points"


class Link(msgspec.Struct, frozen=True):
    """A relative link to a file beside the page."""

    label: str
    href: str


class Week(msgspec.Struct, frozen=True):
    """Everything that the page of one model and week shows."""

    model: str
    owner: str
    description: str
    task: str
    since: str
    """First and last day, ISO."""
    until: str
    first_line: str
    kind: Kind
    """calm: nothing to do; look: something is wrong; ask: a decision is wanted."""
    verdicts: list[Verdict]
    """Of the week's nights, oldest first."""
    quality: list[Quality] = []
    trust: Trust | None = None
    """How far the estimates of quality were right."""
    champions: list[Champion] = []
    """Oldest first; the last one is live."""
    nights: list[Night] = []
    quarantine: list[Quarantined] = []
    parity: Parity | None = None
    serving: Serving | None = None
    health: Health | None = None
    approval: Approval | None = None
    links: list[Link] = []

    @property
    def name(self) -> str:
        """File name of the page, without its ending."""
        return f"{self.model}-{self.until}"

    @property
    def judged(self) -> Verdict | None:
        """The week's verdict: the latest one at which a window closed, else the latest."""
        closed = [verdict for verdict in self.verdicts if verdict.evidence.drift]
        return ([*self.verdicts[-1:], *closed][-1]) if self.verdicts else None

    @property
    def drift(self) -> Drift | None:
        """Input drift of the week, if a window closed."""
        return self.judged.evidence.drift if self.judged else None

    @property
    def relation(self) -> Relation | None:
        """The latest look at the labels."""
        seen = [verdict.evidence.relation for verdict in self.verdicts if verdict.evidence.relation]
        return seen[-1] if seen else None


def first_line(
    verdicts: Sequence[Verdict], *, since: str, champions: Sequence[Champion] = (), approval: Approval | None = None
) -> tuple[Kind, str]:
    """What to do this week, in words: a veto that still stands, then a decision that waits, then what happened.

    Args:
        verdicts: of the week's nights, oldest first.
        since: first day of the week, ISO.
        champions: versions that were put in charge, oldest first.
        approval: the challenger that waits, if one does.

    Returns:
        What kind of line it is, and the line.
    """
    last = verdicts[-1] if verdicts else None
    if last and last.action == "veto":
        fault = next(iter(last.evidence.faults), None)
        what = fault.sentence if fault else last.sentence.partition(": ")[2]
        return "look", f"Look at {f'`{fault.source}`' if fault else 'the inputs'}: {what}"
    if approval:
        gain = f"{approval.gain:.1f} {approval.unit}, interval {approval.low:.1f} to {approval.high:.1f}"
        return "ask", f"Approve version {approval.version}: better by {gain}"
    live = champions[-1] if champions else None
    if live and live.as_of[:10] >= since:
        return "calm", f"Nothing to do: version {live.version} is live since {day(live.as_of)}, {live.why}"
    asked = [verdict for verdict in verdicts if verdict.action in ("retrain", "wait")]
    if asked:
        return ("look", asked[-1].sentence) if asked[-1].action == "retrain" else ("calm", asked[-1].sentence)
    if not last:
        return "look", "Look at the nights: none has left a verdict this week"
    judged = [verdict for verdict in verdicts if verdict.evidence.drift]
    return "calm", ([last, *judged][-1]).sentence.partition(" (")[0]  # the numbers stand below


def next_step(week: Week) -> str:
    """What follows from the first line, for whoever reads it; empty on a calm week."""
    last = week.verdicts[-1] if week.verdicts else None
    if last and last.cause == "data fault":
        return f"Mend the source. Until then nothing is retrained, and version {last.champion_version} keeps answering."
    if last and last.cause == "parity breach":
        return "Find out why serving and training disagree. Until then nothing is retrained or promoted."
    if week.kind == "ask":
        return f"Read the evidence below, then run `headway approve {week.model}`."
    if last and last.action == "retrain":
        return "The next run retrains it; the new version takes over only if it proves better."
    return ""


def render(week: Week) -> str:
    """The page of one week: self-contained HTML, every text escaped. Raises HeadwayError for a link outside."""
    for link in week.links:
        if re.match(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//|/|\\)", link.href.strip()):
            raise HeadwayError(f"the link {link.label!r} leads to {link.href!r}; a page links only to files beside it.")
    scores = [quality.shown(each) for each in week.quality]
    return (
        _environment()
        .get_template("week.html")
        .render(
            week=week,
            next_step=next_step(week),
            title=f"{week.model}, {day(week.since)} to {day(week.until)}",
            shown=_shown(week.drift),
            rest=_rest(week.drift),
            metric=quality.metric_name(week.quality[-1].metric) if week.quality else "",
            lower_is_better=bool(week.quality) and week.quality[-1].metric.startswith("neg_"),
            spells=_spells(week.nights),
            scores=scores,
            known=[each for each in scores if each.value is not None],
            waits=quality.in_words(week.quality),
            parts=quality.latest_parts(week.quality),
            charts=[("wide", pictures.chart(scores, 720)), ("narrow", pictures.chart(scores, 340, 220))],
        )
    )


def render_index(weeks: Sequence[Week]) -> str:
    """The list of all models and weeks, latest first; each line links to `<week.name>.html` beside it."""
    ordered = sorted(weeks, key=lambda week: week.until, reverse=True)
    ordered.sort(key=lambda week: week.model)
    models = [(name, list(group)) for name, group in groupby(ordered, key=lambda week: week.model)]
    return _environment().get_template("index.html").render(models=models, title="Headway")


def write(week: Week, folder: Path) -> Path:
    """Write `<name>.html`, `<name>.json` and the index of all weeks in `folder`; return the page's path."""
    (folder / f"{week.name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(week), indent=1))
    page = folder / f"{week.name}.html"
    page.write_text(render(week), encoding="utf-8")
    (folder / "index.html").write_text(render_index(read(folder)), encoding="utf-8")
    return page


def read(folder: Path) -> list[Week]:
    """The weeks written to `folder`, in order of file name."""
    decoder = msgspec.json.Decoder(Week)
    return [decoder.decode(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def day(text: str) -> str:
    """An ISO day or instant as `7 April`."""
    at = date.fromisoformat(text[:10])
    return f"{at.day} {at:%B}"


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
def _environment() -> Environment:
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
        "why": EXPLAINED.__getitem__,
    }
    return environment


def _shown(drift: Drift | None) -> list[Input]:
    """The inputs that get a picture: what moved, most important first."""
    return drift.moved[:SHOWN] if drift else []


def _rest(drift: Drift | None) -> list[Input]:
    shown = {each.name for each in _shown(drift)}
    return [each for each in drift.inputs if each.name not in shown] if drift else []


def _spells(nights: Sequence[Night]) -> list[tuple[Night, Night]]:
    """First and last night of each run of nights that say the same."""
    runs = [list(run) for _, run in groupby(nights, key=lambda night: (night.status, night.sentence))]
    return [(run[0], run[-1]) for run in runs]
