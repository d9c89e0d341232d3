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


Filled = dict[str, "list[Any] | np.ndarray"]


def filled(columns: Mapping[str, Sequence[Any] | np.ndarray], features: Sequence[FeatureLike]) -> Filled:
    """Columns in the features' order, each of one type, defaults in the place of what is missing.

    Missing are None, pd.NA and NaN. Filling what is filled changes nothing.

    Args:
        columns: {feature: n values}; more columns than the features are allowed and dropped.
        features: name, dtype and default of each column.

    Returns:
        {feature: n values}: float for float, int and bool (missing: NaN), str for str (missing: None). An array for
        an array or a Series, which may be long; a list for anything else: for one row numpy costs more than it saves.

    Raises:
        KeyError: a feature has no column.
    """
    return {feature.name: _column(columns[feature.name], feature) for feature in features}


def matrix(columns: Mapping[str, Sequence[Any] | np.ndarray], features: Sequence[FeatureLike]) -> pd.DataFrame:
    """`filled` as a DataFrame (n, len(features)): float64 for float, int and bool, object for str."""
    texts = {feature.name for feature in features if feature.dtype == "str"}
    return pd.DataFrame(
        {
            name: np.asarray(values, dtype=object if name in texts else "float64")
            for name, values in filled(columns, features).items()
        }
    )


def _column(values: Sequence[Any] | np.ndarray, feature: FeatureLike) -> list[Any] | np.ndarray:
    if feature.dtype == "str":
        default = feature.default
        texts = [value if type(value) is str else default if _missing(value) else str(value) for value in values]
        return np.array(texts, dtype=object) if isinstance(values, pd.Series | np.ndarray) else texts
    default = float("nan") if feature.default is None else float(feature.default)
    if isinstance(values, pd.Series | np.ndarray):
        numbers = pd.Series(values).to_numpy(dtype="float64", na_value=np.nan)
        return np.where(np.isnan(numbers), default, numbers)
    return [
        value if type(value) is float and value == value else default if _missing(value) else float(value)
        for value in values
    ]


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
