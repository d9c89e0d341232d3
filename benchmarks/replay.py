"""What a replay costs: a year under five policies against the bare sum of the model fits that it needs.

    python -m benchmarks.replay                  1x, 4x and 10x the rows of the year
    python -m benchmarks.replay --times 1        the year as it is
    python -m benchmarks.replay --to 2013-06-30  a quarter
    python -m benchmarks.replay --folder DIR     keep what was prepared in DIR; the next call finds it there

Prepared and not timed: the year of flights ingested, and the feature tables at every tick. At 4x and 10x each flight
is there so many times, under other names, in what examples are made of.

Timed, a process of its own with nothing kept from before: `headway replay` on all cores, frames, fits, dummies and page
included. The bare sum is the CPU time of `estimator.fit` alone, over the different fits that were needed, one after the
other; a replay on two cores that did nothing else would take half of it. Peak memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.home import PROJECT, Home, environment, settle, utc

DOMAIN, MODEL = "flights", "late_arrival"
SINCE, UNTIL = "2013-04-01", "2013-12-30"
POLICIES = "weekly,4-weekly,drift,quality,never"
NAMED = ("schedule", "arrivals")
"""The sources that examples are made of."""


def prepare(folder: Path, times: int) -> Home:
    """The year on a root of its own, each flight there so many times."""
    year = Home(folder / "year")
    if not (folder / "ready").exists():
        take_in(year)
        (folder / "ready").touch()
    if times == 1:
        return year
    at = Home(folder / f"year-{times}")
    if not at.root.exists():
        shutil.copytree(year.root, at.root, ignore=shutil.ignore_patterns("replay", "reports"))
        for path in (path for name in NAMED for path in at.room("lake", DOMAIN, name).glob("2*.parquet")):
            rows = pl.read_parquet(path)
            copies = [rows.with_columns(pl.col("flight_id") + f"~{copy}") for copy in range(1, times)]
            pl.concat([rows, *copies]).write_parquet(path)
    return at


def take_in(at: Home) -> None:
    from pipelines.data import ingest
    from pipelines.store import feature_store, feature_tables

    at.root.mkdir(parents=True, mode=0o700, exist_ok=True)
    settle(at)
    feature_store.apply(at)
    ingest.ingest(at, DOMAIN, utc(SINCE))
    ingest.ingest(at, DOMAIN, utc("2014-01-01"))
    feature_tables.backfill(at, DOMAIN, utc("2013-01-01"), utc("2014-01-01"))


def replayed(at: Home, given: argparse.Namespace) -> dict[str, Any]:
    """One replay from nothing: seconds, CPU seconds, peak megabytes and what the fits alone took."""
    for room in ("replay", "reports"):
        shutil.rmtree(at.root / room, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.replay", "--inside", "--to", given.until, "--policies", given.policies]
    began, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment(at), cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    cpu = after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime
    fits = [json.loads(path.read_text()) for path in (at.root / "replay" / MODEL / "fits").glob("*/fitted.json")]
    told = json.loads(done.stdout.splitlines()[-1])
    return {
        "wall s": seconds, "CPU s": cpu, "fits": len(fits), "bare fits s": sum(each["seconds"] for each in fits),
        "fits and gates s": sum(each["spent"] for each in fits), "peak MB": told["peak"], "sentence": told["sentence"],
    }  # fmt: skip


def inside(given: argparse.Namespace) -> None:
    """The timed process: a replay, then what the largest process of it needed."""
    from pipelines.commands.cli import main as headway
    from pipelines.home import home

    words = ["replay", MODEL, "--from", SINCE, "--to", given.until, "--policies", given.policies]
    if headway(words):
        raise SystemExit(1)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(each).ru_maxrss for each in who) / 1024
    (path,) = home().reports.glob(f"replay-{MODEL}-*.json")
    print(json.dumps({"peak": peak, "sentence": json.loads(path.read_text())["sentence"]}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", default="1,4,10", help="how many times each flight is there")
    parser.add_argument("--to", dest="until", default=UNTIL, metavar="DAY", help="the last night")
    parser.add_argument("--policies", default=POLICIES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "headway-replay")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given)
        return 0
    print(f"{(utc(given.until) - utc(SINCE)) // timedelta(weeks=1)} weeks, {given.policies}, {os.cpu_count()} cores\n")
    heads = ("rows", "wall s", "wall / bare", "CPU s", "fits", "bare fits s", "fits and gates s", "peak MB")
    print("| " + " | ".join(heads) + " |\n|" + " ---: |" * len(heads))
    for times in map(int, given.times.split(",")):
        found = replayed(prepare(given.folder, times), given)
        ratio = found["wall s"] / found["bare fits s"]
        numbers = [f"{found[head]:,.0f}" for head in heads if head in found]
        print(f"| {times}x | {numbers[0]} | {ratio:.2f} | " + " | ".join(numbers[1:]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
