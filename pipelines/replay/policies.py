"""Retraining policies: small frozen objects that say, night by night, whether this one should retrain.

A policy of one's own is a function of `Tonight` that returns a bool, or any object with `asks`. All others are combined
from the ones here; `pipelines.replay.grammar` reads them from text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Literal, Protocol

import numpy as np

from monitoring.verdict import Verdict
from pipelines.nights.decision import DAY, midnight

Signal = Literal["drift", "quality"]


@dataclass(frozen=True)
class Tonight:
    """What a policy may look at on a night: nothing that was not known then."""

    as_of: datetime
    number: int
    """Of the night, from 1; the first champion was trained on night 0."""
    nights: int
    """How many nights there are, for the policies that only compare: dummies."""
    trained: datetime
    """As of when the champion was trained."""
    trainings: Sequence[datetime]
    """As of when versions were trained, promoted or not, oldest first; the first champion's comes first."""
    look: Callable[[], Verdict]
    """The night's verdict, by the same functions as live. It costs something: blind policies do not ask."""
    alarms: Callable[[Signal], Sequence[bool]]
    """Of the champion's windows that closed so far, tonight's last if one closed tonight: which raised this alarm."""
    closed: Callable[[], bool]
    """Whether a window of the champion's reign closed tonight."""

    @property
    def age(self) -> timedelta:
        """Of the champion."""
        return self.as_of - self.trained

    @property
    def since(self) -> timedelta:
        """Whole days since the last training."""
        return midnight(self.as_of) - midnight(self.trainings[-1])


class Policy(Protocol):
    """Anything that decides."""

    def asks(self, tonight: Tonight) -> bool:
        """Whether this night should retrain."""
        ...


@dataclass(frozen=True)
class Never:
    """The first champion stays."""

    def asks(self, tonight: Tonight) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class Every:
    """The calendar: so long after the last training, whatever came of it."""

    interval: timedelta

    def asks(self, tonight: Tonight) -> bool:
        """Whether it is that long ago."""
        return tonight.since >= self.interval


@dataclass(frozen=True)
class Older:
    """The champion's age."""

    limit: timedelta

    def asks(self, tonight: Tonight) -> bool:
        """Whether the champion is older."""
        return tonight.age > self.limit


@dataclass(frozen=True)
class Alarmed:
    """One of the two signals: input drift, or a loss of quality that the labels show."""

    signal: Signal
    confirm: tuple[int, int] = (1, 1)
    """(k, n): k of the champion's last n windows must have raised it, the one that closed tonight among them."""

    def asks(self, tonight: Tonight) -> bool:
        """Whether the window that closed tonight alarmed, and enough of those before it."""
        if not tonight.closed():
            return False
        seen = tonight.alarms(self.signal)[-self.confirm[1] :]
        return bool(seen) and seen[-1] and sum(seen) >= self.confirm[0]


@dataclass(frozen=True)
class Current:
    """What the model declares and live nights do: drift, quality and age; cooldown, budget and confirmation."""

    def asks(self, tonight: Tonight) -> bool:
        """Whether the night's verdict is to retrain."""
        return tonight.look().action == "retrain"


@dataclass(frozen=True)
class Own:
    """A person's own function."""

    function: Callable[[Tonight], bool]

    def asks(self, tonight: Tonight) -> bool:
        """What the function says."""
        return bool(self.function(tonight))


@dataclass(frozen=True)
class Or:
    """Any of several."""

    parts: tuple[Policy, ...]

    def asks(self, tonight: Tonight) -> bool:
        """Whether one of them asks; the first that does is enough."""
        return any(part.asks(tonight) for part in self.parts)


@dataclass(frozen=True)
class Chosen:
    """The dummies: so many retrainings, at random or evenly spaced, whatever happens. After river's
    `DummyDriftDetector`: a trigger that does no better at the same rate has seen nothing."""

    count: int
    seed: int | None = None
    """None: evenly spaced."""
    step: timedelta = timedelta(days=7)
    """The nights among which is chosen lie so far apart."""

    def asks(self, tonight: Tonight) -> bool:
        """Whether the night was chosen."""
        return tonight.number in chosen(self.count, self.seed, self.step // DAY, tonight.nights)


@cache
def chosen(count: int, seed: int | None, step: int, nights: int) -> frozenset[int]:
    """`count` of the nights step, 2 * step, ... below `nights`, or all of them if there are fewer."""
    among = np.arange(step, nights, step)
    if count >= len(among):
        return frozenset(among.tolist())
    if seed is None:
        spaced = np.round((np.arange(count) + 1) * len(among) / (count + 1)).astype(int)
        return frozenset(among[np.clip(spaced, 1, len(among)) - 1].tolist())
    return frozenset(np.random.default_rng(seed).choice(among, count, replace=False).tolist())


@dataclass(frozen=True)
class Named:
    """A policy with its name and the settings that hold for it."""

    name: str
    policy: Policy
    cooldown: timedelta | None = None
    """After a training none is asked for, for this long."""
    budget: tuple[int, timedelta] | None = None
    """At most so many trainings in any so long a time."""
    approval: timedelta | None = None
    """How long a version that passed its gates waits for its owner."""
    window: timedelta | None = None
    """Training window, in place of the declared one."""
    dummy_of: tuple[str, ...] = field(default=(), compare=False)
    """The policies that it is to be compared with, where it is their dummy."""

    def asks(self, tonight: Tonight) -> bool:
        """Whether this night should retrain, cooldown and budget permitting."""
        if self.cooldown is not None and tonight.since < self.cooldown:
            return False
        if self.budget is not None:
            most, span = self.budget
            if sum(each > tonight.as_of - span for each in tonight.trainings) >= most:
                return False
        return self.policy.asks(tonight)

    @property
    def blind(self) -> bool:
        """Whether it looks at nothing but the calendar: then no night has to be judged for its sake."""
        return _blind(self.policy)

    @property
    def signals(self) -> frozenset[Signal]:
        """Which alarms it looks at; both where that cannot be told."""
        return _signals(self.policy)

    @property
    def every(self) -> timedelta | None:
        """How far ahead its next training can be told; None when it cannot."""
        return self.policy.interval if isinstance(self.policy, Every) else None


def _signals(policy: Policy) -> frozenset[Signal]:
    if isinstance(policy, Or):
        return frozenset().union(*(_signals(part) for part in policy.parts))
    if isinstance(policy, Alarmed):
        return frozenset({policy.signal})
    return frozenset() if _blind(policy) else frozenset({"drift", "quality"})


def _blind(policy: Policy) -> bool:
    if isinstance(policy, Or):
        return all(_blind(part) for part in policy.parts)
    return isinstance(policy, Never | Every | Older | Chosen)
