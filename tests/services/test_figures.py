"""Counting, and the files it goes to: nothing twice, nothing lost, the right day, by one worker or many."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pipelines.home import Home
from services.figure_files import ENDED_SECONDS, KEPT_SECONDS, Now, Version
from services.figures import Figures
from services.tallies import BOUNDS, Stored, Tally, Timing, read

ROUTE = "/v1/models/{model}/predict"
REPLAYED = datetime(2013, 4, 1, 23, 59, 59, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


def ask(figures: Figures, decided: datetime, instances: int = 2, degraded: int = 1) -> None:
    figures.predicted("m", 3, instances, degraded, decided)
    figures.answered(ROUTE, "m", 200, 0.0021)


def of(at: Home, day: str) -> Tally:
    return read(sorted((at.root / "serving" / day).glob("*.json")))


def written(at: Home) -> set[str]:
    return {folder.name for folder in at.room("serving").iterdir()} - {"live"}


def test_what_was_counted_lands_on_its_day_and_is_added_to(home: Home) -> None:
    clock = Clock()
    figures = Figures(home, "1-a", clock)

    async def run() -> None:
        ask(figures, clock.at)
        await figures.write()
        ask(figures, clock.at)
        clock.at += timedelta(seconds=2)
        ask(figures, clock.at)
        figures.refused("m", "overloaded")
        await figures.write()
        await figures.write()

    asyncio.run(run())
    before, after = of(home, "2026-03-01"), of(home, "2026-03-02")
    assert before.counts["predictions", "m", "champion", "3"] == 4
    assert before.counts["degraded", "m"] == 2
    assert before.timings["request", ROUTE, "m", "200"].count == 2
    assert after.counts["predictions", "m", "champion", "3"] == 2
    assert after.counts["refused", "m", "overloaded"] == 1
    assert not list(home.room("serving").rglob("*.half"))


def test_a_replayed_request_counts_on_the_day_it_was_decided(home: Home) -> None:
    figures = Figures(home, "1-a", None)

    async def run() -> None:
        figures.answered("/healthz", "", 200, 0.001)
        await figures.write()
        assert written(home) == set()  # nobody has said yet which day it is
        ask(figures, REPLAYED)
        ask(figures, REPLAYED + timedelta(seconds=1))
        await figures.write()
        figures.answered("/healthz", "", 200, 0.001)
        await figures.write()

    asyncio.run(run())
    assert written(home) == {"2013-04-01", "2013-04-02"}
    assert of(home, "2013-04-01").counts["predictions", "m", "champion", "3"] == 2
    assert of(home, "2013-04-02").timings["request", "/healthz", "", "200"].count == 2


def test_all_cpu_time_is_given_to_the_days_of_the_requests(home: Home) -> None:
    async def run() -> None:
        began = time.process_time()
        figures = Figures(home, "1-a", None)
        for day in range(2):
            ask(figures, REPLAYED + timedelta(days=day))
        while time.process_time() - began < 0.05:
            sum(range(1000))
        spent = time.process_time() - began
        await figures.write()
        days = [of(home, f"2013-04-0{day}").counts["cpu",] for day in (1, 2)]
        assert days[0] == pytest.approx(days[1])
        assert spent * 0.9 < sum(days) < spent + 0.05

    asyncio.run(run())


@pytest.fixture
def unwritable(home: Home) -> Callable[[], None]:
    """Puts a file where the day's folder should be, so that writing fails, for root too. Call it to undo that."""
    obstacle = home.room("serving") / "2026-03-01"
    obstacle.write_text("")
    return obstacle.unlink


def test_a_disk_that_refuses_loses_no_count_and_is_told_about_once(
    home: Home, unwritable: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    figures = Figures(home, "1-a", clock)

    async def run() -> None:
        for _ in range(3):
            ask(figures, clock.at)
            await figures.write()
        (worker,) = await figures.workers()
        assert worker.since_start.counts["predictions|m|champion|3"] == 6
        unwritable()
        await figures.write()

    asyncio.run(run())
    assert of(home, "2026-03-01").counts["predictions", "m", "champion", "3"] == 6
    assert capfd.readouterr().err.count("figures_unwritten") == 1


def test_workers_see_each_other_and_the_dead_and_no_count_runs_backwards(home: Home) -> None:
    async def run() -> None:
        clock = Clock()
        now = Now(3, False, [Version("m", 3, 7, "2026-01-01T00:00:00+00:00")])
        one, two = Figures(home, "1-a", clock, lambda: now), Figures(home, "2-b", clock, lambda: now)
        seen = []
        for number in range(6):
            ask(one, clock.at)
            ask(two, clock.at)
            told = await (one, two)[number % 2].workers()
            seen.append(sum(worker.since_start.counts["predictions|m|champion|3"] for worker in told))
        assert seen == sorted(seen)
        await one.write()
        await one.write(last=True)
        told = await two.workers()
        assert sum(worker.since_start.counts["predictions|m|champion|3"] for worker in told) == 24
        assert [worker.alive for worker in told] == [now, None]

    asyncio.run(run())


def test_old_files_go_and_young_ones_stay(home: Home) -> None:
    days, live = home.room("serving"), home.room("serving", "live")
    ages = {
        days / "2025-01-01": KEPT_SECONDS + 60, days / "2025-09-01": KEPT_SECONDS - 60,
        live / "ended": ENDED_SECONDS + 60, live / "other": ENDED_SECONDS - 60,
    }  # fmt: skip
    for folder, age in ages.items():
        folder.mkdir()
        (folder / "1-a.json").write_bytes(msgspec.json.encode(Stored()))
        for path in (folder / "1-a.json", folder):
            os.utime(path, (time.time() - age,) * 2)
    asyncio.run(Figures(home, "2-b", Clock()).write())
    assert [folder.exists() for folder in ages] == [False, True, False, True]


def test_a_file_that_a_power_cut_left_empty_is_counted_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"")
    (tmp_path / "b.json").write_bytes(msgspec.json.encode(Stored({"cpu": 2.0})))
    assert read(sorted(tmp_path.iterdir())).counts == {("unreadable",): 1, ("cpu",): 2.0}


def test_quantiles_lie_in_the_bucket_of_the_true_one() -> None:
    timing, values = Timing(), [0.0004 * 1.01**n for n in range(1000)]
    for value in values:
        timing.take(value)
    for share in (0.5, 0.9, 0.99):
        true = values[round(share * len(values)) - 1]
        below = max((bound for bound in BOUNDS if bound < true), default=0.0)
        found = timing.quantile(share)
        assert found is not None
        assert below <= found <= min((bound for bound in BOUNDS if bound >= true), default=BOUNDS[-1])
    assert Timing().quantile(0.5) is None


def test_counting_a_request_costs_less_than_ten_microseconds(home: Home) -> None:
    figures, decided, times = Figures(home, "1-a", Clock()), REPLAYED, 20_000
    began = time.process_time()
    for _ in range(times):
        ask(figures, decided)
        figures.committed(0.001)
    # 1.5 us on an idle machine.
    assert (time.process_time() - began) / times < 10e-6
