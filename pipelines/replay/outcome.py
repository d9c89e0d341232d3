"""What came of each policy: quality of the composite model, window by window, and all that it cost.

A window is scored by the versions that were live in it (the composite model of Modyn, SIGMOD 2025), by the labels known
at the end of the replay. The window is also the unit of every interval: rows of one week are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial

import msgspec
import numpy as np
import pandas as pd

from models import Model
from monitoring.replayed import Interval, Outcome
from pipelines.nights.decision import DAY, midnight
from pipelines.replay import fits
from pipelines.replay.branch import Branch, raised
from pipelines.replay.policies import Every, Never
from pipelines.scorers.scoring import score
from pipelines.training.judge import DIGITS
from pipelines.training.retraining import reigning

DRAWS, SEED = 2000, 5
TRIED = 4
"""Windows after an alarm in which the version that came of it is held against the one before."""


class Table:
    """Scores of all policies, over the windows whose labels have matured by the end."""

    def __init__(self, branches: Sequence[Branch], until: datetime) -> None:
        first = branches[0]
        self.model, self.until, self.branches = first.past.model, until, branches
        self.common = first.common
        self.windows = windows(self.model, first.nights[0], until)
        self.truth = cache(partial(_truth, first, until))
        self.series = {branch.named.name: self._series(branch) for branch in branches}

    def mean(self, values: np.ndarray) -> Interval:
        """The mean over windows with its interval. `values`: (windows,)."""
        drawn = values[np.random.default_rng(SEED).integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
        tail = (1 - self.model.gates.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(*(round(float(each), DIGITS) for each in (values.mean(), low, high)))

    def gain(self, since: datetime, ours: str, theirs: str) -> float:
        """How far one version scores above another in the window from `since`; NaN where no label has matured."""
        if since + self.model.monitoring.window > midnight(self.model.examples.matured(self.until)):
            return float("nan")
        days, rows, label = self.truth(since)
        scores = [
            score(self.model, label, np.concatenate([self.common.answers(tag, day) for day in days])[rows])
            for tag in (ours, theirs)
        ]
        return scores[0] - scores[1]

    def _series(self, branch: Branch) -> np.ndarray:
        found = []
        for since in self.windows:
            days, rows, label = self.truth(since)
            given = np.concatenate([branch.given(day) for day in days])[rows]
            found.append(score(self.model, label, given))
        return np.array(found)


def windows(model: Model, since: datetime, until: datetime) -> list[datetime]:
    """Where the windows begin that lie in [since, until) and whose labels have matured by `until`."""
    first, span = midnight(since), model.monitoring.window
    count = (midnight(model.examples.matured(until)) - first) // span
    return [first + number * span for number in range(max(0, count))]


def _truth(branch: Branch, until: datetime, since: datetime) -> tuple[list[datetime], np.ndarray, np.ndarray]:
    """The days of a window, the rows among their requests that have a label by `until`, and these labels."""
    span = branch.model.monitoring.window
    days = [since + number * DAY for number in range(span // DAY)]
    asked = pd.concat([branch.common.frames.day(day).rows for day in days], ignore_index=True)
    rows = branch.past.labels(asked, since, since + span, as_of=until)
    known = rows[rows["label"].notna()]
    return days, known["row"].to_numpy(), known["label"].to_numpy(dtype="float64")


def outcome(table: Table, branch: Branch) -> Outcome:
    """What came of one policy by itself."""
    model, ledger = table.model, branch.ledger
    versions = ledger.entries(model.name, "version")
    series = table.series[branch.named.name]
    looked = not branch.named.blind
    alarmed = [
        as_of for as_of, found in branch.judged.items() if any(raised(found, each) for each in branch.named.signals)
    ]
    return Outcome(
        policy=branch.named.name,
        quality=table.mean(series),
        retrainings=len(versions) - 1,
        promotions=len(branch.reigns) - 1,
        refused=sum(not entry.body["passed"] for entry in versions[1:]),
        vetoes=len(branch.vetoed),
        alarms=len(alarmed) if looked else None,
        false_alarms=sum(_false(table, branch, as_of) for as_of in alarmed) if looked else None,
        seconds=round(sum(fits.read(order).spent for order in {each.key: each for each in branch.orders}.values()), 1),
        series=[round(float(each), DIGITS) for each in series],
        trained=[f"{entry.as_of:%Y-%m-%d}" for entry in versions[1:]],
        promoted=[reign.as_of[:10] for reign in branch.reigns[1:]],
        alarmed=[f"{as_of:%Y-%m-%d}" for as_of in alarmed],
        failed=[f"{as_of:%Y-%m-%d}: {why}" for as_of, why in branch.failed],
    )


def compared(table: Table, found: Sequence[Outcome], current: str) -> list[Outcome]:
    """The outcomes beside each other: against the current policy, never, always, and the best in hindsight."""
    series = {each.policy: np.array(each.series) for each in found}
    never, always = _never(table), always_of(table)
    best = max(each.quality.value for each in found if not each.dummy)
    whole = float((series[always] - series[never]).mean()) if always and never else 0.0
    tolerated = table.model.gates.loss_to_champion
    span = table.model.monitoring.window // DAY

    def beside(each: Outcome) -> Outcome:
        ours = series[each.policy]
        behind = int((series[always] - ours > tolerated).sum()) if always else 0
        return msgspec.structs.replace(
            each,
            against_current=None if each.policy == current else table.mean(ours - series[current]),
            loss_to_best=round(max(0.0, best - each.quality.value), DIGITS),
            gain_kept=round(float((ours - series[never]).mean()) / whole, 4) if never and whole > 0 else None,
            days_degraded=behind * span,
        )

    return [beside(each) for each in found]


def always_of(table: Table) -> str | None:
    """The calendar that retrains most often: what "always" means in a replay."""
    calendars = [each.named for each in table.branches if isinstance(each.named.policy, Every)]
    return min(calendars, key=lambda each: each.every or DAY).name if calendars else None


def _never(table: Table) -> str | None:
    return next((each.named.name for each in table.branches if isinstance(each.named.policy, Never)), None)


def _false(table: Table, branch: Branch, as_of: datetime) -> bool:
    """Whether the training of an alarmed night led to nothing better; an alarm that led to none is not counted."""
    made = next((each for each in branch.ledger.entries(table.model.name, "version") if each.as_of == as_of), None)
    before = reigning(branch.reigns, as_of)
    if made is None or before is None:
        return False
    if not made.body["passed"]:
        return True
    starts = [midnight(as_of) + number * table.model.monitoring.window for number in range(TRIED)]
    gains = [table.gain(since, made.body["tag"], before.tag) for since in starts]
    known = [gain for gain in gains if np.isfinite(gain)]
    return bool(known) and float(np.mean(known)) <= 0
