from __future__ import annotations

from datetime import timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest

from monitoring import budget
from monitoring.drift import Drift, blocks, judge, number
from monitoring.oddness import distances, rank_of_last, z_scores
from monitoring.profile import fit_bins, take
from tests.monitoring.worlds import FEATURES, as_window, iso, reference, rows

DAY = timedelta(days=1)


def shuffled_alarm_rate(counts: np.ndarray, weight: np.ndarray, level: float, draws: int, seed: int) -> float:
    """Alarms when the windows are dealt at random: counts is columns, windows, bins."""
    random, alarms = np.random.default_rng(seed), 0
    allowed = budget.allowed_rank(level, counts.shape[1])
    for _ in range(draws):
        order = random.permutation(counts.shape[1])
        z = z_scores(np.column_stack([distances(column[order]) for column in counts]), 0.005)
        alarms += rank_of_last((weight * np.maximum(z, 0)).sum(axis=1)) <= allowed
    return alarms / draws


@pytest.mark.parametrize("level", [0.04, 0.1, 0.25])
def test_shuffled_windows_alarm_at_the_rate_that_was_set(level: float) -> None:
    random = np.random.default_rng(3)
    shares = random.dirichlet(np.ones(12) * 20, size=(4, 30))  # each window has its own mix
    counts = np.array([[random.multinomial(random.integers(50, 400), mix) for mix in column] for column in shares])
    rate = shuffled_alarm_rate(counts.astype(float), np.array([0.4, 0.3, 0.2, 0.1]), level, 1_000, 4)
    assert rate == pytest.approx(budget.allowed_rank(level, 30) / 30, abs=0.03)


def test_fresh_windows_alarm_no_more_than_set_though_the_bins_are_the_references_own() -> None:
    random, alarms, draws = np.random.default_rng(5), 0, 100
    for _ in range(draws):
        windows = [rows(random, 60) for _ in range(20)]
        known = reference(windows[:-1])
        alarms += judge(known, as_window(windows[-1], known.bins), window=DAY, alpha=0.1).alarm
    assert alarms / draws <= 0.1 + 0.09  # 0.1 achievable, and 3 standard errors of 100 draws


def test_a_shift_is_found_and_named() -> None:
    random = np.random.default_rng(6)
    known = reference(rows(random) for _ in range(40))
    found = judge(known, as_window(rows(random, shift=2.0), known.bins), window=DAY, alpha=0.05)
    assert found.alarm
    assert found.p == pytest.approx(1 / 41)
    assert found.beaten == 40
    assert found.inputs[0].name == "temp"
    assert found.inputs[0].level > found.inputs[0].band_high
    assert "usually" in found.inputs[0].sentence
    assert found.counterfactual == "without `temp`: no alarm"
    assert len(found.inputs[0].series) == 40
    assert msgspec.json.decode(msgspec.json.encode(found), type=Drift) == found


def test_values_that_go_missing_are_named() -> None:
    random = np.random.default_rng(7)
    known = reference(rows(random) for _ in range(30))
    broken = rows(random)
    broken.loc[:120, "temp"] = np.nan
    found = judge(known, as_window(broken, known.bins), window=DAY, alpha=0.1)
    assert found.alarm
    assert found.inputs[0].name == "temp"
    assert found.inputs[0].sentence.startswith("missing in 6")


def test_inputs_that_no_longer_go_together_are_named_though_each_is_as_usual() -> None:
    random = np.random.default_rng(20)

    def pair(together: float) -> pd.DataFrame:
        part = rows(random)
        return part.assign(wind=together * part["temp"] + random.normal(0, 0.5, len(part)))

    frames = [pair(0.8) for _ in range(20)]
    bins = fit_bins(pd.concat(frames), FEATURES, ["temp", "wind", "place"])
    known = reference(frames, bins)
    assert not judge(known, as_window(pair(0.8), bins), window=DAY, alpha=0.1).alarm
    flipped = pair(0.8)
    flipped["wind"] = -flipped["wind"] + 2 * flipped["wind"].mean()
    found = judge(known, as_window(flipped, bins), window=DAY, alpha=0.1)
    assert found.alarm
    assert {found.inputs[0].name, found.inputs[0].partner} == {"temp", "wind"}
    assert "no longer goes with" in found.inputs[0].sentence


def test_new_categories_one_by_one_are_no_drift() -> None:
    random = np.random.default_rng(8)
    known = reference(rows(random) for _ in range(30))
    newcomers = rows(random)
    newcomers.loc[:1, "place"] = "never before"
    found = judge(known, as_window(newcomers, known.bins), window=DAY, alpha=0.1)
    assert not found.alarm


def test_a_trifle_counts_as_nothing_however_unusual() -> None:
    same = pd.DataFrame({"temp": np.tile(np.arange(20.0), 500), "wind": 1.0, "place": "p"})
    known = reference([same] * 12)
    trifle = same.assign(temp=same["temp"].mask(same.index < 5, 0.0))
    found = judge(known, as_window(trifle, known.bins), window=DAY, alpha=0.5)
    assert found.inputs[0].contribution == 0
    assert found.p == 1
    assert not found.alarm


def test_fewer_than_eight_windows_say_so() -> None:
    random = np.random.default_rng(9)
    known = reference(rows(random) for _ in range(7))
    found = judge(known, as_window(rows(random, shift=9), known.bins), window=DAY, alpha=0.5)
    assert (found.status, found.alarm, found.p) == ("not enough history", False, None)
    assert "7 reference days, at least 8" in found.sentence


def test_a_budget_too_small_for_the_history_says_how_many_windows_it_needs() -> None:
    random = np.random.default_rng(10)
    known = reference(rows(random) for _ in range(10))
    found = judge(known, as_window(rows(random, shift=9), known.bins), window=DAY, alpha=0.04)
    assert not found.alarm
    assert found.achieved_per_year == 0
    assert found.windows_needed == 24
    assert found.sentence.startswith(
        "10 reference days cannot tell input drift from chance at 29.2 false alarms a year"
    )
    assert found.sentence.endswith("that needs 24 days, or 67 a year")
    enough = 67 / budget.windows_per_year(DAY) / budget.SIGNALS
    assert budget.allowed_rank(enough, 11) == 1
    assert budget.allowed_rank(enough * 66 / 67, 11) == 0


def test_half_a_window_is_not_judged() -> None:
    known = reference(rows(np.random.default_rng(11)) for _ in range(70))
    days = {iso(1000 + i): known.days[iso(i)] for i in range(5)}
    found = judge(known, days, window=timedelta(days=7), alpha=0.2)
    assert (found.status, found.alarm) == ("window incomplete", False)
    days[iso(1005)] = known.days[iso(5)]
    assert judge(known, days, window=timedelta(days=7), alpha=0.2).status == "judged"


def test_blocks_count_back_from_the_last_day_and_leave_out_broken_ones() -> None:
    data = rows(np.random.default_rng(12), 10)
    profile = take(data, fit_bins(data, FEATURES))
    days = {iso(i): profile for i in range(24) if i not in (4, 5, 16)}  # blocks 3-9, 10-16, 17-23
    assert [block.rows for block in blocks(days, timedelta(days=7))] == [60, 70]


def test_a_week_without_a_day_is_compared_with_weeks_without_that_weekday() -> None:
    random = np.random.default_rng(14)
    days = [rows(random).assign(temp=float(number % 7)) for number in range(91)]
    known = reference(days[:84])
    week = {iso(number): take(days[number], known.bins) for number in range(84, 91) if number != 87}
    found = judge(known, week, window=timedelta(days=7), alpha=0.08)
    assert (found.windows, found.status) == (12, "judged")
    assert next(each for each in found.inputs if each.name == "temp").z == 0


def test_distance_of_a_small_shift_is_what_the_docstring_says() -> None:
    from scipy.stats import norm

    edges = np.linspace(-6, 6, 400)
    here, there = (np.diff(norm.cdf(edges, loc)) for loc in (0.1, 0.0))
    both = np.array([here, there]) * 1e6
    assert distances(both)[0] == pytest.approx(0.042, abs=0.001)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3.14159, "3.14"), (71.23, "71.2"), (12345.6, "12,346"), (2e-9, "2.00e-09")]
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert number(value) == text
