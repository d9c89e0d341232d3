"""Categories become numbers by looking them up, in tables that the fitted encoder itself was asked for.

Not derived from an encoder's settings, but what it answers for each of its categories, for a missing value and for one
never seen: so unknown, infrequent, dropped and missing categories come out as they do there, by whichever encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

Columns = Mapping[str, Sequence[Any] | np.ndarray]
Changes = tuple[tuple[int, float], ...]
"""Places of a row, and the numbers that belong there."""

LARGEST = 4_000_000
"""Categories times places of a block: 32 MB while it is made. A one-hot of 2,000 categories."""
UNSEEN = object()
"""Stands for every value that is not a category."""


class NotCompiled(Exception):  # noqa: N818  (nothing went wrong)
    """A pipeline that the fast scorer does not take over. The message is a sentence: why not."""


@dataclass(frozen=True)
class Table:
    """What becomes of one column's values: where they differ from the block's `cold` row. None: it is refused."""

    name: str
    known: Mapping[Any, Changes | None]
    unseen: Changes | None


@dataclass(frozen=True)
class Tables:
    """Columns of categories side by side, each value looked up."""

    tables: tuple[Table, ...]
    cold: np.ndarray

    def __call__(self, columns: Columns) -> np.ndarray:
        """(n, places) float64. Raises ValueError for a value that the encoder refuses."""
        rows = np.empty((len(columns[self.tables[0].name]), len(self.cold)))
        rows[:] = self.cold
        for table in self.tables:
            known, unseen = table.known, table.unseen
            for row, value in enumerate(columns[table.name]):
                changes = known.get(value if value == value else None, unseen)
                if changes is None:
                    raise ValueError(f"{table.name}: a category that the encoder refuses")
                for place, number in changes:
                    rows[row, place] = number
        return rows


def tables(steps: Sequence[Any], known: Mapping[str, list[Any]], texts: set[str]) -> Tables:
    """Ask fitted steps, each of which treats every column on its own, about every value of each column.

    Args:
        steps: with `transform`, taking a DataFrame of the columns.
        known: {column: the values that the steps tell apart}, None for missing.
        texts: those of the columns that hold text; the others hold numbers.

    Raises:
        NotCompiled: the tables would be too large, or the steps refuse their own categories.
    """
    asked = _Asked(steps, known, texts)
    found = {name: asked.about(name) for name in known}
    cold, taken = asked.usual.copy(), np.zeros(len(asked.usual), dtype=bool)
    places: dict[str, np.ndarray] = {}
    for name, answers in found.items():
        rows = np.array([row for row in answers.values() if row is not None])
        places[name] = np.flatnonzero(_differ(rows, asked.usual).any(axis=0))
        if taken[places[name]].any():
            raise NotCompiled(f"{name} and another column come out in the same place")
        taken[places[name]], cold[places[name]] = True, np.median(rows[:, places[name]], axis=0)
    return Tables(tuple(_table(name, found[name], places[name], cold) for name in known), cold)


class _Asked:
    """Fitted steps that are asked about one column while the others are held still.

    `usual` is the row (places,) of the values that are held.
    """

    def __init__(self, steps: Sequence[Any], known: Mapping[str, list[Any]], texts: set[str]) -> None:
        self._steps, self._known, self._texts = steps, known, texts
        self._held = {name: next((v for v in values if v is not None), None) for name, values in known.items()}
        self.usual = self._answers({name: [value] for name, value in self._held.items()})[0]
        if len(self.usual) * max(map(len, known.values())) > LARGEST:
            raise NotCompiled(f"the encoder of {', '.join(known)} is too wide for tables")

    def about(self, name: str) -> dict[Any, np.ndarray | None]:
        """The row (places,) that each value of a column gives; None where it is refused."""
        values = self._known[name]
        rows = self._answers({other: [held] * len(values) for other, held in self._held.items()} | {name: values})
        found: dict[Any, np.ndarray | None] = dict(zip(values, rows, strict=True))
        for odd in (None, UNSEEN) if name in self._texts else (None, np.inf, -np.inf, UNSEEN):
            asked = _unseen(values, name in self._texts) if odd is UNSEEN else odd
            try:
                found[odd] = self._answers({other: [held] for other, held in self._held.items()} | {name: [asked]})[0]
            except (ValueError, TypeError):
                found[odd] = None
        return found

    def _answers(self, columns: Mapping[str, list[Any]]) -> np.ndarray:
        types = {name: object if name in self._texts else "float64" for name in columns}
        rows: Any = pd.DataFrame({name: np.array(values, dtype=types[name]) for name, values in columns.items()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is unknown: that is what is asked about
            for step in self._steps:
                rows = step.transform(rows)
        return np.asarray(rows.toarray() if issparse(rows) else rows, dtype="float64")


def _table(name: str, answers: Mapping[Any, np.ndarray | None], places: np.ndarray, cold: np.ndarray) -> Table:
    def changes(row: np.ndarray) -> Changes:
        return tuple((int(place), float(row[place])) for place in places[_differ(row[places], cold[places])])

    known = {value: None if row is None else changes(row) for value, row in answers.items()}
    return Table(name, known, known.pop(UNSEEN))


def _differ(rows: np.ndarray, row: np.ndarray) -> np.ndarray:
    return (rows != row) & ~(np.isnan(rows) & np.isnan(row))


def _unseen(known: list[Any], text: bool) -> Any:
    return "\0 never seen" if text else max((float(v) for v in known if v is not None), default=0.0) + 0.5
