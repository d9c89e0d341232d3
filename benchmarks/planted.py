"""Changes to plant in a stream, each in a share of the rows, and the causes by which each may rightly be named."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.streams import Stream

TOP = 4
"""A number is planted in one of so many of the most important ones: a change that does not matter is not asked for."""


Rows = tuple[pd.DataFrame, np.ndarray]
"""Inputs and label."""


class Hit(NamedTuple):
    """Rows of which some are hit, and where."""

    inputs: pd.DataFrame
    label: np.ndarray
    hit: np.ndarray
    column: str
    whole: pd.DataFrame
    """All rows of the stream."""
    random: np.random.Generator

    @property
    def values(self) -> np.ndarray:
        """The numbers of the column (n,)."""
        return self.inputs[self.column].to_numpy(float)

    def replaced(self, values: np.ndarray) -> pd.DataFrame:
        """The inputs with other values of the column in the rows that are hit."""
        column = self.inputs[self.column]
        return self.inputs.assign(**{self.column: column.mask(self.hit, pd.Series(values, column.index))})


class Change(NamedTuple):
    """A change: what it does to the rows that it hits, what kind of column it needs, and what it may be called."""

    plant: Callable[[Hit], Rows]
    kind: str
    causes: tuple[str, ...]
    names_column: bool


def _mean_shift(at: Hit) -> Rows:
    return at.replaced(at.values + 2 * at.whole[at.column].std()), at.label


def _scale(at: Hit) -> Rows:
    mean = at.whole[at.column].mean()
    return at.replaced(mean + 3 * (at.values - mean)), at.label


def _category_swap(at: Hit) -> Rows:
    """Each value becomes the next commoner one, and the commonest the rarest."""
    ranked = at.whole[at.column].value_counts().index
    swapped = at.inputs[at.column].map(dict(zip(ranked, np.roll(ranked, 1), strict=True)))
    return at.replaced(swapped.to_numpy()), at.label


def _missing(at: Hit) -> Rows:
    return at.replaced(np.full(len(at.label), np.nan)), at.label


def _correlation_flip(at: Hit) -> Rows:
    """Each value becomes the one as far from the other end: the column by itself looks as ever."""
    value, flipped = at.values, at.values.copy()
    there = np.flatnonzero(at.hit & ~np.isnan(value))
    order = there[value[there].argsort(kind="stable")]
    flipped[order] = value[order[::-1]]
    return at.replaced(flipped), at.label


def _prior_shift(at: Hit) -> Rows:
    """The rows that are hit become copies of rows whose label is 1: what they look like given the label stays."""
    taken = np.arange(len(at.label))
    taken[at.hit] = at.random.choice(np.flatnonzero(at.label == 1), at.hit.sum())
    return at.inputs.iloc[taken].reset_index(drop=True), at.label[taken]


def _concept_flip(at: Hit) -> Rows:
    return at.inputs, np.where(at.hit, 1 - at.label, at.label)


INPUT = ("input drift", "data fault")
EITHER = ("input drift", "relation drift")
CHANGES: dict[str, Change] = {
    "mean shift": Change(_mean_shift, "number", INPUT[:1], True),
    "scale": Change(_scale, "number", INPUT[:1], True),
    "category swap": Change(_category_swap, "category", INPUT[:1], True),
    "missingness": Change(_missing, "number", INPUT, True),
    "correlation flip": Change(_correlation_flip, "number", EITHER, False),
    "prior shift": Change(_prior_shift, "any", EITHER, False),
    "concept flip": Change(_concept_flip, "any", ("relation drift",), False),
}


def column(stream: Stream, kind: str, random: np.random.Generator) -> str:
    """An important column of the kind: of the numbers one of the top four, of the categories the first."""
    wanted = {each.name for each in stream.columns if (each.dtype == "str") == (kind == "category")}
    ranked = sorted(wanted, key=lambda name: -stream.importance[name])
    return ranked[0] if kind == "category" else str(random.choice(ranked[:TOP]))
