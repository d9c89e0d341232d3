"""What a replay found: its JSON is this, and its page is drawn from nothing else."""

from __future__ import annotations

import msgspec

DUMMIES = {"random": "at random", "fixed": "evenly spaced"}


class Interval(msgspec.Struct, frozen=True):
    """A mean over windows, with the interval that drawing windows with replacement gives it."""

    value: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        """Whether it is all on one side of nought."""
        return self.low > 0 or self.high < 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one policy. Quality is in units of the model's metric, larger is better."""

    policy: str
    dummy: bool = False
    """It retrains as often as another one, at random or evenly spaced, and is there to be beaten."""
    quality: Interval
    """Mean over the windows of what the version that was live in it scored."""
    against_current: Interval | None = None
    """How far that lies above what the model declares now, paired by window; None of the current policy itself."""
    against_random: Interval | None = None
    """The same against as many retrainings at random nights, where that was asked."""
    loss_to_best: float = 0.0
    """How far below the best policy in hindsight."""
    gain_kept: float | None = None
    """Share of what always retraining gains over never retraining; None where there is no such gain."""
    retrainings: int
    """After the first champion."""
    promotions: int
    refused: int
    """Failed their gates."""
    vetoes: int
    """Nights on which a retraining was asked for and forbidden."""
    alarms: int | None = None
    """Windows that raised one; None of a policy that looks at none."""
    false_alarms: int | None = None
    """Retrainings after an alarm that were refused, or scored no better than the version before."""
    days_degraded: int = 0
    """Days of windows in which it scored below always retraining by more than the declared loss to the champion."""
    seconds: float
    """CPU seconds of its fits, each counted in full though others share it."""
    series: list[float]
    """Quality by window."""
    trained: list[str] = []
    promoted: list[str] = []
    alarmed: list[str] = []
    """Days, ISO."""
    failed: list[str] = []
    """Nights on which no version could be fitted, and why."""


class Staleness(msgspec.Struct, frozen=True):
    """What age costs a model: how far it scores below one that was trained when the window began."""

    windows_old: int
    loss: Interval
    windows: int
    """That it rests on."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to know of a model before it goes live."""

    policy: str
    staleness: list[Staleness]
    windows_needed: int
    """Reference windows without which no alarm is possible at the declared rate."""
    windows_behind: int
    """Windows that the declared training window holds."""
    false_alarms_per_year: float | None
    """What the current policy would have raised."""
    allowed_per_year: float
    sentences: list[str]


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found."""

    model: str
    owner: str = ""
    metric: str
    since: str
    until: str
    windows: list[str]
    """First day of each, ISO."""
    word: str
    """What a window is called: week."""
    outcomes: list[Outcome]
    """As they were asked for; dummies last."""
    current: str
    always: str | None
    choice: str
    sentence: str
    """Which policy to choose, and how sure that is."""
    notes: list[str] = []
    advice: Advice | None = None

    @property
    def name(self) -> str:
        """File name of the page, without its ending."""
        return f"replay-{self.model}-{self.until}"

    @property
    def chosen(self) -> Outcome:
        """The policy to choose."""
        return next(each for each in self.outcomes if each.policy == self.choice)

    @property
    def dummies(self) -> list[tuple[str, int, float, int]]:
        """(what it is, retrainings, mean quality, draws) of the dummies, all draws of one kind together."""
        kinds: dict[tuple[str, int], list[float]] = {}
        for each in self.outcomes:
            if each.dummy:
                kind, count = each.policy.split()[:2]
                kinds.setdefault((DUMMIES[kind], int(count)), []).append(each.quality.value)
        return [(*kind, sum(values) / len(values), len(values)) for kind, values in sorted(kinds.items())]

    def shown(self, value: float) -> str:
        """A quality as people read it: an error with its sign turned."""
        return f"{-value if self.metric.startswith('neg_') else value:.4f}"
