from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from monitoring.relation import Day, auc, daily, inflation, judge, permutation_p, residual_sd, surprise
from tests.monitoring.worlds import iso, steady_days

WEEK = timedelta(days=7)


def later(days: dict[str, Day]) -> dict[str, Day]:
    return {iso(1000 + i): day for i, day in enumerate(days.values())}


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20))
def test_surprise_is_zero_on_average_when_the_model_is_right(chances: list[float]) -> None:
    p = np.array(chances)
    expected = p * surprise("binary", np.ones_like(p), p) + (1 - p) * surprise("binary", np.zeros_like(p), p)
    assert expected == pytest.approx(np.zeros_like(p), abs=1e-9)


def test_surprise_stays_finite_when_a_certain_model_is_wrong() -> None:
    assert np.isfinite(surprise("binary", np.array([1.0, 0.0]), np.array([0.0, 1.0]))).all()


def test_auc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 300), random.integers(0, 9, 300) / 9
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert auc(np.ones(3), scores[:3]) is None


def test_daily_leaves_out_rows_without_a_label() -> None:
    found = daily("binary", np.array([1, 0, np.nan]), np.array([0.9, 0.2, 0.5]), np.array(["b", "a", "a"]))
    assert list(found) == ["a", "b"]
    assert found["a"].labels == 1


def test_regression_is_in_units_of_the_holdouts_variance() -> None:
    random = np.random.default_rng(1)
    labels, predictions = random.normal(0, 3, 5_000), np.zeros(5_000)
    sd = residual_sd(labels, predictions)
    assert daily("regression", labels, predictions, np.repeat("a", 5_000), sd)["a"].surprise == pytest.approx(0)
    worse = daily("regression", 2 * labels, predictions, np.repeat("a", 5_000), sd)["a"]
    assert worse.surprise == pytest.approx(3)
    with pytest.raises(ValueError, match="residual_sd"):
        surprise("regression", labels, predictions)


def test_a_flipped_relation_is_found_and_better_labels_are_not() -> None:
    known = steady_days(28)
    worse = judge("binary", known, later(steady_days(7, 0.1, 1)), window=WEEK, alpha=0.04)
    assert worse.alarm
    assert worse.p < 0.001
    assert "no longer follow" in worse.sentence
    better = judge("binary", known, later(steady_days(7, -0.1, 1)), window=WEEK, alpha=0.04)
    assert not better.alarm
    assert better.p > 0.9


def test_a_trifle_is_no_alarm_however_significant() -> None:
    known = {iso(i): Day(100, 0.0001 * (i % 3)) for i in range(28)}
    window = later({iso(i): Day(100, 0.001) for i in range(7)})
    found = judge("binary", known, window, window=WEEK, alpha=0.04)
    assert found.p < 0.01
    assert not found.alarm


@pytest.mark.parametrize(("reference", "window"), [(7, 7), (28, 4)])
def test_too_few_days_say_so(reference: int, window: int) -> None:
    found = judge("binary", steady_days(reference), later(steady_days(window, 5.0)), window=WEEK, alpha=0.5)
    assert (found.status, found.alarm, found.p) == ("not enough labels yet", False, None)


def test_few_deals_are_all_dealt() -> None:
    there = [Day(10, value) for value in (0.0, 0.1, -0.1, 0.05, -0.05, 0.02, -0.02, 0.01)]
    p, deals = permutation_p([Day(10, 1.0)] * 2, there)
    assert deals == 45
    assert p == pytest.approx(1 / 45)


@pytest.mark.parametrize("carry", [0.0, 0.6])
def test_quiet_windows_keep_the_level_even_when_a_day_is_like_the_day_before(carry: float) -> None:
    random, alarms, draws = np.random.default_rng(2), 0, 150
    for draw in range(draws):
        noise = random.normal(size=65)
        course = np.zeros(65)
        for day in range(1, 65):
            course[day] = carry * course[day - 1] + np.sqrt(1 - carry**2) * noise[day]
        days = [Day(int(random.integers(80, 120)), float(value)) for value in course[30:]]
        alarms += permutation_p(days[28:], days[:28], draw)[0] <= 0.05
    assert alarms / draws <= 0.05 + 0.055  # 3 standard errors of 150 draws


def test_inflation_is_one_without_carry_and_grows_with_it() -> None:
    assert inflation([0.0] * 20, 7) < 1.05  # the correction for bias alone
    assert inflation([(-1.0) ** i for i in range(20)], 7) == 1
    assert inflation(np.sin(np.arange(40) / 5), 7) > 1.5


CHANCES = st.lists(st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3), min_size=1, max_size=20)


@given(CHANCES)
def test_of_several_classes_surprise_is_zero_on_average_when_the_model_is_right(rows: list[list[float]]) -> None:
    p = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    each = [surprise("multiclass", np.full(len(p), float(place)), p) for place in range(3)]
    assert (p * np.column_stack(each)).sum(axis=1) == pytest.approx(np.zeros(len(p)), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 64)), min_size=1, max_size=20))
def test_two_of_several_classes_are_as_one_and_the_other(rows: list[tuple[bool, int]]) -> None:
    label, chance = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    chance /= 64  # 1 - chance is exact
    both = np.column_stack([1 - chance, chance])
    assert surprise("multiclass", label, both) == pytest.approx(surprise("binary", label, chance), abs=1e-5)
    assert auc(label, both) == pytest.approx(auc(label, chance))


def test_of_several_classes_the_auc_is_scikit_learns_one_against_the_rest() -> None:
    random = np.random.default_rng(0)
    labels, chances = random.integers(0, 3, 300).astype(float), random.dirichlet([1, 1, 1], 300)
    assert auc(labels, chances) == pytest.approx(roc_auc_score(labels, chances, multi_class="ovr"))
    assert auc(np.ones(3), chances[:3]) is None


def of_classes(random: np.random.Generator, days: int, confused: float = 0.0) -> dict[str, Day]:
    """Days of a calibrated model of three classes; of the `confused` share of rows, the first two change places."""
    chances = random.dirichlet([2.0, 1.0, 0.5], days * 200)
    labels = (random.random((len(chances), 1)) > chances.cumsum(axis=1)).sum(axis=1).astype(float)
    swapped = np.where(labels == 2, 2.0, 1.0 - labels)
    labels = np.where(random.random(len(labels)) < confused, swapped, labels)
    labels[::50] = np.nan
    return daily("multiclass", labels, chances, np.repeat([iso(day) for day in range(days)], 200))


def test_classes_that_change_places_are_found_and_a_quiet_week_is_not() -> None:
    random = np.random.default_rng(3)
    known = of_classes(random, 28)
    assert [day.labels for day in known.values()] == [196] * 28
    quiet = judge("multiclass", known, later(of_classes(random, 7)), window=WEEK, alpha=0.04)
    assert not quiet.alarm and abs(quiet.surprise or 1.0) < 0.03
    changed = judge("multiclass", known, later(of_classes(random, 7, confused=0.3)), window=WEEK, alpha=0.04)
    assert changed.alarm and "nats" in changed.sentence
    assert (changed.auc or 1.0) < (changed.reference_auc or 0.0) - 0.05
