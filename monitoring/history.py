"""What became of a model over the year: its champions, trainings, alarms and vetoes, and what its policy does next."""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec

Occasion = Literal["trained", "alarm", "veto"]


class Champion(msgspec.Struct, frozen=True):
    """A version that was put in charge, when and why; `metric` on its holdout."""

    version: int
    as_of: str
    why: str
    metric: float | None = None
    trained: str | None = None
    """When it was trained, ISO."""


class Gate(msgspec.Struct, frozen=True):
    """One gate that a challenger was put through, in words."""

    name: str
    passed: bool
    sentence: str = ""


class Training(msgspec.Struct, frozen=True):
    """A challenger that was trained."""

    version: int
    as_of: str
    passed: bool
    sentence: str
    gates: list[Gate] = []

    @property
    def failed(self) -> list[Gate]:
        """The gates that kept it out."""
        return [gate for gate in self.gates if not gate.passed]


class Mark(msgspec.Struct, frozen=True):
    """Something that happened to a model on a night."""

    as_of: str
    occasion: Occasion
    sentence: str


class Alarms(msgspec.Struct, frozen=True):
    """Alarms of the year up to the page, against what the owner allowed."""

    since: str
    """First day that counts, ISO: a year ago, or the first verdict."""
    windows: int
    """Windows that were judged."""
    raised: int
    by_chance: float
    """Alarms that chance alone would raise in those windows, if nothing ever changed."""
    allowed_per_year: float
    achieved_per_year: float
    """What chance alone can reach in a year with the history behind the champion."""
    reference_windows: int
    """Windows that the latest judged one was compared with."""

    @property
    def over(self) -> bool:
        """More alarms than a whole year allows: the world keeps changing, or the reference is too short."""
        return self.raised > self.allowed_per_year


class Plan(msgspec.Struct, frozen=True):
    """What the policy does next if nothing else happens."""

    version: int
    age_days: int
    limit_days: int
    due: str
    """The day on which the calendar retrains it, ISO."""
    judged: str
    """The day on which its next window is complete, ISO."""
    window: str
    """What people call a window."""
    held_until: str | None = None
    """Until this day an alarm would wait, ISO."""
    held_why: str = ""
    confirm: tuple[int, int] = (1, 1)
    approval: bool = False

    @property
    def sentences(self) -> list[str]:
        """The plan in words, soonest first."""
        needed, among = self.confirm
        said = [f"The inputs are judged next on {day(self.judged)}, when a {self.window} of them is complete."]
        if among > 1:
            said.append(f"An alarm counts when {needed} of the last {among} {self.window}s raised one.")
        if self.held_until:
            said.append(f"Until {day(self.held_until)} an alarm would not retrain it: {self.held_why}.")
        said.append(
            f"Without an alarm the calendar retrains it on {day(self.due)}, when it is {self.limit_days} days old."
        )
        ends = "waits for your `headway approve`" if self.approval else "goes live by itself, one that fails does not"
        return [*said, f"A version that passes its gates {ends}."]


def day(text: str) -> str:
    """An ISO day or instant as `7 April`."""
    at = date.fromisoformat(text[:10])
    return f"{at.day} {at:%B}"
