"""Gates: what a challenger must show before it is promoted. All on the same held-out rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from models import Model
from monitoring.profile import iso_days
from pipelines.records.frame import Frame, Split
from pipelines.registry.package import Gate
from pipelines.scorers.scorer import FastScorer
from pipelines.scorers.scoring import Interval, interval, predict, score
from pipelines.scorers.tasks import TASKS, Task, finite

TIMED = 30
LEAK = "no feature alone explains the label"
TOO_GOOD = 0.95
"""What one feature alone may explain of the label (AUC, or R2)."""
DIGITS = 6


def judge(
    model: Model, estimator: Any, parts: Split, champion: np.ndarray | None, twin: Any, fast: FastScorer | None = None
) -> list[Gate]:
    """Put a challenger through its gates.

    Args:
        estimator: the fitted challenger.
        parts: training and holdout frames.
        champion: the champion's predictions for the holdout rows, NaN for rows it was trained on; None when there
            is no champion.
        twin: the same estimator, fitted a second time on the same rows.
        fast: what will answer requests in the challenger's place; None: the challenger itself.
    """
    holdout, gates = parts.holdout, alone(model, estimator, parts)
    ours = predict(model, estimator, holdout.inputs)
    gates.append(_determinism(ours, predict(model, twin, holdout.inputs)))
    gates.append(_latency(model, estimator, holdout, fast))
    return gates if champion is None else beside(model, holdout, ours, champion, gates)


def alone(model: Model, estimator: Any, parts: Split) -> list[Gate]:
    """The gates that hang on nothing but the challenger and its data: not on a champion, nor on this machine."""
    holdout, ours = parts.holdout, predict(model, estimator, parts.holdout.inputs)
    gates = [_baseline(model, name, make(), parts, ours) for name, make in model.baselines.items()]
    gates += [_slice(model, part.name, part, holdout, ours) for part in model.slices]
    gates.append(_calibration(model, _labels(holdout), ours))
    gates.append(_leak(model, holdout))
    return gates


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
    unseen = finite(champion)
    label = _labels(holdout)
    if unseen.sum() < 2 or not TASKS[model.task].tells(label[unseen]):
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
    where = f"{int(inside.sum())} rows where {part.column} is {part.value}"
    alike = ", all with one label" if inside.any() else ""
    text = f"{model.metric} {found:.3f} on {where}" if np.isfinite(found) else f"nothing to judge by: {where}{alike}"
    return _gate(f"slice {name}", found >= part.floor, part.floor, Interval(found, found, found), text)


def _calibration(model: Model, label: np.ndarray, ours: np.ndarray) -> Gate:
    limit, task = model.gates.calibration, TASKS[model.task]
    found = task.off(label, ours)
    text = f"off by {found:.3f} on average{task.unit}"
    return _gate("calibration", found <= limit, limit, Interval(found, found, found), text)


def _leak(model: Model, holdout: Frame) -> Gate:
    """Whether one feature alone nearly tells the label: it was written after the fact, or is the label itself.

    A small tree on that feature alone answers one half of the holdout from the other: so a relation of any shape, a
    category and a missing value count, and so does a feature that became too good only lately.
    """
    label = _labels(holdout)
    task = TASKS[model.task]
    found = {feature: _alone(task, values, label, len(model.classes)) for feature, values in holdout.inputs.items()}
    best, value = max(found.items(), key=lambda each: each[1])
    text = f"`{best}` alone explains {value:.3f} of it ({task.explained_in})"
    return _gate(LEAK, value <= TOO_GOOD, TOO_GOOD, Interval(value, value, value), text)


def _excused(model: Model, holdout: Frame, champion: np.ndarray, leak: Gate) -> Gate:
    known, label = finite(champion), _labels(holdout)
    limit = max(TOO_GOOD, _explained(TASKS[model.task], label[known], champion[known]) if known.sum() > 1 else 0.0)
    passed = leak.value is not None and leak.value <= limit
    return msgspec.structs.replace(leak, passed=passed, limit=round(limit, DIGITS))


def _alone(task: Task, values: pd.Series, label: np.ndarray, classes: int) -> float:
    """How well a small tree on one feature explains the label of rows that it was not fitted on."""
    numbers = pd.factorize(values)[0] if values.dtype == object else values.to_numpy(dtype="float64")
    column = np.asarray(numbers, dtype="float64").reshape(-1, 1)
    return _explained(task, label, task.learned(column, label, classes))


def _explained(task: Task, label: np.ndarray, answers: np.ndarray) -> float:
    return task.explained(label, answers) if len(np.unique(label)) > 1 else 0.0


def _determinism(ours: np.ndarray, twin: np.ndarray) -> Gate:
    differ = int((ours != twin).reshape(len(ours), -1).any(axis=1).sum())
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
