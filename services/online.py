"""Feast's room for serving: one feature table in the online store, made ready so that a read is nothing but a read.

`FeatureStore.get_online_features` looks the views up in the registry, sorts and copies: 480 us for one instance and
five tables. The online store's own interface, which all of Feast's stores have and that call too ends in, takes 110.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type

from features import HeadwayError
from pipelines.home import Home
from pipelines.registry.package import TableSpec
from pipelines.store.feature_store import open_store

FIELDS = {"int": "int64_val", "str": "string_val"}
SCALARS = frozenset({"double_val", "int64_val", "string_val", "bool_val"})
LOCAL = ("sqlite", "feast.infra.online_stores.sqlite.SqliteOnlineStore")

Row = tuple[datetime | None, Mapping[str, Any]]
"""When the values became visible, UTC (None: there is no such entity), and {feature: value, None for null}."""


class OnlineStore:
    """Feast's online store over the root `at`, as one worker holds it: one for all versions, shared and only read."""

    def __init__(self, at: Home) -> None:
        self._feast = open_store(at)
        self.local = self._feast.config.online_store.type in LOCAL
        """Whether it is a file of this machine, so that a read waits for nobody."""

    def refresh(self) -> None:
        """Take in what was applied to the registry since. Slow, so never within a request."""
        self._feast.refresh_registry()

    def table(self, spec: TableSpec, dtypes: Mapping[str, str]) -> OnlineTable:
        """One feature table, ready to be read; the registry is asked now and not again.

        Args:
            spec: names as the version was trained with.
            dtypes: of the entity keys, int or str.

        Raises:
            HeadwayError: the view has lost features that the version reads.
            FeatureViewNotFoundException: the registry does not know the table.
        """
        view = self._feast.get_feature_view(spec.name)
        known = {field.name for field in view.features}
        if lost := [name for name in spec.features if name not in known]:
            raise HeadwayError(f"its table {spec.name} has no {', '.join(lost)}")
        read = functools.partial(self._feast.provider.online_read, self._feast.config, view)
        return OnlineTable(spec, [FIELDS[dtypes[key]] for key in spec.keys], read)


class OnlineTable:
    """One feature table as a version reads it. Made by `OnlineStore.table`."""

    def __init__(self, spec: TableSpec, fields: Sequence[str], read: Callable[..., Any]) -> None:
        self._keys, self._features, self._fields, self._read = list(spec.keys), list(spec.features), fields, read

    def read(self, keys: Sequence[tuple[Any, ...]]) -> list[Row]:
        """The row of each entity, in the order of `keys`, each a value of every key of the table, none of them null.

        Raises whatever the store raises when it cannot be read.
        """
        asked = [
            EntityKey(
                join_keys=self._keys,
                entity_values=[Value(**{field: part}) for field, part in zip(self._fields, key, strict=True)],
            )
            for key in keys
        ]
        return [
            (_utc(stamp), {name: _plain(value) for name, value in values.items()} if values else {})
            for stamp, values in self._read(asked, self._features)
        ]


def _utc(stamp: datetime | None) -> datetime | None:
    return stamp.replace(tzinfo=UTC) if stamp is not None and stamp.tzinfo is None else stamp


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind in SCALARS else feast_value_type_to_python_type(value)
