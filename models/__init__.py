"""The model contract: what is predicted, from what, judged how. One file a model.

A new model is one file here: copy one, change the fields, run `headway models`. Nothing else has to change.

A model of several classes is a binary one with four fields changed: `task="multiclass"`; `classes`, the names of three
or more; a `metric` for several classes (`roc_auc_ovr`, `neg_log_loss`); and an `examples.sql` whose `label` is one of
those names. The estimator is any classifier with `predict_proba`; it is fitted on the places of the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from features import _contract
from features._contract import DeclarationError, Name, contract, unique

__all__ = ["DeclarationError", "Examples", "Gates", "Model", "Monitoring", "Retraining", "Slice", "load", "names"]

Task = Literal["binary", "multiclass", "regression"]
"""What a prediction is: the probability of yes; one of several classes, with the probability of each; a value."""
FEWEST_CLASSES = 3
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Days = Annotated[timedelta, Field(ge=timedelta(days=1))]


@contract
class Examples:
    """Where examples come from: one row for each thing to predict, with its label once it is known.

    The query runs on DuckDB with one relation for each source, holding only rows known by the instant asked
    about, and `span(since, until)`: return the examples whose decision time lies in (since, until]. It returns
    `example_id`, `decision_time`, `label`, `label_known_at`, the entity keys and the request inputs of the
    model's feature service, and the columns that slices need. `label` is 1.0 or 0.0 (binary), the name of a class
    (multiclass) or a number (regression). It is null while it is not known, and stays null where there will never be
    one; such an example is predicted, but neither trained on nor scored.
    """

    sources: tuple[Name, ...] = Field(min_length=1)
    sql: str = Field(min_length=1)
    known_before: timedelta = Field(ge=timedelta(0))
    """How long before its decision time the rows of an example may have become known."""
    label_matures: timedelta = Field(gt=timedelta(0))
    """How long after the decision time nearly all labels are known."""

    def matured(self, as_of: datetime) -> datetime:
        """Up to when examples have their labels by an instant. Of later ones only those that came early are known, and
        these are not like the rest."""
        return as_of - self.label_matures


@contract
class Slice:
    """A part of the holdout that must hold up on its own: rows where `column` equals `value`."""

    name: Name
    column: Name
    value: str | int | bool
    floor: float
    """The challenger's metric on the slice must not be below this (error metrics are negative: larger is better)."""


@contract
class Gates:
    """What a challenger must show before it is promoted. Gains are in units of the model's metric."""

    gain_over_baseline: Annotated[float, Field(ge=0.0)]
    """Its metric beats each baseline's by more than this, at the lower end of the interval."""
    loss_to_champion: Annotated[float, Field(ge=0.0)]
    """Its metric may lie below the champion's by at most this, at the lower end of the paired interval."""
    calibration: Annotated[float, Field(gt=0.0)]
    """Binary: largest expected calibration error. Multiclass: the same of the likeliest class and its probability.
    Regression: largest |mean error| in standard deviations."""
    latency_ms: Annotated[float, Field(gt=0.0)] = 50.0
    """Median time of one prediction of one row, in milliseconds."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


@contract
class Retraining:
    """When the champion is replaced."""

    max_age: Days
    """The safety net: older than this, it is retrained whatever the verdicts say."""
    cooldown: Days
    """After a retraining, drift does not ask for another one for this long."""
    max_per_month: Annotated[int, Field(ge=1)] | None = None
    """At most so many trainings, promoted or not, in any 30 days; past it a verdict waits. None: no limit."""


@contract
class Monitoring:
    """What counts as an alarm."""

    false_alarms_per_year: Annotated[float, Field(gt=0.0, le=52.0)]
    """How many alarms a year the owner accepts when nothing changed. The verdict keeps this rate."""
    window: Days = timedelta(days=7)
    """The unit that is judged: rows of one window are not independent, windows nearly are."""
    parity_sample: Annotated[int, Field(ge=1)] = 2000
    """How many predictions of a night are recomputed through the offline path, cell by cell."""
    confirm: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1)
    """(k, n): a window's alarm counts when k of the champion's last n windows, its own among them, raised one.
    (2, 3) forgives a single odd week, and is a week later when the world has changed for good."""
    expected_gain: bool = True
    """Whether a night that closes a window also fits the model as of that window's start, to tell what that gains."""

    @model_validator(mode="after")
    def _confirmable(self) -> Monitoring:
        if self.confirm[0] > self.confirm[1]:
            raise ValueError(f"confirm {self.confirm}: no {self.confirm[0]} of {self.confirm[1]} windows can alarm")
        return self


@contract
class Model:
    """One model: the declaration that all of the platform works from."""

    name: Name
    owner: str = Field(min_length=1)
    description: str = Field(min_length=1)
    task: Task
    classes: tuple[Name, ...] = ()
    """Multiclass only: every class there is, as the examples' labels, answers and outcomes call them. Another order, or
    another class, makes another question of it: until it is retrained the champion answers the old one."""
    domain: Name
    feature_service: Name
    examples: Examples
    estimator: Callable[[], Any]
    """Makes a fresh, seeded scikit-learn estimator that takes a DataFrame of the service's features."""
    training_window: Days
    holdout: Days
    """The latest examples whose labels have matured, kept out of training: what all gates are judged on."""
    metric: str
    """A scikit-learn scorer name, larger is better: roc_auc (binary), roc_auc_ovr or neg_log_loss (multiclass),
    neg_mean_absolute_error (regression), ..."""
    baselines: dict[Name, Callable[[], Any]] = Field(min_length=1)
    """At least the dumb one; each makes an unfitted estimator."""
    slices: tuple[Slice, ...] = ()
    gates: Gates
    retraining: Retraining
    monitoring: Monitoring
    schedule: str = Field(pattern=r"^\S+ \S+ \S+ \S+ \S+$")
    """Cron of the nightly check, in `timezone`."""
    timezone: str = "UTC"
    keep_predictions: Days = timedelta(days=400)
    """How long predictions, with the features they were served, and outcomes that callers told are kept. At least
    `training_window` and `label_matures` together: until then an outcome may name a prediction that training needs."""
    approval: bool = False
    """True: a challenger that passes its gates waits for `headway approve`."""
    policies: dict[str, Any] = Field(default_factory=dict)
    """Retraining policies by name, for `headway replay`: texts such as "drift or age > 8w", or functions of
    `pipelines.replay.policies.Tonight` that return whether that night should retrain."""

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        unique(self.slices, "slices")
        unique(self.classes, "classes", of=str)
        if self.task != "multiclass" and self.classes:
            raise ValueError(f"classes are declared for the task multiclass, not for {self.task}")
        if self.task == "multiclass" and len(self.classes) < FEWEST_CLASSES:
            raise ValueError(
                f"multiclass needs its {FEWEST_CLASSES} or more classes, by name: classes=('low', 'middle', 'high'); "
                "of two classes the task is binary"
            )
        if self.holdout >= self.training_window:
            raise ValueError(f"holdout {self.holdout} must be shorter than training_window {self.training_window}")
        needed = self.training_window + self.examples.label_matures
        if self.keep_predictions < needed:
            raise ValueError(
                f"keep_predictions {self.keep_predictions} must be at least training_window and label_matures "
                f"together: {needed}"
            )
        return self


def names() -> list[str]:
    """The declared models, sorted."""
    return _contract.names(__name__)


def load(name: str) -> Model:
    """The model that `models/<name>.py` declares. Raises DeclarationError naming the valid ones."""
    return _contract.load(__name__, name, Model)
