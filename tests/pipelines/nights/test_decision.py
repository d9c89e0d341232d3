"""What is added to a window's evidence once it has raised an alarm."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd

from pipelines.nights.decision import told_apart
from pipelines.registry.package import Packaged
from pipelines.registry.promotion import Pointer
from pipelines.training.retraining import DECIDED
from tests.monitoring.worlds import FEATURES, iso, model, rows

MODEL = model()
CLOSED = datetime(2021, 5, 1, tzinfo=UTC)
POINTER = cast(Pointer, SimpleNamespace(digest="live"))


def packaged(sample: pd.DataFrame) -> Packaged:
    """As much of a version as the evidence needs."""
    return cast(Packaged, SimpleNamespace(sample=sample, manifest=SimpleNamespace(features=FEATURES)))


def log(served: pd.DataFrame) -> Callable[..., pd.DataFrame]:
    """What serving saw, the last row by another version."""
    shown = served.add_prefix("feature.").assign(digest=["live"] * (len(served) - 1) + ["older"])

    def labelled(since: datetime, until: datetime, *, as_of: datetime) -> pd.DataFrame:
        assert until - since == MODEL.monitoring.window
        return shown

    return labelled


def behind(random: np.random.Generator) -> pd.DataFrame:
    return pd.concat([rows(random, 40).assign(**{DECIDED: iso(day)}) for day in range(70)], ignore_index=True)


def test_the_window_is_told_apart_from_the_windows_behind_the_champion_by_name() -> None:
    random = np.random.default_rng(1)
    found = told_apart(log(rows(random, 280, shift=3.0)), MODEL, CLOSED, POINTER, packaged(behind(random)))
    assert found is not None
    assert (found.windows, found.beaten, found.names[0]) == (10, 10, "temp")


def test_nothing_is_told_of_a_version_whose_sample_names_no_days_or_of_rows_without_features() -> None:
    random, night = np.random.default_rng(2), CLOSED + timedelta(hours=3)
    sample = behind(random)
    assert told_apart(log(rows(random)), MODEL, night, POINTER, packaged(sample.drop(columns=DECIDED))) is None
    assert told_apart(log(rows(random)[["temp"]]), MODEL, night, POINTER, packaged(sample)) is None
