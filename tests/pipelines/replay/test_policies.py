"""Policies: what each asks for, night by night, and how they are read from text."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import HeadwayError
from pipelines.home import utc
from pipelines.replay.grammar import parse, parse_all
from pipelines.replay.policies import Alarmed, Every, Named, Or, Tonight, chosen

FIRST = utc("2013-04-01T00:30Z")
DAY, WEEK = timedelta(days=1), timedelta(days=7)


def tonight(number: int = 7, **known: Any) -> Tonight:
    """Night `number` after the first champion, on which nothing happened, but for what is said."""

    def look() -> Any:
        raise AssertionError("a blind policy looked")

    plain = Tonight(
        as_of=FIRST + number * DAY, number=number, nights=60, trained=FIRST, trainings=[FIRST], look=look,
        alarms=lambda signal: [], closed=lambda: False,
    )  # fmt: skip
    return replace(plain, **known)


@pytest.mark.parametrize(
    ("text", "nights"),
    [
        ("never", []),
        ("nightly", [1, 2, 6, 7, 13, 14, 28, 57]),
        ("weekly", [7, 13, 14, 28, 57]),
        ("4-weekly", [28, 57]),
        ("every 13d", [13, 14, 28, 57]),
        ("age > 8w", [57]),
        ("fixed 1", [28]),
    ],
)
def test_the_calendar_looks_at_nothing_else(text: str, nights: list[int]) -> None:
    policy = parse(text)
    assert policy.blind
    assert [number for number in (1, 2, 6, 7, 13, 14, 28, 57) if policy.asks(tonight(number))] == nights


def test_a_calendar_counts_from_the_last_training_whatever_became_of_it() -> None:
    refused = [FIRST, FIRST + 7 * DAY]
    assert not parse("weekly").asks(tonight(8, trainings=refused))
    assert parse("weekly").asks(tonight(14, trainings=refused))
    assert parse("age > 1w").asks(tonight(8, trainings=refused))  # the champion is as old as before


@pytest.mark.parametrize(
    ("text", "alarms", "asks"),
    [
        ("drift", [False, True], True),
        ("drift", [True, False], False),
        ("2 of 3 drift", [False, True], False),
        ("2 of 3 drift", [True, False, True], True),
        ("2 of 3 drift", [True, True, False], False),
        ("2 of 2 quality", [True, False, True], False),
    ],
)
def test_an_alarm_counts_when_its_window_closed_and_enough_confirm_it(
    text: str, alarms: list[bool], asks: bool
) -> None:
    policy = parse(text)
    assert not policy.blind
    assert policy.asks(tonight(alarms=lambda signal: alarms, closed=lambda: True)) is asks
    assert not policy.asks(tonight(alarms=lambda signal: alarms, closed=lambda: False))


def test_each_signal_has_its_own_alarms() -> None:
    seen = tonight(alarms=lambda signal: [signal == "quality"], closed=lambda: True)
    assert not parse("drift").asks(seen)
    assert parse("quality").asks(seen)
    assert parse("drift or quality").asks(seen)


def test_cooldown_and_budget_hold_a_policy_back() -> None:
    often = [FIRST, FIRST + 7 * DAY, FIRST + 14 * DAY]
    assert not parse("nightly with cooldown 3w").asks(tonight(20, trainings=often[:1]))
    assert parse("nightly with cooldown 3w").asks(tonight(21, trainings=often[:1]))
    held = parse("nightly with budget 2 in 4w and cooldown 1d")
    assert not held.asks(tonight(20, trainings=often))
    assert held.asks(tonight(40, trainings=often))


def test_settings_are_read_with_their_spans() -> None:
    found = parse("drift  or age > 8w with cooldown 3w and approval 2d and window 26w and budget 2 in 30d")
    assert found == Named(
        "drift or age > 8w with cooldown 3w and approval 2d and window 26w and budget 2 in 30d",
        found.policy, 3 * WEEK, (2, 30 * DAY), 2 * DAY, 26 * WEEK,
    )  # fmt: skip
    assert isinstance(found.policy, Or)
    assert found.policy.parts[0] == Alarmed("drift")


def mondays(seen: Tonight) -> bool:
    return seen.as_of.weekday() == 0


def test_a_function_of_ones_own_is_a_policy_by_name_or_in_the_models_file() -> None:
    assert parse("mine", {"mine": mondays}).asks(tonight(7))
    assert not parse("mine", {"mine": mondays}).asks(tonight(8))
    assert parse("mine or weekly", {"mine": mondays}).asks(tonight(8))
    assert parse("careful", {"careful": "weekly with cooldown 2w"}).cooldown == 2 * WEEK
    assert isinstance(parse("operator:not_").policy.asks(tonight()), bool)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weakly", "'weakly' is no cause to retrain. There are: nightly, weekly"),
        ("drift or", "'drift or' is no cause"),
        ("drift with cooldown", "'cooldown' is no setting. There are: cooldown 3w"),
        ("4 of 3 drift", "4 of 3 windows can never alarm"),
        ("every 0d", "0d is no time"),
        ("no.such:thing", "No module named 'no'"),
        ("math:pi", "is no function"),
    ],
)
def test_a_mistake_is_named_with_what_is_valid(text: str, says: str) -> None:
    with pytest.raises(HeadwayError, match=r".*") as found:
        parse(text)
    assert says in str(found.value)


def test_a_list_names_each_policy_once_and_asks_for_dummies() -> None:
    found, dummies = parse_all("weekly, drift,weekly ,dummy")
    assert ([each.name for each in found], dummies) == (["weekly", "drift"], True)
    assert found[0].every == WEEK
    with pytest.raises(HeadwayError, match="no policy is named"):
        parse_all(" , ")


@given(st.integers(1, 60), st.integers(0, 99) | st.none(), st.integers(1, 10), st.integers(2, 400))
def test_a_dummy_asks_as_often_as_it_was_told_or_whenever_it_can(
    count: int, seed: int | None, step: int, nights: int
) -> None:
    found = chosen(count, seed, step, nights)
    among = set(range(step, nights, step))
    assert found <= among
    assert len(found) == min(count, len(among))


def test_evenly_spaced_is_evenly_spaced() -> None:
    assert sorted(chosen(3, None, 7, 7 * 20 + 1)) == [35, 70, 105]
    assert isinstance(parse("weekly").policy, Every)
