"""Small made-up streams for the monitoring tests: windows that differ a little, as real weeks do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from models import Examples, Gates, Model, Monitoring, Retraining
from monitoring.profile import Bins, Profile, Reference, fit_bins, take
from monitoring.relation import Day

START = date(2021, 1, 4)


@dataclass(frozen=True)
class Column:
    name: str
    dtype: str = "float"
    default: Any = None


FEATURES = (Column("temp"), Column("wind"), Column("place", "str"))
IMPORTANCE = {"temp": 0.6, "wind": 0.1, "place": 0.3}


def rows(random: np.random.Generator, n: int = 200, shift: float = 0.0) -> pd.DataFrame:
    """One window: each has its own weather, so its rows are not independent."""
    return pd.DataFrame(
        {
            "temp": random.normal(random.normal(0, 0.3) + shift, 1, n),
            "wind": np.where(random.random(n) < random.beta(1, 20), np.nan, random.exponential(1, n)),
            "place": np.char.add("p", np.minimum(random.zipf(1.5, n), 999).astype(str)).astype(object),
        }
    )


def iso(index: int) -> str:
    return (START + timedelta(days=index)).isoformat()


def reference(windows: Iterable[pd.DataFrame], bins: Bins | None = None) -> Reference:
    """A reference whose windows are days, one for each frame."""
    frames = list(windows)
    bins = bins or fit_bins(pd.concat(frames), FEATURES)
    return Reference(bins, {iso(i): take(frame, bins) for i, frame in enumerate(frames)}, IMPORTANCE, {})


def as_window(frame: pd.DataFrame, bins: Bins) -> dict[str, Profile]:
    return {iso(10_000): take(frame, bins)}


def steady_days(n: int, mean: float = 0.0, seed: int = 0) -> dict[str, Day]:
    random = np.random.default_rng(seed)
    return {iso(i): Day(100, float(random.normal(mean, 0.02)), 0.7) for i in range(n)}


def model(**changes: Any) -> Model:
    fields: dict[str, Any] = {
        "name": "tide",
        "owner": "Harbour team",
        "description": "Will the tide gate need closing?",
        "task": "binary",
        "domain": "harbour",
        "feature_service": "tide_v1",
        "examples": Examples(
            sources=("gauge",), sql="select 1", known_before=timedelta(0), label_matures=timedelta(days=1)
        ),
        "estimator": dict,
        "training_window": timedelta(days=180),
        "holdout": timedelta(days=28),
        "metric": "roc_auc",
        "baselines": {"dumb": dict},
        "gates": Gates(gain_over_baseline=0.0, loss_to_champion=0.0, calibration=0.1),
        "retraining": Retraining(max_age=timedelta(days=56), cooldown=timedelta(days=21)),
        "monitoring": Monitoring(false_alarms_per_year=8.0),
        "schedule": "0 5 * * *",
    }
    return Model(**(fields | changes))
