"""Rows become a model's input in one way, whatever container they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import Feature
from pipelines.matrix import matrix


def feature(name: str, dtype: Any, default: Any = None) -> Feature:
    return Feature(name=name, dtype=dtype, default=default, honest="a test")


NUMBER, COUNT, TEXT, FLAG = (feature(name, name) for name in ("float", "int", "str", "bool"))
COLUMNS: dict[str, list[Any]] = {
    "str": ["a", None, "", "7"],
    "bool": [True, None, False, True],
    "int": [1, None, -3, 2**40],
    "float": [0.5, None, float("nan"), float("inf")],
    "more": [1, 2, 3, 4],
}


def test_columns_come_in_the_features_order_and_types() -> None:
    found = matrix(COLUMNS, (NUMBER, TEXT, COUNT, FLAG))
    assert list(found) == ["float", "str", "int", "bool"]
    assert [str(dtype) for dtype in found.dtypes] == ["float64", "object", "float64", "float64"]
    assert found["str"].tolist() == ["a", None, "", "7"]
    np.testing.assert_array_equal(found["float"], [0.5, np.nan, np.nan, np.inf])
    np.testing.assert_array_equal(found["int"], [1.0, np.nan, -3.0, 2.0**40])
    np.testing.assert_array_equal(found["bool"], [1.0, np.nan, 0.0, 1.0])


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(COLUMNS),
        pd.DataFrame(COLUMNS).convert_dtypes(),
        pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in COLUMNS.items()}),
        pd.DataFrame(COLUMNS).set_index(pd.Index([9, 7, 5, 3])),
        {name: tuple(values) for name, values in COLUMNS.items()},
    ],
    ids=["numpy types", "nullable types", "objects", "another index", "tuples"],
)
def test_every_container_gives_the_same_matrix(frame: Any) -> None:
    features = (NUMBER, TEXT, COUNT, FLAG)
    pd.testing.assert_frame_equal(matrix(frame, features), matrix(COLUMNS, features))


def test_defaults_stand_in_for_what_is_missing_and_only_for_that() -> None:
    features = (feature("float", "float", -1), feature("str", "str", "?"), feature("bool", "bool", True))
    found = matrix(COLUMNS, features)
    assert found["float"].tolist() == [0.5, -1.0, -1.0, np.inf]
    assert found["str"].tolist() == ["a", "?", "", "7"]
    assert found["bool"].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_one_row_is_as_that_row_among_many() -> None:
    features = (NUMBER, TEXT, COUNT, FLAG)
    whole = matrix(COLUMNS, features)
    for row in range(4):
        one = matrix({name: values[row : row + 1] for name, values in COLUMNS.items()}, features)
        pd.testing.assert_frame_equal(one, whole.iloc[[row]].reset_index(drop=True))


def test_no_rows_give_an_empty_matrix_of_the_same_types() -> None:
    found = matrix({"float": [], "str": []}, (NUMBER, TEXT))
    assert found.shape == (0, 2)
    assert [str(dtype) for dtype in found.dtypes] == ["float64", "object"]


def test_a_feature_without_a_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="float"):
        matrix({"str": []}, (NUMBER,))
