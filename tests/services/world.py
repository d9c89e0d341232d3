"""A root with real parts in it, small: snapshots in Feast, and versions of the declared model that differ a lot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

import features
from monitoring.profile import Reference, fit_bins
from pipelines.data import lake
from pipelines.home import Home
from pipelines.registry import package
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Pointer
from pipelines.registry.promotion import promote
from pipelines.scorers.agreement import choose
from pipelines.store import feature_store
from pipelines.store.feature_tables import ARROW, CREATED, VISIBLE
from pipelines.store.matrix import matrix

Manifests = list[package.Manifest]
MODEL, DOMAIN, SERVICE = "late_arrival", "flights", "flight_plan"
VALUED = "arrival_delay"
NOW = datetime(2013, 4, 1, 12, 0, tzinfo=UTC)
VISIBLE_AT = NOW - timedelta(hours=1)
ENTITIES: dict[str, list[Any]] = {
    "origin": ["EWR", "JFK", "LGA"],
    "dest": ["ATL", "ORD", "SFO"],
    "carrier": ["UA", "DL", "B6"],
    "tailnum": ["N1", "N2", "N3"],
}


def instance(**changed: Any) -> dict[str, Any]:
    """A good instance of a call."""
    good = {
        "origin": "EWR",
        "dest": "ATL",
        "carrier": "UA",
        "tailnum": "N1",
        "scheduled_departure": "2013-04-01T14:00:00Z",
        "distance": 746,
    }
    return good | changed


def call(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A good body, decided at NOW."""
    return {"instances": list(instances) or [instance()], "as_of": NOW.isoformat(), **more}


def materialized(at: Home, ages: dict[str, timedelta] | None = None) -> None:
    """Snapshots of a few entities, the last of them with nulls, visible an hour before NOW (or `ages` of a table)."""
    domain = features.load(DOMAIN)
    random = np.random.default_rng(1)
    feature_store.apply(at)
    store = feature_store.open_store(at)
    for table in domain.tables:
        keys = {key: pa.array(ENTITIES[key]) for key in table.keys}
        values = {f.name: [*(random.uniform(1, 50, 2).round(2)), None] for f in table.features}
        columns = {f.name: pa.array(values[f.name]).cast(ARROW[f.dtype], safe=False) for f in table.features}
        visible = NOW - (ages or {}).get(table.name, NOW - VISIBLE_AT)
        stamp = pa.array([visible] * 3, lake.INSTANT)
        rows = pa.table({**keys, **columns, VISIBLE: stamp, CREATED: stamp})
        lake.write(at.room("snapshots", DOMAIN, table.name), rows, key=table.keys, by=VISIBLE)
        since = visible - timedelta(seconds=1)
        store.materialize(since, visible + timedelta(seconds=1), feature_views=[table.name])


def packaged(at: Home, seed: int) -> package.Manifest:
    """A version trained on noise: another seed, other answers."""
    domain = features.load(DOMAIN)
    declared = domain.features_of(SERVICE)
    specs = tuple(package.FeatureSpec(f.name, f.dtype, f.default) for f in declared)
    tables = tuple(
        package.TableSpec(t.name, t.keys, t.ttl.total_seconds(), tuple(f.name for f in t.features))
        for t in domain.tables_of(SERVICE)
    )
    random = np.random.default_rng(seed)
    texts = {"airline": ENTITIES["carrier"], "airport": ENTITIES["origin"]}
    frame = matrix({f.name: random.choice(texts.get(f.name, [None, *range(40)]), 400) for f in specs}, specs)
    estimator = _estimator(seed).fit(frame, random.random(400) < (0.2 if seed % 2 else 0.8))
    answers = estimator.predict_proba(frame)[:, 1]
    chosen = choose("binary", estimator, frame, specs)
    manifest = package.Manifest(
        model=MODEL, task="binary", trained_as_of="2013-03-01T00:00:00+00:00",
        trained_until="2013-03-01T00:00:00+00:00", domain=DOMAIN, feature_service=SERVICE, features=specs,
        tables=tables, keys={key: domain.entities[key] for key in domain.keys_of(SERVICE)},
        inputs=domain.inputs_of(SERVICE), importance={f.name: 1 / len(specs) for f in specs},
        metrics={"roc_auc": 0.5}, gates=(), data={"seed": seed}, code_commit="none", lock_hash="none",
        golden=package.golden(frame.head(20), answers[:20]), scorer=chosen.scorer, scorer_note=chosen.note,
    )  # fmt: skip
    reference = Reference(fit_bins(frame, specs), {}, manifest.importance, {})
    return package.store(at, manifest, estimator, reference, frame.assign(prediction=answers, label=0.0).head(20))


def valued(at: Home, like: package.Manifest) -> package.Manifest:
    """A version of the other declared model, made from the features of `like`: it gives a value with an interval."""
    frame = matrix(like.golden.columns, like.features)
    estimator = make_pipeline(_columns(), HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=2, random_state=1))
    answers = estimator.fit(frame, np.linspace(-50, 90, len(frame))).predict(frame)
    chosen = choose("regression", estimator, frame, like.features)
    manifest = msgspec.structs.replace(
        like, model=VALUED, task="regression", golden=package.golden(frame, answers), files={}, digest="", tag="",
        scorer=chosen.scorer, scorer_note=chosen.note, interval=package.Band(0.9, -20.0, 25.0),
        metrics={"neg_mean_absolute_error": -1.0},
    )  # fmt: skip
    reference = Reference(fit_bins(frame, like.features), {}, manifest.importance, {})
    return package.store(at, manifest, estimator, reference, frame.assign(prediction=answers, label=0.0))


def crowned(at: Home, manifest: package.Manifest, version: int, key: str | None = None) -> Pointer:
    """Make a version champion, as the platform does."""
    return promote(
        Ledger(at.ledger_url), at.pointers, model=manifest.model, version=version, tag=manifest.tag,
        digest=manifest.digest, as_of=NOW, actor="test", why="test", key=key or f"promotion {version}",
    )  # fmt: skip


def _estimator(seed: int) -> Any:
    return make_pipeline(_columns(), HistGradientBoostingClassifier(max_iter=10, random_state=seed))


def _columns() -> Any:
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    return make_column_transformer(
        (codes, make_column_selector(dtype_include=object)), remainder="passthrough", verbose_feature_names_out=False
    )


def examples() -> pd.DataFrame:
    """What the training path is asked for: every entity, known and unknown ones, decided at NOW."""
    origins, carriers = [*ENTITIES["origin"]] * 4, [*ENTITIES["carrier"], "XX"] * 3
    dests, tails = ["ATL", "ORD", "SFO", "XXX", "ATL", "ORD"] * 2, ["N1", "N2", "N3", None] * 3
    departures = [NOW + timedelta(hours=2, minutes=7 * number, microseconds=number) for number in range(12)]
    return pd.DataFrame(
        {
            "decision_time": pd.Series([NOW] * 12).dt.as_unit("us"),
            "origin": origins,
            "dest": dests,
            "carrier": carriers,
            "tailnum": tails,
            "scheduled_departure": pd.Series(departures).dt.as_unit("us"),
            "distance": [100 * (number + 1) for number in range(12)],
        }
    )
