"""The expectations contract refuses what could not do what it says."""

from __future__ import annotations

import pytest

from expectations import DeclarationError, Rule


@pytest.mark.parametrize(
    "expect",
    [
        "expect_column_values_to_be_between", "expect_column_value_lengths_to_equal",
        "expect_compound_columns_to_be_unique", "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_select_column_values_to_be_unique_within_record", "expect_multicolumn_sum_to_equal",
    ],
)  # fmt: skip
def test_a_warning_may_be_about_rows(expect: str) -> None:
    assert Rule(expect=expect, severity="warning", args={"column": "n"}, why="for a reason").severity == "warning"


@pytest.mark.parametrize(
    "expect",
    ["expect_column_mean_to_be_between", "expect_column_median_to_be_between", "expect_table_row_count_to_be_between",
     "expect_column_proportion_of_unique_values_to_be_between", "expect_column_to_exist"],
)  # fmt: skip
def test_a_warning_about_a_whole_column_or_table_is_refused(expect: str) -> None:
    with pytest.raises(DeclarationError, match="speaks of a column or a table as a whole: make it critical or info"):
        Rule(expect=expect, severity="warning", args={"column": "n"}, why="for a reason")
    assert Rule(expect=expect, severity="critical", args={"column": "n"}, why="for a reason").severity == "critical"
