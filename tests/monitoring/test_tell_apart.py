from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring.tell_apart import Apart, tell_apart, windows
from tests.monitoring.worlds import Column

FEATURES = (Column("left"), Column("right"), Column("still"), Column("place", "str"))


def week(random: np.random.Generator, together: float = 0.8, n: int = 400) -> pd.DataFrame:
    left = random.normal(random.normal(0, 0.05), 1, n)
    return pd.DataFrame(
        {
            "left": left,
            "right": together * left + random.normal(0, 0.6, n),
            "still": random.normal(0, 1, n),
            "place": random.choice(np.array(["a", "b", None], dtype=object), n),
        }
    )


@pytest.fixture(scope="module")
def known() -> list[pd.DataFrame]:
    random = np.random.default_rng(0)
    return [week(random) for _ in range(9)]


def test_inputs_that_no_longer_go_together_are_named(known: list[pd.DataFrame]) -> None:
    found = tell_apart(known, week(np.random.default_rng(1), together=-0.8), FEATURES)
    assert set(found.names) == {"left", "right"}
    assert found.beaten == found.windows == 9
    assert found.auc > found.usual[1]
    assert "`left`" in found.sentence
    assert "together" in found.sentence


def test_an_ordinary_week_names_nothing(known: list[pd.DataFrame]) -> None:
    found = [tell_apart(known, week(np.random.default_rng(2 + draw)), FEATURES) for draw in range(3)]
    assert sum(bool(each.names) for each in found) <= 1  # each has a chance of one in ten
    assert any(each.sentence.startswith("no easier") for each in found)


def test_the_same_rows_give_the_same_answer(known: list[pd.DataFrame]) -> None:
    now = week(np.random.default_rng(5), n=100)
    assert tell_apart(known, now, FEATURES) == tell_apart(known, now, FEATURES)


def test_too_few_windows_say_so(known: list[pd.DataFrame]) -> None:
    found = tell_apart(known[:7], known[8], FEATURES)
    assert found == Apart("7 reference windows, at least 8 are needed", 7)


def test_rows_fall_into_windows_counted_back_from_the_last_day() -> None:
    days = ["2021-03-01", "2021-03-08", "2021-03-02", "2021-03-09", "2021-02-22"]
    parts = windows(pd.DataFrame({"row": range(5)}, index=[9, 8, 7, 6, 5]), days, timedelta(days=7))
    assert [part["row"].tolist() for part in parts] == [[4], [0, 2], [1, 3]]
