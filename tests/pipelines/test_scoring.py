"""Intervals: the quick way to a bootstrap's areas under the ROC curve against scikit-learn's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import models
from pipelines import scoring

MODEL = models.load("late_arrival")


def world(rows: int, distinct: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    prediction = draw.integers(distinct, size=rows) / distinct
    return (draw.random(rows) < prediction).astype("float64"), prediction, draw.integers(9, size=rows)


@pytest.mark.parametrize("distinct", [2, 20, 10**9])
def test_resampled_areas_are_scikit_learns(distinct: int) -> None:
    label, prediction, day = world(500, distinct)
    groups = [np.flatnonzero(day == number) for number in range(9)]
    draws = [np.random.default_rng(n).integers(9, size=9) for n in range(20)]
    rows = [np.concatenate([groups[k] for k in drawn]) for drawn in draws]
    expected = [roc_auc_score(label[inside], prediction[inside]) for inside in rows]
    found = scoring._resampled(MODEL, label, prediction, groups, draws)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_draw_of_one_class_has_no_area() -> None:
    label, groups = np.array([0.0, 0.0, 1.0, 1.0]), [np.array([0, 1]), np.array([2, 3])]
    draws = [np.array([0, 0]), np.array([1, 1]), np.array([0, 1])]
    found = scoring._resampled(MODEL, label, np.array([0.1, 0.2, 0.3, 0.4]), groups, draws)
    np.testing.assert_array_equal(found, [np.nan, np.nan, 1.0])


@pytest.mark.parametrize("constant", [0.25, 0.5])
def test_a_paired_interval_holds_its_value_and_a_constant_is_worth_a_half(constant: float) -> None:
    label, prediction, day = world(2000, 50)
    found = scoring.interval(MODEL, label, prediction, day, than=np.full(2000, constant))
    assert found.value == pytest.approx(roc_auc_score(label, prediction) - 0.5)
    assert 0 < found.low < found.value < found.high
    alone = scoring.interval(MODEL, label, prediction, day)
    assert (alone.low - 0.5, alone.high - 0.5) == pytest.approx((found.low, found.high))


def test_the_general_way_agrees_with_the_quick_one(monkeypatch: pytest.MonkeyPatch) -> None:
    label, prediction, day = world(500, 20)
    quick = scoring.interval(MODEL, label, prediction, day, than=prediction**2 % 0.3)
    monkeypatch.setattr(scoring, "_weighted_auc", lambda *_: pytest.fail("not the quick way"))
    other = replace(MODEL, metric="roc_auc_ovr")
    general = scoring.interval(other, label, prediction, day, than=prediction**2 % 0.3)
    assert tuple(quick) == pytest.approx(tuple(general), abs=1e-12)
