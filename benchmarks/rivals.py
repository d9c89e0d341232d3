"""Other judges on the draws of `benchmarks.trust`: what they would have said.

* KS (numbers) and chi-square (categories) at 5 %, Bonferroni over the columns: an alarm when any column is significant.
* Population stability index above 0.2 in any column, ten quantile bins of the reference and one for missing values.
* Evidently's `DataDriftPreset` with its defaults: an alarm when half of the columns have drifted. It gets a sample of
  5,000 reference rows, and a quarter of the draws: it takes seconds for each.
* NannyML and ADWIN, each with its defaults: see `benchmarks/judges/verdicts.py`, which is run in an environment of its
  own, made from `benchmarks/judges.lock`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, ks_2samp

from benchmarks import judges, planted
from benchmarks.peers import environment
from benchmarks.streams import WEEK
from monitoring.profile import SCORE

if TYPE_CHECKING:
    from benchmarks.trust import World

SHARE = 0.3
SAMPLE = 5_000
JUDGES_LOCK = environment.BENCHMARKS / "judges.lock"


class Draw(NamedTuple):
    """The rows behind a model, and the next week as it was and with each change: inputs, `time` and `error`."""

    reference: pd.DataFrame
    windows: dict[str, pd.DataFrame]


def compared(world: World, draws: int, seed: int, root: Path) -> Iterator[dict[str, Any]]:
    """For each rival: the share of quiet weeks that alarm, and that of weeks with each change in 30 % of the rows."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        found: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in RIVALS}
        for number in range(draws):
            dealt = _draw(world, np.random.default_rng([seed, number]))
            _write(dealt, Path(folder) / f"{number:03}")
            for name, alarms in RIVALS.items():
                for what, rows in dealt.windows.items() if alarms is not evidently or number % 4 == 0 else ():
                    found[name][what].append(alarms(dealt.reference[_inputs(world)], rows[_inputs(world)]))
            print(f"{world.stream.name}: rivals, draw {number + 1} of {draws}", flush=True)
        found |= _elsewhere(Path(folder), root)
    for name, told in found.items():
        shares = {what: float(np.mean(told[what])) for what in ("nothing", *planted.CHANGES)}
        yield {"rival": name, "draws": len(told["nothing"]), **shares}


def _draw(world: World, random: np.random.Generator) -> Draw:
    from benchmarks.trust import REFERENCE

    weeks = random.permutation(world.stream.weeks)[: REFERENCE + 1]
    stream, last = world.stream, weeks[-1]
    behind = [
        _timed(stream.inputs[there], world.scored[SCORE][there], stream.label[there], stream.day[there], place - week)
        for place, week in enumerate(weeks[:-1])
        for there in [world.rows(week)]
    ]
    there = world.rows(last)
    windows = {"nothing": (stream.inputs[there], stream.label[there])}
    for what, change in planted.CHANGES.items():
        column = planted.column(stream, change.kind, random)
        windows[what] = world.with_change(last, change, column, SHARE, 0, random)
    return Draw(
        pd.concat(behind, ignore_index=True),
        {
            what: _timed(rows, stream.score(last, rows), label, stream.day[there], REFERENCE - last)
            for what, (rows, label) in windows.items()
        },
    )


def _timed(inputs: pd.DataFrame, score: Any, label: np.ndarray, day: np.ndarray, later: int) -> pd.DataFrame:
    """The rows at noon of their day, moved by so many weeks, and how far the model was off."""
    time = pd.Timestamp("2021-01-04T12:00") + pd.to_timedelta(day + WEEK * later, "D")
    return inputs.assign(time=time, error=np.abs(label - np.asarray(score))).reset_index(drop=True)


def _inputs(world: World) -> list[str]:
    return list(world.stream.inputs.columns)


def _write(dealt: Draw, folder: Path) -> None:
    folder.mkdir()
    dealt.reference.to_parquet(folder / "reference.parquet")
    for what, rows in dealt.windows.items():
        rows.to_parquet(folder / f"{what}.parquet")


def _elsewhere(folder: Path, root: Path) -> dict[str, dict[str, list[bool]]]:
    """What the judges in an environment of their own say. Raises CalledProcessError when they fail."""
    python = environment.made(root, JUDGES_LOCK)
    command = [str(python), str(Path(judges.__file__).with_name("verdicts.py")), str(folder)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(told.splitlines()[-1])  # type: ignore[no-any-return]


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
