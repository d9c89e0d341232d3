"""Gates: what a challenger must show before it is promoted. All on the same held-out rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from models import Model
from monitoring.profile import iso_days
from pipelines.frame import Frame, Split
from pipelines.scorer import FastScorer
from pipelines.scoring import Interval, interval, predict, score

TIMED = 30
LEAK = "no feature alone explains the label"
TOO_GOOD, LEAVES = 0.95, 16
"""What one feature alone may explain of the label (AUC, or R2), by a tree of so many leaves."""
DIGITS = 6


class Gate(msgspec.Struct, frozen=True):
    """One gate: its number, its limit, its verdict."""

    name: str
    passed: bool
    limit: float
    value: float | None
    """None where the number is a timing: it differs from run to run, and a version's record must not."""
    low: float | None = None
    high: float | None = None
    sentence: str = ""


def judge(
    model: Model, estimator: Any, parts: Split, champion: np.ndarray | None, twin: Any, fast: FastScorer | None = None
) -> list[Gate]:
    """Put a challenger through its gates.

    Args:
        estimator: the fitted challenger.
        parts: training and holdout frames.
        champion: (n,) the champion's predictions for the holdout rows, NaN for rows it was trained on; None
            when there is no champion.
        twin: the same estimator, fitted a second time on the same rows.
        fast: what will answer requests in the challenger's place; None: the challenger itself.
    """
    holdout = parts.holdout
    ours = predict(model, estimator, holdout.inputs)
    gates = [_baseline(model, name, make(), parts, ours) for name, make in model.baselines.items()]
    gates += [_slice(model, part.name, part, holdout, ours) for part in model.slices]
    gates.append(_calibration(model, _labels(holdout), ours))
    gates.append(_leak(model, holdout))
    gates.append(_determinism(ours, predict(model, twin, holdout.inputs)))
    gates.append(_latency(model, estimator, holdout, fast))
    return gates if champion is None else beside(model, holdout, ours, champion, gates)


def beside(model: Model, holdout: Frame, ours: np.ndarray, champion: np.ndarray, gates: Sequence[Gate]) -> list[Gate]:
    """The gates of a challenger that was judged alone, beside a champion: its own gate follows the baselines' ones.

    What the champion reaches on the same rows is no leak: then the problem is that easy.

    Args:
        holdout: of the rows, only labels and decision times are looked at.
        ours, champion: both ones' answers to it; the champion's are NaN for rows that it was trained on.
    """
    first = len(model.baselines)
    rest = [_excused(model, holdout, champion, gate) if gate.name == LEAK else gate for gate in gates]
    return [*rest[:first], _champion(model, holdout, ours, champion), *rest[first:]]


def _days(frame: Frame) -> np.ndarray:
    """The day of each row: the blocks that intervals are drawn over."""
    return iso_days(frame.rows["decision_time"])


def _labels(frame: Frame) -> np.ndarray:
    return frame.rows["label"].to_numpy(dtype="float64")


def _gate(name: str, passed: bool, limit: float, found: Interval, sentence: str) -> Gate:
    value, low, high = (round(float(number), DIGITS) if np.isfinite(number) else None for number in found)
    return Gate(name, bool(passed), limit, value, low, high, sentence)


def _baseline(model: Model, name: str, estimator: Any, parts: Split, ours: np.ndarray) -> Gate:
    estimator.fit(parts.train.inputs, _labels(parts.train))
    theirs = predict(model, estimator, parts.holdout.inputs)
    gain = interval(model, _labels(parts.holdout), ours, _days(parts.holdout), than=theirs)
    limit = model.gates.gain_over_baseline
    text = f"{model.metric} above {name} by {gain.value:.3f}, interval {gain.low:.3f} to {gain.high:.3f}"
    return _gate(f"beats {name}", gain.low > limit, limit, gain, text)


def _champion(model: Model, holdout: Frame, ours: np.ndarray, champion: np.ndarray) -> Gate:
    name, limit = "not worse than the champion", -model.gates.loss_to_champion
    unseen = np.isfinite(champion)
    label = _labels(holdout)
    if unseen.sum() < 2 or (model.task == "binary" and len(np.unique(label[unseen])) < 2):
        return Gate(name, False, limit, None, sentence="no held-out rows that the champion was not trained on")
    block = _days(holdout)[unseen]
    gain = interval(model, label[unseen], ours[unseen], block, than=champion[unseen])
    text = f"{model.metric} against the champion {gain.value:+.3f}, interval {gain.low:+.3f} to {gain.high:+.3f}"
    return _gate(name, gain.low >= limit, limit, gain, text)


def _slice(model: Model, name: str, part: Any, holdout: Frame, ours: np.ndarray) -> Gate:
    if part.column not in holdout.rows:
        return Gate(f"slice {name}", False, part.floor, None, sentence=f"the examples have no column {part.column}")
    inside = (holdout.rows[part.column] == part.value).to_numpy()
    found = score(model, _labels(holdout)[inside], ours[inside]) if inside.any() else float("nan")
    text = f"{model.metric} {found:.3f} on {int(inside.sum())} rows where {part.column} is {part.value}"
    return _gate(f"slice {name}", found >= part.floor, part.floor, Interval(found, found, found), text)


def _calibration(model: Model, label: np.ndarray, ours: np.ndarray) -> Gate:
    limit = model.gates.calibration
    found = (
        expected_calibration_error(label, ours)
        if model.task == "binary"
        else abs(np.mean(ours - label)) / np.std(label)
    )
    text = f"off by {found:.3f} on average" + ("" if model.task == "binary" else " standard deviations")
    return _gate("calibration", found <= limit, limit, Interval(found, found, found), text)


def expected_calibration_error(label: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Mean |observed share - mean probability| over equal-count bins, weighted by rows (Naeini et al. 2015).

    Args:
        label: (n,) 0 or 1. probability: (n,) in [0, 1].
    """
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [len(rows) * abs(label[rows].mean() - probability[rows].mean()) for rows in parts if len(rows)]
    return float(sum(gaps) / len(label))


def _leak(model: Model, holdout: Frame) -> Gate:
    """Whether one feature alone nearly tells the label: it was written after the fact, or is the label itself.

    A small tree on that feature alone answers one half of the holdout from the other: so a relation of any shape, a
    category and a missing value count, and so does a feature that became too good only lately.
    """
    label = _labels(holdout)
    found = {feature: _alone(model, values, label) for feature, values in holdout.inputs.items()}
    best, value = max(found.items(), key=lambda each: each[1])
    text = f"`{best}` alone explains {value:.3f} of it ({'AUC' if model.task == 'binary' else 'R2'})"
    return _gate(LEAK, value <= TOO_GOOD, TOO_GOOD, Interval(value, value, value), text)


def _excused(model: Model, holdout: Frame, champion: np.ndarray, leak: Gate) -> Gate:
    known, label = np.isfinite(champion), _labels(holdout)
    limit = max(TOO_GOOD, _explained(model, label[known], champion[known]) if known.sum() > 1 else 0.0)
    passed = leak.value is not None and leak.value <= limit
    return msgspec.structs.replace(leak, passed=passed, limit=round(limit, DIGITS))


def _alone(model: Model, values: pd.Series, label: np.ndarray) -> float:
    """How well a tree of `LEAVES` leaves on one feature explains the label of rows that it was not fitted on."""
    numbers = pd.factorize(values)[0] if values.dtype == object else values.to_numpy(dtype="float64")
    column = np.asarray(numbers, dtype="float64").reshape(-1, 1)
    size: dict[str, int] = {"max_leaf_nodes": LEAVES, "min_samples_leaf": 5, "random_state": 0}
    if model.task == "regression":
        halves = KFold(2, shuffle=True, random_state=0)
        return _explained(model, label, cross_val_predict(DecisionTreeRegressor(**size), column, label, cv=halves))
    if np.unique(label, return_counts=True)[1].min() < 2:  # one in each half, or nothing is learned
        return 0.0
    parts = StratifiedKFold(2, shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(**size)
    return _explained(model, label, cross_val_predict(tree, column, label, cv=parts, method="predict_proba")[:, -1])


def _explained(model: Model, label: np.ndarray, answers: np.ndarray) -> float:
    if len(np.unique(label)) < 2:
        return 0.0
    return float(roc_auc_score(label, answers) if model.task == "binary" else max(0.0, r2_score(label, answers)))


def _determinism(ours: np.ndarray, twin: np.ndarray) -> Gate:
    differ = int((ours != twin).sum())
    return Gate(
        "determinism", differ == 0, 0.0, float(differ), sentence=f"{differ} predictions differ when fitted twice"
    )


def _latency(model: Model, estimator: Any, holdout: Frame, fast: FastScorer | None) -> Gate:
    """Times what will serve: nobody waits for the other one."""
    seconds = []
    for row in range(min(TIMED, len(holdout))):
        one = holdout.inputs.iloc[[row]]
        columns = one.to_dict("list")
        began = time.perf_counter()
        if fast is None:
            predict(model, estimator, one)
        else:
            fast.predict(columns)
        seconds.append(time.perf_counter() - began)
    limit = model.gates.latency_ms
    passed = statistics.median(seconds) * 1000 <= limit
    return Gate(
        "latency", passed, limit, None, sentence=f"one prediction {'within' if passed else 'above'} {limit:g} ms"
    )
