"""One version at work: from a checked call to an answer, and the records that remember it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pipelines.matrix import matrix
from pipelines.package import Packaged
from pipelines.pointers import Pointer
from services.answers import Answer, Degraded, Prediction, ProbabilityPrediction, Record, Role, iso
from services.lookup import Lookup
from services.refusals import Refused
from services.schema import Call, RequestSchema

THRESHOLD = 0.5


@dataclass(frozen=True)
class Answered:
    """A call that was answered: the body for its caller, and the lines for the durable log, one `Record` an instance.

    `degraded` counts the instances for which some default stood in.
    """

    body: bytes
    lines: bytes
    instances: int
    degraded: int


@dataclass(frozen=True)
class Served:
    """A champion with all that answering needs. Never changed: a new champion is a new one of these."""

    pointer: Pointer
    packaged: Packaged
    schema: RequestSchema
    lookup: Lookup
    description: str
    since: datetime
    """When this worker began to serve it."""
    role: Role = "champion"

    @cached_property
    def headers(self) -> dict[str, str]:
        """What every answer of it says of it, beside its body."""
        return {"X-Model-Version": str(self.pointer.version), "X-Model-Generation": str(self.pointer.generation)}

    def answer(self, call: Call, request_id: str, decision_time: datetime) -> Answered:
        """Predict for every instance of a call.

        Raises:
            Refused: 400 when request features cannot be computed, 500 when a prediction is not finite or, for a
                binary model, not in [0, 1].
        """
        columns, degraded = self.lookup.find(call.columns, decision_time)
        frame = matrix(columns, self.packaged.manifest.features)
        predictions = self._checked(self.packaged.predict(frame), len(call))
        records = self._records(call, request_id, decision_time, frame, degraded, predictions)
        body = Answer(
            self.pointer.model,
            self.pointer.version,
            self.pointer.generation,
            request_id,
            [self._shown(value, names) for value, names in zip(predictions, degraded, strict=True)],
        )
        lines = msgspec.json.Encoder().encode_lines(records)
        return Answered(msgspec.json.encode(body), lines, len(call), sum(map(bool, degraded)))

    def summary(self) -> dict[str, Any]:
        """What a list of models says about it."""
        return {
            "model": self.pointer.model,
            "version": self.pointer.version,
            "generation": self.pointer.generation,
            "description": self.description,
            "task": self.packaged.manifest.task,
            "promoted_as_of": self.pointer.as_of,
            "served_since": iso(self.since),
        }

    def details(self) -> dict[str, Any]:
        """What its own page says: the summary, how it was made, how good it was, and the request it takes."""
        manifest = self.packaged.manifest
        _, schemas = msgspec.json.schema_components([self.schema.type], ref_template="#/request/{name}")
        return {
            **self.summary(),
            "tag": manifest.tag,
            "digest": manifest.digest,
            "trained_as_of": manifest.trained_as_of,
            "trained_until": manifest.trained_until,
            "metrics": manifest.metrics,
            "features": [feature.name for feature in manifest.features],
            "request": schemas,
        }

    def _checked(self, predictions: np.ndarray, size: int) -> list[float]:
        good = predictions.shape == (size,) and bool(np.isfinite(predictions).all())
        if good and self.packaged.manifest.task == "binary":
            good = bool(((predictions >= 0.0) & (predictions <= 1.0)).all())
        if not good:
            raise Refused(500, "bad_output", f"{self.pointer.tag} gave a prediction that cannot be; nothing was logged")
        return predictions.tolist()

    def _shown(self, value: float, degraded: list[Degraded]) -> Prediction | ProbabilityPrediction:
        if self.packaged.manifest.task == "binary":
            return ProbabilityPrediction(value, degraded, value, value >= THRESHOLD)
        if band := self.packaged.manifest.interval:
            return Prediction(value, degraded, value + band.low, value + band.high)
        return Prediction(value, degraded)

    def _records(
        self,
        call: Call,
        request_id: str,
        decision_time: datetime,
        frame: pd.DataFrame,
        degraded: list[list[Degraded]],
        predictions: list[float],
    ) -> list[Record]:
        manifest, pointer = self.packaged.manifest, self.pointer
        keys = _rows(call.columns, list(manifest.keys))
        inputs = _rows(call.columns, list(manifest.inputs))
        names = [feature.name for feature in manifest.features]
        given = [dict(zip(names, row, strict=True)) for row in frame.to_numpy(dtype=object).tolist()]
        return [
            Record(
                request_id, number, call.example_ids[number], pointer.model, pointer.version, pointer.digest,
                pointer.generation, iso(decision_time), keys[number], inputs[number], given[number],
                [gap.feature for gap in degraded[number]], prediction, self.role,
            )
            for number, prediction in enumerate(predictions)
        ]  # fmt: skip


def _rows(columns: dict[str, list[Any]], names: list[str]) -> list[dict[str, Any]]:
    """The named columns, row by row, instants as text."""
    if not names:
        return [{} for _ in next(iter(columns.values()))]
    texts = ([iso(value) if isinstance(value, datetime) else value for value in columns[name]] for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*texts, strict=True)]
