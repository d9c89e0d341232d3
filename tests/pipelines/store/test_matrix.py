"""Rows become a model's input in one way, whatever container they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import Feature
from pipelines.store.matrix import filled, matrix


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


MISSING = st.sampled_from([None, float("nan"), np.nan, np.float64("nan"), pd.NA])
ANY_NUMBER = st.one_of(
    MISSING, st.booleans(), st.floats(), st.integers(-(2**70), 2**70), st.floats(width=32).map(np.float32)
)
ANY_VALUE = st.one_of(ANY_NUMBER, st.text(max_size=4), st.dates())


def as_read(values: Any) -> list[Any]:
    """For comparison: NaN by a word."""
    return ["NaN" if isinstance(value, float) and value != value else value for value in values]


@settings(derandomize=True, deadline=None)
@given(
    numbers=st.lists(ANY_NUMBER, min_size=1, max_size=5), texts=st.lists(ANY_VALUE, min_size=1, max_size=5),
    number=st.sampled_from([None, -1, 2.5, True]), text=st.sampled_from([None, "", "?"]),
)  # fmt: skip
def test_a_matrix_is_what_is_filled_whatever_comes(
    numbers: list[Any], texts: list[Any], number: Any, text: Any
) -> None:
    for values, wanted in (
        (numbers, feature("one", "float", number)),
        (numbers, feature("one", "int", number)),
        (texts, feature("one", "str", text)),
    ):
        given_as = [
            values,
            tuple(values),
            pd.Series(values, dtype=object),
            np.array([*values, None], dtype=object)[:-1],
        ]
        framed = [matrix({"one": one}, (wanted,))["one"] for one in given_as]
        listed = [filled({"one": one}, (wanted,))["one"] for one in given_as]
        assert {str(one.dtype) for one in framed} == {"object" if wanted.dtype == "str" else "float64"}
        assert type(listed[0]) is type(listed[1]) is list and type(listed[2]) is type(listed[3]) is np.ndarray
        expected = as_read(framed[0].tolist())
        assert all(
            as_read(one.tolist() if isinstance(one, pd.Series) else list(one)) == expected for one in (*framed, *listed)
        )
        again = filled({"one": listed[0]}, (wanted,))["one"]
        assert as_read(again) == expected, "filling what is filled changes it"
        assert {type(value) for value in listed[0]} <= ({str, type(None)} if wanted.dtype == "str" else {float})
