"""What the owner's false-alarm budget means for one test of one window."""

from __future__ import annotations

import math
from datetime import timedelta

from models import Monitoring

SIGNALS = 2
"""Input drift and relation drift: each gets an equal share of the budget, so that together they keep it."""

MIN_WINDOWS = 8
"""With fewer reference windows (or days) nothing is said: a rank among seven is not evidence."""

DAYS_PER_YEAR = 365.25
_FUZZ = 1e-9  # alpha * (n + 1) that is a whole number up to rounding is that whole number


def alpha(monitoring: Monitoring) -> float:
    """The level of one signal's test of one window: its share of the false alarms that a window may cost.

    The bound holds whatever the dependence between the two signals (Bonferroni): the expected number of
    false alarms of the whole verdict is at most the sum of both.
    """
    return min(1.0, monitoring.false_alarms_per_year / windows_per_year(monitoring.window) / SIGNALS)


def windows_per_year(window: timedelta) -> float:
    """How many disjoint windows a year holds."""
    return DAYS_PER_YEAR / (window / timedelta(days=1))


def allowed_rank(level: float, draws: int) -> int:
    """The largest rank (1 = most extreme of `draws`) that is still an alarm; 0: none can be."""
    return math.floor(level * draws + _FUZZ)


def achieved_per_year(level: float, draws: int, window: timedelta) -> float:
    """False alarms a year of a rank test among `draws` windows: never above the budget."""
    return allowed_rank(level, draws) / draws * windows_per_year(window)


def windows_needed(level: float) -> int:
    """The fewest reference windows with which a rank test can alarm at `level`."""
    return max(MIN_WINDOWS, math.ceil(1 / level - _FUZZ) - 1)


def per_year(level: float, window: timedelta) -> float:
    """The false alarms a year that the owner allows, by the level of one signal's test: what `alpha` undoes."""
    return level * windows_per_year(window) * SIGNALS


def least_per_year(windows: int, window: timedelta) -> int:
    """The smallest whole budget a year with which a rank test can alarm with so many reference windows."""
    return math.ceil(per_year(1 / (windows + 1), window) - _FUZZ)


def window_word(window: timedelta) -> str:
    """What people call a window: day, week, or 10-day window."""
    days = round(window / timedelta(days=1))
    return {1: "day", 7: "week"}.get(days, f"{days}-day window")
