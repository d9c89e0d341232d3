"""The features of a request's entities, as fresh as they may be, and what could not be had.

Feature tables come from Feast's online store, each in one read for all instances. Request features are computed by
calling the declared function itself, the one that training calls: through Feast's on-demand view a request input that
is also an entity key is not found (0.67), and timestamps lose their microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from features import HeadwayError, RequestFeatures
from pipelines.registry.package import Manifest, TableSpec
from services.answers import Degraded, Why
from services.online import OnlineStore, OnlineTable, Row
from services.refusals import Refused, busy
from services.report import report

NOBODY: dict[str, Any] = {"str": "", "int": 0}
"""A key that no entity has, to ask whether a table answers."""
NOTHING: Row = (None, {})
WHYS: tuple[Why, ...] = ("missing", "stale")

Columns = Mapping[str, Sequence[Any]]


class Lookup:
    """Finds every feature that a version reads.

    Args:
        store: where feature tables are read.
        manifest: names, TTLs and defaults as the version was trained with.
        computed: the declared request features of the version's feature service.

    Raises HeadwayError for a feature that is declared no longer, and for a store that cannot give the tables.
    """

    def __init__(self, store: OnlineStore, manifest: Manifest, computed: Sequence[RequestFeatures]) -> None:
        self._manifest = manifest
        self._computed = tuple(computed)
        given = {name for table in manifest.tables for name in table.features}
        given |= {feature.name for part in computed for feature in part.features}
        if lacking := [feature.name for feature in manifest.features if feature.name not in given]:
            raise HeadwayError(
                f"version {manifest.tag} needs {', '.join(lacking)}, which features/{manifest.domain}.py declares no "
                "longer. Put them back, or train the model again."
            )
        defaults = {feature.name: feature.default for feature in manifest.features}
        try:
            self._tables = [_Table(spec, store.table(spec, manifest.keys), defaults) for spec in manifest.tables]
        except Exception as error:
            raise self._cannot_serve(error) from error
        self.waits = bool(self._tables) and not store.local
        """Whether a lookup waits for another machine or process."""

    def check(self) -> None:
        """Ask the store once, for an entity that there is not. Raises HeadwayError when it cannot answer."""
        try:
            for table in self._tables:
                table.online.read([tuple(NOBODY[self._manifest.keys[key]] for key in table.spec.keys)])
        except Exception as error:
            raise self._cannot_serve(error) from error

    def find(
        self, columns: Columns, moments: Sequence[datetime]
    ) -> tuple[dict[str, Sequence[Any]], list[list[Degraded]]]:
        """The features of n instances, each as it may be seen at its decision time.

        Args:
            columns: {key or input: n values}, timestamps as UTC datetimes.
            moments: the n decision times, UTC.

        Returns:
            {feature: n values}, None where the default is to stand in, and for each instance the feature-table
            features that could not be had, in the service's order. Stale: past the TTL. Missing: null, not there, or
            visible only after the decision.

        Raises:
            Refused: 400 when the declared function cannot compute with these inputs, 503 when the online store
                does not answer: a default in the place of every feature would be a guess, not a prediction.
        """
        size = len(moments)
        values = self._compute(columns, size)
        degraded: list[list[Degraded]] = [[] for _ in range(size)]
        try:
            for table in self._tables:
                values |= table.find(columns, moments, degraded)
        except Exception as error:
            report("lookup_failed", level="error", error=type(error).__name__)
            raise busy("lookup_failed", "The online store does not answer") from error
        return values, degraded

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
                values[feature.name] = list(made[feature.name])
                if len(made[feature.name]) != size:
                    raise ValueError(
                        f"{part.name} computed {len(made[feature.name])} values of {feature.name} for {size}"
                    )
        return values

    def _cannot_serve(self, error: Exception) -> HeadwayError:
        return HeadwayError(
            f"the online store cannot serve {self._manifest.feature_service}: {type(error).__name__}: {error}. "
            f"Run `headway ingest {self._manifest.domain}` to apply and materialize its features."
        )


class _Table:
    """A feature table: where it is read, and what may be seen of it."""

    def __init__(self, spec: TableSpec, online: OnlineTable, defaults: Mapping[str, Any]) -> None:
        self.spec, self.online = spec, online
        self._ttl = timedelta(seconds=spec.ttl_seconds)
        # Made once: a gap says the same whoever meets it.
        self._gaps: dict[Why, dict[str, Degraded]] = {
            why: {name: Degraded(name, why, defaults.get(name)) for name in spec.features} for why in WHYS
        }

    def find(
        self, columns: Columns, moments: Sequence[datetime], degraded: Sequence[list[Degraded]]
    ) -> dict[str, list[Any]]:
        """{feature: n values}; what could not be had is added to `degraded`."""
        keys = list(zip(*(columns[name] for name in self.spec.keys), strict=True))
        known = [key for key in dict.fromkeys(keys) if None not in key]
        rows = dict(zip(known, self.online.read(known), strict=True)) if known else {}
        values: dict[str, list[Any]] = {name: [] for name in self.spec.features}
        for key, moment, gaps in zip(keys, moments, degraded, strict=True):
            stamp, row = rows.get(key, NOTHING)
            stale = stamp is not None and stamp < moment - self._ttl
            seen = row if stamp is not None and stamp <= moment and not stale else {}
            for name, column in values.items():
                value = seen.get(name)
                if value is None or value != value:  # NaN, which no value equals, is missing as null is
                    value = None
                    gaps.append(self._gaps["stale" if stale else "missing"][name])
                column.append(value)
        return values
