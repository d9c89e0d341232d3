"""A replay from end to end: walk the past under each policy, compare what came of them, and say which to choose."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import datetime

import msgspec
import numpy as np

from features import HeadwayError
from monitoring import budget
from monitoring.replayed import Interval, Outcome, Replayed
from pipelines.progress import Told
from pipelines.replay import fits
from pipelines.replay.advice import advise
from pipelines.replay.branch import Branch
from pipelines.replay.common import Common
from pipelines.replay.frames import Frames
from pipelines.replay.grammar import parse
from pipelines.replay.outcome import Table, always_of, compared, outcome, windows
from pipelines.replay.past import Past
from pipelines.replay.policies import Chosen, Current, Every, Named, Never
from pipelines.replay.walk import build, walk

RANDOM = 5
"""Times that as many retrainings are drawn at random."""
NAMED = 3
"""Others that a sentence names."""
NEARLY_ALL = 0.85
"""Share of what the best policy gains that is enough: below it, a retraining saved costs too much."""


def replay(
    past: Past, asked: Sequence[Named], since: datetime, until: datetime, executor: Executor, told: Told,
    *, dummies: bool,
) -> Replayed:  # fmt: skip
    """Replay the nights of [since, until] under each policy, and those that the others are held against.

    Raises HeadwayError when there is no whole window whose labels are in, or no first champion.
    """
    policies = with_yardsticks(asked)
    nights = past.nights(since, until)
    if not nights or not windows(past.model, nights[0], nights[-1]):
        word = budget.window_word(past.model.monitoring.window)
        raise HeadwayError(f"no whole {word} lies in that time whose labels are in by its end. Replay a longer time.")
    frames = Frames(past, fits.frames_of(past))
    build(past, frames, since, until, executor, told)
    common = Common(frames, past.model)
    branches = walk(past, common, policies, nights, executor, told)
    rivals = walk(past, common, dummies_of(branches), nights, executor, told) if dummies else []
    return _said(Table([*branches, *rivals], nights[-1]), branches, rivals)


def with_yardsticks(asked: Sequence[Named]) -> list[Named]:
    """The policies that were asked for, and those that any is held against: the current one, never, and a calendar."""
    found = list(asked)
    for kind, text in ((Current, "current"), (Never, "never"), (Every, "weekly")):
        if not any(isinstance(each.policy, kind) for each in found):
            found.append(parse(text))
    return found


def dummies_of(branches: Sequence[Branch]) -> list[Named]:
    """For each policy that looks at evidence: as many retrainings at random, and evenly spaced."""
    window = branches[0].model.monitoring.window
    wanted: dict[int, list[str]] = {}
    for branch in branches:
        count = len(branch.ledger.entries(branch.model.name, "version")) - 1
        if not branch.named.blind and count > 0:
            wanted.setdefault(count, []).append(branch.named.name)
    return [
        Named(_dummy_name(count, seed), Chosen(count, seed, window), dummy_of=tuple(names))
        for count, names in sorted(wanted.items())
        for seed in (*range(RANDOM), None)
    ]


def _dummy_name(count: int, seed: int | None) -> str:
    return f"fixed {count}" if seed is None else f"random {count} seed {seed}"


def _said(table: Table, branches: Sequence[Branch], rivals: Sequence[Branch]) -> Replayed:
    current = next(each.named.name for each in branches if isinstance(each.named.policy, Current))
    found = [outcome(table, each) for each in branches]
    found += [msgspec.structs.replace(outcome(table, each), dummy=True) for each in rivals]
    beside = [_against_random(table, each, rivals) for each in compared(table, found, current)]
    choice, sentence = choose(table, beside, current)
    model, always = table.model, always_of(table)
    calendar = next((each for each in branches if each.named.name == always), None)
    declared = next(each for each in beside if each.policy == current)
    return Replayed(
        model=model.name, owner=model.owner, metric=model.metric, since=f"{branches[0].nights[0]:%Y-%m-%d}",
        until=f"{table.until:%Y-%m-%d}", windows=[f"{each:%Y-%m-%d}" for each in table.windows],
        word=budget.window_word(model.monitoring.window), outcomes=beside, current=current, always=always,
        choice=choice, sentence=sentence, notes=_no_better_than_random(beside),
        advice=advise(table, calendar, choice, declared) if calendar else None,
    )  # fmt: skip


def _against_random(table: Table, each: Outcome, rivals: Sequence[Branch]) -> Outcome:
    drawn = [table.series[r.named.name] for r in rivals if each.policy in r.named.dummy_of and _random(r.named)]
    if not drawn:
        return each
    return msgspec.structs.replace(each, against_random=table.mean(np.array(each.series) - np.mean(drawn, axis=0)))


def _random(named: Named) -> bool:
    return isinstance(named.policy, Chosen) and named.policy.seed is not None


def _no_better_than_random(found: Sequence[Outcome]) -> list[str]:
    """Which policies have not shown that they see anything, in one line."""
    blind = [each for each in found if each.against_random is not None and each.against_random.low <= 0]
    told = [f"`{each.policy}` ({_signed(each.against_random)})" for each in blind if each.against_random]
    return [f"Not shown to beat as many retrainings at random nights: {', '.join(told)}"] if told else []


def choose(table: Table, found: Sequence[Outcome], current: str) -> tuple[str, str]:
    """The policy with the fewest retrainings among those that keep nearly all that the best one gains, and how sure.

    Intervals do not choose: on a short past nothing is told apart, and never retraining would always be chosen.
    """
    real = [each for each in found if not each.dummy]
    best, never = max(real, key=lambda each: each.quality.value), min(real, key=lambda each: each.retrainings)
    gain = best.quality.value - never.quality.value
    near = [each for each in real if best.quality.value - each.quality.value <= (1 - NEARLY_ALL) * gain]
    choice = min(near, key=lambda each: (each.retrainings, each.policy != current, -each.quality.value))
    same = [each for each in real if each is not choice and not apart(table, each, choice).tells]
    word = budget.window_word(table.model.monitoring.window)
    count = len(table.windows)
    over = f" on these {count} {word}s"
    if count < budget.MIN_WINDOWS:
        held = f"the labels of {count} {word}{'s' * (count > 1)} are in, {budget.MIN_WINDOWS} are needed"
        return choice.policy, f"Too short to choose by: {held}; so far `{best.policy}` scored best"
    verb = "Keep" if choice.policy == current else "Choose"
    return choice.policy, f"{verb} `{choice.policy}`: {_kept(choice, real, always_of(table))}{_sure(same, never, over)}"


def apart(table: Table, each: Outcome, other: Outcome) -> Interval:
    """How far one policy's quality lies above another's, paired by window."""
    return table.mean(np.array(each.series) - np.array(other.series))


def _kept(choice: Outcome, real: Sequence[Outcome], always: str | None) -> str:
    if choice.gain_kept is None or always is None:
        return f"no policy gains more over never retraining, and it takes {choice.retrainings} retrainings"
    if choice.policy == always:
        return f"no other keeps {NEARLY_ALL:.0%} of what it gains over never retraining"
    most = next(each.retrainings for each in real if each.policy == always)
    kept = f"it keeps {choice.gain_kept:.0%} of the gain of `{always}`"
    return f"{kept} with {choice.retrainings} retrainings in place of {most}"


def _sure(same: Sequence[Outcome], never: Outcome, over: str) -> str:
    """Which others might as well be chosen; whether any of it is told apart from doing nothing."""
    if never in same:
        return f"; but it is not told apart from `{never.policy}`{over}: replay a longer time to be sure"
    if not same:
        return f", and is told apart from every other policy{over}"
    return f"; {_listed(same)} {'is' if len(same) == 1 else 'are'} not told apart from it{over}"


def _listed(found: Sequence[Outcome]) -> str:
    names = [f"`{each.policy}` ({each.retrainings})" for each in found[:NAMED]]
    names += [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _signed(found: Interval) -> str:
    return f"{found.value:+.4f}, {found.low:+.4f} to {found.high:+.4f}"
