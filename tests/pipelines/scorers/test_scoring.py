"""Scores are scikit-learn's; intervals are drawn over days, paired, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LinearRegression, LogisticRegression

import models
from features import HeadwayError
from pipelines.scorers.scoring import conformal, interval, predict, score

BINARY, VALUE = models.load("late_arrival"), models.load("arrival_delay")
RANDOM = np.random.default_rng(3)
CHANCE = RANDOM.uniform(0.01, 0.99, 500)
CLASS = (RANDOM.random(500) < CHANCE).astype("float64")
NUMBER = RANDOM.normal(5, 10, 500)
GUESS = NUMBER + RANDOM.normal(1, 3, 500)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("roc_auc", metrics.roc_auc_score),
        ("average_precision", metrics.average_precision_score),
        ("neg_log_loss", lambda label, chance: -metrics.log_loss(label, chance)),
        ("neg_brier_score", lambda label, chance: -metrics.brier_score_loss(label, chance)),
        ("accuracy", lambda label, chance: metrics.accuracy_score(label, chance > 0.5)),
        ("f1", lambda label, chance: metrics.f1_score(label, chance > 0.5)),
    ],
)
def test_a_class_is_scored_as_scikit_learn_does(metric: str, expected: Callable[..., float]) -> None:
    assert score(replace(BINARY, metric=metric), CLASS, CHANCE) == pytest.approx(expected(CLASS, CHANCE), abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("neg_mean_absolute_error", lambda label, guess: -metrics.mean_absolute_error(label, guess)),
        ("neg_root_mean_squared_error", lambda label, guess: -metrics.root_mean_squared_error(label, guess)),
        ("neg_median_absolute_error", lambda label, guess: -metrics.median_absolute_error(label, guess)),
        ("r2", metrics.r2_score),
    ],
)
def test_a_value_is_scored_as_scikit_learn_does(metric: str, expected: Callable[..., float]) -> None:
    assert score(replace(VALUE, metric=metric), NUMBER, GUESS) == pytest.approx(expected(NUMBER, GUESS), abs=1e-12)


@pytest.mark.parametrize("metric", ["roc_auc", "neg_log_loss", "neg_brier_score"])
def test_stored_predictions_score_as_the_estimator_itself(metric: str) -> None:
    rows = RANDOM.normal(size=(300, 2))
    label = (rows[:, 0] + RANDOM.normal(size=300) > 0).astype("float64")
    estimator = LogisticRegression().fit(rows, label)
    model: Any = replace(BINARY, metric=metric)
    ours = predict(model, estimator, rows)
    np.testing.assert_array_equal(ours, estimator.predict_proba(rows)[:, 1])
    assert score(model, label, ours) == pytest.approx(metrics.get_scorer(metric)(estimator, rows, label), abs=1e-12)


def test_a_regression_predicts_the_value() -> None:
    rows = RANDOM.normal(size=(50, 1))
    estimator = LinearRegression().fit(rows, 2 * rows[:, 0])
    model: Any = VALUE
    np.testing.assert_allclose(predict(model, estimator, rows), 2 * rows[:, 0])


def test_labels_of_one_class_have_no_score() -> None:
    for label in (np.zeros(5), np.ones(5), np.array([])):
        assert np.isnan(score(BINARY, label, np.linspace(0.1, 0.9, len(label))))


def test_a_metric_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(HeadwayError, match=r"models/late_arrival.py: metric 'auc' is no scorer; .*, roc_auc, "):
        score(replace(BINARY, metric="auc"), CLASS, CHANCE)


DAYS = np.repeat([f"2013-03-{day:02d}" for day in range(1, 26)], 20)


def test_an_interval_holds_its_value_and_is_the_same_each_time() -> None:
    first = interval(BINARY, CLASS, CHANCE, DAYS)
    assert first == interval(BINARY, CLASS, CHANCE, DAYS)
    assert first.value == score(BINARY, CLASS, CHANCE)
    assert first.low < first.value < first.high


def test_an_interval_of_a_difference_is_paired() -> None:
    nearly = np.clip(CHANCE + RANDOM.normal(0, 0.01, 500), 0, 1)
    gain = interval(BINARY, CLASS, nearly, DAYS, than=CHANCE)
    alone = interval(BINARY, CLASS, nearly, DAYS)
    assert gain.value == pytest.approx(score(BINARY, CLASS, nearly) - score(BINARY, CLASS, CHANCE))
    assert gain.high - gain.low < (alone.high - alone.low) / 5
    same = interval(BINARY, CLASS, CHANCE, DAYS, than=CHANCE)
    assert same == (0.0, 0.0, 0.0)


def test_an_interval_is_wider_the_surer_it_must_be() -> None:
    sure, unsure = (replace(BINARY, gates=replace(BINARY.gates, confidence=c)) for c in (0.99, 0.6))
    wide, narrow = interval(sure, CLASS, CHANCE, DAYS), interval(unsure, CLASS, CHANCE, DAYS)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_days_that_are_good_or_bad_as_a_whole_are_covered_as_stated() -> None:
    # The error of a row is that of its day, uniform in [0, 2]: the mean error is 1, and rows of a day say the same.
    random, covered, by_row = np.random.default_rng(5), 0, 0
    for _ in range(20):
        error = np.repeat(random.uniform(0, 2, 25), 20)
        found = interval(VALUE, np.zeros(500), error, DAYS)
        covered += found.low <= -1 <= found.high
        naive = 1.96 * error.std() / np.sqrt(len(error))
        by_row += abs(error.mean() - 1) <= naive
    assert covered >= 17  # 19 of 20 are meant
    assert by_row <= 12  # what taking rows for independent would have given


def test_where_nothing_can_be_scored_the_interval_is_empty() -> None:
    assert np.isnan(interval(BINARY, np.zeros(40), CHANCE[:40], DAYS[:40])).all()


@pytest.mark.parametrize(("rows", "level"), [(19, 0.9), (50, 0.8), (60, 0.9), (199, 0.9), (400, 0.5)])
def test_an_interval_around_a_value_covers_as_often_as_it_says(rows: int, level: float) -> None:
    random, trials = np.random.default_rng(4), 4000
    # Skewed errors of a poor model: neither may matter.
    error = random.exponential(3.0, (trials, rows + 1)) ** 2 - 4.0
    guess = random.normal(0, 100, (trials, rows + 1))
    covered = 0
    for truth, given in zip(guess + error, guess, strict=True):
        offsets = conformal(truth[:-1], given[:-1], level)
        assert offsets is not None
        covered += given[-1] + offsets[0] <= truth[-1] <= given[-1] + offsets[1]
    # Lei et al. 2018, theorem 2: level <= coverage <= level + 2 / (n + 1), two for two tails; three standard errors.
    slack = 3 * np.sqrt(level * (1 - level) / trials)
    assert level - slack <= covered / trials <= level + 2 / (rows + 1) + slack


def test_an_interval_is_made_of_errors_that_happened_each_tail_on_its_own() -> None:
    label = np.arange(1.0, 40.0) ** 2
    assert conformal(label, np.zeros(39)) == (4.0, 38.0**2)
    assert conformal(label + 7, np.full(39, 7.0)) == (4.0, 38.0**2)
    assert conformal(np.arange(19.0), np.zeros(19)) == (0.0, 18.0)


def test_too_few_rows_give_no_interval() -> None:
    assert conformal(np.arange(18.0), np.zeros(18)) is None
    assert conformal(np.zeros(0), np.zeros(0)) is None
