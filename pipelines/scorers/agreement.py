"""Does the fast scorer answer as the pipeline does? Asked before it serves, on rows made to find where it does not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.scorers.scorer import FastScorer, NotCompiled, compile, pipeline_predict
from pipelines.store.matrix import FeatureLike, matrix

LIMIT = 1e-9
"""Largest difference allowed: absolute, and relative for values above 1."""
TRIALS, KEPT, REFUSALS, SEED = 10_000, 2_000, 25, 17

FLOAT32 = np.finfo("float32")
NUMBERS = (
    np.nan, 0.0, -0.0, 0.5, 1e30, -1e30, 1e300, -1e300, 5e-324, 1e-40, np.inf, -np.inf, 2.0**24 + 1, 2.0**53, 2.0**63,
    float(FLOAT32.max), -float(FLOAT32.max), float(FLOAT32.max) * (1 + 1e-8), float(FLOAT32.tiny), float(FLOAT32.eps),
)  # fmt: skip
TEXTS = (None, "", " ", "0", "nan", "None", "never seen", "\0", "ÿ\U0001f6eb", "x" * 1000)


@dataclass(frozen=True)
class Agreement:
    """How the fast scorer compares with the pipeline."""

    agrees: bool
    note: str
    rows: int
    """Answered by both."""
    refused: int
    """Refused by the fast scorer; the pipeline was asked about a few of them."""
    worst: float
    """Largest difference, as `difference` has it."""


@dataclass(frozen=True)
class Choice:
    """What serves a version, and why."""

    scorer: str
    note: str
    fast: FastScorer | None


def choose(task: str, estimator: Any, sample: pd.DataFrame, features: Sequence[FeatureLike]) -> Choice:
    """The fast scorer if the estimator can be compiled and agrees, else the pipeline, with the reason.

    Args:
        sample: rows as `matrix` makes them, (n, features) at least. The first ones are compared as they are, so
            golden rows belong there.
    """
    try:
        fast = compile(task, estimator, features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of overflow and unknown categories, which the rows are made for
            found = agreement(fast, estimator, sample, features, SEED)
    except NotCompiled as why:
        return Choice("pipeline", f"not compiled: {why}", None)
    except Exception as error:  # a night must not fail for want of speed
        return Choice("pipeline", f"it could not be compared: {type(error).__name__}: {error}", None)
    return Choice(fast.kind, found.note, fast) if found.agrees else Choice("pipeline", found.note, None)


def agreement(
    fast: FastScorer, estimator: Any, sample: pd.DataFrame, features: Sequence[FeatureLike], seed: int
) -> Agreement:
    """Compare on the sample's first rows and on random ones (see `trial_rows`), row by row and all at once.

    Rows that the pipeline refuses (a category it raises an error for, infinity) have no answer to compare: the fast
    scorer must refuse them too. It must not refuse what the pipeline answers, nor nearly everything.
    """
    given = {feature.name: sample[feature.name].tolist() for feature in features}
    trials = trial_rows(fast, given, features, seed)
    columns = {name: [*values[:KEPT], *trials[name]] for name, values in given.items()}
    alone = [_alone(fast, columns, row) for row in range(len(next(iter(columns.values()))))]
    answered = [row for row, answer in enumerate(alone) if answer is not None]
    refused = [row for row, answer in enumerate(alone) if answer is None]
    if len(answered) < TRIALS // 20 or min(refused, default=KEPT) < min(len(sample), KEPT):
        return Agreement(False, "it refuses rows of the sample, or too many", len(answered), len(refused), np.inf)
    kept = {name: [values[row] for row in answered] for name, values in columns.items()}
    try:
        pipeline = pipeline_predict(fast.task, estimator, matrix(kept, features))
    except ValueError:
        return Agreement(False, "it answers what the pipeline refuses", len(answered), len(refused), np.inf)
    for row in refused[:: max(1, len(refused) // REFUSALS)]:
        one = matrix({name: [values[row]] for name, values in columns.items()}, features)
        if _answers(fast.task, estimator, one):
            return Agreement(False, "it refuses what the pipeline answers", len(answered), len(refused), np.inf)
    one_by_one = np.array([answer for answer in alone if answer is not None])
    worst = max(difference(one_by_one, pipeline), difference(fast.predict(kept), pipeline))
    note = f"differs from the pipeline by {worst:.0e} at most on {len(answered)} rows"
    return Agreement(worst <= LIMIT, note, len(answered), len(refused), worst)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest |ours - theirs| / max(1, |theirs|) of answers; infinite when one of the two is not a number."""
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs)))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))


def trial_rows(
    fast: FastScorer, given: dict[str, list[Any]], features: Sequence[FeatureLike], seed: int
) -> dict[str, list[Any]]:
    """TRIALS rows as `filled` gives them: the sample's columns shuffled one by one, with odd values strewn in.

    Numbers: missing, extremes, float32's limits, and each column's split points with their neighbours in float64
    and float32, since a value that rounds across a threshold falls into another leaf. Texts: missing, empty, unseen.
    A quarter of the rows has none of them, a quarter a few, a quarter many, a quarter nothing else.
    """
    random = np.random.default_rng(seed)
    share = random.choice([0.0, 0.05, 0.3, 1.0], TRIALS)
    rows = {}
    for feature in features:
        odd: Any = TEXTS if feature.dtype == "str" else (*NUMBERS, *_around(fast.thresholds.get(feature.name, ())))
        usual = random.integers(len(given[feature.name]), size=TRIALS)
        # Half of the odd values are from the fixed ones, however many thresholds there are.
        fixed = len(TEXTS) if feature.dtype == "str" else len(NUMBERS)
        strange = np.where(random.random(TRIALS) < 0.5, *random.integers([[fixed], [len(odd)]], size=(2, TRIALS)))
        takes = random.random(TRIALS) < share
        values = given[feature.name]
        rows[feature.name] = [
            odd[other] if take else values[one] for take, other, one in zip(takes, strange, usual, strict=True)
        ]
    return rows


def _around(thresholds: Any) -> list[float]:
    exact = np.asarray(thresholds, dtype="float64")
    with np.errstate(over="ignore"):
        single = exact.astype("float32")
        near = [
            exact, single, *(np.nextafter(exact, side) for side in (-np.inf, np.inf)),
            *(np.nextafter(single, np.float32(side)) for side in (-np.inf, np.inf)),
            (single.astype("float64") + np.nextafter(single, np.float32(np.inf))) / 2,
        ]  # fmt: skip
    return np.concatenate([part.astype("float64") for part in near]).tolist()


def _alone(fast: FastScorer, columns: dict[str, list[Any]], row: int) -> np.ndarray | None:
    """The answer to one row: a number, or one a class."""
    try:
        return fast.predict({name: [values[row]] for name, values in columns.items()})[0]
    except ValueError:
        return None


def _answers(task: str, estimator: Any, frame: pd.DataFrame) -> bool:
    try:
        return bool(np.isfinite(pipeline_predict(task, estimator, frame)).all())
    except ValueError:
        return False
