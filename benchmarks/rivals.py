"""The usual row-level tests on the draws of `benchmarks.trust`: what they would have said.

* KS (numbers) and chi-square (categories) at 5 %, Bonferroni over the columns: an alarm when any column is significant.
* Population stability index above 0.2 in any column, ten quantile bins of the reference and one for missing values.
* Evidently's `DataDriftPreset` with its defaults: an alarm when half of the columns have drifted. It gets a sample of
  5,000 reference rows, and a quarter of the draws: it takes seconds for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, ks_2samp

from benchmarks import planted

if TYPE_CHECKING:
    from benchmarks.trust import World

SHARE = 0.3
SAMPLE = 5_000


def compared(world: World, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """For each rival: the share of quiet weeks that alarm, and that of weeks with each change in 30 % of the rows."""
    from benchmarks.trust import REFERENCE

    weeks = [np.random.default_rng([seed, number]).permutation(world.stream.weeks) for number in range(draws)]
    for name, alarms in RIVALS.items():
        dealt_out = weeks[: max(1, draws // 4)] if alarms is evidently else weeks
        row: dict[str, Any] = {"rival": name, "draws": len(dealt_out)}
        for what in ("nothing", *planted.CHANGES):
            found = []
            for number, dealt in enumerate(dealt_out):
                random = np.random.default_rng([seed, number, 1])
                rows = np.concatenate([np.arange(*world.rows(week).indices(10**9)[:2]) for week in dealt[:REFERENCE]])
                now = world.stream.inputs[world.rows(dealt[REFERENCE])].reset_index(drop=True)
                if what != "nothing":
                    change = planted.CHANGES[what]
                    column = planted.column(world.stream, change.kind, random)
                    now = world.changed(dealt[REFERENCE], change, column, SHARE, 0, random)[2]
                found.append(alarms(world.stream.inputs.iloc[rows], now))
            row[what] = float(np.mean(found))
        print(f"{world.stream.name}: {name}: {row['nothing']:.0%} of quiet weeks", flush=True)
        yield row


def ks_and_chi_square(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Whether any column is significant at 5 %, Bonferroni."""
    return min(_p(before[name], now[name]) for name in before) < 0.05 / before.shape[1]


def _p(before: pd.Series, now: pd.Series) -> float:
    if before.dtype != object:
        return float(ks_2samp(before.dropna(), now.dropna()).pvalue) if now.notna().any() else 0.0
    counts = pd.concat([before.value_counts(), now.value_counts()], axis=1).fillna(0).to_numpy()
    return float(chi2_contingency(counts).pvalue) if len(counts) > 1 else 1.0


def psi(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Whether any column's population stability index is above 0.2."""
    return any(_psi(before[name], now[name]) > 0.2 for name in before)


def _psi(before: pd.Series, now: pd.Series) -> float:
    if before.dtype != object:
        edges = np.unique(np.nanquantile(before, np.arange(1, 10) / 10))
        before, now = (
            pd.Series(np.where(part.isna(), -1, np.searchsorted(edges, part))) for part in (before, now)
        )  # fmt: skip
    shares = pd.concat([before.value_counts(normalize=True), now.value_counts(normalize=True)], axis=1).fillna(0)
    p, q = np.clip(shares.to_numpy(), 1e-4, None).T
    return float(np.sum((p - q) * np.log(p / q)))


def evidently(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Whether Evidently's preset calls the data set drifted."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    kinds = DataDefinition(
        numerical_columns=[name for name in before if before[name].dtype != object],
        categorical_columns=[name for name in before if before[name].dtype == object],
    )
    sides = [Dataset.from_pandas(part, kinds) for part in (now, before.sample(SAMPLE, random_state=0))]
    found = Report([DataDriftPreset()]).run(*sides).dict()["metrics"]
    share = next(each for each in found if "DriftedColumnsCount" in each["metric_name"])["value"]["share"]
    return bool(share >= 0.5)


RIVALS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], bool]] = {
    "KS and chi-square, Bonferroni": ks_and_chi_square,
    "PSI above 0.2": psi,
    "Evidently's preset": evidently,
}
