"""What retraining is expected to gain: a model refitted at the start of each window, scored on it beside the champion.

A night that closes a window fits the declared estimator once, as it would have been trained when the latest matured
window began, and keeps both models' answers to that window. Window by window the interval comes to rest on more.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from features import HeadwayError
from models import Model
from monitoring import budget
from monitoring.profile import iso_days
from monitoring.verdict import Gain
from pipelines.files import read_json, write_json
from pipelines.home import Home
from pipelines.records.examples import examples
from pipelines.records.frame import ENOUGH, every_class, with_features
from pipelines.registry.package import Packaged
from pipelines.scorers.scoring import interval, predict
from pipelines.training.judge import DIGITS

SAMPLE = 2000
"""Answers that are kept of a window."""
WINDOWS = 8
"""The champion's latest windows count: what it would have gained long ago says little of today."""
ENOUGH_DAYS = 3


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What the champion and the refitted model answered to a window's examples (n each), and what came true."""

    since: str
    until: str
    """The examples were decided in (since, until]; the refitted model was trained as of `since`."""
    digest: str
    """Of the champion."""
    days: list[str]
    label: list[float]
    champion: list[float | list[float]]
    refitted: list[float | list[float]]


def expected(at: Home, model: Model, as_of: datetime, champion: Packaged) -> Gain:
    """What retraining would gain, by the champion's latest windows whose labels have matured by `as_of`.

    The latest is scored and kept first, unless it is there already. Nothing is used that was not known by then, and the
    refitted model knows nothing that was not known when its window began.
    """
    until = _midnight(model.examples.matured(as_of))
    since, word = until - model.monitoring.window, budget.window_word(model.monitoring.window)
    if since <= datetime.fromisoformat(champion.manifest.trained_as_of):
        return _untold(model, f"no {word} whose labels are in began after the champion was trained")
    folder = at.room("nights", model.name, "gain")
    try:
        if not _is_of(folder / f"{since:%Y-%m-%d}.json", champion):
            write_json(folder / f"{since:%Y-%m-%d}.json", answers(at, model, since, until, as_of, champion))
        return told(model, _kept(folder, since, champion))
    except Exception as error:  # the estimator is the user's, and a verdict must come whatever it raises
        what = str(error) if isinstance(error, HeadwayError) else f"{type(error).__name__}: {error}"
        return _untold(model, f"the refit of {since:%d %B} failed: {what}")


def answers(at: Home, model: Model, since: datetime, until: datetime, as_of: datetime, champion: Packaged) -> Answers:
    """Fit the model as of `since`, and ask it and the champion for a sample of the examples decided in (since, until].

    Raises HeadwayError when there are too few labels, or the champion was trained with other features or classes.
    """
    matured = model.examples.matured(since)
    rows = examples(at, model, matured - model.training_window, until, as_of=as_of)
    start, decided, labelled = pd.Timestamp(since), rows["decision_time"], rows["label"].notna()
    # Trained as retraining would have: on labels known by then, the holdout left out.
    trains = labelled & (decided <= pd.Timestamp(matured - model.holdout)) & (rows["label_known_at"] <= start)
    asked = _sampled(rows[labelled & (decided > start)])
    if min(trains.sum(), len(asked)) < ENOUGH:
        raise HeadwayError(f"{trains.sum()} labelled rows to train on and {len(asked)} to score, {ENOUGH} are needed")
    frame = with_features(at, model, pd.concat([rows[trains], asked], ignore_index=True))
    held = pd.Series(np.arange(len(frame)) >= trains.sum())
    train, scored = frame.where(~held), frame.where(held)
    every_class(model, train)
    refitted = model.estimator().fit(train.inputs, train.rows["label"].to_numpy())
    known = [feature.name for feature in champion.manifest.features]
    if lacking := sorted(set(known) - set(scored.inputs)):
        raise HeadwayError(f"the champion was trained with {', '.join(lacking)}, which is declared no more")
    if (champion.manifest.classes or ()) != model.classes:
        raise HeadwayError("the champion was trained with other classes than are declared")
    return Answers(
        since=since.isoformat(), until=until.isoformat(), digest=champion.manifest.digest,
        days=[str(day) for day in iso_days(scored.rows["decision_time"])], label=_listed(scored.rows["label"]),
        champion=_listed(champion.predict(scored.inputs[known])),
        refitted=_listed(predict(model, refitted, scored.inputs)),
    )  # fmt: skip


def told(model: Model, windows: list[Answers]) -> Gain:
    """The gain over all windows together, with its paired interval over days."""
    days, label, ours, theirs = (
        np.concatenate([getattr(each, part) for each in windows]) for part in ("days", "label", "refitted", "champion")
    )
    if len(set(days)) < ENOUGH_DAYS:
        return _untold(model, f"labels of {len(set(days))} days are in, {ENOUGH_DAYS} are needed")
    found = interval(model, label, ours, days, than=theirs)
    if not np.isfinite(found).all():
        return _untold(model, f"{model.metric} cannot be told of these labels")
    value, low, high = (round(float(number), DIGITS) for number in found)
    hope = "expected to gain" if low > 0 else "expected to lose" if high < 0 else "not expected to change much"
    word = budget.window_word(model.monitoring.window)
    over = f"the last {len(windows)} {word}s" if len(windows) > 1 else f"the last {word}"
    sentence = (
        f"retraining is {hope}: the {model.metric} of a model refitted as of each {word}'s start differed from the "
        f"champion's by {value:+.3f} over {over}, interval {low:+.3f} to {high:+.3f}"
    )
    return Gain(model.metric, value, low, high, len(windows), sentence)


def _untold(model: Model, why: str) -> Gain:
    return Gain(model.metric, None, None, None, 0, f"what retraining would gain is not told yet: {why}")


def _kept(folder: Path, since: datetime, champion: Packaged) -> list[Answers]:
    """The champion's latest windows up to the one that began at `since`, oldest first.

    After a rollback windows begin on another weekday: of two that overlap the later one counts.
    """
    paths = sorted((path for path in folder.glob("*.json") if path.stem <= f"{since:%Y-%m-%d}"), reverse=True)
    kept: list[Answers] = []
    for found in (read_json(path, Answers) for path in paths):
        if found.digest == champion.manifest.digest and (not kept or found.until <= kept[0].since):
            kept.insert(0, found)
    return kept[-WINDOWS:]


def _is_of(path: Path, champion: Packaged) -> bool:
    return path.exists() and read_json(path, Answers).digest == champion.manifest.digest


def _sampled(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows whatever else there is: an example's place in the sample is decided by its name."""
    order = pd.util.hash_pandas_object(rows["example_id"], index=False).to_numpy().argsort(kind="stable")
    return rows.iloc[np.sort(order[:SAMPLE])]


def _listed(values: pd.Series | np.ndarray) -> list[Any]:
    return np.round(np.asarray(values, dtype="float64"), DIGITS).tolist()


def _midnight(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)
