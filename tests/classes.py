"""A model of several classes, declared here: will the flight be early, on time or late?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

import models
from models import Gates, Model, Monitoring, Slice
from tests.history import MODEL

CLASSES = ("early", "on_time", "late")
LABEL = "CASE WHEN arr_delay > 15 THEN 1.0 WHEN arr_delay IS NOT NULL THEN 0.0 END AS label"
NAMED = (
    "CASE WHEN arr_delay > 15 THEN 'late' WHEN arr_delay > -10 THEN 'on_time' WHEN arr_delay IS NOT NULL THEN 'early' "
    "END AS label"
)
LIKE = models.load(MODEL)


def estimator() -> Pipeline:
    """That of the model it is like, with fewer trees: each round fits one a class."""
    return LIKE.estimator().set_params(histgradientboostingclassifier__max_iter=25)


PUNCTUALITY = replace(
    LIKE,
    name="punctuality",
    description="Early, on time or late",
    task="multiclass",
    classes=CLASSES,
    examples=replace(LIKE.examples, sql=LIKE.examples.sql.replace(LABEL, NAMED)),
    metric="roc_auc_ovr",
    baselines={"always_the_same": lambda: DummyClassifier(strategy="prior")},
    slices=(Slice(name="from_newark", column="origin", value="EWR", floor=0.55),),
    gates=Gates(gain_over_baseline=0.0, loss_to_champion=0.02, calibration=0.12),
    monitoring=Monitoring(false_alarms_per_year=4.0, window=timedelta(days=6), parity_sample=200, expected_gain=False),
    retraining=replace(LIKE.retraining, cooldown=timedelta(days=5)),
    estimator=estimator,
    training_window=timedelta(weeks=5),
)
assert PUNCTUALITY.examples.sql != LIKE.examples.sql


@contextmanager
def declared(model: Model = PUNCTUALITY) -> Iterator[Model]:
    """As if `models/` held the file of this model too, for this process."""
    load, names = models.load, models.names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda name: model if name == model.name else load(name))
        patch.setattr(models, "names", lambda: sorted([*names(), model.name]))
        yield model
