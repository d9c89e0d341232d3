"""How fast, and in how much memory: the as-of store, Feast's own store, pandas and bare polars on the same files.

    python -m benchmarks.asof            20,000, 336,776 and 3,367,760 entity rows (the last: ten years of flights)
    python -m benchmarks.asof --quick    20,000 rows
    python -m benchmarks.asof --rows 336776 --ttl-times 4

Each run is a process of its own, so that its peak memory is its own. What is timed is the same for all: read entity
rows and three feature views from Parquet, join them as of each row's time, hold the result in memory. Imports, Feast's
registry and a first go at 200 rows come before. The answers of all are compared.

Inputs are synthetic, from a fixed seed: entity rows in no order; weather hourly by airport, routes daily by two keys,
aircraft at random times; TTLs of 18 hours to 7 days. Feast's own store pairs every entity row with all feature rows
within the TTL, so its time and memory grow with the TTL, and no other's do: see `--ttl-times` (4, not 5: it refuses a
TTL of days and hours together).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

YEAR = 336_776
ROOT = Path(__file__).resolve().parent.parent
TIME, CREATED = "event_timestamp", "created"


class Rows(NamedTuple):
    """A feature view of the benchmark."""

    keys: list[str]
    ttl: timedelta
    features: list[str]


VIEWS = {
    "weather": Rows(["origin"], timedelta(hours=18), [f"weather_{i}" for i in range(6)]),
    "route": Rows(["origin", "dest"], timedelta(days=3), [f"route_{i}" for i in range(4)]),
    "aircraft": Rows(["tailnum"], timedelta(days=7), [f"aircraft_{i}" for i in range(5)]),
}
REFS = [f"{name}:{feature}" for name, view in VIEWS.items() for feature in view.features]
FEATURES = [feature for view in VIEWS.values() for feature in view.features]


# -- inputs ------------------------------------------------------------------------------------------------------


def write_inputs(folder: Path, rows: int) -> None:
    """`rows` entity rows spread over rows / 336,776 years, and the three views over that time."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    span = math.ceil(rows / YEAR * 365 * 86_400)
    origins, dests = np.array(["EWR", "JFK", "LGA"]), np.array([f"D{i:02}" for i in range(105)])
    tails = np.array([f"N{i:05}" for i in range(4_000)])
    keys = {
        "origin": random.choice(origins, rows),
        "dest": random.choice(dests, rows),
        "tailnum": random.choice(tails, rows),
    }
    entities = pl.DataFrame({"row": np.arange(rows), **keys, TIME: _instants(random.integers(0, span, rows))})
    entities.with_columns(pl.col(TIME).dt.replace_time_zone("UTC")).write_parquet(folder / "entities.parquet")
    hours, days = np.arange(0, span, 3_600), np.arange(0, span, 86_400)
    routes = {"origin": np.tile(np.repeat(origins, 105), len(days)), "dest": np.tile(dests, 3 * len(days))}
    _write_view(folder, "weather", {"origin": np.tile(origins, len(hours))}, np.repeat(hours, 3), random)
    _write_view(folder, "route", routes, np.repeat(days, 315), random)
    _write_view(folder, "aircraft", {"tailnum": random.choice(tails, rows)}, random.integers(0, span, rows), random)


def _instants(seconds: np.ndarray) -> np.ndarray:
    return np.datetime64("2013-01-01", "us") + seconds.astype("timedelta64[s]").astype("timedelta64[us]")


def _write_view(
    folder: Path, name: str, keys: dict[str, Any], seconds: np.ndarray, random: np.random.Generator
) -> None:
    values = {feature: random.normal(size=len(seconds)) for feature in VIEWS[name].features}
    frame = pl.DataFrame({**keys, TIME: _instants(seconds), CREATED: _instants(seconds + 600), **values})
    # The last created of a key and time counts; here there is one, so that every contender must agree.
    frame = frame.unique([*keys, TIME], keep="first", maintain_order=True)
    frame.with_columns(pl.col(TIME, CREATED).dt.replace_time_zone("UTC")).write_parquet(folder / f"{name}.parquet")


# -- contenders: each prepares, then returns what is timed -------------------------------------------------------


def bare_polars(folder: Path) -> Callable[[], Any]:
    def run() -> pl.DataFrame:
        rows = pl.read_parquet(folder / "entities.parquet").sort(TIME)
        for name, view in VIEWS.items():
            columns = [*view.keys, TIME, CREATED, *view.features]
            right = pl.read_parquet(folder / f"{name}.parquet", columns=columns).sort(TIME, CREATED).drop(CREATED)
            rows = rows.join_asof(right, on=TIME, by=view.keys, tolerance=view.ttl, check_sortedness=False)
        return rows

    return run


def duckdb_asof_join(folder: Path) -> Callable[[], Any]:
    import duckdb

    features, joins = [], []
    for name, view in VIEWS.items():
        keys, ttl = ", ".join(view.keys), f"INTERVAL {view.ttl // timedelta(hours=1)} HOURS"
        features += [f"CASE WHEN r.{TIME} <= {name}.{TIME} + {ttl} THEN {name}.{f} END AS {f}" for f in view.features]
        latest = f"QUALIFY row_number() OVER (PARTITION BY {keys}, {TIME} ORDER BY {CREATED} DESC) = 1"
        matches = " AND ".join([f"r.{key} = {name}.{key}" for key in view.keys] + [f"r.{TIME} >= {name}.{TIME}"])
        joins.append(f"ASOF LEFT JOIN (FROM '{folder}/{name}.parquet' {latest}) AS {name} ON {matches}")
    query = f"SELECT r.*, {', '.join(features)} FROM '{folder}/entities.parquet' AS r {' '.join(joins)}"
    return lambda: duckdb.connect().execute(query).to_arrow_table()


def pandas_merge_asof(folder: Path) -> Callable[[], Any]:
    import pandas as pd

    def run() -> pd.DataFrame:
        rows = pd.read_parquet(folder / "entities.parquet").sort_values(TIME)
        for name, view in VIEWS.items():
            columns = [*view.keys, TIME, CREATED, *view.features]
            right = pd.read_parquet(folder / f"{name}.parquet", columns=columns).sort_values([TIME, CREATED])
            right = right.drop(columns=CREATED)
            rows = pd.merge_asof(rows, right, on=TIME, by=view.keys, tolerance=pd.Timedelta(view.ttl))
        return rows

    return run


def asof_join(folder: Path) -> Callable[[], Any]:
    import pyarrow.parquet as pq

    from pipelines.store.asof_join import View
    from pipelines.store.asof_join import asof_join as join

    def run() -> Any:
        views = [
            View(
                name=name,
                rows=pl.scan_parquet(folder / f"{name}.parquet"),
                keys={key: key for key in view.keys},
                features={feature: feature for feature in view.features},
                event_time=TIME,
                created=CREATED,
                ttl=view.ttl,
            )
            for name, view in VIEWS.items()
        ]
        return join(pq.read_table(folder / "entities.parquet"), views, event_time=TIME)

    return run


def as_of_store(folder: Path) -> Callable[[], Any]:
    return _feast(folder, "pipelines.store.asof.AsOfOfflineStore", arrow=False)


def as_of_store_arrow(folder: Path) -> Callable[[], Any]:
    return _feast(folder, "pipelines.store.asof.AsOfOfflineStore", arrow=True)


def stock_store(folder: Path) -> Callable[[], Any]:
    return _feast(folder, "duckdb", arrow=False)


def _feast(folder: Path, kind: str, *, arrow: bool) -> Callable[[], Any]:
    import pandas as pd
    import pyarrow.parquet as pq

    store = _store(folder, kind)

    def run() -> Any:
        path = folder / "entities.parquet"
        rows: Any = pq.read_table(path) if arrow else pd.read_parquet(path)
        return store.get_historical_features(entity_df=rows, features=REFS).to_arrow()

    return run


def _store(folder: Path, kind: str) -> Any:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Float64, String

    state = tempfile.mkdtemp(dir=folder)
    config = RepoConfig(
        project="benchmark",
        provider="local",
        registry=f"{state}/registry.db",
        offline_store={"type": kind},
        online_store={"type": "sqlite", "path": f"{state}/online.db"},
        entity_key_serialization_version=3,
    )
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for view in VIEWS.values()
        for key in view.keys
    }
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in view.keys],
            ttl=view.ttl,
            schema=[Field(name=key, dtype=String) for key in view.keys]
            + [Field(name=feature, dtype=Float64) for feature in view.features],
            source=FileSource(
                name=f"{name}_rows",
                path=str(folder / f"{name}.parquet"),
                file_format=ParquetFormat(),
                timestamp_field=TIME,
                created_timestamp_column=CREATED,
            ),
        )
        for name, view in VIEWS.items()
    ]
    store = FeatureStore(config=config)
    store.apply([*entities.values(), *views])
    return store


CONTENDERS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "asof_join": asof_join,
    "as-of store, Arrow rows": as_of_store_arrow,
    "as-of store, pandas rows": as_of_store,
    "polars join_asof, bare": bare_polars,
    "DuckDB ASOF JOIN": duckdb_asof_join,
    "pandas merge_asof": pandas_merge_asof,
    "Feast's DuckDB store": stock_store,
}
OURS, BARE, STOCK = "as-of store, Arrow rows", "polars join_asof, bare", "Feast's DuckDB store"


# -- measuring ---------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One run of one contender: seconds by the clock and of all cores, and megabytes at most and before it."""

    seconds: float
    cpu: float
    peak: float
    before: float
    answer: dict[str, list[float]]


def measure(contender: str, folder: Path) -> Run:
    """Run a contender in this process."""
    CONTENDERS[contender](folder / "warm")()
    run = CONTENDERS[contender](folder)
    before, clock, cpu = _peak(), time.perf_counter(), time.process_time()
    result = run()
    seconds, cpu, peak = time.perf_counter() - clock, time.process_time() - cpu, _peak()
    return Run(seconds, cpu, peak, before, {name: _summary(result[name]) for name in FEATURES})


def _summary(values: Any) -> list[float]:
    held = np.asarray(values, dtype="float64")
    return [len(held), float(np.isfinite(held).sum()), float(np.nansum(held))]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_apart(contender: str, folder: Path, limit: float, ttl_times: int) -> Run | None:
    """The same in a process of its own; None if it took longer than `limit` seconds."""
    try:
        arguments = ["--measure", contender, "--folder", str(folder), "--ttl-times", str(ttl_times)]
        printed = _apart(*arguments, limit=limit)
    except subprocess.TimeoutExpired:
        return None
    return Run(*json.loads(printed.splitlines()[-1]))


def _apart(*arguments: str, limit: float | None = None) -> str:
    # A child's peak memory starts at what its parent holds, so this process must stay small: it writes no inputs.
    command = [sys.executable, "-m", "benchmarks.asof", *arguments]
    done = subprocess.run(command, cwd=ROOT, timeout=limit, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def compare(folder: Path, options: argparse.Namespace, *, with_stock: bool) -> dict[str, Run | None]:
    """The median run of each contender, and a check that all gave the same answer."""
    found: dict[str, Run | None] = {}
    for contender in CONTENDERS:
        runs = []
        for turn in range(1 if contender == STOCK else options.repeats):
            if contender == STOCK and not with_stock:
                break
            print(f"  {contender}, run {turn + 1} ...", flush=True)
            runs.append(measure_apart(contender, folder, options.limit, options.ttl_times))
        done = [run for run in runs if run]
        found[contender] = _median(done) if done else None
    answers = {name: run.answer for name, run in found.items() if run}
    for name, answer in answers.items():
        if any(not np.allclose(answer[feature], answers[BARE][feature]) for feature in FEATURES):
            raise SystemExit(f"{name} and {BARE} give different answers: the figures mean nothing")
    return found


def _median(runs: list[Run]) -> Run:
    seconds, cpu, peak, before = (statistics.median(column) for column in list(zip(*runs, strict=True))[:4])
    return Run(seconds, cpu, peak, before, runs[0].answer)


# -- reporting ---------------------------------------------------------------------------------------------------


def show(rows: int, found: dict[str, Run | None], limit: float, *, with_stock: bool) -> None:
    """A table: seconds, CPU seconds, peak memory, and both as multiples of the as-of store's."""
    ours = found[OURS]
    assert ours
    print(f"\n{rows:,} entity rows x {len(VIEWS)} views, {len(FEATURES)} features; all answers equal")
    print(f"{'':26} {'seconds':>8} {'x ours':>7} {'CPU s':>7} {'peak MB':>8} {'x ours':>7} {'before':>7}")
    for name, run in found.items():
        if run is None:
            print(f"{name:26} " + (f"stopped at the limit of {limit:.0f} s" if with_stock else "not run at this size"))
            continue
        print(
            f"{name:26} {run.seconds:8.2f} {run.seconds / ours.seconds:7.2f} {run.cpu:7.2f} "
            f"{run.peak:8.0f} {run.peak / ours.peak:7.2f} {run.before:7.0f}"
        )
    print(flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asof", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[20_000, YEAR, 10 * YEAR], help="entity rows, each a table"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender, of which the median is shown")
    parser.add_argument("--limit", type=float, default=120, help="seconds that one run may take")
    parser.add_argument("--ttl-times", type=int, default=1, help="make every TTL so many times longer")
    parser.add_argument("--quick", action="store_true", help="20,000 rows only")
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    VIEWS.update({name: view._replace(ttl=view.ttl * options.ttl_times) for name, view in VIEWS.items()})
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
        return
    if options.write:
        write_inputs(options.folder, options.write)
        return
    with_stock = True
    for rows in [20_000] if options.quick else options.rows:
        with tempfile.TemporaryDirectory() as folder:
            print(f"writing {rows:,} rows ...", flush=True)
            for size, target in ((rows, folder), (200, f"{folder}/warm")):
                _apart("--write", str(size), "--folder", target)
            found = compare(Path(folder), options, with_stock=with_stock)
        show(rows, found, options.limit, with_stock=with_stock)
        stock = found[STOCK]
        # Its time grows at least with the rows: no use in waiting for what is sure to hit the limit.
        with_stock = stock is not None and stock.seconds * 3 < options.limit


if __name__ == "__main__":
    main()
