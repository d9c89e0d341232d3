"""What retraining is expected to gain, on real flights: told when there is something to tell, and never by a leak."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

import models
from models import Model
from pipelines.files import write_json
from pipelines.home import Home, utc
from pipelines.records.examples import examples, labelled
from pipelines.registry import package, promotion
from pipelines.registry.package import Packaged
from pipelines.training import gain
from pipelines.training.gain import Answers
from tests.history import MODEL, START, copy, history, in_force

__all__ = ["history"]

DAY, WEEK = timedelta(days=1), timedelta(days=7)
AS_OF = utc("2013-03-31T00:30Z")
UNTIL = utc("2013-03-30")
"""The labels of a day have matured when the next one is over."""
SINCE = UNTIL - WEEK
# Two weeks suffice to learn from, and take a sixth of the time.
SHORT = replace(models.load(MODEL), training_window=timedelta(days=14), holdout=timedelta(days=3))


@dataclass
class Watched:
    """An estimator that remembers what it was fitted on."""

    fitted: list[tuple[pd.DataFrame, np.ndarray]] = field(default_factory=list)

    def __call__(self) -> Any:
        made = SHORT.baselines["hour_of_day"]()  # quick, and good enough
        fit = made.fit

        def noted(inputs: pd.DataFrame, label: np.ndarray) -> Pipeline:
            self.fitted.append((inputs, label))
            return fit(inputs, label)

        made.fit = noted
        return made


def answered(week: int, ours: float, theirs: float, rows: int = 140) -> Answers:
    """A window in which both models' answers follow the label, each as closely as is said."""
    random = np.random.default_rng(week)
    label = random.integers(0, 2, rows).astype(float)
    first = SINCE + week * WEEK
    champion, refitted = (follows * label + random.random(rows) for follows in (theirs, ours))
    return Answers(
        since=first.isoformat(), until=(first + WEEK).isoformat(), digest="d",
        days=[f"{first + (row % 7) * DAY:%Y-%m-%d}" for row in range(rows)], label=label.tolist(),
        champion=champion.tolist(), refitted=refitted.tolist(),
    )  # fmt: skip


def test_a_better_refit_a_worse_one_and_one_that_is_the_same() -> None:
    model = models.load(MODEL)
    better, worse = gain.told(model, [answered(0, 0.9, 0.2)]), gain.told(model, [answered(0, 0.2, 0.9)])
    assert better.value is not None
    assert worse.value is not None
    assert better.low is not None
    assert better.low > 0
    assert worse.value < 0
    assert "is expected to gain" in better.sentence
    assert "is expected to lose" in worse.sentence
    one = answered(0, 0.5, 0.5)
    same = gain.told(model, [msgspec.structs.replace(one, champion=one.refitted)])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert "is not expected to change much" in same.sentence


def test_more_windows_make_the_interval_narrower() -> None:
    one, four = (gain.told(SHORT, [answered(week, 0.5, 0.4) for week in range(weeks)]) for weeks in (1, 4))
    assert (one.weeks, four.weeks) == (1, 4)
    assert "the last 4 weeks" in four.sentence
    assert None not in (one.low, one.high, four.low, four.high)
    assert four.high - four.low < 0.7 * (one.high - one.low)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"days": ["2013-03-24"] * 140}, "labels of 1 days are in"), ({"label": [1.0] * 140}, "cannot be told")],
)
def test_what_labels_cannot_tell_is_said(change: dict[str, Any], told: str) -> None:
    found = gain.told(SHORT, [msgspec.structs.replace(answered(0, 0.5, 0.4), **change)])
    assert (found.value, found.low, found.high, found.weeks) == (None, None, None, 0)
    assert told in found.sentence


@pytest.fixture(scope="module")
def at(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with in_force(Home(tmp_path_factory.mktemp("gain"))) as at:
        yield copy(history, at)


def champion(at: Home, estimator: Any = None, trained: timedelta = 2 * WEEK) -> Packaged:
    """The champion of the history, as if it had been trained before, or another estimator in its place."""
    pointer = promotion.read_pointer(at.pointers, MODEL)
    assert pointer is not None
    live = package.load(at, pointer.tag)
    manifest = msgspec.structs.replace(live.manifest, trained_as_of=(SINCE - trained).isoformat())
    return replace(live, manifest=manifest, estimator=estimator or live.estimator)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_dull_champion_is_told_from_one_that_knows_and_nothing_leaks(at: Home) -> None:
    watched = Watched()
    model: Model = replace(SHORT, estimator=watched)
    dull = DummyClassifier(strategy="prior").fit(np.zeros((2, 1)), [0.0, 1.0])
    found = gain.expected(at, model, AS_OF, champion(at, dull))
    assert found.low is not None
    assert found.low > 0.05
    assert found.weeks == 1
    # The refitted model was given what retraining would have been given when the window began, to the last row.
    ((inputs, label),) = watched.fitted
    then = labelled(at, model, as_of=SINCE, window=model.training_window)
    then = then[then["decision_time"] <= pd.Timestamp(model.examples.matured(SINCE) - model.holdout)]
    assert len(inputs) == len(label) == len(then) > 5000
    assert label.tolist() == then["label"].tolist()
    # Kept, it is told again to the letter, without a fit.
    path = at.room("nights", MODEL, "gain") / f"{SINCE:%Y-%m-%d}.json"
    kept = path.read_bytes()
    assert gain.expected(at, model, AS_OF, champion(at, dull)) == found
    assert len(watched.fitted) == 1
    path.unlink()
    assert gain.expected(at, model, AS_OF, champion(at, dull)) == found
    assert path.read_bytes() == kept
    answers = msgspec.json.decode(kept, type=Answers)
    truth = examples(at, model, SINCE, UNTIL, as_of=AS_OF)
    assert len(answers.label) == gain.SAMPLE < len(truth)
    assert min(answers.days) == f"{SINCE:%Y-%m-%d}"
    assert max(answers.days) < f"{UNTIL:%Y-%m-%d}"
    # A window of the same champion that overlaps with this one, as after a rollback, adds no day twice.
    for name, shift, weeks in (("2013-03-20", 3 * DAY, 1), ("2013-03-16", WEEK, 2)):
        older = {"since": (SINCE - shift).isoformat(), "until": (UNTIL - shift).isoformat()}
        write_json(path.with_stem(name), msgspec.structs.replace(answers, **older))
        assert gain.expected(at, model, AS_OF, champion(at, dull)).weeks == weeks
        path.with_stem(name).unlink()


@pytest.mark.e2e
@pytest.mark.slow
def test_a_verdict_comes_whatever_the_refit_does(at: Home) -> None:
    young = gain.expected(at, SHORT, AS_OF, champion(at, trained=-DAY))
    assert "no week whose labels are in began after the champion was trained" in young.sentence

    def broken() -> Any:
        raise ArithmeticError("no pivot")

    elsewhen = AS_OF - WEEK
    found = gain.expected(at, replace(SHORT, estimator=broken), elsewhen, champion(at))
    assert found.value is None
    assert "the refit of 16 March failed: ArithmeticError: no pivot" in found.sentence
    few = gain.expected(at, SHORT, START + 40 * DAY, champion(at))
    assert few.value is None
    assert "200 are needed" in few.sentence
    assert not any(path.stem != f"{SINCE:%Y-%m-%d}" for path in at.room("nights", MODEL, "gain").iterdir())
