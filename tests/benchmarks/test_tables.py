"""The tables of the benchmark of serving say what was measured, and whether the aims were met."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.tables import LOOKED_UP, PIPELINE, SENT, SYNCED, TREELITE, Measured

ONE = Measured(
    rate=1000.0, p50=1.5, p99=9.0, refused=0, failed=0, failures={}, cpu=0.5, cpu_ms=0.4, memory=200.0, client=0.1,
    others=0.05,
)  # fmt: skip


def turns(*rates: float, **changed: float) -> list[Measured]:
    return [dataclasses.replace(ONE, rate=rate, **changed) for rate in rates]


FOUND = {
    SENT: {1: turns(900.0, 4000.0, 1000.0), 500: turns(900.0, 900.0, 900.0, failed=1)},
    LOOKED_UP: {1: turns(800.0, 800.0, 800.0), 500: turns(990.0, 990.0, 990.0, p99=50.0)},
    PIPELINE: {1: turns(100.0, 100.0, 100.0), 500: turns(100.0, 100.0, 100.0)},
    TREELITE: {1: turns(1000.0, 2000.0, 2000.0), 500: turns(1800.0, 1800.0, 1800.0)},
    SYNCED: {1: turns(500.0, 500.0, 500.0), 500: turns(500.0, 500.0, 500.0)},
}


def test_a_ratio_is_the_median_of_each_rounds_ratio() -> None:
    assert tables.ratio(FOUND, SENT, TREELITE, 1) == 0.9  # of 0.9, 2.0 and 0.5; that of the medians is 0.5


def test_aims_are_met_or_missed_by_what_was_measured() -> None:
    told = tables.aims(FOUND)
    assert told == [
        f"met: sent, 1 client: x {PIPELINE} 10.00 (at least 8)",
        f"met: sent, 1 client: x {TREELITE} 0.90 (at least 0.9)",
        f"met: sent, 500 clients: x {PIPELINE} 9.00 (at least 8)",
        f"MISSED: sent, 500 clients: x {TREELITE} 0.50 (at least 0.9)",
        "met: looked up, 1 client: p50 ms 1.50 (at most 2)",
        "met: looked up, 1 client: p99 ms 9.00 (at most 10)",
        "MISSED: looked up: requests/s at best 990.00 (at least 1000)",
        f"MISSED: {SENT}, 500 clients: failed 3.00 (at most 0)",
        f"met: {LOOKED_UP}, 500 clients: failed 0.00 (at most 0)",
    ]


def test_a_page_gets_one_table_for_each_number_of_clients(tmp_path: Path) -> None:
    page = tables.markdown(FOUND, tmp_path, 3, 5.0)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + len(FOUND))
    assert {line.count("|") for line in rows} == {len(tables.COLUMNS) + 5}
    assert f"| {SENT} | 1,000 | 1.50 | 9.00 | 50% | 0.40 | 200 | 0 | 0 | 10% | 10.00 | 0.90 | 2.00 |" in rows
    assert "Medians of 3 rounds of 5 s each" in page
    assert "took 5% of a core" in page


@pytest.mark.parametrize("shown", [0.25, [0.75, 0.25], {"prediction": 0.25, "probability": 0.25, "label": False}])
def test_a_probability_is_found_however_it_is_shown(shown: object) -> None:
    assert tables.probability(shown) == 0.25
