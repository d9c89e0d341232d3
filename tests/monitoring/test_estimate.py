"""What a week should be without its labels: right where the relation holds, blind where it does not, and scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import get_scorer, log_loss, roc_auc_score

from monitoring.estimate import expected, implied, trust

Rows = tuple[np.ndarray, np.ndarray]


def answered(random: np.random.Generator, n: int, centre: float = 0.0, spread: float = 1.0) -> Rows:
    """Labels, and the answers of a model that ranks rightly and is too sure of itself."""
    logit = random.normal(centre, spread, n)
    label = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return label, 1 / (1 + np.exp(-2.0 * logit))


def estimated(metric: str, held: Rows, asked: np.ndarray) -> float:
    told = implied(metric, *held, asked)
    assert told is not None
    found = expected(metric, asked, told)
    assert found is not None
    return found


def test_the_expected_auc_counts_pairs() -> None:
    asked = np.array([0.1, 0.4, 0.4, 0.4, 0.8, 0.9])
    chance = np.array([0.2, 0.1, 0.5, 0.6, 0.4, 0.95])
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    weight = [chance[i] * (1 - chance[j]) for i, j in pairs]
    right = [(asked[i] > asked[j]) + (asked[i] == asked[j]) / 2 for i, j in pairs]
    assert expected("roc_auc", asked, chance) == pytest.approx(np.average(right, weights=weight), abs=1e-12)
    certain = (chance > 0.45).astype(float)
    assert expected("roc_auc", asked, certain) == pytest.approx(roc_auc_score(certain, asked), abs=1e-12)


TRUTH: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "roc_auc": roc_auc_score,
    "neg_log_loss": lambda label, answer: -log_loss(label, answer),
    "neg_brier_score": lambda label, answer: -float(np.mean((label - answer) ** 2)),
    "accuracy": lambda label, answer: float(np.mean(label == (answer >= 0.5))),
}


@pytest.mark.parametrize("metric", TRUTH)
def test_other_inputs_under_the_same_relation_are_followed(metric: str) -> None:
    random = np.random.default_rng(4)
    held = answered(random, 4000, spread=1.5)
    usual, (label, asked) = answered(random, 6000, spread=1.5), answered(random, 6000, centre=0.4, spread=0.6)
    moved = TRUTH[metric](label, asked) - TRUTH[metric](*usual)
    told = estimated(metric, held, asked)
    assert told == pytest.approx(TRUTH[metric](label, asked), abs=0.03)
    assert abs(moved) > 0.05, "nothing changed, so nothing was followed"
    assert told - estimated(metric, held, usual[1]) == pytest.approx(moved, abs=0.03)


def test_a_relation_that_changed_is_not_seen() -> None:
    random = np.random.default_rng(5)
    held, (label, asked) = answered(random, 2000), answered(random, 2000)
    assert roc_auc_score(1 - label, asked) < 0.4
    assert estimated("roc_auc", held, asked) > 0.6


@pytest.mark.parametrize("metric", ["neg_mean_absolute_error", "neg_mean_squared_error", "neg_root_mean_squared_error"])
def test_errors_of_values_follow_the_answers(metric: str) -> None:
    random = np.random.default_rng(6)

    def valued(low: float, high: float) -> Rows:
        answer = random.uniform(low, high, 5000)
        return answer + random.normal(0, 1 + answer), answer

    held, (label, asked) = valued(0, 10), valued(6, 10)
    truth = get_scorer(metric)._sign * get_scorer(metric)._score_func(label, asked)
    assert estimated(metric, held, asked) == pytest.approx(truth, rel=0.05)
    assert estimated(metric, held, held[1]) == pytest.approx(
        get_scorer(metric)._sign * get_scorer(metric)._score_func(*held), rel=1e-9
    )
    assert estimated(metric, held, asked) < 1.15 * estimated(metric, held, held[1])


def test_where_nothing_can_be_told_nothing_is() -> None:
    label, answer = answered(np.random.default_rng(7), 400)
    assert implied("roc_auc", label[:99], answer[:99], answer) is None
    assert implied("roc_auc", np.ones(400), answer, answer) is None
    assert implied("f1", label, answer, answer) is None
    assert expected("roc_auc", answer[:0], answer[:0]) is None
    assert expected("roc_auc", answer, np.ones(400)) is None


def test_estimates_are_held_against_the_truth() -> None:
    found = trust([(0.70, 0.72), (0.72, 0.70), (0.75, 0.76), (0.74, 0.71)])
    assert found is not None
    assert (found.weeks, found.right, found.changes) == (4, 2, 3)
    assert found.error == pytest.approx(0.02)
    assert found.unchanged == pytest.approx(0.13 / 3)
    assert "off by 0.0200 on average" in found.sentence
    assert "2 of 3 changes the right way round" in found.sentence
    assert trust([(0.7, 0.7)]) is None


def of_classes(random: np.random.Generator, n: int, weights: tuple[float, float, float]) -> Rows:
    """Labels of three classes, and the answers of a model that ranks rightly and is too sure of itself."""
    chances = random.dirichlet(weights, n)
    label = (random.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1).astype(float)
    sharper = chances**2 / (chances**2).sum(axis=1, keepdims=True)
    return label, sharper


TRUTH_OF_CLASSES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "roc_auc_ovr": lambda label, answer: roc_auc_score(label, answer, multi_class="ovr"),
    "neg_log_loss": lambda label, answer: -log_loss(label, answer),
    "accuracy": lambda label, answer: float(np.mean(label == answer.argmax(axis=1))),
}


@pytest.mark.parametrize("metric", TRUTH_OF_CLASSES)
def test_of_several_classes_other_inputs_are_followed_too(metric: str) -> None:
    random = np.random.default_rng(5)
    held, usual = (of_classes(random, 5000, (1.0, 1.0, 1.0)) for _ in range(2))
    label, asked = of_classes(random, 5000, (4.0, 4.0, 3.0))
    truth = TRUTH_OF_CLASSES[metric]
    told = estimated(metric, held, asked)
    assert told == pytest.approx(truth(label, asked), abs=0.03)
    assert truth(*usual) - truth(label, asked) > 0.05, "nothing changed, so nothing was followed"
    given = implied(metric, *held, asked)
    assert given is not None and given.sum(axis=1) == pytest.approx(np.ones(5000))


def test_of_several_classes_what_cannot_be_told_is_not() -> None:
    label, asked = of_classes(np.random.default_rng(5), 500, (1.0, 1.0, 1.0))
    assert implied("roc_auc", label, asked, asked) is None
    assert implied("roc_auc_ovr", np.ones(500), asked, asked) is None
