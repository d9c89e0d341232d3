"""The lookup reads the online store by the store's own interface: it must give what Feast's own call gives."""

from datetime import UTC, datetime, timedelta
from typing import Any

import feast
import msgspec
import pytest

import features
from features import HeadwayError
from pipelines.home import Home
from pipelines.registry import package
from pipelines.store import feature_store
from services.answers import Degraded
from services.lookup import Lookup
from services.online import OnlineStore
from tests.services import world

TABLES = features.load(world.DOMAIN).tables_of(world.SERVICE)
SECOND = timedelta(seconds=1)


def lookup(at: Home, manifest: package.Manifest) -> Lookup:
    computed = features.load(world.DOMAIN).request_features_of(world.SERVICE)
    return Lookup(OnlineStore(at), manifest, computed)


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    full = [world.instance(scheduled_departure=world.NOW, **row) for row in rows]
    return {name: [row[name] for row in full] for name in full[0]}


@pytest.mark.parametrize("table", [spec.name for spec in TABLES])
def test_a_table_gives_what_get_online_features_gives(root: Home, manifests: world.Manifests, table: str) -> None:
    store, manifest = feature_store.open_store(root), manifests[0]
    spec = next(spec for spec in manifest.tables if spec.name == table)
    asked = columns(
        [
            *({name: values[row] for name, values in world.ENTITIES.items()} for row in range(3)),  # the last has nulls
            dict.fromkeys(world.ENTITIES, "nobody"),
            {"origin": "EWR", "dest": "SFO", "carrier": "", "tailnum": ""},
            *({name: values[row] for name, values in world.ENTITIES.items()} for row in (1, 0, 1)),  # again
        ]
    )
    keys = list(zip(*(asked[key] for key in spec.keys), strict=True))
    theirs = store.get_online_features(
        features=[f"{table}:{name}" for name in spec.features], entity_rows={key: asked[key] for key in spec.keys}
    ).to_dict(include_event_timestamps=True)
    ours = OnlineStore(root).table(spec, manifest.keys).read(keys)
    assert len(ours) == 8
    for name in spec.features:
        assert [values.get(name) for _, values in ours] == theirs[name]
        assert [0 if stamp is None else int(stamp.timestamp()) for stamp, _ in ours] == theirs[f"{name}__ts"]
    assert ours[0][0] == world.VISIBLE_AT
    assert any(value is not None for value in theirs[spec.features[0]])
    assert theirs[spec.features[0]][2] is None and theirs[f"{spec.features[0]}__ts"][2] > 0


def test_a_gap_says_why_and_what_stood_in(root: Home, manifests: world.Manifests) -> None:
    spec = manifests[0].tables[-1]
    changed = {spec.features[0]: 7.5}
    manifest = msgspec.structs.replace(
        manifests[0],
        features=tuple(
            package.FeatureSpec(f.name, f.dtype, changed.get(f.name, f.default)) for f in manifests[0].features
        ),
    )
    find = lookup(root, manifest).find
    asked = columns([{}, {spec.keys[0]: None}, {spec.keys[0]: "nobody"}, {spec.keys[0]: world.ENTITIES["tailnum"][2]}])
    ttl = timedelta(seconds=spec.ttl_seconds)

    def gaps(moment: datetime) -> list[list[Degraded]]:
        values, degraded = find(asked, [moment] * 4)
        ours = [[gap for gap in row if gap.feature in spec.features] for row in degraded]
        for name in spec.features:
            assert [value is None for value in values[name]] == [name in [gap.feature for gap in row] for row in ours]
        return ours

    all_missing = [Degraded(name, "missing", changed.get(name)) for name in spec.features]
    all_stale = [Degraded(name, "stale", changed.get(name)) for name in spec.features]
    assert gaps(world.NOW) == [[], all_missing, all_missing, all_missing]
    assert gaps(world.VISIBLE_AT + ttl)[0] == []
    assert gaps(world.VISIBLE_AT + ttl + SECOND) == [all_stale, all_missing, all_missing, all_stale]
    assert gaps(world.VISIBLE_AT - SECOND)[0] == all_missing


def test_a_version_whose_features_are_gone_is_refused(root: Home, manifests: world.Manifests) -> None:
    lookup(root, manifests[0]).check()
    first, *rest = manifests[0].tables
    more = package.TableSpec(first.name, first.keys, first.ttl_seconds, (*first.features, "invented"))
    with pytest.raises(HeadwayError, match=f"table {first.name} has no invented.*headway ingest {world.DOMAIN}"):
        lookup(root, msgspec.structs.replace(manifests[0], tables=(more, *rest)))
    unknown = package.TableSpec("nonesuch", first.keys, first.ttl_seconds, first.features)
    with pytest.raises(HeadwayError, match=f"nonesuch.*headway ingest {world.DOMAIN}"):
        lookup(root, msgspec.structs.replace(manifests[0], tables=(unknown, *rest)))


def test_stamps_are_utc(root: Home, manifests: world.Manifests) -> None:
    spec = manifests[0].tables[0]
    keys = [tuple(world.ENTITIES[key][0] for key in spec.keys)]
    ((stamp, _),) = OnlineStore(root).table(spec, manifests[0].keys).read(keys)
    assert stamp is not None and stamp.tzinfo is UTC


def test_a_lookup_never_asks_the_registry(
    root: Home, manifests: world.Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = lookup(root, manifests[0])

    def asked(_: object) -> None:
        raise AssertionError("the registry was asked within a request")

    monkeypatch.setattr(feast.FeatureStore, "registry", property(asked))
    values, degraded = ready.find(columns([{}, {"tailnum": "nobody"}]), [world.NOW] * 2)
    assert degraded[0] == [] and len(degraded[1]) == len(manifests[0].tables[-1].features)
    assert all(len(column) == 2 for column in values.values())
