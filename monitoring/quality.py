"""How good the served predictions were, week by week: what the page shows, and how it is said."""

from __future__ import annotations

import msgspec

from monitoring.drift import number
from monitoring.pictures import MATURE, Score

MEANINGS = {
    "roc_auc": "how often a case that comes true was rated above one that does not: 0.5 is a coin, 1 never errs",
    "roc_auc_ovr": "how often a case of a class was rated above one of the others, over all classes: 0.5 is a coin",
    "accuracy": "the share of answers that were right",
    "balanced_accuracy": "the share of right answers, each outcome counting alike however rare it is",
    "neg_log_loss": "how surprising the outcomes were to the chances that were told: 0 is foreseeing all",
    "neg_brier_score": "how far the chances that were told lay from what happened, squared: 0 is foreseeing all",
    "neg_mean_absolute_error": "how far an answer lay from the truth on average, in the units of what is predicted",
    "neg_mean_squared_error": "how far an answer lay from the truth, squared: large errors count most",
    "neg_root_mean_squared_error": "how far an answer lay from the truth, large errors counting most",
    "r2": "the share of the ups and downs that the answers explain: 1 is all, 0 none",
}


class Part(msgspec.Struct, frozen=True):
    """A declared slice in one week, in units of the model's metric (larger is better)."""

    name: str
    value: float
    low: float
    high: float
    floor: float
    labels: int
    below: bool
    """Its whole interval lies below the floor: an effect, not noise."""
    sentence: str


class Quality(msgspec.Struct, frozen=True):
    """How good the served versions were in one week, in units of the model's metric (larger is better)."""

    week: str
    """First day, ISO."""
    metric: str
    """The scorer's name; `neg_...` is shown with its sign turned, as an error."""
    value: float | None
    """None: too few labels are in."""
    low: float | None
    high: float | None
    baseline: float | None
    maturity: float
    """Share of the labels to be expected that are in, 0 to 1."""
    labels: int
    version: int
    """The one that answered last."""
    estimate: float | None = None
    """What is expected without any label, if the relation still holds; the same whenever it is asked for."""
    parts: list[Part] = []
    """The declared slices that have enough labels."""

    @property
    def mature(self) -> bool:
        """Whether the value is all but final."""
        return self.value is not None and self.maturity >= MATURE


def part(metric: str, name: str, floor: float, found: tuple[float, float, float], labels: int) -> Part:
    """A slice's week from its value with interval (value, low, high): below its floor only when all of it is."""
    value, low, high = found
    turn = metric.startswith("neg_")
    told, best = (number(abs(each) if turn else each) for each in (value, high))
    limit = f"{abs(floor) if turn else floor:g}"
    side, of = ("above", "limit") if turn else ("below", "floor")
    where = f"{side} its {of} of {limit}" if value < floor else f"within its {of} of {limit}"
    text = f"`{name}` is at {told} (at best {best}), {where}"
    return Part(name, value, low, high, floor, labels, high < floor, text)


def metric_name(scorer: str) -> str:
    """What people call a scorer's number."""
    return {"roc_auc": "AUC", "roc_auc_ovr": "AUC"}.get(scorer, scorer.removeprefix("neg_").replace("_", " "))


def meaning(scorer: str) -> str:
    """What the number says, for whoever has never met it; empty for one that is not known here."""
    return MEANINGS.get(scorer, "")


def shown(quality: Quality) -> Score:
    """A week as it is drawn: an error with its sign turned."""
    turn = -1 if quality.metric.startswith("neg_") else 1
    value, low, high, baseline, estimate = (
        None if each is None else turn * each
        for each in (quality.value, quality.low, quality.high, quality.baseline, quality.estimate)
    )
    if turn < 0:
        low, high = high, low
    return Score(quality.week, value, low, high, baseline, quality.maturity, quality.version, estimate)


def latest_parts(weeks: list[Quality]) -> list[tuple[Part, int]]:
    """The slices of the latest week that has a value, and for how many weeks up to it each lay below its floor."""
    known = [week for week in weeks if week.value is not None]
    found = []
    for each in known[-1].parts if known else []:
        past = [next((p.below for p in week.parts if p.name == each.name), False) for week in reversed(known)]
        found.append((each, past.index(False) if False in past else len(past)))
    return found


def in_words(weeks: list[Quality]) -> str:
    """What the latest week still waits for, and what its labels should say; empty when they are in."""
    if not weeks or weeks[-1].mature:
        return ""
    last = weeks[-1]
    text = f"{last.maturity:.0%} of the labels of the last week are in"
    if last.estimate is None:
        return text
    return f"{text}; {number(abs(last.estimate))} is expected of it if the relation still holds"
