from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest

from features import HeadwayError
from monitoring.parity import EXPLAINED, Difference, History, compare
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


def history(**changed: bool) -> History:
    """Of one feature of three rows: 1 before, 3 after, 2 in between."""
    flags = {name: np.full(3, changed.get(name, False)) for name in ("late", "soon", "corrected")}
    return History(before=np.full(3, 1.0), after=np.full(3, 3.0), **flags)


@pytest.mark.parametrize(
    ("value", "degraded", "changed", "reason"),
    [
        (1.0, False, {}, "stale"),
        (1.0, False, {"late": True}, "late data"),
        (-1.0, True, {}, "default used"),
        (-1.0, True, {"late": True}, "late data"),
        (-1.0, True, {"soon": True}, "clock"),
        (7.0, True, {}, "stale"),
        (3.0, False, {}, "clock"),
        (-1.0, False, {}, "default used"),
        (7.0, False, {}, "changed code"),
        (7.0, False, {"late": True}, "changed code"),
        (7.0, False, {"corrected": True}, "changed value"),
    ],
)
def test_the_reason_rests_on_the_snapshots_around(
    value: float, degraded: bool, changed: dict[str, bool], reason: str
) -> None:
    here, there = served(), served()
    there["x"] = 2.0
    here["x"] = [2.0, value, 2.0]
    here.at["r2", "degraded"] = ["x"] if degraded else []
    decided = pd.Series(pd.date_range("2021-01-04T10:00Z", periods=3, freq="h"), index=here.index)
    found = compare(here, there, FEATURES, decided=decided, history={"x": history(**changed)}, of=9)
    (difference,) = found.differences
    assert (difference.reason, difference.reasons) == (reason, {reason: 1})
    assert (difference.row_id, difference.decided) == ("r2", "2021-01-04T11:00:00+00:00")
    assert "of 3 predictions (a sample of 9)" in found.sentence
    assert reason in EXPLAINED


def test_what_the_request_alone_gives_can_differ_only_by_code() -> None:
    other = served()
    other.loc["r1", "y"] = 0.3
    assert compare(served(), other, FEATURES, history={"y": None}).differences[0].reason == "changed code"


def test_what_was_stored_before_there_were_reasons_can_be_read() -> None:
    old = b'{"feature":"x","rows":1,"rate":0.5,"reason":"changed value","row_id":"r","served":1.0,"recomputed":2.0}'
    assert msgspec.json.decode(old, type=Difference).reasons == {}
