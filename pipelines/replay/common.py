"""What the policies of a replay share: answers, profiles and contests hang on versions and days, not on who asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from models import Model
from monitoring import profile
from monitoring.profile import Bins, Profile
from pipelines.nights.decision import DAY
from pipelines.registry.package import Gate, Manifest, Packaged
from pipelines.registry.promotion import Pointer
from pipelines.replay import fits
from pipelines.replay.fits import Order
from pipelines.replay.frames import Frames
from pipelines.scorers.scoring import predict, score
from pipelines.scorers.tasks import columns, finite
from pipelines.training.judge import beside
from pipelines.training.retraining import reigning, unseen_answers

T = TypeVar("T")
ESTIMATORS = 24
"""Estimators that are held in memory."""


class Common:
    """Remembers what was asked once. Versions are named by their tag and come from `enlist`."""

    def __init__(self, frames: Frames, model: Model) -> None:
        self.frames, self.model = frames, model
        self._orders: dict[str, Order] = {}
        self._known: dict[tuple[Any, ...], Any] = {}
        self._estimator = lru_cache(ESTIMATORS)(fits.estimator)

    def enlist(self, manifest: Manifest, order: Order) -> Packaged:
        """A version that may be champion from now on. It is loaded when it is asked."""
        self._orders[manifest.tag] = order
        return Packaged(manifest, None, order.folder)

    def key(self, tag: str) -> str:
        """Which fit a version is: those of several policies may be the same."""
        return self._orders[tag].key

    def answers(self, tag: str, day: datetime) -> np.ndarray:
        """What a version answers to all requests of a UTC day: (n,), or (n, classes)."""
        week = self.frames.week(day)

        def answered() -> dict[datetime, np.ndarray]:  # a call costs as much as a day's rows: it is asked for a week
            inputs = [self.frames.day(each).inputs for each in week]
            ends = np.cumsum([len(each) for each in inputs])[:-1]
            found = self._answer(tag, pd.concat(inputs, ignore_index=True))
            return dict(zip(week, np.split(found, ends), strict=True))

        return self._once(("answers", self.key(tag), *week), answered)[day]

    def given(self, reigns: Sequence[Pointer], day: datetime) -> np.ndarray:
        """What callers were answered on a day: each by the version that was live at its decision time."""
        live = [reign for reign in reigns if datetime.fromisoformat(reign.as_of) < day + DAY]
        last = reigning(live or reigns, day)
        assert last is not None
        found = self.answers(last.tag, day)
        for reign in live:
            if (began := pd.Timestamp(reign.as_of)) >= pd.Timestamp(day):
                later = (self.frames.day(day).rows["decision_time"] > began).to_numpy()
                later = later if found.ndim == 1 else later[:, None]
                found = np.where(later, self.answers(reign.tag, day), found)
        return found

    def profile(self, reigns: Sequence[Pointer], day: datetime, tag: str, bins: Callable[[], Bins]) -> Profile:
        """The profile of a day's requests and answers, in the bins of a version."""
        live = [self.key(each.tag) for each in reigns if day <= datetime.fromisoformat(each.as_of) < day + DAY]

        def taken() -> Profile:
            scores = columns(self.model.classes, self.given(reigns, day))[profile.SCORE]
            return profile.take(self.frames.day(day).inputs.assign(**{profile.SCORE: scores}), bins())

        before = reigning(reigns, day)
        assert before is not None
        return self._once(("profile", day, self.key(tag), self.key(before.tag), *live), taken)

    def missing(self, day: datetime) -> tuple[int, pd.Series]:
        """How many requests a day had, and for how many of them each input was missing."""

        def counted() -> tuple[int, pd.Series]:
            inputs = self.frames.day(day).inputs
            return len(inputs), inputs.isna().sum()

        return self._once(("missing", day), counted)

    def meet(self, order: Order, alone: Manifest, champion: Packaged) -> tuple[tuple[Gate, ...], dict[str, float]]:
        """The gates and metrics of a fit that was judged alone, beside a champion."""

        def met() -> tuple[tuple[Gate, ...], dict[str, float]]:
            held, ours = fits.holdout(order.folder, self.frames)
            loaded = Packaged(champion.manifest, self._of(champion.manifest.tag), champion.folder)
            theirs = unseen_answers(self.model, loaded, held)
            gates = tuple(beside(self.model, held, ours, theirs, alone.gates))
            whole = bool(finite(theirs).all())
            value = score(self.model, held.rows["label"].to_numpy(), theirs) if whole else float("nan")
            return gates, alone.metrics | ({"champion": round(value, 6)} if np.isfinite(value) else {})

        return self._once(("met", order.key, self.key(champion.manifest.tag)), met)

    def _answer(self, tag: str, inputs: pd.DataFrame) -> np.ndarray:
        return predict(self.model, self._of(tag), inputs) if len(inputs) else np.empty(0)

    def _of(self, tag: str) -> Any:
        return self._estimator(self._orders[tag].folder)

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found
