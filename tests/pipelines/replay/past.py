"""A past that is quick to replay: the shared history, and the declared model made small."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from sklearn.dummy import DummyClassifier

import models
from models import Model, Retraining
from pipelines.home import Home, utc
from pipelines.replay.past import Past

DAY = timedelta(days=1)
SINCE, UNTIL = utc("2013-02-12"), utc("2013-03-02T00:30Z")
DECLARED = models.load("late_arrival")
# A shallow tree, three weeks to learn from, and days for windows: so two weeks show what a year would.
SMALL: Model = replace(
    DECLARED,
    estimator=DECLARED.baselines["hour_of_day"],
    baselines={"always_the_same": lambda: DummyClassifier(strategy="prior")},
    slices=(),
    training_window=timedelta(days=21),
    holdout=timedelta(days=8),
    gates=replace(DECLARED.gates, loss_to_champion=0.05, calibration=0.3),
    retraining=Retraining(max_age=timedelta(days=9), cooldown=timedelta(days=4)),
    monitoring=replace(DECLARED.monitoring, window=DAY, false_alarms_per_year=52.0),
)


def small(at: Home, room: Path) -> Past:
    return Past(at, SMALL, Home(room))
