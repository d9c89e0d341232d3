"""A past that the root has not lived through is taken in before it is replayed, and the live root stays as it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pipelines.data.ingest import progress
from pipelines.home import Home, utc
from pipelines.records.examples import labelled
from pipelines.replay.past import covers, open_past
from tests.history import in_force
from tests.pipelines.replay.past import DAY, SMALL

SINCE, UNTIL = utc("2013-01-10"), utc("2013-01-18")
MODEL = replace(SMALL, training_window=timedelta(days=7), holdout=timedelta(days=2))

pytestmark = pytest.mark.slow


def test_a_fresh_root_takes_in_what_was_known_by_the_first_night_then_week_by_week(home: Home) -> None:
    seen: list[tuple[int, int]] = []

    def told(_: str, done: int, of: int) -> None:
        seen.append((done, of))

    with in_force(home):
        past = open_past(home, MODEL, SINCE, UNTIL, told)
        assert seen == [(done, 4) for done in range(5)]  # by the 10th, the 17th and the 18th; then the tables
        assert [progress(past.at, "flights", name) for name in ("weather", "arrivals")] == [UNTIL, UNTIL]
        written = {path.name for path in home.root.iterdir()} & {"lake", "snapshots", "feast", "nights", "quarantine"}
        assert not written, "that is the live root"
        assert covers(past.at, MODEL, SINCE, UNTIL)
        rows = labelled(past.at, MODEL, as_of=SINCE + 3 * DAY, window=MODEL.training_window)
        assert len(rows) > 2000
        assert rows["label_known_at"].max() <= SINCE + 3 * DAY
        again = open_past(home, MODEL, SINCE, UNTIL, told)
    assert again.at == past.at
    assert len(seen) == 5, "it was taken in twice"
