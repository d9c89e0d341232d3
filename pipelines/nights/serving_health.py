"""How well a model's calls were answered, from the figures that the workers of the service left in state.

A day is a UTC day of the service's clock. Where requests carry the clock, as in a replay, it is the day of their
decision times: a week of long ago has its figures too.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from monitoring.health import Health
from pipelines.home import Home
from services.tallies import Tally, Timing, read

DAY = timedelta(days=1)
PREDICT = "/predict"
"""How the template of the route ends whose calls are counted."""
HUNG_UP = "499"
"""Callers who went away before their answer: neither refused nor failed."""


def health(at: Home, model: str, since: datetime, until: datetime) -> Health | None:
    """The figures of the days that begin in [since, until); None when nobody asked for a prediction.

    Args:
        model: its name. CPU time is known for the whole service only, so all its models' predictions come with it.
    """
    tally = read(_files(at, since, until))
    asked = {key[3]: timing for key, timing in tally.timings.items() if _asks(key, model)}
    if not asked:
        return None
    answered = Timing()
    for status, timing in asked.items():
        if status.startswith("2"):
            answered.add(timing)
    return Health(
        requests=sum(timing.count for timing in asked.values()),
        answered=answered.count,
        refused=sum(timing.count for status, timing in asked.items() if status.startswith("4") and status != HUNG_UP),
        failed=sum(timing.count for status, timing in asked.items() if status.startswith("5")),
        shed=_count(tally, "refused", model, "overloaded"),
        p50_ms=_ms(answered.quantile(0.5)),
        p99_ms=_ms(answered.quantile(0.99)),
        predictions=_count(tally, "predictions", model),
        degraded=_count(tally, "degraded", model),
        canary=_count(tally, "predictions", model, "canary"),
        swaps=_count(tally, "swaps", model, "swapped"),
        swaps_refused=_count(tally, "swaps", model, "refused"),
        cpu_seconds=tally.counts.get(("cpu",), 0.0),
        service_predictions=_count(tally, "predictions"),
        unreadable=_count(tally, "unreadable"),
    )


def _files(at: Home, since: datetime, until: datetime) -> list[Path]:
    count = -(-(until - since) // DAY)
    days = [(since + n * DAY).date().isoformat() for n in range(count)]
    return [path for day in days for path in sorted((at.root / "serving" / day).glob("*.json"))]


def _asks(key: tuple[str, ...], model: str) -> bool:
    return key[0] == "request" and key[1].endswith(PREDICT) and key[2] == model


def _count(tally: Tally, *beginning: str) -> int:
    """The sum of the counts whose keys begin so."""
    return int(sum(amount for key, amount in tally.counts.items() if key[: len(beginning)] == beginning))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
