from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features import HeadwayError
from monitoring.parity import compare
from tests.monitoring.worlds import Column

FEATURES = (Column("x", default=-1.0), Column("y"), Column("c", "str"))


def served() -> pd.DataFrame:
    return pd.DataFrame(
        {"x": [1.0, 2.0, 3.0], "y": [0.1 + 0.2, np.nan, 1.0], "c": ["a", None, "b"], "degraded": [[], [], []]},
        index=["r1", "r2", "r3"],
    )


def test_the_same_cells_in_any_order_agree() -> None:
    found = compare(served(), served().drop(columns="degraded").iloc[::-1], FEATURES)
    assert not found.breach
    assert found.rates == {"x": 0.0, "y": 0.0, "c": 0.0}
    assert found.rate == 0
    assert found.sentence.startswith("all 3 features of 3 predictions")


def test_the_last_bit_counts() -> None:
    other = served()
    other.loc["r1", "y"] = 0.3
    found = compare(served(), other, FEATURES)
    assert found.breach
    assert found.rates["y"] == pytest.approx(1 / 3)
    assert (found.differences[0].row_id, found.differences[0].recomputed) == ("r1", 0.3)
    assert found.differences[0].reason == "changed value"
    assert not compare(served(), other, FEATURES, threshold=0.5).breach


@pytest.mark.parametrize(
    ("value", "degraded", "reason"),
    [
        (-1.0, True, "default used"),
        (7.0, True, "stale"),
        (-1.0, False, "late data"),
        (7.0, False, "changed value"),
    ],
)
def test_the_reason_is_guessed_from_what_was_served(value: float, degraded: bool, reason: str) -> None:
    here = served()
    here.loc["r2", "x"] = value
    here.at["r2", "degraded"] = ["x"] if degraded else []
    difference = compare(here, served(), FEATURES).differences[0]
    assert (difference.feature, difference.reason, difference.served) == ("x", reason, value)


def test_missing_against_a_value_differs() -> None:
    other = served()
    other.loc["r2", "c"] = "late"
    difference = compare(served(), other, FEATURES).differences[0]
    assert (difference.served, difference.recomputed, difference.reason) == (None, "late", "late data")


def test_nothing_served_is_no_breach() -> None:
    found = compare(served().iloc[:0], served().iloc[:0], FEATURES)
    assert not found.breach
    assert found.sentence == "no predictions to compare"


def test_different_rows_are_refused() -> None:
    with pytest.raises(HeadwayError, match="3 served rows, 2 recomputed ones, 2 in both"):
        compare(served(), served().iloc[:2], FEATURES)
    with pytest.raises(HeadwayError, match="lack the columns y"):
        compare(served(), served().drop(columns="y"), FEATURES)
    twice = pd.concat([served(), served()])
    with pytest.raises(HeadwayError, match="twice"):
        compare(twice, twice, FEATURES)
