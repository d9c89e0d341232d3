"""Frames that are built once and looked up are those that live training assembles, at every instant."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from pipelines.home import Home, utc
from pipelines.records.frame import Frame, training_frame
from pipelines.replay.frames import Frames
from tests.history import history, in_force
from tests.pipelines.replay.past import DAY, SMALL, small

__all__ = ["history"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frames(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    with in_force(history):
        built = Frames(small(history, tmp_path_factory.mktemp("room")), "test")
        built.build(built.missing(utc("2013-02-01"), utc("2013-02-20")))
        return built


@pytest.mark.parametrize(
    "as_of",
    [
        utc("2013-02-19T00:30Z"),
        utc("2013-02-15T13:07:11Z"),
        utc("2013-02-27T00:30Z"),  # its last week was never built: it is joined anew
    ],
)
def test_a_training_frame_is_the_live_one_to_the_bit(frames: Frames, history: Home, as_of: datetime) -> None:
    with in_force(history):
        found, live = frames.training(SMALL, as_of), training_frame(history, SMALL, as_of)
    assert len(found) > 2000
    same(found, live)


def test_what_a_day_was_asked_does_not_hang_on_which_days_were_built_with_it(
    frames: Frames, history: Home, tmp_path: Path
) -> None:
    day = utc("2013-02-10")
    alone = Frames(small(history, tmp_path), "test")
    with in_force(history):
        alone.build([day])
    pd.testing.assert_frame_equal(alone.day(day).inputs, frames.day(day).inputs, check_exact=True)
    pd.testing.assert_frame_equal(alone.day(day).rows, frames.day(day).rows)
    decided = frames.day(day).rows["decision_time"]
    assert (decided > pd.Timestamp(day)).all()
    assert (decided <= pd.Timestamp(day + DAY)).all()


def test_days_that_are_built_are_not_built_again(frames: Frames) -> None:
    assert frames.missing(utc("2013-02-05T00:30Z"), utc("2013-02-20")) == []
    assert frames.missing(utc("2013-02-19"), utc("2013-02-22")) == [utc("2013-02-20"), utc("2013-02-21")]


def same(found: Frame, live: Frame) -> None:
    pd.testing.assert_frame_equal(found.rows, live.rows, check_exact=True)
    pd.testing.assert_frame_equal(found.inputs, live.inputs, check_exact=True)
