"""How fast, and in how much memory: a night's profile, bare numpy histograms and Evidently's drift preset on one frame.

    python -m benchmarks.profile             1,000,000 rows x 100 columns (Evidently: some minutes)
    python -m benchmarks.profile --quick     100,000 rows x 20 columns

Each contender is a process of its own, so that its peak memory is its own. The frame (nine tenths numbers, one tenth
categories of 40 values, 2 % missing; from a fixed seed) is made before the clock starts. The numpy pass counts what a
profile counts and no more: 30 quantile bins of a numeric column, the values of a text column. Evidently's preset gets
a reference sample of 10,000 rows, and no rendering.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
REFERENCE_ROWS = 10_000


class Column(NamedTuple):
    """A column of the frame, as a feature."""

    name: str
    dtype: str


def columns(count: int) -> list[Column]:
    return [Column(f"x{i}", "str" if i % 10 == 9 else "float") for i in range(count)]


def frame(rows: int, count: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    words = np.array([f"value {i}" for i in range(40)], dtype=object)
    made: dict[str, np.ndarray] = {}
    for column in columns(count):
        if column.dtype == "str":
            made[column.name] = words[np.minimum(random.geometric(0.1, rows), 40) - 1]
            made[column.name][random.random(rows) < 0.02] = None
        else:
            made[column.name] = random.normal(size=rows)
            made[column.name][random.random(rows) < 0.02] = np.nan
    return pd.DataFrame(made)


# -- contenders: each prepares, then returns what is timed -------------------------------------------------------


def profile(data: pd.DataFrame, features: list[Column]) -> Callable[[], Any]:
    from monitoring.profile import PAIRED, fit_bins, take

    bins = fit_bins(data.head(REFERENCE_ROWS), features, [feature.name for feature in features[-PAIRED:]])
    return lambda: take(data, bins)


def numpy_histograms(data: pd.DataFrame, features: list[Column]) -> Callable[[], Any]:
    first = data.head(REFERENCE_ROWS)
    edges = {
        f.name: np.nanquantile(first[f.name], np.arange(31) / 30) for f in features if f.dtype != "str"
    }  # fmt: skip

    def run() -> list[Any]:
        return [
            np.histogram(data[f.name].to_numpy(), edges[f.name])
            if f.dtype != "str"
            else data[f.name].value_counts(dropna=False)
            for f in features
        ]

    return run


def evidently_preset(data: pd.DataFrame, features: list[Column]) -> Callable[[], Any]:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        numerical_columns=[f.name for f in features if f.dtype != "str"],
        categorical_columns=[f.name for f in features if f.dtype == "str"],
    )
    reference = Dataset.from_pandas(data.head(REFERENCE_ROWS), definition)
    return lambda: Report([DataDriftPreset()]).run(Dataset.from_pandas(data, definition), reference).dict()


CONTENDERS: dict[str, Callable[[pd.DataFrame, list[Column]], Callable[[], Any]]] = {
    "profile": profile,
    "numpy histograms": numpy_histograms,
    "Evidently's drift preset": evidently_preset,
}


# -- measuring and telling ---------------------------------------------------------------------------------------


def measure(contender: str, rows: int, count: int) -> tuple[float, float]:
    """CPU seconds of a run, and megabytes that it needs at its peak, above the frame."""
    CONTENDERS[contender](frame(2000, count), columns(count))()  # imports, and what is made on first use
    run = CONTENDERS[contender](frame(rows, count), columns(count))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the frame
    before, began = _peak(), time.process_time()
    run()
    return time.process_time() - began, _peak() - before


def _peak() -> float:
    """Largest resident set so far, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _apart(contender: str, rows: int, count: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.profile", "--measure", contender]
    command += ["--rows", str(rows), "--columns", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr}")
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each but Evidently's (one), median shown")
    parser.add_argument("--quick", action="store_true", help="100,000 rows x 20 columns")
    parser.add_argument("--measure", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.rows, given.columns = 100_000, 20
    if given.measure:
        print(json.dumps(measure(given.measure, given.rows, given.columns)))
        return
    print(f"{given.rows:,} rows x {given.columns} columns", flush=True)
    print(f"{'':26} {'CPU s':>8} {'x numpy':>8} {'peak MB above the frame':>24}", flush=True)
    found: dict[str, tuple[float, float]] = {}
    for name in CONTENDERS:
        turns = 1 if name.startswith("Evidently") else given.repeats
        runs = [_apart(name, given.rows, given.columns) for _ in range(turns)]
        seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        found[name] = seconds, memory
    for name, (seconds, memory) in found.items():
        print(f"{name:26} {seconds:8.2f} {seconds / found['numpy histograms'][0]:8.2f} {memory:24.0f}")
    ratio = found["Evidently's drift preset"][0] / found["profile"][0]
    print(f"Evidently's preset takes {ratio:.0f} times the profile's CPU")


if __name__ == "__main__":
    main()
