"""Columns become a matrix of numbers as a fitted scikit-learn preprocessing makes it, without scikit-learn or pandas.

Two kinds of block cover what people commonly write: `Numbers` puts columns through a few vector steps, `Tables` looks
categories up. Whatever else a preprocessing does is declined, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from pipelines.scorers.tables import Columns, NotCompiled, Tables, tables
from pipelines.store.matrix import FeatureLike

Step = Callable[[np.ndarray], np.ndarray]
ENCODERS = (OrdinalEncoder, OneHotEncoder, TargetEncoder)


@dataclass(frozen=True)
class Numbers:
    """Columns of numbers, put through vector steps."""

    names: tuple[str, ...]
    steps: tuple[Step, ...]

    def __call__(self, columns: Columns) -> np.ndarray:
        """(n, places) float64. Raises ValueError where a step refuses infinity."""
        return through(self.steps, np.array([columns[name] for name in self.names], dtype="float64").T)


@dataclass(frozen=True)
class Encoding:
    """Blocks side by side, then steps over all of them."""

    blocks: tuple[Numbers | Tables, ...]
    after: tuple[Step, ...]
    sparse: bool
    """Whether scikit-learn's matrix is a sparse one, which fewer models take missing values in."""

    def __call__(self, columns: Columns) -> np.ndarray:
        """(n, places) float64, C-contiguous."""
        parts = [block(columns) for block in self.blocks]
        return np.ascontiguousarray(through(self.after, np.concatenate(parts, axis=1)))

    def untouched(self) -> dict[int, str]:
        """{place: column} of the numbers that reach the model as they came."""
        found: dict[int, str] = {}
        start = 0
        for block in self.blocks:
            if isinstance(block, Numbers) and not block.steps and not self.after:
                found |= {start + number: name for number, name in enumerate(block.names)}
            start += len(block.names) if isinstance(block, Numbers) else len(block.cold)
        return found


def through(steps: Sequence[Step], rows: np.ndarray) -> np.ndarray:
    """Rows (n, k) after one step after another."""
    for step in steps:
        rows = step(rows)
    return rows


def encoding(steps: Sequence[Any], features: Sequence[FeatureLike]) -> Encoding:
    """Rebuild fitted preprocessing steps (without Pipelines in them: see `flat`) for columns as `filled` gives them.

    Raises NotCompiled for whatever it does not know.
    """
    names = [feature.name for feature in features]
    if steps and type(steps[0]) is ColumnTransformer:
        parts, after, sparse = list(_parts(steps[0])), steps[1:], steps[0].sparse_output_
    else:
        parts, after = [(list(steps), names)], []
        sparse = any(getattr(step, "sparse_output", False) for step in steps)
    texts = {feature.name for feature in features if feature.dtype == "str"}
    blocks = tuple(_block(part, columns, texts) for part, columns in parts)
    return Encoding(blocks, _vector(after), sparse)


def flat(estimator: Any) -> list[Any]:
    """The fitted steps of an estimator, those of Pipelines within it unpacked, those that do nothing left out."""
    if type(estimator) is Pipeline:
        return [step for _, part in estimator.steps for step in flat(part)]
    idle = estimator is None or (isinstance(estimator, str) and estimator == "passthrough")
    return [] if idle or (type(estimator) is FunctionTransformer and estimator.func is None) else [estimator]


def _parts(transformer: ColumnTransformer) -> Iterator[tuple[list[Any], list[str]]]:
    """The steps for each group of columns, in the order of what comes out."""
    if transformer.transformer_weights:
        raise NotCompiled("it weighs its transformers")
    known = np.array(transformer.feature_names_in_, dtype=object)
    for _, part, columns in transformer.transformers_:
        listed = [columns] if isinstance(columns, str) else columns
        named = isinstance(listed, Sequence) and all(isinstance(name, str) for name in listed)
        names = list(listed) if named else known[listed].tolist()
        if names and not (isinstance(part, str) and part == "drop"):
            yield flat(part), names


def _block(steps: list[Any], names: list[str], texts: set[str]) -> Numbers | Tables:
    if any(type(step) in ENCODERS for step in steps):
        return tables(steps, _categories(steps, names), texts)
    if words := [name for name in names if name in texts]:
        raise NotCompiled(f"{', '.join(words)} would reach the model as text, without an encoder that it knows")
    return Numbers(tuple(names), _vector(steps))


def _categories(steps: list[Any], names: list[str]) -> dict[str, list[Any]]:
    """The values of each column that an encoder and the steps beside it tell apart, None for missing."""
    at = next(number for number, step in enumerate(steps) if type(step) in ENCODERS)
    before, encoder, after = steps[:at], steps[at], steps[at + 1 :]
    odd = [step for step in before if type(step) is not SimpleImputer] + [s for s in after if type(s) not in VECTOR]
    if odd:
        raise NotCompiled(f"{type(odd[0]).__name__} beside an encoder is not a step that it knows")
    if len(encoder.categories_) != len(names):
        raise NotCompiled(f"an imputer drops or adds columns before the encoder of {', '.join(names)}")
    replaced = [step.missing_values for step in before]
    return {
        name: list(dict.fromkeys(None if _is_nan(value) else value for value in (*values.tolist(), *replaced)))
        for name, values in zip(names, encoder.categories_, strict=True)
    }


def _vector(steps: Sequence[Any]) -> tuple[Step, ...]:
    """Steps on numbers. Scikit-learn's refuse infinity, every one of them: so does this, once."""
    unknown = [type(step).__name__ for step in steps if type(step) not in VECTOR]
    if unknown:
        raise NotCompiled(f"{unknown[0]} is not a step that it knows")
    made = tuple(VECTOR[type(step)](step) for step in steps)
    return (_not_infinite, *made) if made else ()


def _not_infinite(rows: np.ndarray) -> np.ndarray:
    if np.isinf(rows).any():
        raise ValueError("infinity, which a step refuses")
    return rows


def _impute(step: SimpleImputer) -> Step:
    values = np.asarray(step.statistics_, dtype="float64")
    if np.isnan(values).any() or step.add_indicator or not _is_nan(step.missing_values):
        raise NotCompiled("SimpleImputer drops a column, adds indicators, or fills something else than NaN")
    return lambda rows: np.where(np.isnan(rows), values, rows)


def _shift_and_divide(shift: np.ndarray | None, divisor: np.ndarray | None) -> Step:
    less = 0.0 if shift is None else np.asarray(shift, dtype="float64")
    by = 1.0 if divisor is None else np.asarray(divisor, dtype="float64")
    return lambda rows: (rows - less) / by


def _min_max(step: MinMaxScaler) -> Step:
    def scaled(rows: np.ndarray) -> np.ndarray:
        rows = rows * step.scale_ + step.min_
        return np.clip(rows, *step.feature_range) if step.clip else rows

    return scaled


def _max_abs(step: MaxAbsScaler) -> Step:
    if getattr(step, "clip", False):
        raise NotCompiled("MaxAbsScaler clips")
    return _shift_and_divide(None, step.scale_)


VECTOR: dict[type, Callable[[Any], Step]] = {
    SimpleImputer: _impute,
    StandardScaler: lambda step: _shift_and_divide(step.mean_ if step.with_mean else None, step.scale_),
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    RobustScaler: lambda step: _shift_and_divide(
        step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None
    ),
}
"""What each step on numbers does, in the order of operations that scikit-learn has, so that bits agree."""


def _is_nan(value: Any) -> bool:
    return value is None or value != value
