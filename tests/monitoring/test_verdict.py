from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import DeclarationError, Model, Monitoring
from monitoring import budget, drift, parity, relation
from monitoring.profile import Profile, Reference
from monitoring.verdict import Fault, Gain, Verdict, alarmed, decide
from tests.monitoring import worlds
from tests.monitoring.worlds import Column, as_window, iso, reference, rows, steady_days

NOW = datetime(2021, 8, 1, 5, tzinfo=UTC)
MODEL = worlds.model()
CAREFUL = replace(MODEL, monitoring=replace(MODEL.monitoring, confirm=(2, 3)))
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
FEW = _drift(3.0, windows=10)
STEADY, FLIPPED = _relation(0.0), _relation(0.2)
EQUAL, UNEQUAL = _parity(1.0), _parity(2.0)
FAULT = Fault("gauge", "`gauge` has sent nothing since Tuesday 14:00")


def verdict(age: int = 30, trained: Sequence[int] = (), model: Model = MODEL, **evidence: Any) -> Verdict:
    """`age` and `trained` count days back from the night."""
    return decide(
        model,
        as_of=NOW,
        champion_version=3,
        trained_as_of=NOW - timedelta(days=age),
        trainings=[NOW - timedelta(days=day) for day in trained],
        **evidence,
    )


@given(
    age=st.integers(0, 100),
    faults=st.lists(st.just(FAULT), max_size=2),
    checked=st.sampled_from([None, EQUAL, UNEQUAL]),
    moved=st.sampled_from([None, QUIET, MOVED, YOUNG, BROKEN]),
    flipped=st.sampled_from([None, STEADY, FLIPPED]),
    earlier=st.lists(st.booleans(), max_size=5),
    trained=st.lists(st.integers(0, 100), max_size=4),
    most=st.none() | st.integers(1, 3),
    confirm=st.sampled_from([(1, 1), (2, 2), (2, 3)]),
)
def test_invariants(
    age: int,
    faults: list[Fault],
    checked: parity.Parity | None,
    moved: drift.Drift | None,
    flipped: relation.Relation | None,
    earlier: list[bool],
    trained: list[int],
    most: int | None,
    confirm: tuple[int, int],
) -> None:
    declared = replace(
        MODEL,
        monitoring=replace(MODEL.monitoring, confirm=confirm),
        retraining=replace(MODEL.retraining, max_per_month=most),
    )
    ages = sorted({age, *trained})
    evidence = {
        "trainings": [NOW - day * DAY for day in ages], "faults": faults, "parity": checked, "drift": moved,
        "relation": flipped, "earlier": earlier,
    }  # fmt: skip

    def again() -> Verdict:
        return decide(declared, as_of=NOW, champion_version=3, trained_as_of=NOW - age * DAY, **evidence)

    found = again()
    vetoed = bool(faults) or checked is UNEQUAL or moved is BROKEN
    assert (found.action == "veto") == vetoed
    assert (found.action == "veto") == (found.cause in ("data fault", "parity breach"))
    assert (found.action == "nothing") == (found.cause in ("none", "not enough history"))
    resting = min(ages) < 21 or (most is not None and sum(day < 30 for day in ages) >= most)
    alarm = moved is MOVED or flipped is FLIPPED
    confirmed = alarm and sum([*earlier, True][-confirm[1] :]) >= confirm[0]
    if found.action == "retrain":
        assert not resting
        assert confirmed or age > 56
    if found.action == "wait":
        assert resting or not confirmed
    assert len(found.alarms) <= confirm[1]
    assert bool(found.alarms) == (moved is not None or flipped is not None)
    assert len(found.inputs) == (3 if moved and moved.inputs else 0)
    if age > 56 and not vetoed:
        assert found.action in ("retrain", "wait")
    assert "\n" not in found.sentence
    assert msgspec.json.encode(again()) == msgspec.json.encode(found)
    assert (found.counterfactual != "") == (found.cause not in ("none", "not enough history"))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Verdict) == found


def test_sentences_say_what_to_do() -> None:
    assert verdict(drift=MOVED).sentence.startswith("Retrain: `temp`")
    assert "odder than in any of the 40 reference days (p 0.024)" in verdict(drift=MOVED).sentence
    assert verdict(drift=MOVED, relation=FLIPPED).cause == "input drift"
    assert "the labels no longer follow" in verdict(drift=MOVED, relation=FLIPPED).sentence
    assert verdict(relation=FLIPPED).cause == "relation drift"
    assert verdict(drift=QUIET).sentence.startswith("Nothing to do: the inputs are within what is usual (")
    assert verdict(drift=YOUNG).cause == "not enough history"
    assert verdict(drift=YOUNG).sentence.endswith(
        "at least 8 are needed; until then the calendar retrains it every 56 days"
    )
    assert verdict(drift=FEW).cause == "not enough history"
    assert verdict(drift=FEW).sentence.startswith("Nothing to do yet: 10 reference days cannot tell input drift from")
    assert verdict(drift=FEW).sentence.endswith(
        "or 67 a year; labels are watched, and the calendar retrains it every 56 days"
    )
    assert verdict(drift=FEW, relation=FLIPPED).cause == "relation drift"
    assert verdict(drift=FEW, age=60).cause == "age"
    assert verdict(days_in=3).sentence == "Nothing to do: 3 of 7 days of this week are in"
    assert verdict(age=60).sentence == "Retrain: version 3 is 60 days old, its limit is 56"
    assert verdict(age=60, trained=[2]).sentence.startswith("Wait until 20 August: version 3 is 60 days old")
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


def test_an_alarm_waits_until_enough_windows_have_alarmed() -> None:
    lone = verdict(model=CAREFUL, drift=MOVED, relation=STEADY, earlier=[False, False])
    assert (lone.action, lone.cause, lone.alarms) == ("wait", "input drift", [False, False, True])
    assert lone.sentence.startswith("Wait for confirmation: `temp`")
    assert lone.sentence.endswith("; 1 of the last 3 weeks alarmed, 2 must")
    twice = verdict(model=CAREFUL, drift=MOVED, relation=STEADY, earlier=[True, False])
    assert twice.action == "retrain"
    assert twice.sentence.endswith("; 2 of the last 3 weeks alarmed, 2 must")
    over = verdict(model=CAREFUL, drift=QUIET, relation=STEADY, earlier=[True, True])
    assert (over.action, over.cause, over.alarms) == ("nothing", "none", [True, True, False])
    gone = verdict(model=CAREFUL, drift=MOVED, earlier=[True, False, False])
    assert gone.action == "wait"
    resting = verdict(trained=[2], model=CAREFUL, drift=MOVED, earlier=[True])
    assert resting.sentence.startswith("Wait until 20 August: ")


def test_an_alarm_that_is_not_confirmed_gives_way_to_age() -> None:
    old = verdict(age=60, model=CAREFUL, drift=MOVED)
    assert (old.action, old.cause) == ("retrain", "age")
    assert old.counterfactual == "without its age: the alarm would wait for confirmation"
    assert verdict(age=60, model=CAREFUL, drift=MOVED, earlier=[True]).cause == "input drift"


def test_what_a_broken_feed_raised_confirms_nothing() -> None:
    assert alarmed(verdict(drift=MOVED, relation=STEADY)) is True
    assert alarmed(verdict(drift=QUIET, relation=FLIPPED)) is True
    assert alarmed(verdict(drift=QUIET, relation=STEADY)) is False
    assert alarmed(verdict(drift=MOVED, faults=[FAULT])) is False
    assert alarmed(verdict(days_in=3)) is None


@given(seed=st.integers(0, 10_000), rate=st.floats(0.02, 0.5), alike=st.floats(0.0, 1.0))
def test_confirmation_never_raises_the_rate_however_alike_the_windows_are(seed: int, rate: float, alike: float) -> None:
    random = np.random.default_rng(seed)
    raised = [bool(random.random() < rate)]
    for _ in range(30):
        raised.append(raised[-1] if random.random() < alike else bool(random.random() < rate))
    counted = sum(
        verdict(model=CAREFUL, drift=MOVED if alarm else QUIET, earlier=raised[:number]).action == "retrain"
        for number, alarm in enumerate(raised)
    )
    assert counted <= sum(raised)


def test_the_budget_of_trainings_says_when_the_next_is_allowed() -> None:
    hasty = replace(MODEL, retraining=replace(MODEL.retraining, cooldown=DAY, max_per_month=2))

    def after(*days: int) -> Verdict:
        return verdict(age=60, model=hasty, drift=MOVED, trained=days)

    spent = after(20, 5)
    assert (spent.action, spent.cause) == ("wait", "input drift")
    assert spent.sentence.startswith("Wait until 11 August: ")
    assert spent.sentence.endswith("; 2 trainings are allowed in 30 days, the last was on 27 July")
    assert after(5).action == after(31, 5).action == after(30, 5).action == "retrain"
    assert after(25, 20, 5).sentence.startswith("Wait until 11 August: ")
    once = replace(hasty, retraining=replace(hasty.retraining, max_per_month=1))
    assert "one training is allowed in 30 days" in verdict(age=29, model=once, drift=MOVED).sentence
    assert verdict(age=29, model=once, drift=BROKEN).action == "veto"


@pytest.mark.parametrize("confirm", [(2, 1), (0, 1), (1, 0)])
def test_a_confirmation_that_cannot_be_is_refused(confirm: tuple[int, int]) -> None:
    with pytest.raises(DeclarationError, match="confirm"):
        Monitoring(false_alarms_per_year=8.0, confirm=confirm)


def test_the_counterfactual_says_what_follows_without_the_cause() -> None:
    def without(**evidence: Any) -> str:
        return verdict(**evidence).counterfactual

    assert without(faults=[FAULT]) == "without the data fault: nothing to do"
    assert without(faults=[FAULT], drift=MOVED) == "without the data fault: the inputs would ask for retraining"
    assert without(parity=UNEQUAL, relation=FLIPPED).endswith("breach: the labels would ask for retraining")
    assert without(drift=MOVED) == "without `temp`: no alarm"
    assert without(drift=MOVED, relation=FLIPPED).startswith("without `temp`: no alarm; without the input drift: the l")
    assert without(relation=FLIPPED) == "without the relation drift: nothing to do"
    assert without(age=60) == "without its age: nothing to do"
    assert without(drift=QUIET) == without(drift=YOUNG) == ""


def test_three_inputs_are_named_whatever_the_cause_with_band_and_value() -> None:
    for found in (
        verdict(drift=MOVED),
        verdict(drift=QUIET),
        verdict(drift=QUIET, relation=FLIPPED),
        verdict(drift=BROKEN),
    ):
        assert len(found.inputs) == 3
        for each in found.inputs:
            assert None not in (each.level, each.band_low, each.band_high)
        assert found.windows == 40
        assert found.achieved_false_alarms_per_year > 0
    assert verdict(drift=MOVED).inputs[0].name == "temp"


def test_a_missing_input_is_told_with_its_first_bad_day_and_its_source() -> None:
    random = np.random.default_rng(1)
    known = reference(rows(random) for _ in range(40))
    days = {}
    for number in range(7):
        frame = rows(random)
        frame.loc[: 150 if number >= 4 else -1, "temp"] = np.nan
        days |= {iso(10_000 + number): drift_profile(frame, known)}
    found = drift.judge(known, days, window=DAY, alpha=0.05)
    (fault,) = verdict(drift=found, days=days, sources={"temp": "gauge"}).evidence.faults
    first = (worlds.START + timedelta(days=10_004)).strftime("%A %d %B")
    assert fault.source == "temp"
    assert fault.sentence.endswith(f"first on {first} (it comes from gauge)")


def drift_profile(frame: pd.DataFrame, known: Reference) -> Profile:
    return next(iter(as_window(frame, known.bins).values()))


def test_the_expected_gain_is_evidence_and_changes_no_decision() -> None:
    lose = Gain("roc_auc", -0.1, -0.2, -0.05, 4, "retraining is expected to lose")
    for evidence in ({"drift": MOVED}, {"relation": FLIPPED}, {"age": 60}, {"drift": QUIET}, {"faults": [FAULT]}):
        told, silent = verdict(gain=lose, **evidence), verdict(**evidence)
        assert told.gain == lose
        assert msgspec.structs.replace(told, gain=None) == silent


def test_an_older_verdict_of_the_ledger_is_still_read() -> None:
    body = msgspec.to_builtins(verdict(drift=MOVED))
    older = {name: value for name, value in body.items() if name not in ("alarms", "gain")}
    assert msgspec.convert(older, Verdict).sentence == verdict(drift=MOVED).sentence
