"""Advice before a model goes live: what age costs it, what history its verdicts need, how often they would err."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from monitoring import budget
from monitoring.quality import metric_name
from monitoring.replayed import Advice, Outcome, Staleness
from pipelines.nights.decision import DAY
from pipelines.replay.branch import Branch
from pipelines.replay.outcome import Table

AGES = (1, 4, 13, 26)
"""Windows."""
LOOKED_AT = 12
"""Windows that each age is looked at in, evenly spaced."""


def advise(table: Table, calendar: Branch, choice: str, current: Outcome) -> Advice:
    """What to know of a model before it goes live.

    Args:
        calendar: the branch that retrains most often: its versions of all ages are asked about each window.
        choice: the policy that was chosen.
        current: what came of the declared one.
    """
    model = table.model
    window = model.monitoring.window
    aged = [found for age in AGES if (found := _staleness(table, calendar, age))]
    needed = budget.windows_needed(budget.alpha(model.monitoring))
    years = max(1, len(table.windows)) * window / timedelta(days=budget.DAYS_PER_YEAR)
    rate = None if current.false_alarms is None else round(current.false_alarms / years, 1)
    behind = model.training_window // window
    return Advice(
        policy=choice, staleness=aged, windows_needed=needed, windows_behind=behind, false_alarms_per_year=rate,
        allowed_per_year=model.monitoring.false_alarms_per_year,
        sentences=_sentences(table, aged, needed, behind, rate),
    )  # fmt: skip


def _staleness(table: Table, calendar: Branch, age: int) -> Staleness | None:
    """The loss of versions that many windows old, in the windows where there were such."""
    span = table.model.monitoring.window
    pairs = [(since, _version(calendar, since), _version(calendar, since - age * span)) for since in table.windows]
    there = [(since, fresh, old) for since, fresh, old in pairs if fresh and old and fresh != old]
    if len(there) < 2:
        return None
    places = sorted({int(place) for place in np.linspace(0, len(there) - 1, LOOKED_AT)})
    lost = np.array([table.gain(*there[place]) for place in places])
    return Staleness(age, table.mean(lost), len(lost))


def _version(calendar: Branch, instant: datetime) -> str | None:
    """The version that was trained last by the end of a day, however it was judged."""
    made = [entry for entry in calendar.ledger.entries(kind="version") if entry.as_of < instant + DAY]
    return str(made[-1].body["tag"]) if made else None


def _sentences(table: Table, aged: Sequence[Staleness], needed: int, behind: int, rate: float | None) -> list[str]:
    model, word = table.model, budget.window_word(table.model.monitoring.window)
    said = []
    if aged:
        old = [f"{each.windows_old} {word}{'s' * (each.windows_old > 1)}" for each in aged]
        losses = ", ".join(f"{each.loss.value:.3f} at {age}" for each, age in zip(aged, old, strict=True))
        said.append(f"A model loses, in {metric_name(model.metric)}, against a fresh one: {losses}.")
    enough = "has" if behind >= needed else "has only"
    said.append(
        f"Verdicts need {needed} {word}s of history at {model.monitoring.false_alarms_per_year:g} false alarms a year; "
        f"the training window {enough} {behind}."
    )
    if rate is not None:
        said.append(f"The declared policy would have raised {rate:g} false alarms a year.")
    return said
