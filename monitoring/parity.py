"""Parity: what serving gave the model, compared cell by cell with what training would have given it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import pandas as pd

from features import HeadwayError

Reason = Literal["default used", "stale", "late data", "changed value", "changed code", "clock"]

EXPLAINED: dict[str, str] = {
    "default used": "the value was not there (or too old) when it was served, so its default stood in",
    "stale": "an older value was served, and nothing shows that the newer one ever reached serving",
    "late data": "the value became known in time on paper, but serving did not have it yet",
    "changed value": "both have a value and they differ: corrected data, or changed code",
    "changed code": "it is computed otherwise now than when it was served, from the same rows or the same request",
    "clock": "what was served was visible only after the decision time on record: a clock is off",
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


@dataclass(frozen=True)
class History:
    """A feature's snapshots around each of n decisions, in the order of the served rows: what a reason rests on."""

    before: np.ndarray
    """(n,) the value of the snapshot before the one that counts."""
    after: np.ndarray
    """(n,) that of the first one that became visible after the decision."""
    late: np.ndarray
    """(n,) bool: the snapshot that counts reached serving after the decision, whatever its stamp says."""
    soon: np.ndarray
    """(n,) bool: the next one became visible so soon that serving may have gone on to it already."""
    corrected: np.ndarray
    """(n,) bool: rows of its sources were put back after the decision."""


class Difference(msgspec.Struct, frozen=True):
    """One feature that differs: in how many rows, the commonest reason, and the first example."""

    feature: str
    rows: int
    rate: float
    reason: Reason
    row_id: str
    served: float | str | None
    recomputed: float | str | None
    decided: str | None = None
    """Decision time of the example, ISO."""
    reasons: dict[str, int] = {}
    """How many rows differ for each reason."""


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
    of: int | None = None
    """How many predictions the rows are a sample of."""

    @property
    def rate(self) -> float:
        """Share of all cells that differ."""
        return float(np.mean(list(self.rates.values()))) if self.rates else 0.0


def compare(
    served: pd.DataFrame,
    recomputed: pd.DataFrame,
    features: Sequence[FeatureLike],
    *,
    threshold: float = 0.0,
    decided: pd.Series | None = None,
    history: Mapping[str, History | None] | None = None,
    of: int | None = None,
) -> Parity:
    """Compare cell by cell: missing equals missing, numbers must be equal to the last bit.

    Args:
        served: index is the row id; a column each feature, and `degraded`: names of the features that serving
            had no fresh value for (optional).
        recomputed: the same rows by the offline path, same index in any order, a column each feature.
        features: name and default.
        threshold: largest share of rows that a feature may differ in.
        decided: (n,) when each served row was decided, in its order.
        history: what each feature's snapshots were; None for one that is computed from the request alone. Without
            it reasons are guessed from what was served.
        of: how many predictions the served rows are a sample of.

    Raises:
        HeadwayError: the two do not hold the same rows, or a feature's column is missing.
    """
    recomputed = _aligned(served, recomputed, [feature.name for feature in features])
    found = {feature.name: _difference(feature, served, recomputed, decided, history) for feature in features}
    differences = sorted((d for d in found.values() if d), key=lambda d: (-d.rate, d.feature))
    rates = {name: difference.rate if difference else 0.0 for name, difference in found.items()}
    breach = any(rate > threshold for rate in rates.values())
    sentence = _say(len(served), of, len(features), differences)
    return Parity(len(served), breach, threshold, rates, differences, sentence, of)


def differing(here: Any, there: Any) -> np.ndarray:
    """(n,) bool: where two columns differ; missing equals missing."""
    here, there = (np.asarray(values, dtype=object) for values in (here, there))
    blank_here, blank_there = pd.isna(here), pd.isna(there)
    return np.where(blank_here | blank_there, blank_here != blank_there, here != there).astype(bool)


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


def _difference(
    feature: FeatureLike,
    served: pd.DataFrame,
    recomputed: pd.DataFrame,
    decided: pd.Series | None,
    history: Mapping[str, History | None] | None,
) -> Difference | None:
    here, there = (frame[feature.name].astype(object).to_numpy() for frame in (served, recomputed))
    differs = np.flatnonzero(differing(here, there)).tolist()
    if not differs:
        return None
    first, default = differs[0], _plain(feature.default)
    marked = [feature.name in names for names in served["degraded"]] if "degraded" in served else [False] * len(served)
    if history is None:
        reasons = [_guess(default, _plain(here[row]), _plain(there[row]), marked[row]) for row in differs]
    else:
        past = history[feature.name]
        reasons = [_reason(default, _plain(here[row]), marked[row], past, row) for row in differs]
    counted = Counter(reasons).most_common()
    return Difference(
        feature=feature.name,
        rows=len(differs),
        rate=len(differs) / len(served),
        reason=counted[0][0],
        row_id=str(served.index[first]),
        served=_plain(here[first]),
        recomputed=_plain(there[first]),
        decided=None if decided is None else decided.iloc[first].isoformat(),
        reasons=dict(counted),
    )


def _reason(default: Any, served: Any, degraded: bool, past: History | None, row: int) -> Reason:
    """Why a cell differs. An older value may also be the work of a clock that is behind: the commoner cause is told."""
    if past is None:
        return "changed code"  # the request is on record, and gives something else now
    older = served == _plain(past.before[row])
    if past.late[row] and (older or degraded or served == default):
        return "late data"
    if degraded:
        return "stale" if served != default else "clock" if past.soon[row] else "default used"
    if older:
        return "stale"
    if served == _plain(past.after[row]):
        return "clock"
    if served == default:
        return "default used"
    return "changed value" if past.corrected[row] else "changed code"


def _guess(default: Any, served: Any, recomputed: Any, degraded: bool) -> Reason:
    if degraded:
        return "default used" if served == default else "stale"
    if served == default and recomputed != default:
        return "late data"
    return "changed value"


def _plain(value: Any) -> float | str | None:
    if value is None or value is pd.NA or value != value:
        return None
    return value if isinstance(value, str) else float(value)


def _say(rows: int, of: int | None, features: int, differences: Sequence[Difference]) -> str:
    if not rows:
        return "no predictions to compare"
    what = f"{rows:,} predictions" + (f" (a sample of {of:,})" if of and of > rows else "")
    if not differences:
        return f"all {features} features of {what} are what training would have given"
    worst = differences[0]
    more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
    return f"`{worst.feature}` differs in {worst.rate:.1%} of {what} ({worst.reason}){more}"
