"""A smaller `benchmarks.trust`: alarms at the rate that was set, and planted changes caught and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import planted
from benchmarks.streams import made_up
from benchmarks.trust import World, correct, false_alarms, first_verdict

DRAWS, TRIALS = 60, 5


@pytest.fixture(scope="module")
def world() -> World:
    return World(made_up(Path(), weeks=26, a_day=100))


def test_quiet_weeks_alarm_no_more_often_than_set(world: World) -> None:
    for row in false_alarms(world, DRAWS, 1):
        noise = 3 * np.sqrt(row["set for each"] * (1 - row["set for each"]) / DRAWS)
        assert row["input drift"] <= row["input drift can"] + noise
        assert row["relation drift"] <= row["set for each"] + noise
        assert row["both"] <= row["set for both"]


@pytest.mark.parametrize("name", ["mean shift", "missingness", "prior shift", "concept flip"])
def test_a_planted_change_is_caught_and_bears_its_name(world: World, name: str) -> None:
    change, random = planted.CHANGES[name], np.random.default_rng(2)
    found = [first_verdict(world, change, 1.0, random) for _ in range(TRIALS)]
    assert sum(verdict is not None for verdict, _ in found) >= TRIALS - 1
    assert sum(correct(change, column, verdict) for verdict, column in found if verdict) >= TRIALS - 2


def test_each_planted_change_changes_what_it_says_and_nothing_else(world: World) -> None:
    stream, random = world.stream, np.random.default_rng(3)
    inputs, label = stream.inputs[:700], stream.label[:700]
    for name, change in planted.CHANGES.items():
        column = planted.column(stream, change.kind, random)
        hit = random.random(len(label)) < 0.5
        now, told = change.plant(planted.Hit(inputs, label, hit, column, stream.inputs, random))
        others = [each for each in inputs if each != column or not change.names_column]
        assert len(now) == len(told) == len(label)
        if name == "concept flip":
            assert now.equals(inputs)
            assert (told != label).tolist() == hit.tolist()
        elif name == "correlation flip":
            assert np.allclose(np.sort(now[column]), np.sort(inputs[column]), equal_nan=True)
            assert not now[column].equals(inputs[column])
        elif change.names_column:
            assert now[others].equals(inputs[others])
            assert now.loc[~hit, column].equals(inputs.loc[~hit, column])
            assert not now.loc[hit, column].equals(inputs.loc[hit, column])
        else:
            assert told.mean() > label.mean() + 0.1
