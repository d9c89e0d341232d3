"""What the weekly page of a model holds; its JSON is this, and the page is drawn from nothing else."""

from __future__ import annotations

from typing import Literal

import msgspec

from monitoring.drift import Drift
from monitoring.estimate import Trust
from monitoring.health import Health
from monitoring.history import Alarms, Champion, Mark, Plan, Training
from monitoring.parity import Parity
from monitoring.quality import Quality
from monitoring.relation import Relation
from monitoring.verdict import Gain, Verdict

Status = Literal["quiet", "retrained", "promoted", "fault", "missed", "before"]
State = Literal["quiet", "new version", "waiting", "alarm", "fault", "parity", "refused", "missed", "approve"]
Kind = Literal["calm", "look", "ask"]

KINDS: dict[State, Kind] = {
    "quiet": "calm", "new version": "calm", "waiting": "calm", "alarm": "look", "fault": "look", "parity": "look",
    "refused": "look", "missed": "look", "approve": "ask",
}  # fmt: skip
"""calm: nothing to do; look: something is wrong; ask: a decision is wanted."""


class Night(msgspec.Struct, frozen=True):
    """What happened on one night."""

    date: str
    status: Status
    sentence: str


STOPPED = "batch stopped"
"""The rule of a delivery of which no row was kept."""


class Quarantined(msgspec.Struct, frozen=True):
    """Rows that were kept out, and the rule that they broke."""

    source: str
    when: str
    rule: str
    rows: int
    sentence: str
    stands: bool = True
    """A person still has to do something about it."""
    command: str = ""
    """What shows the rows."""


class Serving(msgspec.Struct, frozen=True):
    """How many predictions were answered, and the share with at least one input missing or stale."""

    predictions: int
    degraded: float


class Approval(msgspec.Struct, frozen=True):
    """A challenger that waits for a person: gain over the champion, with its interval, in `unit`."""

    version: int
    gain: float
    low: float
    high: float
    unit: str = "points"


class Unsent(msgspec.Struct, frozen=True):
    """An alert that could not be sent: when, to whom, and why not."""

    as_of: str
    to: str
    line: str
    error: str


class Opinion(msgspec.Struct, frozen=True):
    """What a replay of the past says of the policy; read from its JSON."""

    since: str
    until: str
    """What was replayed, ISO days."""
    sentence: str
    page: str = ""
    """Its file, which lies with the weekly pages."""


class Link(msgspec.Struct, frozen=True):
    """A relative link to a file beside the page."""

    label: str
    href: str


class Week(msgspec.Struct, frozen=True):
    """Everything that the page of one model and week shows."""

    model: str
    owner: str
    description: str
    task: str
    since: str
    """First and last day, ISO."""
    until: str
    first_line: str
    state: State
    """The same in a word."""
    verdicts: list[Verdict]
    """Of the week's nights, oldest first."""
    quality: list[Quality] = []
    trust: Trust | None = None
    """How far the estimates of quality were right."""
    champions: list[Champion] = []
    """Oldest first; the last one is live."""
    nights: list[Night] = []
    quarantine: list[Quarantined] = []
    """What the week's deliveries left there, newest first."""
    held: str = ""
    """What older deliveries left there that still stands."""
    parity: Parity | None = None
    serving: Serving | None = None
    health: Health | None = None
    approval: Approval | None = None
    trainings: list[Training] = []
    """Of the week, and the one that waits."""
    marks: list[Mark] = []
    """Of the year, for the time line."""
    alarms: Alarms | None = None
    plan: Plan | None = None
    opinion: Opinion | None = None
    unsent: list[Unsent] = []
    links: list[Link] = []
    as_of: str = ""
    """What was known by this instant, ISO, is on the page."""

    @property
    def kind(self) -> Kind:
        """What is wanted of the owner."""
        return KINDS[self.state]

    @property
    def name(self) -> str:
        """File name of the page, without its ending."""
        return f"{self.model}-{self.until}"

    @property
    def judged(self) -> Verdict | None:
        """The week's verdict: the latest one at which a window closed, else the latest."""
        closed = [verdict for verdict in self.verdicts if verdict.evidence.drift]
        return ([*self.verdicts[-1:], *closed][-1]) if self.verdicts else None

    @property
    def drift(self) -> Drift | None:
        """Input drift of the week, if a window closed."""
        return self.judged.evidence.drift if self.judged else None

    @property
    def relation(self) -> Relation | None:
        """The latest look at the labels."""
        seen = [verdict.evidence.relation for verdict in self.verdicts if verdict.evidence.relation]
        return seen[-1] if seen else None

    @property
    def gain(self) -> Gain | None:
        """The latest word on what retraining would bring."""
        told = [verdict.gain for verdict in self.verdicts if verdict.gain]
        return told[-1] if told else None


class Listed(msgspec.Struct, frozen=True):
    """What the index needs of a page's JSON: pages of older and newer releases have it, too."""

    model: str
    owner: str
    description: str
    since: str
    until: str
    first_line: str
    state: str = "quiet"

    @property
    def name(self) -> str:
        """File name of the page, without its ending."""
        return f"{self.model}-{self.until}"

    @property
    def kind(self) -> str:
        """What is wanted of the owner."""
        return {str(state): kind for state, kind in KINDS.items()}.get(self.state, "look")
