"""What a night costs: all of the platform's steps against a bare script that reads, joins, fits and evaluates.

    python -m benchmarks.night                   three runs of each, after some minutes of preparing
    python -m benchmarks.night --quick           one run of each
    python -m benchmarks.night --folder DIR      keep what was prepared in DIR; the next call finds it there

Prepared and not timed: January to March 2013 ingested, a champion trained on 1 April, and that day lived through: its
flights are asked for at the service (uvicorn, on loopback), between refreshes, so the log of predictions is real.

Timed, each run a process of its own on the same files, with one thread for the numeric libraries as the platform runs:

* the platform: the four six-hourly ingests of 1 April, feature tables, online store, compaction, parity, profile and
  verdict as of 2 April 00:30 UTC, then a retraining with its gates, package and promotion. No Prefect.
* the bare script, polars and scikit-learn: the same history from Parquet and the same day from the CSV files, the day's
  feature snapshots, a point-in-time join for every example, one fit, the holdout's AUC, the day's predictions and
  histograms. It checks nothing and keeps nothing.

Both must find the same rows and the same AUC on the holdout to 1e-6; if they do not, the exit code is 1 and what
differs is printed, as the figures would compare different things.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.home import Home, environment

ROOT = Path(__file__).resolve().parent.parent
DOMAIN, MODEL = "flights", "late_arrival"
JANUARY, DAY = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)
AS_OF = datetime(2013, 4, 2, 0, 30, tzinfo=UTC)
SIX_HOURS, LAG = timedelta(hours=6), timedelta(minutes=2)
TICKS = [DAY + n * SIX_HOURS for n in range(1, 5)]

STEPS = {
    "imports": "imports",
    "csv": "the source's own CSV files",
    "ingest": "read the history; ingest the day, four times",
    "check": "  of it, Great Expectations",
    "tables": "feature tables",
    "online": "online store",
    "compact": "compact the predictions",
    "parity": "parity",
    "day": "the day's profile",
    "verdict": "verdict",
    "frame": "training frame, point in time",
    "fit": "fit",
    "evaluate": "evaluate",
    "bootstrap": "  of it, bootstrap intervals",
    "importance": "  of it, permutation importance",
    "package": "reference and package",
    "promote": "ledger and promotion",
}
PAID = {
    "check": "validation",
    "second fit": "determinism (a second fit)",
    "bootstrap": "bootstrap intervals",
    "importance": "importance",
    "package": "reference and package",
    "parity": "parity",
    "online": "the online store",
    "imports": "imports of the packages that do so",
}


class Clock:
    """Seconds by step, by the wall and of the processor."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def watch(self, module: Any, function: str, name: str) -> None:
        """Time the calls of a function of `module` as a part of whatever step makes them."""
        original = getattr(module, function)

        def timed(*args: Any, **more: Any) -> Any:
            with self.step(name):
                return original(*args, **more)

        setattr(module, function, timed)


# -- preparing ---------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """`folder/base`: the root as it stood at the end of 31 March, and the log of the predictions of 1 April."""
    import models
    from pipelines.commands.asking import Caller
    from pipelines.nights import night
    from pipelines.store import feature_store, feature_tables
    from pipelines.training import retraining
    from services import keys

    at, model = Home(folder / "home"), models.load(MODEL)
    _say("ingesting January to March")
    night.ingest(at, DOMAIN, DAY)
    _say("feature tables at every tick of their cadence")
    feature_tables.backfill(at, DOMAIN, JANUARY, DAY)
    feature_store.apply(at)
    night.materialize(at, DOMAIN, DAY)
    _say("training the first champion")
    retraining.retrain(at, model, DAY, actor="benchmark")
    shutil.copytree(at.root, folder / "half")
    _say("asking the service for the flights of 1 April")
    key, asked = keys.make(at.keys, "benchmark"), 0
    with _service(at) as url, Caller(url, key) as caller:
        for tick in TICKS:
            seen = (moment + LAG - timedelta(microseconds=1) for moment in (tick - SIX_HOURS, tick))
            asked += caller.ask(at, model, *seen, known_by=tick - SIX_HOURS)
            night.refresh(at, DOMAIN, tick)
    shutil.copytree(at.predictions / "open", folder / "half" / "predictions" / "open", dirs_exist_ok=True)
    (folder / "half").rename(folder / "base")
    _say(f"{asked:,} predictions in the log")


@contextmanager
def _service(at: Home) -> Iterator[str]:
    import socket
    import threading

    import uvicorn

    from services.app import create_app

    os.environ["HEADWAY_CLOCK"] = "request"
    server = uvicorn.Server(uvicorn.Config(create_app(at), log_level="error", access_log=False))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        running = threading.Thread(target=server.run, args=([listening],))
        running.start()
        while not server.started and running.is_alive():
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            running.join()


def _say(what: str) -> None:
    print(f"  {what} ...", flush=True)


# -- the platform's night ----------------------------------------------------------------------------------------


def platform(folder: Path, clock: Clock) -> dict[str, Any]:
    """Every step of the night and of a retraining, in order."""
    with clock.step("imports"):
        import bentoml  # noqa: F401
        import great_expectations  # noqa: F401

        import features
        import models
        from pipelines.data import ingest
        from pipelines.nights import night
        from pipelines.store import asof, feature_store  # noqa: F401
        from pipelines.training import judge, retraining

        at, model, domain = Home(folder / "home"), models.load(MODEL), features.load(DOMAIN)
    clock.watch(ingest, "check", "check")
    clock.watch(judge, "interval", "bootstrap")
    clock.watch(retraining, "permutation_importance", "importance")
    with clock.step("csv"):
        for source in domain.sources:
            source.read(DAY, DAY)
    for tick in TICKS:
        with clock.step("ingest"):
            deliveries = night.ingest(at, DOMAIN, tick)
        assert not any(delivery.stops or delivery.quarantined for delivery in deliveries), deliveries
        with clock.step("tables"):
            night.build_tables(at, DOMAIN, tick)
        with clock.step("online"):
            night.materialize(at, DOMAIN, tick)
    with clock.step("compact"):
        predictions = night.compact(at, model)
    with clock.step("parity"):
        parity = night.check_parity(at, model, AS_OF)
    with clock.step("day"):
        night.take_profile(at, model, AS_OF, parity, night.match_labels(at, model, AS_OF))
    with clock.step("verdict"):
        verdict = night.judge(at, model, AS_OF)
    with clock.step("frame"):
        parts = retraining.assemble(at, model, AS_OF)
    with clock.step("fit"):
        candidate = retraining.fit(model, parts)
    with clock.step("evaluate"):
        evaluation = retraining.evaluate(at, model, AS_OF, parts, candidate)
    with clock.step("package"):
        manifest = retraining.store(at, model, AS_OF, parts, candidate, evaluation)
    with clock.step("promote"):
        outcome = retraining.settle(at, model, AS_OF, manifest, evaluation, actor="benchmark", verdict=None)
    assert parity is not None
    said = f"{predictions:,} predictions; {verdict.sentence}; {outcome.sentence}; promoted: {outcome.promoted}"
    found = {"holdout AUC": evaluation.metrics["holdout"], "rows fitted": len(parts.train)}
    return {**found, "rows held out": len(parts.holdout), "said": said}


# -- the bare script ---------------------------------------------------------------------------------------------

KNOWN_AT = {"schedule": "planned_at", "departures": "departed_at", "arrivals": "arrived_at", "weather": "known_at"}
SNAPSHOTS = {  # keys and TTL, in the order of the model's columns
    "weather_now": (["origin"], timedelta(hours=18)),
    "airport_delays": (["origin"], timedelta(hours=18)),
    "carrier_delays": (["carrier"], timedelta(days=2)),
    "route_delays": (["origin", "dest"], timedelta(days=3)),
    "aircraft": (["tailnum"], timedelta(days=7)),
}


def bare(folder: Path, clock: Clock) -> dict[str, Any]:
    """The same night as one would script it."""
    with clock.step("imports"):
        import numpy as np
        import polars as pl
        from sklearn.metrics import roc_auc_score

        from features.flights import FLIGHTS
        from models.late_arrival import LATE_ARRIVAL, estimator
    with clock.step("csv"):
        for source in FLIGHTS.sources:
            source.read(DAY, DAY)
    base = folder / "base"
    with clock.step("ingest"):
        known = {}
        for name in (*KNOWN_AT, "planes"):
            history = pl.read_parquet(base / "lake" / DOMAIN / name / "*.parquet")
            today = pl.from_pandas(FLIGHTS.source(name).read(DAY, TICKS[-1]))
            known[name] = pl.concat([history, today.cast(history.schema)])
    with clock.step("tables"):
        computed = _snapshots(known)
        stored = {name: pl.read_parquet(base / "snapshots" / DOMAIN / name / "*.parquet") for name in SNAPSHOTS}
        tables = {
            name: pl.concat([table.drop("created_at"), computed[name].select(table.drop("created_at").columns)])
            for name, table in stored.items()
        }
    with clock.step("frame"):
        rows = _examples(known, LATE_ARRIVAL.training_window)
        for name, (keys, ttl) in SNAPSHOTS.items():
            seen = tables[name].rename({"visible_at": "at"}).sort("at")
            rows = rows.join_asof(seen, left_on="at", right_on="at", by=keys, tolerance=ttl, check_sortedness=False)
        rows = rows.sort("at", "flight_id")
        columns = [c for table in tables.values() for c in table.columns if c not in (*_keys(), "visible_at")]
        inputs = _inputs(rows, columns)
        label = rows["label"].to_numpy()
        late = (rows["at"] > AS_OF - LATE_ARRIVAL.holdout).to_numpy()
        train, holdout = ~np.isnan(label) & ~late, ~np.isnan(label) & late
    with clock.step("fit"):
        fitted = estimator().fit(inputs[train], label[train])
    with clock.step("evaluate"):
        auc = roc_auc_score(label[holdout], fitted.predict_proba(inputs[holdout])[:, 1])
    with clock.step("day"):
        asked = ((rows["at"] > DAY) & (rows["at"] <= DAY + timedelta(days=1))).to_numpy()
        chances = fitted.predict_proba(inputs[asked])[:, 1]
        counts = [_histogram(inputs.loc[train, name], inputs.loc[asked, name]) for name in inputs]
    said = f"{len(chances):,} predictions, mean {chances.mean():.3f}; {len(counts)} histograms"
    found = {"holdout AUC": float(auc), "rows fitted": int(train.sum())}
    return {**found, "rows held out": int(holdout.sum()), "said": said}


def _keys() -> set[str]:
    return {key for keys, _ in SNAPSHOTS.values() for key in keys}


def _snapshots(known: dict[str, Any]) -> dict[str, Any]:
    """The day's rows of each feature table."""
    import polars as pl

    departures, arrivals, weather = known["departures"], known["arrivals"], known["weather"].sort("observed_at")
    delay, late, hours = pl.col("arr_delay"), pl.col("arr_delay") > 15, timedelta(hours=1)
    flown = arrivals.filter(pl.col("tailnum").is_not_null()).sort("arrived_at", "flight_id")
    three = pl.mean_horizontal(delay, *(delay.shift(n).over("tailnum") for n in (1, 2)))
    flown = flown.with_columns(three.alias("previous_3_delay")).join(known["planes"], on="tailnum", how="left")

    def within(table: Any, column: str, tick: datetime, span: timedelta) -> Any:
        return table.filter(pl.col(column).is_between(tick - span, tick, closed="right"))

    found: dict[str, list[Any]] = {name: [] for name in SNAPSHOTS}
    for tick in TICKS:
        observed = ["temp", "humid", "wind_speed", "visib", "pressure"]
        rain = pl.col("precip").filter(pl.col("known_at") > tick - 6 * hours)
        half = within(weather, "known_at", tick, 12 * hours).group_by("origin")
        latest = [pl.col(name).drop_nulls().last() for name in observed]
        found["weather_now"] += [half.agg(*latest, rain.sum().round(4).alias("precip_6h"))]
        recent = pl.col("dep_delay").filter(pl.col("departed_at") > tick - 3 * hours)
        airports = within(departures, "departed_at", tick, 24 * hours).group_by("origin")
        found["airport_delays"] += [
            airports.agg(
                recent.mean().alias("airport_delay_3h"),
                pl.col("dep_delay").mean().alias("airport_delay_24h"),
                pl.len().cast(pl.Int64).alias("airport_departures_24h"),
            )
        ]
        yesterday = delay.filter(pl.col("arrived_at") > tick - 24 * hours)
        carriers = within(arrivals, "arrived_at", tick, timedelta(days=14)).group_by("carrier")
        found["carrier_delays"] += [
            carriers.agg(yesterday.mean().alias("carrier_delay_1d"), late.mean().alias("carrier_late_14d"))
        ]
        routes = within(arrivals, "arrived_at", tick, timedelta(days=28)).group_by("origin", "dest")
        found["route_delays"] += [
            routes.agg(
                delay.mean().alias("route_delay_28d"),
                late.mean().alias("route_late_28d"),
                pl.len().cast(pl.Int64).alias("route_flights_28d"),
            )
        ]
        aircraft = within(flown, "arrived_at", tick, SIX_HOURS).group_by("tailnum", maintain_order=True).last()
        age = (tick.year - pl.col("built")).cast(pl.Float64).alias("age_years")
        seats = pl.col("seats").cast(pl.Float64)
        found["aircraft"] += [aircraft.with_columns(delay.alias("previous_delay"), age, seats)]
        for tables in found.values():
            visible = pl.lit(tick + LAG).cast(pl.Datetime("us", "UTC")).alias("visible_at")
            tables[-1] = tables[-1].with_columns(visible)
    found["route_delays"] = found["route_delays"][-1:]  # once a day
    return {name: pl.concat(tables) for name, tables in found.items()}


def _examples(known: dict[str, Any], window: timedelta) -> Any:
    """Every flight decided in the training window, with its label if it is known; sorted by decision time."""
    import polars as pl

    decided, late = pl.col("scheduled_departure") - timedelta(hours=2), pl.col("arr_delay") > 15
    inside = decided.is_between(AS_OF - window, AS_OF, closed="right")
    flights = known["schedule"].filter(inside).join(known["arrivals"], on="flight_id", how="left")
    return flights.with_columns(decided.alias("at"), late.cast(pl.Float64).alias("label")).sort("at")


def _inputs(rows: Any, columns: list[str]) -> Any:
    """(n, features) for the estimator: numbers as float64, texts as objects."""
    import polars as pl

    local = pl.col("scheduled_departure").dt.convert_time_zone("America/New_York").dt
    plan = rows.select(
        *(pl.col(name).cast(pl.Float64) for name in columns),
        departure_hour=local.hour() + local.minute() / 60,
        weekday=(local.weekday() - 1).cast(pl.Float64),
        miles=pl.col("distance").cast(pl.Float64),
        airline="carrier",
        airport="origin",
    )
    return plan.to_pandas()


def _histogram(trained: Any, seen: Any) -> Any:
    """Counts of `seen` in the 30 quantile bins, or the categories, of `trained`."""
    import numpy as np

    if trained.dtype == object:
        return seen.value_counts().reindex(trained.unique(), fill_value=0).to_numpy()
    edges = np.unique(np.nanquantile(trained, np.linspace(0, 1, 31)))
    return np.histogram(seen.dropna(), edges)[0]


# -- measuring ---------------------------------------------------------------------------------------------------

CONTENDERS: dict[str, Callable[[Path, Clock], dict[str, Any]]] = {"platform": platform, "bare": bare}


class Run(NamedTuple):
    """One run: seconds by step and in all, by the wall and of the processor, and megabytes at most."""

    wall: dict[str, float]
    cpu: dict[str, float]
    seconds: float
    cpu_seconds: float
    peak: float
    answer: dict[str, Any]


def measure(contender: str, folder: Path) -> Run:
    """Run a contender in this process."""
    clock, began = Clock(), time.perf_counter()
    answer = CONTENDERS[contender](folder, clock)
    seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return Run(clock.wall, clock.cpu, seconds, time.process_time(), used.ru_maxrss / 1024, answer)


def compare(folder: Path, repeats: int) -> dict[str, list[Run]]:
    """Runs of both, in turns; each of the platform's on a fresh copy of the root that was prepared."""
    found: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for turn in range(repeats):
        for name, runs in found.items():
            _fresh(folder)
            _say(f"{name}, run {turn + 1} of {repeats}")
            run = Run(*json.loads(_apart(folder, "--measure", name).splitlines()[-1]))
            print(f"    {run.seconds:.1f} s, {run.cpu_seconds:.1f} s of processor: {run.answer['said']}", flush=True)
            runs.append(run)
    return found


def _fresh(folder: Path) -> None:
    # At the same path each time: Feast's registry remembers where the snapshots are.
    shutil.rmtree(folder / "home", ignore_errors=True)
    shutil.copytree(folder / "base", folder / "home")


def _apart(folder: Path, *arguments: str, show: bool = False) -> str:
    # A child's peak memory starts at what its parent holds, so this process must stay small.
    command = [sys.executable, "-m", "benchmarks.night", "--folder", str(folder), *arguments]
    # Compiled modules are kept, so that a run's imports are those of any night but the first.
    bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    env = environment(Home(folder / "home")) | bytecode
    with tempfile.TemporaryFile("w+") as errors:
        out = None if show else subprocess.PIPE
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=out, stderr=errors, text=True, check=False)
        if done.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed:\n{errors.read()}")
    return done.stdout or ""


def differences(found: dict[str, list[Run]]) -> list[str]:
    """What the runs disagree about; empty when all found the same rows and the same AUC to 1e-6."""
    answers = [(name, run.answer) for name, runs in found.items() for run in runs]
    first = answers[0][1]
    return [
        f"{what}: {answer[what]!r} by the {name}, {first[what]!r} by the {answers[0][0]}"
        for name, answer in answers
        for what in ("rows fitted", "rows held out", "holdout AUC")
        if abs(answer[what] - first[what]) > 1e-6
    ]


# -- reporting ---------------------------------------------------------------------------------------------------


def show(found: dict[str, list[Run]]) -> None:
    """Median seconds by step, the ratio, and what the difference pays for."""
    ours, theirs = found["platform"], found["bare"]
    rows = "{rows fitted:,} rows fitted, {rows held out:,} held out, AUC {holdout AUC:.6f} by both"
    print(f"\n{rows.format_map(ours[0].answer)}; medians of {len(ours)} run(s)\n")
    print(f"{'':46} {'platform':>17} {'bare script':>17}")
    print(f"{'':46} {'seconds':>8} {'CPU s':>8} {'seconds':>8} {'CPU s':>8}")
    for step, title in STEPS.items():
        cells = [_median([getattr(run, kind).get(step) for run in runs]) for runs in (ours, theirs) for kind in KINDS]
        print(f"{title:46} " + " ".join("       -" if cell is None else f"{cell:8.2f}" for cell in cells))
    totals = [[_median([getattr(run, kind) for run in runs]) for runs in (ours, theirs)] for kind in Run._fields[2:5]]
    (wall, bare_wall), (cpu, bare_cpu), (peak, bare_peak) = totals
    print(f"{'in all':46} {wall:8.2f} {cpu:8.2f} {bare_wall:8.2f} {bare_cpu:8.2f}")
    print(f"{'peak memory, MB':46} {peak:8.0f} {'':8} {bare_peak:8.0f}")
    print(f"\nthe platform takes {wall / bare_wall:.1f} x the time, {cpu / bare_cpu:.1f} x the processor ", end="")
    print(f"and {peak / bare_peak:.1f} x the memory of the bare script.")
    extra = [_paid(mine.cpu, bare_run.cpu) for mine, bare_run in zip(ours, theirs, strict=True)]
    paid = {name: statistics.median(run[name] for run in extra) for name in PAID}
    print(f"The {cpu - bare_cpu:.1f} s of processor more pay for:")
    for name, seconds in sorted(paid.items(), key=lambda item: -item[1]):
        print(f"  {seconds:6.2f} s  {PAID[name]}")
    print(f"  {cpu - bare_cpu - sum(paid.values()):6.2f} s  the rest: ledger, lake, snapshots and gates")


KINDS = ("wall", "cpu")


def _paid(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """Seconds of what only the platform does."""
    spent = {**ours, "second fit": ours["fit"] / 2, "imports": ours["imports"] - theirs["imports"]}
    return {name: spent[name] for name in PAID}


def _median(values: list[float | None]) -> Any:
    held = [value for value in values if value is not None]
    return statistics.median(held) if held else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.night", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median is shown")
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument("--folder", type=Path, help="where to prepare, and to find what was prepared before")
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
    elif options.prepare:
        prepare(options.folder)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            _benchmark((options.folder or Path(scratch)).absolute(), 1 if options.quick else options.repeats)


def _benchmark(folder: Path, repeats: int) -> None:
    if not (folder / "base").is_dir():
        print("preparing, once; not timed", flush=True)
        for half in ("home", "half"):
            shutil.rmtree(folder / half, ignore_errors=True)
        _apart(folder, "--prepare", show=True)
    found = compare(folder, repeats)
    if wrong := differences(found):
        raise SystemExit("the figures would compare different things:\n  " + "\n  ".join(wrong))
    show(found)


if __name__ == "__main__":
    main()
