"""Streams of a year of weeks to try verdicts on: the demo's flights, and two that are made up.

Each row comes with its day, its label and the score of a model that never saw its week: the weeks are dealt into four
folds, and each fold is scored by a model of the other three. So every week is as new to its model as every other, and
weeks dealt at random are exchangeable in inputs, scores and surprises alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance

import features
import models
from pipelines.data import ingest
from pipelines.home import Home, settle, utc
from pipelines.records.examples import labelled
from pipelines.records.frame import with_features
from pipelines.store import feature_tables

FOLDS = 4
WEEK = 7
FLIGHTS = "late_arrival"


class Column(NamedTuple):
    """A column of a made-up stream, as a feature."""

    name: str
    dtype: str


@dataclass(frozen=True)
class Stream:
    """Whole weeks of rows, sorted by day, as of index 0; `fold` of a week is the model that never saw it."""

    name: str
    columns: tuple[Any, ...]
    inputs: pd.DataFrame
    label: np.ndarray
    day: np.ndarray
    """Days since the first (n,)."""
    estimators: tuple[Any, ...]
    fold: np.ndarray
    """Which of the estimators scores a week (weeks,)."""
    importance: dict[str, float]

    @property
    def weeks(self) -> int:
        """How many weeks it has."""
        return len(self.fold)

    def rows(self, day: int) -> slice:
        """The rows of a day."""
        return slice(*np.searchsorted(self.day, [day, day + 1]))

    def score(self, week: int, inputs: pd.DataFrame) -> np.ndarray:
        """P(label is 1) by the model that never saw the week (n,)."""
        return self.estimators[self.fold[week]].predict_proba(inputs)[:, 1]


def flights(root: Path) -> Stream:
    """The flights of 2013 with their features as serving would have seen them; the rows are kept below `root`."""
    kept = root / "flights.parquet"
    declared = models.load(FLIGHTS)
    if not kept.exists():
        _flights(Home(root / "home")).to_parquet(kept)
    rows = pd.read_parquet(kept)
    columns = tuple(features.load(declared.domain).features_of(declared.feature_service))
    return stream("flights", columns, rows, declared.estimator)


def _flights(at: Home) -> pd.DataFrame:
    settle(at)
    since, until = utc("2013-01-01"), utc("2014-01-01")
    declared = models.load(FLIGHTS)
    print("flights: ingest and check the year, compute the feature tables (once; some minutes)", flush=True)
    ingest.ingest(at, declared.domain, until)
    feature_tables.backfill(at, declared.domain, since, until)
    from pipelines.store import feature_store  # slow to import

    feature_store.apply(at)
    frame = with_features(at, declared, labelled(at, declared, as_of=until, window=timedelta(weeks=51)))
    day = (frame.rows["decision_time"] - pd.Timestamp(until - timedelta(weeks=51))) // pd.Timedelta(days=1)
    return frame.inputs.assign(day=day.to_numpy(), label=frame.rows["label"].to_numpy())


def made_up(root: Path, weeks: int = 51, a_day: int = 250, seed: int = 7) -> Stream:
    """Ten inputs whose level wanders from day to day; a label that hangs on five of them and on a wandering mood."""
    random = np.random.default_rng(seed)
    days, n = weeks * WEEK, weeks * WEEK * a_day
    day = np.repeat(np.arange(days), a_day)
    found: dict[str, np.ndarray] = {}
    for j in range(8):
        level = _course(random, days, carry=0.1 * j) * 0.15 * j
        found[f"x{j}"] = random.normal(level[day], 1 + 0.5 * (j % 2), n)
        found[f"x{j}"][random.random(n) < 0.02 * (j % 3)] = np.nan
    for j, many in enumerate((4, 40)):
        common = random.dirichlet(np.full(many, 0.7))
        mix = (0.85 * common + 0.15 * random.dirichlet(np.full(many, 2.0), days)).cumsum(axis=1)
        found[f"kind{j}"] = np.char.add("k", (random.random((n, 1)) > mix[day]).sum(axis=1).astype(str)).astype(object)
    x = {name: np.nan_to_num(value) for name, value in found.items() if name.startswith("x")}
    logit = x["x0"] - 0.8 * x["x2"] + 0.6 * x["x5"] * (x["x1"] > 0) + 1.5 * (found["kind0"] == "k1") - 1
    label = random.random(n) < 1 / (1 + np.exp(-logit - 0.2 * _course(random, days, 0.5)[day]))

    return _made("made up", found, day, label)


def tangled(root: Path, weeks: int = 51, a_day: int = 90, seed: int = 3) -> Stream:
    """Eleven inputs of few rows that hang together by three wandering moods, with heavy tails and odd weekends."""
    random = np.random.default_rng(seed)
    days, n = weeks * WEEK, weeks * WEEK * a_day
    day = np.repeat(np.arange(days), a_day)
    mood = np.column_stack([0.5 * _course(random, days, 0.7)[day] for _ in range(3)])
    mood += 0.8 * random.standard_t(5, (n, 3))
    mood[:, 0] += 0.6 * (day % WEEK >= 5)
    x = mood @ random.normal(size=(3, 9)) + 0.7 * random.standard_t(4, (n, 9))
    found: dict[str, np.ndarray] = {}
    for j, values in enumerate(x.T):
        found[f"x{j}"] = (np.exp(values / 2), np.round(values, 1), values)[j % 3]
    kind = np.digitize(mood[:, 1] + random.normal(size=n), [-1.5, -0.5, 0.5, 1.5])
    found["kind0"] = np.char.add("k", kind.astype(str)).astype(object)
    found["kind1"] = np.char.add("k", random.integers(0, 12, n).astype(str)).astype(object)
    logit = mood[:, 0] - 0.8 * mood[:, 1] + 0.5 * x[:, 2] * (kind > 2) + 0.3 * x[:, 4] - 0.5
    label = random.random(n) < 1 / (1 + np.exp(-logit - 0.2 * _course(random, days, 0.5)[day]))
    return _made("tangled", found, day, label)


def _made(name: str, found: dict[str, np.ndarray], day: np.ndarray, label: np.ndarray) -> Stream:
    columns = tuple(Column(each, "str" if each.startswith("kind") else "float") for each in found)
    return stream(name, columns, pd.DataFrame({**found, "day": day, "label": label.astype(float)}), _trees)


def _trees() -> Any:
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer(
        (codes, make_column_selector(dtype_include=object)), remainder="passthrough", verbose_feature_names_out=False
    )
    return make_pipeline(columns, HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, random_state=0))


def stream(name: str, columns: tuple[Any, ...], rows: pd.DataFrame, estimator: Callable[[], Any]) -> Stream:
    """Cross-fit a model for each fold of the weeks, and ask the first for what it looks at."""
    rows = rows.sort_values("day", kind="stable", ignore_index=True)
    rows = rows[(rows["day"] >= 0) & (rows["day"] < rows["day"].max() // WEEK * WEEK + WEEK)].reset_index(drop=True)
    day, label = rows["day"].to_numpy(int), rows["label"].to_numpy(float)
    inputs = rows[[column.name for column in columns]]
    weeks = int(day.max()) // WEEK + 1
    fold = np.random.default_rng(0).permutation(np.arange(weeks) % FOLDS)
    at = fold[day // WEEK]
    fitted = []
    for number in range(FOLDS):
        print(f"{name}: model {number + 1} of {FOLDS}", flush=True)
        fitted.append(estimator().fit(inputs[at != number], label[at != number]))
    held = np.random.default_rng(0).permutation(np.flatnonzero(at == 0))[:4000]
    told = permutation_importance(
        fitted[0], inputs.iloc[held], label[held], scoring="roc_auc", n_repeats=2, random_state=0
    )
    weight = np.clip(told.importances_mean, 0, None)
    importance = dict(zip(inputs.columns, (weight / weight.sum()).tolist(), strict=True))
    return Stream(name, columns, inputs, label, day, tuple(fitted), fold, importance)


def _course(random: np.random.Generator, days: int, carry: float) -> np.ndarray:
    """A level that a day shares with the day before, variance 1 (days,)."""
    noise, found = random.normal(size=days), np.zeros(days)
    for day in range(days):
        found[day] = carry * found[day - 1] * (day > 0) + np.sqrt(1 - carry**2) * noise[day]
    return found
