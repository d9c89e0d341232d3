"""How well calls were answered, in figures and in an owner's words."""

from __future__ import annotations

import msgspec

LONGEST_MS = 10_000.0
"""Where the measuring of a call's time ends: what took longer is told as this."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The calls for a model's predictions over some days, all workers together."""

    requests: int
    """All of them, whatever became of them."""
    answered: int
    refused: int
    """With a 4xx: a mistake of the caller, or a rate that was exceeded."""
    failed: int
    """With a 5xx: nothing wrong with the call."""
    shed: int
    """Of those that failed, the ones that met a full house and were asked to come back."""
    p50_ms: float | None
    """Half of the answered calls took at most so long, from arrival to answer."""
    p99_ms: float | None
    predictions: int
    """Instances; a call may hold many."""
    degraded: int
    """Instances for which a default stood in for some feature."""
    canary: int
    """Instances that a canary answered."""
    swaps: int
    """Champions swapped in, counted by every worker."""
    swaps_refused: int
    cpu_seconds: float
    """CPU time of the service's workers, for all their models and while idle."""
    service_predictions: int
    """Instances that they answered, for all their models."""
    unreadable: int = 0
    """Files of figures that could not be read, and are missing from all of the above."""

    @property
    def cpu_per_thousand(self) -> float | None:
        """CPU seconds for 1,000 predictions; None when there were none."""
        return 1000 * self.cpu_seconds / self.service_predictions if self.service_predictions else None

    @property
    def facts(self) -> list[tuple[str, str, str]]:
        """What an owner is shown: the name of a figure, the figure, and what it means."""
        slow = f"half are faster; 99 of 100 take at most {milliseconds(self.p99_ms)}"
        cost = self.cpu_per_thousand
        return [
            ("Answer time", milliseconds(self.p50_ms), slow if self.answered else "no call was answered"),
            ("Calls that failed", f"{self.failed:,}" if self.failed else "None", self._failures),
            *([("Cost", f"{cost:.2g} s", "of CPU time for 1,000 predictions, all models")] if cost is not None else []),
        ]

    @property
    def _failures(self) -> str:
        said = [f"of {self.requests:,}"]
        if self.shed:
            said.append(f"{self.shed:,} of them because the service was full")
        if self.refused:
            said.append(f"{self.refused:,} more were refused: a mistake of the caller, or too many calls")
        return "; ".join(said)


def milliseconds(value: float | None) -> str:
    """A time as people say it: 0.8 ms, 12 ms, 1.4 s, 10 s or more, none."""
    if value is None:
        return "none"
    if value >= LONGEST_MS:
        return "10 s or more"
    if value >= 999.5:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
