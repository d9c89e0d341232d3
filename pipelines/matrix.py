"""The one place where rows become a model's input: training, serving and parity all call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd


class FeatureLike(Protocol):
    """What `matrix` needs of a feature: a declared one or the one a manifest remembers."""

    @property
    def name(self) -> str:
        """Of the column."""
        ...

    @property
    def dtype(self) -> Any:
        """float, int, str or bool."""
        ...

    @property
    def default(self) -> Any:
        """What stands in for a missing value; None: nothing does."""
        ...


def matrix(columns: Mapping[str, Sequence[Any]], features: Sequence[FeatureLike]) -> pd.DataFrame:
    """Columns in the features' order, each of one type, defaults in the place of what is missing.

    Args:
        columns: {feature: n values}; more columns than the features are allowed and dropped.
        features: name, dtype and default of each column.

    Returns:
        DataFrame (n, len(features)): float64 for float, int and bool (missing: NaN), object for str
        (missing: None).

    Raises:
        KeyError: a feature has no column.
    """
    return pd.DataFrame({feature.name: _column(columns[feature.name], feature) for feature in features})


def _column(values: Sequence[Any], feature: FeatureLike) -> np.ndarray:
    if feature.dtype == "str":
        column = np.array([None if _missing(value) else str(value) for value in values], dtype=object)
        column[[value is None for value in column]] = feature.default
        return column
    if isinstance(values, pd.Series):
        numbers = values.to_numpy(dtype="float64", na_value=np.nan)
    else:
        numbers = np.array(values, dtype="float64")  # None becomes NaN
    if feature.default is not None:
        numbers = np.where(np.isnan(numbers), float(feature.default), numbers)
    return numbers


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
