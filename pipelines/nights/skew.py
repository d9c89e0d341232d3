"""Why serving and training disagree: the snapshots around each decision, looked at only where something differs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd

import features
from features import Domain, FeatureTable
from models import Model
from monitoring.parity import History, differing
from pipelines.data import lake
from pipelines.home import Home
from pipelines.records import predictions
from pipelines.store.feature_tables import CREATED, VISIBLE
from pipelines.store.matrix import matrix

SOON = timedelta(hours=1)
"""A snapshot that is visible this soon after a decision may have been in serving at it, if a clock is off."""
AHEAD = timedelta(days=1)
BEFORE, DECIDED = "before ", "decision_time"


def history(
    at: Home, model: Model, rows: pd.DataFrame, served: pd.DataFrame, recomputed: pd.DataFrame
) -> dict[str, History | None]:
    """What `monitoring.parity.compare` tells reasons by: for each feature of a table, its snapshots around each row.

    Args:
        rows: n predictions, in order of decision time. served, recomputed: (n, features), in the same order.

    Returns:
        {feature: its history}; None for features that are computed from the request. Tables none of whose features
        differ are left out.
    """
    domain = features.load(model.domain)
    computed = domain.request_features_of(model.feature_service)
    found: dict[str, History | None] = {feature.name: None for part in computed for feature in part.features}
    asked = predictions.asked_examples(rows)
    for table in domain.tables_of(model.feature_service):
        if any(differing(served[feature.name], recomputed[feature.name]).any() for feature in table.features):
            found |= _histories(at, domain, table, asked, served, recomputed)
    return found


def _histories(
    at: Home, domain: Domain, table: FeatureTable, asked: pd.DataFrame, served: pd.DataFrame, recomputed: pd.DataFrame
) -> dict[str, History | None]:
    decided = asked[DECIDED].reset_index(drop=True)
    snapshots = _snapshots(at, domain, table, decided.iloc[0], decided.iloc[-1])
    asked = asked[[*table.keys, DECIDED]].reset_index(drop=True)
    joined = {"left": asked, "right": snapshots, "left_on": DECIDED, "right_on": VISIBLE, "by": list(table.keys)}
    counts = pd.merge_asof(**joined, tolerance=table.ttl)
    after = pd.merge_asof(**joined, direction="forward", allow_exact_matches=False)
    soon = (after[VISIBLE] - decided <= SOON).to_numpy()
    corrected = (decided < pd.Timestamp(_released(at, domain, table))).to_numpy()
    found: dict[str, History | None] = {}
    for name in (feature.name for feature in table.features):
        before = counts[BEFORE + name].to_numpy(dtype=object)
        same = ~differing(served[name], recomputed[name])
        # Whoever was served this snapshot's own value shows that it was there by then.
        there = decided.where(same & differing(before, recomputed[name])).groupby(counts[VISIBLE]).transform("max")
        late = ((counts[CREATED] > decided) | (decided < there)).to_numpy()
        found[name] = History(before, after[name].to_numpy(dtype=object), late, soon, corrected)
    return found


def _snapshots(at: Home, domain: Domain, table: FeatureTable, first: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
    """The table's snapshots from two lifetimes before `first` to a day after `last`, by time, and each one's before."""
    names = [feature.name for feature in table.features]
    held = lake.read(at.room("snapshots", domain.name, table.name), first - 2 * table.ttl, last + AHEAD)
    columns = [*table.keys, *names, VISIBLE, CREATED]
    found = held.to_pandas()[columns] if held is not None else pd.DataFrame(columns=columns)
    found = found.sort_values(VISIBLE, ignore_index=True, kind="stable")
    for stamp in (VISIBLE, CREATED):
        found[stamp] = found[stamp].astype("datetime64[us, UTC]")
    values = matrix(found, table.features)
    before = values.groupby([found[key] for key in table.keys], sort=False).shift(1).add_prefix(BEFORE)
    return pd.concat([found[[*table.keys, VISIBLE, CREATED]], values, before], axis=1)


def _released(at: Home, domain: Domain, table: FeatureTable) -> datetime | None:
    """When rows were last put back into one of the table's sources."""
    found = [instant for name in table.sources for instant in lake.releases(at.room("lake", domain.name, name))]
    return max(found, default=None)
