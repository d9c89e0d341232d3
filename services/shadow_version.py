"""A version that is a shadow: what it would have answered where the champion did."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from features import HeadwayError
from pipelines.home import Home
from pipelines.registry import package
from pipelines.registry.pointers import Pointer, Trial
from pipelines.store.matrix import filled
from services.answers import Record
from services.asked import Asked
from services.kinds import kind
from services.refusals import Refused
from services.schema import Call

if TYPE_CHECKING:
    from services.champion import Served


class ShadowVersion:
    """A shadow, loaded and checked. Raises HeadwayError when its files do not hold."""

    def __init__(self, at: Home, model: str, trial: Trial) -> None:
        self._pointer = Pointer(model, trial.version, trial.tag, trial.digest, 1, trial.as_of, trial.ledger)
        self._at, self._packaged = at, package.load(at, trial.tag)
        if (self._packaged.manifest.model, self._packaged.manifest.digest) != (model, trial.digest):
            raise HeadwayError(f"{trial.tag} is not the version that is to be a shadow of {model}.")
        manifest = self._packaged.manifest
        self._features = [feature.name for feature in manifest.features]
        self._kind = kind(manifest.task, manifest.classes, manifest.interval)

    def score(self, records: Sequence[Record]) -> list[Record]:
        """Its own records of instances that the champion answered; those that it has no good answer for, left out."""
        given = set.intersection(*(set(record.features) for record in records))
        if not given.issuperset(self._features):
            return [answer for record in records if (answer := self._asked(record))]
        manifest = self._packaged.manifest
        # Where a default of the champion's stood in, its own does.
        columns = filled(
            {n: [None if n in r.degraded else r.features[n] for r in records] for n in self._features},
            manifest.features,
        )
        predictions = self._packaged.score(columns).tolist()
        rows = zip(*columns.values(), strict=True)
        return [
            self._own(
                record, features=dict(zip(self._features, row, strict=True)),
                prediction=self._kind.number(prediction), probabilities=self._kind.chances(prediction),
            )
            for record, row, prediction in zip(records, rows, predictions, strict=True)
            if self._kind.sane(prediction)
        ]  # fmt: skip

    def _asked(self, record: Record) -> Record | None:
        """It reads what the champion does not: asked as the champion was, some moments later."""
        fields = {**self._packaged.manifest.keys, **self._packaged.manifest.inputs}
        said = {**record.keys, **record.inputs}
        columns = {
            name: [datetime.fromisoformat(said[name]) if dtype == "timestamp" and said[name] else said[name]]
            for name, dtype in fields.items()
        }
        call = Call(columns, [record.example_id], None)
        try:
            asked = Asked(call, record.request_id, datetime.fromisoformat(record.decision_time))
            lines = self._served.answer([asked])[0].lines
        except Refused:
            return None
        answer = msgspec.json.decode(lines, type=Record)
        return self._own(
            record, features=answer.features, degraded=answer.degraded, prediction=answer.prediction,
            probabilities=answer.probabilities,
        )  # fmt: skip

    @cached_property
    def _served(self) -> Served:
        from services.assembly import Assembly  # brings Feast, which most shadows do not need

        assembly = Assembly(self._at, request_clock=True, now=lambda: datetime.now(UTC))
        return assembly.make(self._pointer, "shadow", self._packaged)

    def _own(self, record: Record, **found: Any) -> Record:
        return msgspec.structs.replace(
            record, version=self._pointer.version, digest=self._pointer.digest, role="shadow", **found
        )
