"""The week's calls in figures: what workers left in state, summed, and said in words."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from monitoring.health import Health, milliseconds
from pipelines.home import Home
from pipelines.nights.serving_health import health
from services.figures import Figures

PREDICT, SINCE = "/v1/models/{model}/predict", datetime(2013, 4, 1, tzinfo=UTC)
UNTIL = SINCE + timedelta(days=7)


def worked(at: Home, worker: str, day: int) -> None:
    """A worker's day: 98 calls of 2 predictions in 2 to 3 ms, one in 80 ms, one shed, one bad; another model's."""

    async def run() -> None:
        figures = Figures(at, worker, None)
        decided = SINCE + timedelta(days=day, hours=3)
        for number in range(99):
            figures.predicted("one", 4, 2, number % 2, decided, "canary" if number < 9 else "champion")
            figures.answered(PREDICT, "one", 200, 0.08 if number == 98 else 0.0025)
        for status in (503, 400, 499):
            figures.answered(PREDICT, "one", status, 0.0001)
        figures.refused("one", "overloaded")
        figures.swapped("one", "swapped")
        figures.answered("/v1/models/{model}", "one", 200, 9.0)
        figures.predicted("two", 1, 50, 0, decided)
        figures.answered(PREDICT, "two", 500, 0.0001)
        await figures.write(last=True)

    asyncio.run(run())


def test_workers_and_days_add_up_and_others_stay_out(home: Home) -> None:
    for worker, day in (("1-a", 0), ("2-b", 0), ("1-a", 6), ("1-a", -1), ("1-a", 7)):
        worked(home, worker, day)
    found = health(home, "one", SINCE, UNTIL)
    assert found is not None
    assert (found.requests, found.answered, found.refused, found.failed, found.shed) == (306, 297, 3, 3, 3)
    assert (found.predictions, found.degraded, found.canary) == (594, 147, 54)
    assert (found.swaps, found.swaps_refused, found.unreadable) == (3, 0, 0)
    assert found.service_predictions == 594 + 150
    assert found.p50_ms is not None
    assert 2.0 <= found.p50_ms <= 3.0
    assert found.p99_ms is not None
    assert 2.0 <= found.p99_ms <= 100.0
    assert found.cpu_seconds > 0
    assert found.cpu_per_thousand == pytest.approx(1000 * found.cpu_seconds / 744)


def test_a_week_without_calls_has_no_figures(home: Home) -> None:
    assert health(home, "one", SINCE, UNTIL) is None
    worked(home, "1-a", 0)
    assert health(home, "three", SINCE, UNTIL) is None


def test_a_damaged_file_is_told_and_not_stumbled_over(home: Home) -> None:
    worked(home, "1-a", 0)
    (home.room("serving", "2013-04-02") / "9-z.json").write_bytes(b"")
    found = health(home, "one", SINCE, UNTIL)
    assert found is not None
    assert (found.requests, found.unreadable) == (102, 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "none"), (0.84, "0.8 ms"), (12.3, "12 ms"), (999.0, "999 ms"), (1400.0, "1.4 s"), (1e4, "10 s or more")],
)
def test_times_are_said_as_people_say_them(value: float | None, said: str) -> None:
    assert milliseconds(value) == said


def test_facts_in_words() -> None:
    fine = Health(
        requests=5_000, answered=5_000, refused=0, failed=0, shed=0, p50_ms=2.13, p99_ms=9.8, predictions=10_000,
        degraded=0, canary=0, swaps=1, swaps_refused=0, cpu_seconds=9.0, service_predictions=10_000,
    )  # fmt: skip
    assert fine.facts == [
        ("Answer time", "2.1 ms", "half are faster; 99 of 100 take at most 9.8 ms"),
        ("Calls that failed", "None", "of 5,000"),
        ("Cost", "0.9 s", "of CPU time for 1,000 predictions, all models"),
    ]
    bad = Health(
        requests=5_000, answered=0, refused=30, failed=4_970, shed=1_000, p50_ms=None, p99_ms=None, predictions=0,
        degraded=0, canary=0, swaps=1, swaps_refused=0, cpu_seconds=9.0, service_predictions=0,
    )  # fmt: skip
    assert bad.facts == [
        ("Answer time", "none", "no call was answered"),
        (
            "Calls that failed",
            "4,970",
            "of 5,000; 1,000 of them because the service was full; "
            "30 more were refused: a mistake of the caller, or too many calls",
        ),
    ]
