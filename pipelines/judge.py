"""Gates: what a challenger must show before it is promoted. All on the same held-out rows."""

from __future__ import annotations

import statistics
import time
from typing import Any

import msgspec
import numpy as np

from models import Model
from monitoring.profile import iso_days
from pipelines.frame import Frame, Split
from pipelines.scorer import FastScorer
from pipelines.scoring import Interval, interval, predict, score

TIMED = 30
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
    if champion is not None:
        gates.append(_champion(model, holdout, ours, champion))
    gates += [_slice(model, part.name, part, holdout, ours) for part in model.slices]
    gates.append(_calibration(model, _labels(holdout), ours))
    gates.append(_determinism(ours, predict(model, twin, holdout.inputs)))
    gates.append(_latency(model, estimator, holdout, fast))
    return gates


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
