"""Feast's online half: the features of a request's entities, as fresh as they may be.

Feature tables come from Feast's online store, one call for all instances. Request features are computed by calling
the declared function itself, the one that training calls: through Feast's on-demand view a request input that is
also an entity key is not found (0.67), and timestamps lose their microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import FeatureStore

from features import HeadwayError, RequestFeatures
from pipelines.package import Manifest, TableSpec
from services.answers import Degraded, Why
from services.refusals import Refused, busy
from services.report import report

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNKNOWN: dict[str, Any] = {"str": "", "int": 0}
"""Stands for a null key in the call to Feast, which takes none; what is found under it is not used."""

Columns = Mapping[str, Sequence[Any]]


class Lookup:
    """Finds every feature that a version reads.

    Args:
        store: Feast, open; it is shared and only read.
        manifest: names, TTLs and defaults as the version was trained with.
        computed: the declared request features of the version's feature service.
    """

    def __init__(self, store: FeatureStore, manifest: Manifest, computed: Sequence[RequestFeatures]) -> None:
        self._store = store
        self._manifest = manifest
        self._computed = tuple(computed)
        self._defaults = {feature.name: feature.default for feature in manifest.features}
        # Feast remembers what references resolve to, as long as they are the same.
        self._references = [f"{table.name}:{name}" for table in manifest.tables for name in table.features]
        self._keys = tuple(dict.fromkeys(key for table in manifest.tables for key in table.keys))
        given = {name for table in manifest.tables for name in table.features}
        given |= {feature.name for part in computed for feature in part.features}
        if lacking := [feature.name for feature in manifest.features if feature.name not in given]:
            raise HeadwayError(
                f"version {manifest.tag} needs {', '.join(lacking)}, which features/{manifest.domain}.py declares no "
                "longer. Put them back, or train the model again."
            )

    def check(self) -> None:
        """Ask Feast once, for an entity that there is not. Raises HeadwayError when it cannot answer."""
        keys = {key: [UNKNOWN[self._manifest.keys[key]]] for key in self._keys}
        try:
            self._ask(keys)
        except Exception as error:
            raise HeadwayError(
                f"the online store cannot serve {self._manifest.feature_service}: {type(error).__name__}: {error}. "
                f"Run `headway ingest {self._manifest.domain}` to apply and materialize its features."
            ) from error

    def find(self, columns: Columns, decision_time: datetime) -> tuple[dict[str, Sequence[Any]], list[list[Degraded]]]:
        """The features of n instances as they may be seen at `decision_time`.

        Args:
            columns: {key or input: n values}, timestamps as UTC datetimes.

        Returns:
            {feature: n values}, None where the default is to stand in, and for each instance the feature-table
            features that are missing, null, stale, or stamped later than `decision_time`, in the service's order.

        Raises:
            Refused: 400 when the declared function cannot compute with these inputs, 503 when the online store
                does not answer: a default in the place of every feature would be a guess, not a prediction.
        """
        size = len(next(iter(columns.values())))
        values = self._compute(columns, size)
        degraded: list[list[Degraded]] = [[] for _ in range(size)]
        if self._references:
            keys = {key: _known(columns[key], UNKNOWN[self._manifest.keys[key]]) for key in self._keys}
            try:
                answer = self._ask(keys)
            except Exception as error:
                report("lookup_failed", level="error", error=type(error).__name__)
                raise busy("lookup_failed", "The online store does not answer") from error
            for table in self._manifest.tables:
                stale, visible = _visible(table, answer, columns, decision_time)
                for name in table.features:
                    # NaN, which no value equals, is missing as null is.
                    values[name] = [
                        value if seen and value == value else None
                        for value, seen in zip(answer[name], visible, strict=True)
                    ]
                    for instance, value in enumerate(values[name]):
                        if value is None:
                            why: Why = "stale" if stale[instance] else "missing"
                            degraded[instance].append(Degraded(name, why, self._defaults[name]))
        return values, degraded

    def _ask(self, keys: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        response = self._store.get_online_features(features=self._references, entity_rows=keys)
        return response.to_dict(include_event_timestamps=True)

    def _compute(self, columns: Columns, size: int) -> dict[str, Sequence[Any]]:
        values: dict[str, Sequence[Any]] = {}
        for part in self._computed:
            try:
                made = part.compute({name: list(columns[name]) for name in part.inputs})
            except Exception as error:
                raise Refused(
                    400, "not_computable", f"{part.name} cannot be computed from these inputs", "instances"
                ) from error
            for feature in part.features:
                values[feature.name] = made[feature.name]
                if len(made[feature.name]) != size:
                    raise ValueError(
                        f"{part.name} computed {len(made[feature.name])} values of {feature.name} for {size}"
                    )
        return values


def _known(values: Sequence[Any], unknown: Any) -> list[Any]:
    return [unknown if value is None else value for value in values]


def _visible(
    table: TableSpec, answer: Columns, columns: Columns, decision_time: datetime
) -> tuple[list[bool], list[bool]]:
    """Which of n rows of a table are past the TTL; and which may be seen: there, for known keys, not later than the
    decision, within the TTL."""
    oldest = decision_time - timedelta(seconds=table.ttl_seconds)
    keys = zip(*(columns[key] for key in table.keys), strict=True)
    stamps = answer[f"{table.features[0]}__ts"]
    there = [None not in key and stamp > 0 for key, stamp in zip(keys, stamps, strict=True)]
    instants = [EPOCH + timedelta(seconds=stamp) for stamp in stamps]
    stale = [known and at < oldest for known, at in zip(there, instants, strict=True)]
    return stale, [known and oldest <= at <= decision_time for known, at in zip(there, instants, strict=True)]
