"""Parity: what serving gave the model, compared cell by cell with what training would have given it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import pandas as pd

from features import HeadwayError

Reason = Literal["default used", "stale", "late data", "changed value"]

EXPLAINED: dict[str, str] = {
    "default used": "the value was not there (or too old) when it was served, so its default stood in",
    "stale": "an older value was served, and marked so",
    "late data": "the value became known in time on paper, but serving did not have it yet",
    "changed value": "both have a value and they differ: corrected data, or changed code",
}


class FeatureLike(Protocol):
    """What parity needs of a feature."""

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def default(self) -> Any:
        """What stands in when it is missing; None: nothing does."""
        ...


class Difference(msgspec.Struct, frozen=True):
    """One feature that differs: in how many rows, why as far as can be guessed, and the first example."""

    feature: str
    rows: int
    rate: float
    reason: Reason
    row_id: str
    served: float | str | None
    recomputed: float | str | None


class Parity(msgspec.Struct, frozen=True):
    """The comparison of one night."""

    rows: int
    breach: bool
    threshold: float
    rates: dict[str, float]
    """Share of rows that differ, for each feature."""
    differences: list[Difference]
    """Features that differ, highest rate first."""
    sentence: str

    @property
    def rate(self) -> float:
        """Share of all cells that differ."""
        return float(np.mean(list(self.rates.values()))) if self.rates else 0.0


def compare(
    served: pd.DataFrame, recomputed: pd.DataFrame, features: Sequence[FeatureLike], *, threshold: float = 0.0
) -> Parity:
    """Compare cell by cell: missing equals missing, numbers must be equal to the last bit.

    Args:
        served: index is the row id; a column each feature, and `degraded`: names of the features that
            serving
            had no fresh value for (optional).
        recomputed: the same rows by the offline path, same index in any order, a column each feature.
        features: name and default.
        threshold: largest share of rows that a feature may differ in.

    Raises:
        HeadwayError: the two do not hold the same rows, or a feature's column is missing.
    """
    recomputed = _aligned(served, recomputed, [feature.name for feature in features])
    found = {feature.name: _difference(feature, served, recomputed) for feature in features}
    differences = sorted((d for d in found.values() if d), key=lambda d: (-d.rate, d.feature))
    rates = {name: difference.rate if difference else 0.0 for name, difference in found.items()}
    breach = any(rate > threshold for rate in rates.values())
    return Parity(len(served), breach, threshold, rates, differences, _say(len(served), len(features), differences))


def _aligned(served: pd.DataFrame, recomputed: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    for frame, what in ((served, "served"), (recomputed, "recomputed")):
        if absent := [name for name in names if name not in frame]:
            raise HeadwayError(f"parity: the {what} rows lack the columns {', '.join(absent)}.")
        if frame.index.has_duplicates:
            raise HeadwayError(f"parity: the {what} rows name some row id twice; ids must be unique.")
    if set(served.index) != set(recomputed.index):
        raise HeadwayError(
            f"parity: {len(served)} served rows, {len(recomputed)} recomputed ones, "
            f"{len(set(served.index) & set(recomputed.index))} in both. Recompute exactly what was served."
        )
    return recomputed.loc[served.index]


def _difference(feature: FeatureLike, served: pd.DataFrame, recomputed: pd.DataFrame) -> Difference | None:
    here, there = (frame[feature.name].astype(object).to_numpy() for frame in (served, recomputed))
    blank_here, blank_there = pd.isna(here), pd.isna(there)
    differs = np.where(blank_here | blank_there, blank_here != blank_there, here != there).astype(bool)
    if not differs.any():
        return None
    marked = served["degraded"].to_numpy()[differs] if "degraded" in served else [()] * int(differs.sum())
    reasons = [
        _reason(feature, _plain(a), _plain(b), feature.name in degraded)
        for a, b, degraded in zip(here[differs], there[differs], marked, strict=True)
    ]
    first = int(np.argmax(differs))
    return Difference(
        feature=feature.name,
        rows=int(differs.sum()),
        rate=float(differs.mean()),
        reason=Counter(reasons).most_common(1)[0][0],
        row_id=str(served.index[first]),
        served=_plain(here[first]),
        recomputed=_plain(there[first]),
    )


def _reason(feature: FeatureLike, served: Any, recomputed: Any, degraded: bool) -> Reason:
    default = _plain(feature.default)
    if degraded:
        return "default used" if served == default else "stale"
    if served == default and recomputed != default:
        return "late data"
    return "changed value"


def _plain(value: Any) -> float | str | None:
    if value is None or value is pd.NA or value != value:
        return None
    return value if isinstance(value, str) else float(value)


def _say(rows: int, features: int, differences: Sequence[Difference]) -> str:
    if not rows:
        return "no predictions to compare"
    if not differences:
        return f"all {features} features of {rows:,} predictions are what training would have given"
    worst = differences[0]
    more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
    return f"`{worst.feature}` differs in {worst.rate:.1%} of {rows:,} predictions ({worst.reason}){more}"
