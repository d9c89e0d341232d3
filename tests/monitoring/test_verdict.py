from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from monitoring import budget, drift, parity, relation
from monitoring.verdict import Fault, Verdict, decide
from tests.monitoring.worlds import Column, as_window, iso, model, reference, rows, steady_days

NOW = datetime(2021, 8, 1, 5, tzinfo=UTC)
MODEL = model()
DAY, WEEK = timedelta(days=1), timedelta(days=7)


def _drift(shift: float, windows: int = 40, missing: int = 0) -> drift.Drift:
    random = np.random.default_rng(1)
    known = reference(rows(random) for _ in range(windows))
    window = rows(random, shift=shift)
    window.loc[: missing - 1, "temp"] = np.nan
    return drift.judge(known, as_window(window, known.bins), window=DAY, alpha=0.05)


def _relation(mean: float) -> relation.Relation:
    window = {iso(1000 + i): day for i, day in enumerate(steady_days(7, mean, 1).values())}
    return relation.judge("binary", steady_days(28), window, window=WEEK, alpha=0.04)


def _parity(value: float) -> parity.Parity:
    frames = (pd.DataFrame({"temp": [number]}, index=["r"]) for number in (1.0, value))
    return parity.compare(*frames, [Column("temp")])


QUIET, MOVED, YOUNG, BROKEN = _drift(0.0), _drift(3.0), _drift(3.0, windows=5), _drift(0.0, missing=150)
STEADY, FLIPPED = _relation(0.0), _relation(0.2)
EQUAL, UNEQUAL = _parity(1.0), _parity(2.0)
FAULT = Fault("gauge", "`gauge` has sent nothing since Tuesday 14:00")


def verdict(age: int = 30, since_retraining: int | None = None, **evidence: object) -> Verdict:
    return decide(
        MODEL,
        as_of=NOW,
        champion_version=3,
        trained_as_of=NOW - timedelta(days=age),
        trainings=() if since_retraining is None else (NOW - timedelta(days=since_retraining),),
        **evidence,
    )


@given(
    age=st.integers(0, 100),
    since=st.none() | st.integers(0, 100),
    faults=st.lists(st.just(FAULT), max_size=2),
    checked=st.sampled_from([None, EQUAL, UNEQUAL]),
    moved=st.sampled_from([None, QUIET, MOVED, YOUNG, BROKEN]),
    flipped=st.sampled_from([None, STEADY, FLIPPED]),
)
def test_invariants(
    age: int,
    since: int | None,
    faults: list[Fault],
    checked: parity.Parity | None,
    moved: drift.Drift | None,
    flipped: relation.Relation | None,
) -> None:
    found = verdict(age, since, faults=faults, parity=checked, drift=moved, relation=flipped)
    vetoed = bool(faults) or checked is UNEQUAL or moved is BROKEN
    assert (found.action == "veto") == vetoed
    assert (found.action == "veto") == (found.cause in ("data fault", "parity breach"))
    assert (found.action == "nothing") == (found.cause in ("none", "not enough history"))
    resting = min(age, age if since is None else since) < 21
    if found.action == "retrain":
        assert not resting
        assert moved is MOVED or flipped is FLIPPED or age > 56
    if found.action == "wait":
        assert resting
    if age > 56 and not vetoed:
        assert found.action in ("retrain", "wait")
    assert "\n" not in found.sentence
    assert len(found.inputs) <= 3
    again = verdict(age, since, faults=faults, parity=checked, drift=moved, relation=flipped)
    assert msgspec.json.encode(again) == msgspec.json.encode(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Verdict) == found


def test_sentences_say_what_to_do() -> None:
    assert verdict(drift=MOVED).sentence.startswith("Retrain: `temp`")
    assert "odder than in any of the 40 reference days (p 0.024)" in verdict(drift=MOVED).sentence
    assert verdict(drift=MOVED, relation=FLIPPED).cause == "input drift"
    assert "the labels no longer follow" in verdict(drift=MOVED, relation=FLIPPED).sentence
    assert verdict(relation=FLIPPED).cause == "relation drift"
    assert verdict(drift=QUIET).sentence.startswith("Nothing to do: the inputs are within what is usual (")
    assert verdict(drift=YOUNG).cause == "not enough history"
    assert verdict(days_in=3).sentence == "Nothing to do: 3 of 7 days of this week are in"
    assert verdict(age=60).sentence == "Retrain: version 3 is 60 days old, its limit is 56"
    assert verdict(age=60, since_retraining=2).sentence.startswith("Wait until 20 August: version 3 is 60 days old")
    assert verdict(faults=[FAULT]).sentence.endswith("`gauge` has sent nothing since Tuesday 14:00")
    assert "`temp` differs in 100.0% of 1 predictions (changed value)" in verdict(parity=UNEQUAL).sentence


def test_an_input_that_went_missing_is_a_fault_and_not_drift() -> None:
    found = verdict(drift=BROKEN)
    assert (found.action, found.cause) == ("veto", "data fault")
    assert "`temp` is missing in 75% of rows" in found.sentence


def test_the_budget_is_shared_and_never_exceeded() -> None:
    level = budget.alpha(MODEL.monitoring)
    assert level * budget.windows_per_year(WEEK) * 2 == MODEL.monitoring.false_alarms_per_year
    for windows in range(8, 120):
        assert budget.achieved_per_year(level, windows + 1, WEEK) * 2 <= MODEL.monitoring.false_alarms_per_year
    needed = budget.windows_needed(level)
    assert budget.achieved_per_year(level, needed + 1, WEEK) > 0
    assert budget.achieved_per_year(level, needed, WEEK) == 0
