"""One batch against one suite, by real Great Expectations: what severity makes of the outcome."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expectations import Rule, Suite
from pipelines.data.check import Checked, check

ROWS = pd.DataFrame(
    {"id": ["a", "b", "b", None], "at": pd.date_range("2013-01-01", periods=4, tz="UTC"), "n": [1.0, 5.0, np.nan, 50.0]}
)
LOW = {"column": "n", "min_value": 0, "max_value": 10}


def rule(expect: str, severity: Any, **args: Any) -> Rule:
    return Rule(expect=f"expect_{expect}", severity=severity, args=args, why=f"because of {expect}")


def checked(*rules: Rule, rows: pd.DataFrame = ROWS, **parameters: Any) -> Checked:
    return check(rows, Suite(source="sales", rules=rules), parameters)


def test_a_good_batch_is_kept_as_it_came() -> None:
    found = checked(rule("column_values_to_be_between", "critical", column="n", min_value=0, max_value=100))
    pd.testing.assert_frame_equal(found.kept, ROWS)
    assert len(found.quarantined) == 0 and found.broken == () and found.stops == ()


def test_a_warning_sets_aside_exactly_the_rows_that_break_it() -> None:
    found = checked(rule("column_values_to_be_between", "warning", **LOW))
    assert found.quarantined["n"].tolist() == [50.0]
    assert found.quarantined[["_rule", "_why"]].to_numpy().tolist() == [
        ["expect_column_values_to_be_between", "because of column_values_to_be_between"]
    ]
    pd.testing.assert_frame_equal(found.kept, ROWS.iloc[:3])
    assert found.stops == ()
    (broken,) = found.broken
    assert broken.sentence == "`n`: 1 of 4 rows, such as 50; because of column_values_to_be_between"
    assert (broken.severity, broken.rows, broken.is_error) == ("warning", 1, False)


def test_a_row_that_breaks_two_rules_is_set_aside_once_by_the_first() -> None:
    found = checked(
        rule("column_values_to_not_be_null", "warning", column="id"),
        rule("column_values_to_be_between", "warning", **LOW),
        rule("column_values_to_be_unique", "warning", column="id"),
    )
    assert found.quarantined.index.tolist() == [1, 2, 3]
    assert [name.removeprefix("expect_column_values_to_") for name in found.quarantined["_rule"]] == [
        "be_unique", "be_unique", "not_be_null",
    ]  # fmt: skip
    assert [broken.rows for broken in found.broken] == [1, 1, 2]


@pytest.mark.parametrize(("severity", "stops"), [("critical", 1), ("info", 0)])
def test_only_a_critical_rule_stops_and_neither_sets_rows_aside(severity: str, stops: int) -> None:
    found = checked(rule("column_values_to_be_between", severity, **LOW))
    assert len(found.kept) == 4 and len(found.quarantined) == 0
    assert len(found.stops) == stops and len(found.broken) == 1


def test_rows_that_are_few_enough_are_let_be() -> None:
    assert checked(rule("column_values_to_be_between", "warning", **LOW, mostly=0.5)).broken == ()


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
def test_an_error_in_a_rule_says_nothing_of_the_data_and_stops(severity: str) -> None:
    found = checked(
        rule("column_values_to_be_between", severity, column="gone", min_value=0, max_value=1),
        rule("column_values_to_be_between", "warning", **LOW),
    )
    error, broken = found.broken
    assert error.is_error and error.rows == 0
    assert error.sentence.startswith("`gone`: the check could not be made (") and "gone" in error.sentence
    assert found.stops == (error,)
    assert broken.rows == 1 and not broken.is_error
    assert found.quarantined["n"].tolist() == [50.0]


def test_values_that_cannot_be_compared_are_an_error_of_the_check() -> None:
    found = checked(rule("column_values_to_be_between", "warning", column="id", min_value=0, max_value=1))
    assert [broken.is_error for broken in found.broken] == [True]
    assert len(found.kept) == len(ROWS)


def test_a_rule_about_the_batch_says_what_it_found() -> None:
    columns = rule("table_columns_to_match_set", "critical", column_set=["id", "n", "price"], exact_match=True)
    count = rule("table_row_count_to_be_between", "critical", min_value={"$PARAMETER": "low"})
    found = checked(columns, count, low=10)
    assert [broken.sentence for broken in found.stops] == [
        "`the batch`: found missing column price; unexpected column at; because of table_columns_to_match_set",
        "`the batch`: found 4; because of table_row_count_to_be_between",
    ]
    assert checked(count, low=4).broken == ()


def test_two_columns_together_are_named_and_their_rows_set_aside() -> None:
    doubled = pd.concat([ROWS, ROWS.iloc[[1]].assign(n=7.0)], ignore_index=True)
    found = checked(rule("compound_columns_to_be_unique", "warning", column_list=["id", "at"]), rows=doubled)
    assert found.quarantined.index.tolist() == [1, 4]
    assert found.broken[0].sentence.startswith("`id` and `at`: 2 of 5 rows")


def test_the_rows_set_aside_do_not_depend_on_the_index_of_the_batch() -> None:
    for index in (pd.Index([7, 7, 7, 7]), pd.Index(list("wxyz")), pd.RangeIndex(4)[::-1]):
        found = checked(rule("column_values_to_be_between", "warning", **LOW), rows=ROWS.set_axis(index))
        assert found.quarantined["n"].tolist() == [50.0]


def test_an_empty_batch_breaks_no_rule_about_rows() -> None:
    found = checked(
        rule("column_values_to_be_between", "critical", **LOW),
        rule("table_row_count_to_be_between", "critical", min_value=1),
        rows=ROWS.iloc[:0],
    )
    assert [broken.rule for broken in found.stops] == ["expect_table_row_count_to_be_between"]


def test_the_same_rule_twice_is_answered_twice() -> None:
    twice = (rule("column_values_to_be_between", "warning", **LOW),) * 2
    found = checked(*twice)
    assert len(found.broken) == 2 and len(found.quarantined) == 1


def test_threads_get_the_results_of_their_own_frames() -> None:
    def one(number: int) -> tuple[int, list[int]]:
        rows = pd.DataFrame({"n": range(20)})
        found = checked(
            rule("column_values_to_be_between", "warning", column="n", min_value=number, max_value=99), rows=rows
        )
        return len(found.kept), found.quarantined["n"].tolist()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(1, 13)))
    assert found == [(20 - number, list(range(number))) for number in range(1, 13)]
