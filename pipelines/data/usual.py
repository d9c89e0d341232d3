"""What a source's own past says of it: the rows of the same hours on days before, and how they were distributed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from features import Source
from pipelines.data import lake

DAYS = 28
"""A window is compared with the same hours of this many days before."""
ENOUGH = 14
"""Fewer windows than this in the past, and nothing is learned from them."""
WEEK = 7
"""Fewer than this, and a window's volume is not compared either."""
UNKNOWN: dict[str, int | None] = {"rows_low": 1, "rows_high": None}
"""The volume of a source without history: it must only not be empty."""
FEW = 10
"""Fewer values than this in a window, and its quantiles say nothing."""
QUANTILES = (0.1, 0.5, 0.9)
CATEGORIES = 200
"""A text column with more values than this, or with fewer than ten rows for each, is no category."""

OUTSIDE = 0
"""The window of rows that lie in none: in the past, but at other hours."""


@dataclass(frozen=True)
class Past:
    """Rows known before a batch, newest last, and which window of the same hours each belongs to."""

    rows: pd.DataFrame
    """(n, columns of the source), of up to 28 steps before."""
    windows: np.ndarray
    """(n,) 1 for the latest window before, 2 for the one before that; `OUTSIDE` at other hours."""
    source: Source
    count: int
    """Windows that lie in the past whole, from the latest back; an empty one among them is one, too."""
    step: timedelta
    """From one window to the next: a day, or for longer batches as many as they have."""

    @cached_property
    def volume(self) -> dict[str, int | None]:
        """`rows_low` and `rows_high`, for rules: half the least and twice the most rows of all windows."""
        if self.count < WEEK:
            return UNKNOWN
        counts = np.bincount(self.windows, minlength=self.count + 1)[1 : self.count + 1]
        return {"rows_low": int(counts.min()) // 2, "rows_high": 2 * int(counts.max())}

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """(n, numeric columns, and the distance of each timestamp from known-at)."""
        return numbers(self.rows, self.source)

    @cached_property
    def quantiles(self) -> pd.DataFrame:
        """(windows with enough values, (column, quantile)); NaN where a window has too few."""
        inside = self.numbers[self.windows != OUTSIDE].groupby(self.windows[self.windows != OUTSIDE])
        found = inside.quantile(list(QUANTILES)).unstack()
        for column, counts in inside.count().items():
            found.loc[counts < FEW, column] = np.nan
        return found

    @cached_property
    def missing(self) -> pd.DataFrame:
        """(windows, columns): share of the window's rows in which the column is missing."""
        inside = self.windows != OUTSIDE
        return self.rows[inside].isna().groupby(self.windows[inside]).mean()

    def categories(self) -> list[str]:
        """The text columns that hold one of a few values."""
        texts = [name for name in self.rows.select_dtypes(object) if is_text(self.rows[name])]
        few = min(CATEGORIES, len(self.rows) // 10)
        return [name for name in texts if 1 < self.rows[name].nunique() <= few]


def past(folder: Path, source: Source, since: datetime, until: datetime) -> Past | None:
    """The past of the window (since, until]; None while there is none."""
    step = timedelta(days=max(1, -(-(until - since) // timedelta(days=1))))
    table = lake.read(folder, since - DAYS * step, since, as_of=until)
    if table is None:
        return None
    rows = table.to_pandas()
    known = rows[source.known_at]
    rows = rows[(known > pd.Timestamp(since - DAYS * step)) & (known <= pd.Timestamp(since))]
    return cut(rows.reset_index(drop=True), source, since, until, step)


def cut(rows: pd.DataFrame, source: Source, since: datetime, until: datetime, step: timedelta) -> Past:
    """Rows known before `since`, divided into windows as long as (since, until], `step` apart."""
    rows = rows.sort_values(source.known_at, kind="stable", ignore_index=True)
    back = (pd.Timestamp(until) - rows[source.known_at]) // pd.Timedelta(step)
    rest = (pd.Timestamp(until) - rows[source.known_at]) - back * pd.Timedelta(step)
    windows = np.where(rest < pd.Timedelta(until - since), back, OUTSIDE).astype(int)
    oldest = rows[source.known_at].min() if len(rows) else pd.Timestamp(since)
    return Past(rows, windows, source, min(DAYS, int((pd.Timestamp(since) - oldest) // pd.Timedelta(step))), step)


def numbers(rows: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Numeric columns as they are, and each timestamp as hours after known-at, for the clock is told by it."""
    found = {}
    for name, values in rows.items():
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            if name != source.known_at:
                found[f"{name} less {source.known_at}"] = (values - rows[source.known_at]).dt.total_seconds() / 3600
        elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            found[str(name)] = values.astype("float64")
    return pd.DataFrame(found, index=rows.index)


def is_text(values: pd.Series) -> bool:
    """Whether all that is there is text."""
    return pd.api.types.infer_dtype(values, skipna=True) == "string"
