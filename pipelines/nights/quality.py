"""Quality with a clock: how good the served predictions were, week by week, as far as labels were known by an instant.

Everything is computed as of the instant that is asked about, so a week is scored again as its labels come in. What a
week was expected to be is read from its answers and from the holdout of the versions that gave them, neither of which
changes: it is the same before the labels are in and after, and so can be held against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from features import HeadwayError
from models import Model, Slice
from monitoring import estimate, profile
from monitoring.estimate import Trust
from monitoring.quality import Part, Quality, part
from pipelines.home import Home
from pipelines.records import predictions
from pipelines.registry import package, promotion
from pipelines.registry.ledger import Ledger
from pipelines.scorers.scoring import interval, score
from pipelines.scorers.tasks import TASKS, answers
from pipelines.training.retraining import HOLDOUT

SHOWN_WEEKS = 12
ENOUGH_DAYS = 3
Held = dict[str, pd.DataFrame | None]
"""{digest: the rows of its holdout that were kept, None when they are gone}."""


def quality(at: Home, model: Model, as_of: datetime) -> list[Quality]:
    """How good the served predictions were, by window since the first promotion, latest last.

    Only rows count whose labels have matured: those that come first are of the quickest outcomes. A window with fewer
    than three days of such rows has no value, since an interval over days means nothing then, but an estimate.
    """
    found: list[Quality] = []
    usual: list[float] = []
    held: Held = {}
    for since in _starts(at, model, as_of):
        rows = predictions.labelled(at, model, since, min(since + model.monitoring.window, as_of), as_of=as_of)
        if len(rows):
            matured = rows["decision_time"] <= pd.Timestamp(model.examples.matured(as_of))
            share = float(rows["label"].notna()[matured].mean()) if matured.any() else None
            expected = float(np.median(usual)) if usual else share or 1.0
            found.append(_quality(at, model, since, rows, matured, expected, held))
            usual += [share] if share and matured.all() else []
    return [week for week in found if week.value is not None or week.estimate is not None]


def trusted(weeks: Sequence[Quality]) -> Trust | None:
    """How far the estimates of weeks were right whose labels are in by now; None with fewer than two such weeks."""
    known = [
        (week.estimate, week.value)
        for week in weeks
        if week.mature and week.estimate is not None and week.value is not None
    ]
    return estimate.trust(known)


def _starts(at: Home, model: Model, as_of: datetime) -> list[datetime]:
    """The latest windows that began before `as_of`, counted from the day of the first promotion."""
    reigns = promotion.reigns(Ledger(at.ledger_url), model.name, as_of)
    if not reigns:
        return []
    began = datetime.fromisoformat(reigns[0].as_of).replace(hour=0, minute=0, second=0, microsecond=0)
    window = model.monitoring.window
    count = -((as_of - began) // -window) if as_of > began else 1
    return [began + number * window for number in range(max(0, count - SHOWN_WEEKS), count)]


def _quality(
    at: Home, model: Model, since: datetime, rows: pd.DataFrame, matured: pd.Series, expected: float, held: Held
) -> Quality:
    known = rows[matured & rows["label"].notna()].reset_index(drop=True)
    found = _scored(model, known)
    label = known["label"].to_numpy()
    answered = answers(model.classes, known)
    usual = TASKS[model.task].usual(label, len(model.classes)) if found else None
    parts = [_part(model, each, known) for each in model.slices] if found else []
    value, low, high = found or (None, None, None)
    return Quality(
        week=since.date().isoformat(), metric=model.metric, value=value, low=low, high=high,
        baseline=None if usual is None else score(model, label, np.broadcast_to(usual, answered.shape)),
        maturity=min(1.0, len(known) / (len(rows) * expected)), labels=len(known),
        version=int(rows["version"].iloc[-1]), estimate=_estimate(at, model, rows, held),
        parts=[each for each in parts if each],
    )  # fmt: skip


def _scored(model: Model, known: pd.DataFrame) -> tuple[float, float, float] | None:
    """The metric of labelled rows with its interval by day blocks; None when they are too few to have one."""
    label, days = known["label"].to_numpy(), profile.iso_days(known["decision_time"])
    if len(set(days)) < ENOUGH_DAYS or not TASKS[model.task].tells(label):
        return None
    found = interval(model, label, answers(model.classes, known), days)
    return found if np.isfinite(found.value) else None


def _part(model: Model, declared: Slice, known: pd.DataFrame) -> Part | None:
    """A slice's week: by the column of the examples, or of the request where a prediction names no example."""
    column = declared.column
    names = [name for name in (column, f"key.{column}", f"input.{column}") if name in known]
    if not names:
        return None
    values = known[names].bfill(axis=1).iloc[:, 0]
    inside = known[(values == declared.value).to_numpy()].reset_index(drop=True)
    found = _scored(model, inside) if len(inside) else None
    return part(model.metric, declared.name, declared.floor, found, len(inside)) if found else None


def _estimate(at: Home, model: Model, rows: pd.DataFrame, held: Held) -> float | None:
    """The metric to be expected of a week's answers, each by the holdout of the version that gave it."""
    asked = answers(model.classes, rows)
    told = np.full_like(asked, np.nan)
    for digest in rows["digest"].unique():
        if digest not in held:
            held[digest] = _held(at, model, digest)
        kept, mine = held[digest], (rows["digest"] == digest).to_numpy()
        if kept is not None:
            label, answered = kept["label"].to_numpy("float64"), answers(model.classes, kept)
            found = estimate.implied(model.metric, label, answered, asked[mine])
            told[mine] = np.nan if found is None else found
    return estimate.expected(model.metric, asked, told) if np.isfinite(told).all() else None


def _held(at: Home, model: Model, digest: str) -> pd.DataFrame | None:
    try:
        found = package.load(at, package.tag_of(model.name, digest))
    except HeadwayError:  # it was removed since: nothing is known of it
        return None
    same = (found.manifest.classes or ()) == model.classes
    return found.sample[found.sample[HOLDOUT]] if same and HOLDOUT in found.sample else None
