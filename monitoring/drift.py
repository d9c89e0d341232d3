"""Input drift: is this window's mix of inputs unusual among the windows that the model was made from?

Rows of one week are not independent, so every row-level test cries wolf. Here the unit is the window, and
the test is a rank: the new window joins the n reference windows, each of the n + 1 is scored by how far it
lies from all the others together, and p is the share that scores at least as high. If the new window is
exchangeable with the others, the chance of p <= alpha is at most alpha, whatever the data look like (full
conformal prediction: Vovk, Gammerman and Shafer 2005, ch. 2).

How odd a window is in one input is told by `oddness`; the window scores as the squares of its inputs' z together, each
by the root of its importance: one input that is far off is not drowned by many that wobble, nor by one that the model
leans on most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Literal

import msgspec
import numpy as np

from monitoring import budget
from monitoring.oddness import oddness, rank_of_last
from monitoring.profile import Categories, Numbers, Profile, Reference, add

Status = Literal["judged", "not enough history", "window incomplete"]

NEARLY_ALL = 0.85
"""A block of days is a window when at least this share of its days have rows (6 of 7)."""
NOTABLE = 1.64
"""An input stands out from this z on: one in twenty would by chance."""
JUMP = 0.02
"""Missing or unseen values above the worst reference window by this share of rows are what is told first."""


class Input(msgspec.Struct, frozen=True):
    """What one input (or the score) did in the window. `level` is the number that tells it best."""

    name: str
    importance: float
    z: float
    """How odd it is, in standard deviations of how odd the other windows are; 0 when it does not matter."""
    distance: float
    """Jensen-Shannon distance from the reference windows together, 0 to 1."""
    contribution: float
    """The root of its importance times z squared."""
    measure: str
    """What `level` is: "mean", or the share of rows that it is "missing in", "never trained on in" or "`A` in"."""
    level: float | None
    band_low: float | None
    """5th and 95th percentile of `level` over the reference windows."""
    band_high: float | None
    series: Sequence[float | None]
    """`level` of each reference window, oldest first."""
    missing: float
    """Share of the window's rows without a value."""
    missing_reference: float
    missing_worst: float
    """Highest share missing in any reference window."""
    unseen: float
    """Share of the window's rows with a value never trained on."""
    sentence: str
    partner: str = ""
    """The input that it no longer goes with as usual, where that is what makes it odd."""


class Drift(msgspec.Struct, frozen=True):
    """Input drift of one window."""

    status: Status
    alarm: bool
    sentence: str
    alpha: float
    windows: int
    """Reference windows that it rests on."""
    windows_needed: int
    """Reference windows without which no alarm is possible at this alpha."""
    achieved_per_year: float = 0.0
    since: str = ""
    until: str = ""
    """First and last day of the window, ISO."""
    rows: int = 0
    p: float | None = None
    score: float | None = None
    beaten: int = 0
    """How many reference windows score lower."""
    inputs: list[Input] = []
    """Largest contribution first."""
    counterfactual: str = ""

    @property
    def moved(self) -> list[Input]:
        """The inputs that stand out, largest contribution first; an alarm has at least one."""
        found = [each for each in self.inputs if each.contribution > 0 and each.z >= NOTABLE]
        return found or self.inputs[: int(self.alarm)]


def blocks(days: Mapping[str, Profile], window: timedelta, like: Sequence[str] = ()) -> list[Profile]:
    """The days as disjoint windows, oldest first, counted back from the last day.

    A block with fewer than 85 % of its days (6 of 7) is left out: half a week is not a week.

    Args:
        like: ISO days of a window that may lack some. The blocks then lack the same ones (of weeks, the same weekdays):
            else a week without its Thursday would be odd by its weekdays alone.
    """
    length = round(window / timedelta(days=1))
    kept = {_place(day, length) for day in like} or set(range(length))
    filled = {date.fromisoformat(day): profile for day, profile in days.items() if profile.rows}
    filled = {day: profile for day, profile in filled.items() if _place(day.isoformat(), length) in kept}
    if not filled:
        return []
    last = max(filled)
    groups: dict[int, list[Profile]] = {}
    for day, profile in filled.items():
        groups.setdefault((last - day).days // length, []).append(profile)
    full = math.ceil(NEARLY_ALL * len(kept))
    return [add(groups[age]) for age in sorted(groups, reverse=True) if len(groups[age]) >= full]


def _place(day: str, length: int) -> int:
    """Each day of a window has another one; windows of a week have the same one on the same weekday."""
    return date.fromisoformat(day).toordinal() % length


def judge(reference: Reference, days: Mapping[str, Profile], *, window: timedelta, alpha: float) -> Drift:
    """Judge the window made of `days` against the model's reference windows.

    Args:
        reference: of the champion.
        days: ISO day -> profile of what serving saw, the days of one window, with the reference's bins.
        window: the length of a window.
        alpha: level of this test, see `budget.alpha`.
    """
    filled = sorted(day for day, profile in days.items() if profile.rows)
    windows = blocks(reference.days, window, filled)
    word, n = budget.window_word(window), len(windows)
    blank = Drift("judged", False, "", alpha, n, budget.windows_needed(alpha))
    if len(filled) < math.ceil(NEARLY_ALL * round(window / timedelta(days=1))):
        sentence = f"only {len(filled)} days of this {word} have predictions"
        return msgspec.structs.replace(blank, status="window incomplete", sentence=sentence)
    whole = msgspec.structs.replace(
        blank, since=filled[0], until=filled[-1], rows=sum(days[day].rows for day in filled)
    )
    if n < budget.MIN_WINDOWS:
        sentence = f"{n} reference {word}s, at least {budget.MIN_WINDOWS} are needed"
        return msgspec.structs.replace(whole, status="not enough history", sentence=sentence)
    return _judged(whole, reference, [*windows, add(days[day] for day in filled)], window)


def _judged(blank: Drift, reference: Reference, windows: Sequence[Profile], window: timedelta) -> Drift:
    names = list(reference.bins.columns)
    weight = np.array([reference.importance.get(name, 0.0) for name in names])
    odd = oddness(reference.bins, windows)
    parts = np.sqrt(weight) * odd.z**2
    allowed = budget.allowed_rank(blank.alpha, len(windows))
    rank = rank_of_last(parts.sum(axis=1))
    order = np.argsort(-parts[-1], kind="stable")
    found = np.column_stack([weight, odd.z[-1], odd.distance[-1], parts[-1]]).tolist()
    inputs = [_input(reference, names[j], windows, odd.partner[j], *found[j]) for j in order]
    return msgspec.structs.replace(
        blank,
        alarm=rank <= allowed,
        sentence=_say(rank, blank.windows, budget.window_word(window), allowed) if allowed else _blind(blank, window),
        achieved_per_year=budget.achieved_per_year(blank.alpha, len(windows), window),
        p=rank / len(windows),
        score=float(parts[-1].sum()),
        beaten=len(windows) - rank,
        inputs=inputs,
        counterfactual=_without_top(names, parts, allowed, rank <= allowed),
    )


def _without_top(names: Sequence[str], parts: np.ndarray, allowed: int, alarm: bool) -> str:
    top = int(np.argmax(parts[-1]))
    if not alarm:
        return ""
    still = rank_of_last(np.delete(parts, top, axis=1).sum(axis=1)) <= allowed
    return f"without `{names[top]}`: {'still an alarm' if still else 'no alarm'}"


def _input(
    reference: Reference, name: str, windows: Sequence[Profile], partner: str,
    weight: float, z: float, distance: float, part: float,
) -> Input:  # fmt: skip
    missing, unseen = (_shares(name, windows, slot) for slot in (-2, -1))
    measure, levels = _levels(reference.bins.columns[name], name, windows, missing, unseen)
    known = [level for level in levels[:-1] if level is not None]
    low, high = (float(np.percentile(known, q)) for q in (5, 95)) if known else (None, None)
    return Input(
        name=name,
        importance=weight,
        z=z,
        distance=distance,
        contribution=part,
        measure=measure,
        level=levels[-1],
        band_low=low,
        band_high=high,
        series=levels[:-1],
        missing=missing[-1],
        missing_reference=float(np.mean(missing[:-1])),
        missing_worst=max(missing[:-1]),
        unseen=unseen[-1],
        sentence=_describe(measure, levels[-1], low, high, z if part > 0 else 0.0, partner),
        partner=partner,
    )


def _shares(name: str, windows: Sequence[Profile], slot: int) -> list[float]:
    return [window.counts[name][slot] / window.rows for window in windows]


def _levels(
    columns: Numbers | Categories, name: str, windows: Sequence[Profile], missing: list[float], unseen: list[float]
) -> tuple[str, Sequence[float | None]]:
    """What tells most about an input, for each window: a jump of missing or unseen values, else mean or top share."""
    if missing[-1] - max(missing[:-1]) > JUMP:
        return "missing in", missing
    if unseen[-1] - max(unseen[:-1]) > JUMP:
        return "never trained on in", unseen
    if isinstance(columns, Numbers):
        return "mean", [window.moments[name].mean for window in windows]
    return (f"`{columns.top[0]}` in" if columns.top else "other values in"), _shares(name, windows, 0)


def _describe(measure: str, level: float | None, low: float | None, high: float | None, z: float, partner: str) -> str:
    """What an input did, in one phrase."""
    if level is None or low is None or high is None:
        return "no values to compare"
    if measure == "mean":
        here, band = number(level, high - low), f"{number(low, high - low)} to {number(high, high - low)}"
    else:
        ends = f"{low:.0%}", f"{high:.0%}"
        here, band = f"{level:.0%} of rows", " to ".join(dict.fromkeys(ends))
    if not low <= level <= high:
        return f"{measure} {here}, usually {band}"
    if z >= NOTABLE and partner:
        return f"it no longer goes with `{partner}` as usual: {measure} {here}"
    unlike = "its mix changed, though not its centre" if measure == "mean" else "its mix changed elsewhere"
    return f"{unlike}: {measure} {here}" if z >= NOTABLE else f"as usual: {measure} {here}"


def number(value: float, step: float | None = None) -> str:
    """A number as people write it: fine enough to tell values apart that differ by about `step`, no exponent."""
    size = abs(value if step is None or not step else step)
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    digits = (2 if not step else 1) - math.floor(math.log10(size)) if size else 0
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def _blind(found: Drift, window: timedelta) -> str:
    word, allowed = budget.window_word(window), budget.per_year(found.alpha, window)
    return (
        f"{found.windows} reference {word}s cannot tell input drift from chance at {allowed:.3g} false alarms a year: "
        f"that needs {found.windows_needed} {word}s, or {budget.least_per_year(found.windows, window)} a year"
    )


def _say(rank: int, windows: int, word: str, allowed: int) -> str:
    p = f"p {rank / (windows + 1):.2g}"
    if rank > allowed:
        return f"within what is usual ({rank - 1} of {windows} reference {word}s were at least as odd, {p})"
    if rank == 1:
        return f"odder than in any of the {windows} reference {word}s ({p})"
    return f"odder than in {windows + 1 - rank} of the {windows} reference {word}s ({p})"
