"""The training frame: examples with known labels, each with the features serving could have seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd

import features
from features import HeadwayError
from models import Model
from pipelines.home import Home
from pipelines.records.examples import labelled
from pipelines.store.matrix import matrix

ENOUGH = 200
"""Fewer labelled rows than this on either side of the split, and nothing can be fitted or judged."""


@dataclass(frozen=True)
class Frame:
    """Rows for a model: `rows` are examples (n, columns of the declared query), `inputs` what the model is given
    (n, features), in the same order."""

    rows: pd.DataFrame
    inputs: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: pd.Series) -> Frame:
        """The rows for which `mask` (n, bool) is true, renumbered from 0."""
        return Frame(self.rows[mask].reset_index(drop=True), self.inputs[mask].reset_index(drop=True))


def with_features(at: Home, model: Model, rows: pd.DataFrame) -> Frame:
    """Examples with their features as of each decision time, point-in-time correct."""
    from pipelines.store.feature_store import point_in_time

    domain = features.load(model.domain)
    asked = [*domain.keys_of(model.feature_service), *domain.inputs_of(model.feature_service), "decision_time"]
    found = point_in_time(at, model.feature_service, rows[asked].reset_index(drop=True))
    return Frame(rows.reset_index(drop=True), matrix(found, domain.features_of(model.feature_service)))


def training_frame(at: Home, model: Model, as_of: datetime) -> Frame:
    """The labelled examples of the training window that has matured by `as_of`, with features."""
    return with_features(at, model, labelled(at, model, as_of=as_of, window=model.training_window))


@dataclass(frozen=True)
class Split:
    """A frame split by time: the holdout is the latest part."""

    train: Frame
    holdout: Frame
    trained_until: datetime


def split(model: Model, frame: Frame, as_of: datetime) -> Split:
    """Keep the model's holdout out of training: examples decided in the last `holdout` that has matured by `as_of`.

    Raises HeadwayError when one side is too small to mean anything, or a class has no row to train on.
    """
    until = model.examples.matured(as_of) - model.holdout
    late = frame.rows["decision_time"] > pd.Timestamp(until)
    parts = Split(frame.where(~late), frame.where(late), until)
    for name, part in (("training", parts.train), ("holdout", parts.holdout)):
        if len(part) < ENOUGH:
            raise HeadwayError(
                f"{model.name}: {len(part)} labelled {name} rows as of {as_of:%Y-%m-%d}, at least {ENOUGH} are needed. "
                f"Ingest more history (`headway ingest {model.domain}`), or train as of a later day."
            )
    every_class(model, parts.train)
    return parts


def every_class(model: Model, train: Frame) -> None:
    """Raise HeadwayError when a declared class has no row to train on: nothing could be learned of it."""
    known = set(train.rows["label"])
    if lacking := [name for place, name in enumerate(model.classes) if place not in known]:
        raise HeadwayError(
            f"{model.name}: no training row is {' or '.join(lacking)}, so nothing can be learned of it. "
            "Ingest more history, train as of a later day, or take it out of `classes`."
        )


def span(frame: Frame) -> dict[str, str | int]:
    """What a manifest says of a frame: how many rows, decided from when to when."""
    times = frame.rows["decision_time"]
    return {"rows": len(frame), "first": times.min().isoformat(), "last": times.max().isoformat()}
