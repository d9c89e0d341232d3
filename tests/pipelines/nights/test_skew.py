"""Each way in which serving and training come to disagree is planted in a small real root, found, and named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import features
import models
from features import RequestFeatures
from monitoring.parity import Difference, Parity
from pipelines.data import lake
from pipelines.home import Home, settle
from pipelines.nights import night
from pipelines.registry.package import FeatureSpec, Golden, Manifest, TableSpec
from pipelines.store import feature_store
from pipelines.store.feature_tables import CREATED, VISIBLE
from services.lookup import Lookup
from services.online import OnlineStore
from tests.services import world
from tests.services.world import NOW

MODEL = models.load(world.MODEL)
DOMAIN = features.load(world.DOMAIN)
TABLE = DOMAIN.table("carrier_delays")
DELAY, LATE = (feature.name for feature in TABLE.features)
NIGHT = NOW.replace(hour=0) + timedelta(days=1, minutes=30)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FEATURES = len(DOMAIN.features_of(world.SERVICE))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Snapshots visible an hour before NOW, all of them in the online store."""
    at = Home(tmp_path_factory.mktemp("made"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_HOME", str(at.root))
        settle(at)
        world.materialized(at)
        yield at.root


@pytest.fixture
def at(made: Path, home: Home) -> Home:
    shutil.copytree(made, home.root, dirs_exist_ok=True)
    feature_store.apply(home)
    return home


def snapshot(
    at: Home, visible: datetime, delay: float, *, carrier: str = "UA", created: datetime | None = None
) -> None:
    """One carrier's snapshot, for training."""
    stamps = {
        VISIBLE: pa.array([visible], lake.INSTANT),
        CREATED: pa.array([created or visible], lake.INSTANT),
    }
    rows = pa.table({"carrier": [carrier], DELAY: [delay], LATE: [delay / 100], **stamps})
    lake.write(at.room("snapshots", DOMAIN.name, TABLE.name), rows, key=TABLE.keys, by=VISIBLE)


def online(at: Home, visible: datetime) -> None:
    """Bring the snapshots of an instant to serving."""
    store = feature_store.open_store(at)
    with feature_store._quiet():
        store.materialize(visible - timedelta(seconds=1), visible, feature_views=[TABLE.name])


def serve(
    at: Home, *moments: datetime, off: timedelta = timedelta(0), computed: RequestFeatures | None = None, **keys: Any
) -> None:
    """Answer at these moments with what serving's own lookup gives, and log it as decided `off` from then."""
    parts = (computed,) if computed else DOMAIN.request_features_of(world.SERVICE)
    lookup = Lookup(OnlineStore(at), manifest(), parts)
    asked = world.instance(scheduled_departure=NOW + 2 * HOUR, **keys)
    found, degraded = lookup.find({name: [value] * len(moments) for name, value in asked.items()}, moments)
    inputs = DOMAIN.inputs_of(world.SERVICE)
    records = [
        {
            "request_id": f"{moment:%H%M}", "instance": 0, "model": MODEL.name, "example_id": None, "version": 1,
            "digest": "gone", "generation": 1, "decision_time": (moment + off).isoformat(), "prediction": 0.5,
            "degraded": [gap.feature for gap in degraded[row]], "role": "champion",
            "keys": {name: asked[name] for name in DOMAIN.keys_of(world.SERVICE)},
            "inputs": {name: asked[name] for name in inputs},
            "features": {name: values[row] for name, values in found.items()},
        }
        for row, moment in enumerate(moments)
    ]  # fmt: skip
    path = at.room("predictions", "open") / f"{moments[0]:%H%M%S}.closed.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))


def manifest() -> Manifest:
    """A version that reads what is declared; nothing is predicted here."""
    return Manifest(
        model=MODEL.name, task="binary", trained_as_of="", trained_until="", domain=DOMAIN.name,
        feature_service=world.SERVICE, importance={}, metrics={}, gates=(), data={}, code_commit="", lock_hash="",
        features=tuple(FeatureSpec(f.name, f.dtype, f.default) for f in DOMAIN.features_of(world.SERVICE)),
        tables=tuple(
            TableSpec(t.name, t.keys, t.ttl.total_seconds(), tuple(f.name for f in t.features))
            for t in DOMAIN.tables_of(world.SERVICE)
        ),
        keys={key: DOMAIN.entities[key] for key in DOMAIN.keys_of(world.SERVICE)},
        inputs=DOMAIN.inputs_of(world.SERVICE), golden=Golden({}, []),
    )  # fmt: skip


def checked(at: Home) -> Parity:
    night.compact(at, MODEL)
    found = night.check_parity(at, MODEL, NIGHT)
    assert found is not None
    return found


def differing(at: Home) -> list[Difference]:
    """What differs, once it was made sure that it is the planted table alone."""
    found = checked(at)
    assert found.breach
    assert {difference.feature for difference in found.differences} == {DELAY, LATE}
    assert found.differences[0].reasons == found.differences[1].reasons
    return found.differences


def test_what_was_served_is_what_training_gets(at: Home) -> None:
    serve(at, NOW, NOW + 2 * HOUR)
    found = checked(at)
    assert (found.rows, found.of, found.breach, found.differences) == (2, 2, False, [])
    assert len(found.rates) == FEATURES


def test_late_data_by_the_snapshots_own_stamp(at: Home) -> None:
    serve(at, NOW)
    snapshot(at, NOW - 30 * MINUTE, 99.0, created=NOW + HOUR)
    first = differing(at)[0]
    assert (first.reason, first.reasons) == ("late data", {"late data": 1})
    assert (first.feature, first.row_id, first.recomputed) == (DELAY, "1200/0", 99.0)
    assert first.served is not None and first.served != 99.0
    assert pd.Timestamp(first.decided) == pd.Timestamp(NOW)


def test_late_data_by_what_others_were_served(at: Home) -> None:
    snapshot(at, NOW - 30 * MINUTE, 99.0)
    serve(at, NOW)
    online(at, NOW - 30 * MINUTE)
    serve(at, NOW + 10 * MINUTE)
    assert differing(at)[0].reasons == {"late data": 1}


def test_stale_when_the_newer_value_never_came(at: Home) -> None:
    snapshot(at, NOW - 30 * MINUTE, 99.0)
    serve(at, NOW, NOW + HOUR)
    assert differing(at)[0].reasons == {"stale": 2}


def test_default_used_when_serving_knew_nothing(at: Home) -> None:
    snapshot(at, NOW - 30 * MINUTE, 99.0, carrier="ZZ")
    serve(at, NOW, carrier="ZZ")
    first = differing(at)[0]
    assert (first.reasons, first.served, first.recomputed) == ({"default used": 1}, None, 99.0)


def test_a_clock_that_logs_too_early_an_instant(at: Home) -> None:
    snapshot(at, NOW + 30 * MINUTE, 99.0)
    online(at, NOW + 30 * MINUTE)
    serve(at, NOW + 40 * MINUTE, off=-20 * MINUTE)
    first = differing(at)[0]
    assert (first.reasons, first.served) == ({"clock": 1}, 99.0)


def test_a_clock_that_is_behind_serving(at: Home) -> None:
    snapshot(at, NOW + 30 * MINUTE, 99.0)
    online(at, NOW + 30 * MINUTE)
    serve(at, NOW + 20 * MINUTE)  # serving has gone on to a value that it may not show yet
    first = differing(at)[0]
    assert (first.reasons, first.served) == ({"clock": 1}, None)


def test_changed_code_of_a_table(at: Home) -> None:
    serve(at, NOW)
    snapshot(at, world.VISIBLE_AT, 99.0)  # as a backfill with another query would write it
    assert differing(at)[0].reasons == {"changed code": 1}


def test_changed_value_after_a_release_from_quarantine(at: Home) -> None:
    serve(at, NOW)
    snapshot(at, world.VISIBLE_AT, 99.0)
    arrived = pa.table({"flight_id": ["x"], "arrived_at": pa.array([NOW - 9 * HOUR], lake.INSTANT)})
    folder = at.room("lake", DOMAIN.name, TABLE.sources[0])
    lake.write(folder, arrived, key=("flight_id",), by="arrived_at", released=NOW + HOUR)
    assert differing(at)[0].reasons == {"changed value": 1}


def test_changed_code_of_a_request_function(at: Home) -> None:
    (part,) = DOMAIN.request_features_of(world.SERVICE)

    def older(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return part.compute(inputs) | {"miles": [distance * 1.609 for distance in inputs["distance"]]}

    serve(at, NOW, computed=replace(part, compute=older))
    found = checked(at)
    assert [(d.feature, d.reason) for d in found.differences] == [("miles", "changed code")]
    assert found.sentence == "`miles` differs in 100.0% of 1 predictions (changed code)"


def test_a_sample_is_told_as_one(at: Home) -> None:
    serve(at, *(NOW + minute * MINUTE for minute in range(5)))
    night.compact(at, MODEL)
    few = replace(MODEL, monitoring=replace(MODEL.monitoring, parity_sample=3))
    found = night.check_parity(at, few, NIGHT)
    assert found is not None
    assert (found.rows, found.of) == (3, 5)
    assert "3 predictions (a sample of 5)" in found.sentence


def test_tables_with_several_keys_and_an_entity_that_is_unknown(at: Home) -> None:
    serve(at, NOW, tailnum=None)
    serve(at, NOW + MINUTE)
    for name in ("aircraft", "route_delays"):
        table, folder = DOMAIN.table(name), at.room("snapshots", DOMAIN.name, name)
        rows = lake.read(folder)
        assert rows is not None
        first = rows.column_names.index(table.features[0].name)
        rows = rows.set_column(first, rows.field(first), pc.add(rows.column(first), 5.0))
        lake.write(folder, rows, key=table.keys, by=VISIBLE)
    found = checked(at)
    assert {difference.feature: difference.reasons for difference in found.differences} == {
        "route_delay_28d": {"changed code": 2},
        "previous_delay": {"changed code": 1},
    }
