"""Profiles: what the inputs and the score of a model looked like on a day, in some kilobytes.

A profile counts each column into the bins of the model's own training rows, plus one bin for *missing* and
one for *unseen* values. Profiles of disjoint rows add up, so a week is the sum of its days.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd

from features import HeadwayError
from monitoring.relation import Day

SCORE = "prediction"
"""The column that holds the model's score; it is profiled like an input."""

QUANTILES = 30
TOP = 50
PAIRED = 8
"""Of so many inputs, the most important ones, it is also kept how they go together."""
PAIRED_VALUES, PAIRED_SDS = 3, 3.0
"""A category enters by so many of its commonest values, a number up to so many standard deviations from its mean."""
CHUNK = 1 << 16  # rows whose products are summed at a time
HAIR = 0.01
"""A number is unseen when it lies outside the training range by more than this share of the range."""


class FeatureLike(Protocol):
    """What a profile needs of a feature."""

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def dtype(self) -> Any:
        """`str`, or a kind of number."""
        ...


class Numbers(msgspec.Struct, frozen=True, tag="numbers"):
    """Bins of a numeric column: len(edges) + 1 of them, then missing, then unseen.

    Bin i holds edges[i-1] <= value < edges[i]. `low` and `high` bound what counts as seen; None when the
    column was missing in every training row, so that any value is unseen.
    """

    edges: list[float]
    low: float | None
    high: float | None

    def count(self, column: pd.Series) -> tuple[list[int], Moments]:
        """Values in each bin, and the moments of the finite ones."""
        # Sorted, a bin is a slice: placing each value by itself costs six times as much.
        values = np.sort(to_float(column))  # NaN last
        present = values[: values.searchsorted(np.nan)]
        low, high = (np.inf, -np.inf) if self.low is None or self.high is None else (self.low, self.high)
        seen = present[present.searchsorted(low) : present.searchsorted(high, side="right")]
        inner = np.diff([0, *seen.searchsorted(self.edges), len(seen)]).tolist()
        finite = present[present.searchsorted(-np.inf, side="right") : present.searchsorted(np.inf)]
        return [*inner, len(values) - len(present), len(present) - len(seen)], _moments(finite)


class Categories(msgspec.Struct, frozen=True, tag="categories"):
    """Bins of a text column: one for each of the commonest values, then other, missing, unseen.

    `rare` lists the trained values that are pooled in *other*; a value in neither list is unseen.
    """

    top: list[str]
    rare: list[str]

    @property
    def size(self) -> int:
        """How many bins, other, missing and unseen included."""
        return len(self.top) + 3

    def count(self, column: pd.Series) -> tuple[list[int], None]:
        """Values in each bin; categories have no moments."""
        counted = column.value_counts(dropna=False)  # four times as fast as without what is missing
        known = pd.Index([*self.top, *self.rare], dtype=object).get_indexer(counted.index.map(str))
        bins = np.where(known < 0, self.size - 1, np.minimum(known, len(self.top)))
        bins[counted.index.isna()] = self.size - 2
        return np.bincount(bins, counted.to_numpy(), self.size).astype(int).tolist(), None


class Bins(msgspec.Struct, frozen=True):
    """How each column is counted, fixed by the rows that the model was trained on."""

    columns: dict[str, Numbers | Categories]
    together: dict[str, tuple[float, float]] = {}
    """The inputs of which products are summed, with mean and sd of the training rows (0 and 1 for a category)."""

    @property
    def paired(self) -> list[str]:
        """The inputs whose products are summed, in the order of the sums: that of a mapping does not outlast a file."""
        return sorted(self.together)

    @property
    def owners(self) -> list[str]:
        """To which input each column of the products belongs: a number has one, a category one for each value."""
        kinds = [(name, self.columns[name]) for name in self.paired]
        return [
            name
            for name, kind in kinds
            for _ in (kind.top[:PAIRED_VALUES] if isinstance(kind, Categories) else [name])
        ]  # fmt: skip


class Moments(msgspec.Struct, frozen=True):
    """Of the finite values of a numeric column; `sd` divides by count. All None when there are none."""

    count: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None


class Profile(msgspec.Struct, frozen=True):
    """Counts of each column by bin (the last two are missing and unseen), and moments of the numeric ones."""

    rows: int
    counts: dict[str, list[int]]
    moments: dict[str, Moments]
    together: list[float] = []
    """Sums of products of a 1 and the standardised `Bins.owners`: the upper triangle, by rows; what is missing is 0."""


class Reference(msgspec.Struct, frozen=True):
    """What a model was made from, as far as monitoring needs it. Stored with the model, never changed."""

    bins: Bins
    days: dict[str, Profile]
    """ISO day -> the rows of that day behind the model (training and holdout)."""
    importance: dict[str, float]
    """Permutation importance of each feature, summing to 1."""
    surprise: dict[str, Day]
    """ISO day -> how surprising the labels of the holdout were to the model, out of sample."""
    residual_sd: float | None = None
    """Regression: standard deviation of the residuals on the holdout."""


def fit_bins(frame: pd.DataFrame, features: Sequence[FeatureLike], together: Sequence[str] = ()) -> Bins:
    """Bins of the training rows, for each feature and for the score if `frame` has it.

    Args:
        frame: one row each training example, a column each feature (as `matrix` makes it), `prediction`
            optional.
        features: name and dtype; `str` is counted by category, all else as a number.
        together: inputs of which it is kept how they go together.

    Raises:
        HeadwayError: a column is missing, or a feature bears the score's name.
    """
    if any(feature.name == SCORE for feature in features):
        raise HeadwayError(f"no feature may be called {SCORE!r}: profiles keep the score under it. Rename it.")
    columns: dict[str, Numbers | Categories] = {}
    for feature in features:
        column = _column(frame, feature.name)
        columns[feature.name] = _fit_categories(column) if feature.dtype == "str" else _fit_numbers(column)
    if SCORE in frame:
        columns[SCORE] = _fit_numbers(frame[SCORE])
    return Bins(columns, {name: _scale(columns[name], frame[name]) for name in together})


def take(frame: pd.DataFrame, bins: Bins) -> Profile:
    """The profile of the rows of `frame`. Raises HeadwayError when a column of `bins` is missing."""
    found = {name: kind.count(_column(frame, name)) for name, kind in bins.columns.items()}
    counts = {name: counted for name, (counted, _) in found.items()}
    moments = {name: moments for name, (_, moments) in found.items() if moments}
    return Profile(len(frame), counts, moments, _products(frame, bins))


def take_days(frame: pd.DataFrame, instants: pd.Series, bins: Bins) -> dict[str, Profile]:
    """{ISO day -> profile of its rows}, in order of days; `instants` aligns with the rows by position."""
    groups = frame.groupby(iso_days(instants), sort=True)
    return {str(day): take(rows, bins) for day, rows in groups}


def add(profiles: Iterable[Profile]) -> Profile:
    """The profile of all rows together.

    Counts, lowest and highest are exactly those of the rows together; mean and sd are too, up to rounding
    (Chan, Golub and LeVeque 1983, pooled moments). Raises HeadwayError for none or for different bins.
    """
    parts = list(profiles)
    layouts = {
        (len(part.together), *((name, len(counts)) for name, counts in sorted(part.counts.items()))) for part in parts
    }
    if len(layouts) != 1:
        raise HeadwayError(f"{len(parts)} profiles with {len(layouts)} kinds of bins cannot be added: use one model's.")
    counts = {name: _sum([part.counts[name] for part in parts]) for name in parts[0].counts}
    moments = {name: _pooled([part.moments[name] for part in parts]) for name in parts[0].moments}
    return Profile(sum(part.rows for part in parts), counts, moments, _sum([part.together for part in parts]))


def build_reference(
    frame: pd.DataFrame,
    instants: pd.Series,
    features: Sequence[FeatureLike],
    importance: Mapping[str, float],
    *,
    surprise: Mapping[str, Day],
    trained: Sequence[bool] | np.ndarray | None = None,
    residual_sd: float | None = None,
) -> Reference:
    """The reference that is packaged with a model.

    Args:
        frame: the rows behind the model, training and holdout, with features and score.
        instants: decision time of each row (n,).
        features: the model's features.
        importance: permutation importance of each feature, on the holdout; negative ones count as zero.
        surprise: `relation.daily` of the holdout, by the model that was not trained on it.
        trained: which rows were trained on (n,); the bins are theirs. None: all.
        residual_sd: regression only, `relation.residual_sd` of the holdout.
    """
    weights = {feature.name: max(0.0, float(importance.get(feature.name, 0.0))) for feature in features}
    total = sum(weights.values())
    scaled = {name: weight / total if total else 1 / len(weights) for name, weight in weights.items()}
    first = sorted(scaled, key=lambda name: -scaled[name])[:PAIRED]
    rows = frame if trained is None else frame[np.asarray(trained, bool)]
    bins = fit_bins(rows, features, [name for name in first if scaled[name] > 0])
    return Reference(bins, take_days(frame, instants, bins), scaled, dict(surprise), residual_sd)


def iso_days(instants: pd.Series) -> np.ndarray:
    """The UTC day of each instant as ISO text: str (n,)."""
    place, days = pd.factorize(pd.to_datetime(pd.Series(instants), utc=True).dt.floor("D"))
    return days.strftime("%Y-%m-%d").to_numpy()[place]  # 30 times as fast as each instant by itself


def to_float(column: pd.Series) -> np.ndarray:
    """Numbers as float64 (n,), what is missing as NaN."""
    return pd.to_numeric(column).to_numpy(dtype="float64", na_value=np.nan)


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        raise HeadwayError(f"the profile needs a column {name!r}; the rows have: {', '.join(map(str, frame.columns))}.")
    return frame[name]


def _fit_numbers(column: pd.Series) -> Numbers:
    values = to_float(column)
    values = values[np.isfinite(values)]
    if not len(values):
        return Numbers([], None, None)
    low, high = float(values.min()), float(values.max())
    hair = max(HAIR * (high - low), 1e-9 * max(abs(low), abs(high)))
    return Numbers(_edges(values).tolist(), low - hair, high + hair)


def _edges(values: np.ndarray) -> np.ndarray:
    """Inner edges, strictly increasing; at most QUANTILES bins."""
    distinct = np.unique(values)
    if len(distinct) <= QUANTILES:  # each value has its own bin
        return np.unique(distinct[:-1] / 2 + distinct[1:] / 2)
    cuts = np.quantile(values, np.arange(1, QUANTILES) / QUANTILES, method="inverted_cdf")
    # A value that fills several quantiles gets a bin of its own: nothing just above it hides behind it.
    return np.unique(np.concatenate([cuts, np.nextafter(cuts[1:][cuts[1:] == cuts[:-1]], np.inf)]))


def _fit_categories(column: pd.Series) -> Categories:
    counted = column.dropna().astype(str).value_counts()
    ranked = sorted(counted.index, key=lambda value: (-counted[value], value))
    return Categories(ranked[:TOP], sorted(ranked[TOP:]))


def _moments(ordered: np.ndarray) -> Moments:
    if not len(ordered):
        return Moments(0)
    mean = float(np.mean(ordered))
    apart = ordered - mean
    sd = math.sqrt(float(apart @ apart) / len(ordered))
    return Moments(len(ordered), mean, sd, float(ordered[0]), float(ordered[-1]))


def _scale(kind: Numbers | Categories, column: pd.Series) -> tuple[float, float]:
    if isinstance(kind, Categories):
        return 0.0, 1.0
    values = to_float(column)
    values = values[np.isfinite(values)]
    return (float(values.mean()), float(values.std()) or 1.0) if len(values) else (0.0, 1.0)


def _products(frame: pd.DataFrame, bins: Bins) -> list[float]:
    if not bins.together:
        return []
    total = np.zeros((len(bins.owners) + 1,) * 2)
    for start in range(0, len(frame), CHUNK):
        part = frame.iloc[start : start + CHUNK]
        columns = [column for name in bins.paired for column in _standardised(part[name], name, bins)]
        rows = np.column_stack([np.ones(len(part)), *columns])
        total += rows.T @ rows
    return np.round(total[np.triu_indices(len(total))], 4).tolist()


def _standardised(column: pd.Series, name: str, bins: Bins) -> Iterable[np.ndarray]:
    kind, (mean, sd) = bins.columns[name], bins.together[name]
    if isinstance(kind, Categories):
        return [column.isin([value]).to_numpy(float) for value in kind.top[:PAIRED_VALUES]]
    return [np.nan_to_num(np.clip((to_float(column) - mean) / sd, -PAIRED_SDS, PAIRED_SDS))]


def _sum(counts: Sequence[Sequence[Any]]) -> list[Any]:
    return [sum(column) for column in zip(*counts, strict=True)]


def _pooled(parts: Sequence[Moments]) -> Moments:
    filled = [(m.count, m.mean, m.sd, m.low, m.high) for m in parts if m.mean is not None]
    if not filled:
        return Moments(0)
    count, mean, sd, low, high = (np.array(column, dtype=float) for column in zip(*filled, strict=True))
    together = float(np.average(mean, weights=count))
    variance = np.average(sd**2 + (mean - together) ** 2, weights=count)
    return Moments(int(count.sum()), together, math.sqrt(variance), float(low.min()), float(high.max()))
