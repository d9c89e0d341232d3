"""How long what serving remembered is kept: as long as the model says, and never less than later steps need."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from models import Model
from pipelines.data import lake
from pipelines.home import Home
from pipelines.records import compaction

ROOMS = ("predictions", "outcomes")


def expire(at: Home, model: Model, as_of: datetime) -> list[str]:
    """Remove the days of predictions and outcomes that lie wholly more than `keep_predictions` before `as_of`.

    What later steps need stays: the contract lets nobody keep less than the training window and the time in which
    labels mature, so an outcome still finds its prediction. Reference windows are in the packaged versions and the
    nights' profiles, which are not touched, and replay reads sources. Counted from the newest day that is there, if
    that is earlier than `as_of`: a night that is run with a wrong date, or on a root whose clock stands in the past,
    removes nothing. Run again, it finds nothing left to do.

    Returns:
        A sentence for each day that was removed, to be told in the flow's log.
    """
    rooms = [at.room(name) for name in ROOMS]
    kept = [path for room in rooms for path in lake.days(room / model.name)]
    if not kept:
        return []
    newest = max(_ends(path) for path in kept)
    return [line for room in rooms for line in _expire(room, model, min(as_of, newest) - model.keep_predictions)]


def _expire(room: Path, model: Model, horizon: datetime) -> list[str]:
    removed = []
    with compaction.alone(room):
        for path in lake.days(room / model.name):
            if _ends(path) <= horizon:
                path.unlink()
                days = model.keep_predictions.days
                removed.append(f"removed {room.name} of {model.name} of {path.stem}: kept for {days} days")
    return removed


def _ends(path: Path) -> datetime:
    """The end of the UTC day that a file is of."""
    day = date.fromisoformat(path.stem) + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
