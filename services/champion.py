"""One version at work: from a checked call to an answer, and the records that remember it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from pipelines.matrix import Filled, filled
from pipelines.package import Packaged
from pipelines.pointers import Pointer
from services import catalogue
from services.answers import Answer, Degraded, Prediction, ProbabilityPrediction, Record, Role, iso
from services.lookup import Lookup
from services.refusals import Refused
from services.schema import Call, RequestSchema

THRESHOLD = 0.5
ENCODER = msgspec.json.Encoder()
QUICK_INSTANCES = 16


def _unmarked(_: str) -> None:
    """Nobody wants to know."""


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

    def quick(self, call: Call) -> bool:
        """Whether the event loop itself should answer: a compiled scorer, a store that waits for nobody, few instances.

        Measured: one instance takes 0.22 ms and 16 take 0.5, of which nobody notices a stall; handing it to a thread
        costs 0.1 ms, and several times that when threads take turns holding the interpreter. Whatever may be slow (a
        pipeline, a store elsewhere, a thousand instances) goes to a thread, where it keeps nobody waiting.
        """
        return self.packaged.fast is not None and not self.lookup.waits and len(call) <= QUICK_INSTANCES

    def answer(
        self, call: Call, request_id: str, decision_time: datetime, mark: Callable[[str], None] = _unmarked
    ) -> Answered:
        """Predict for every instance of a call.

        Args:
            mark: told the name of each step when it ends.

        Raises:
            Refused: 400 when request features cannot be computed, 500 when a prediction is not finite or, for a
                binary model, not in [0, 1].
        """
        mark("wait")
        found, degraded = self.lookup.find(call.columns, decision_time)
        mark("lookup")
        given = filled(found, self.packaged.manifest.features)
        predictions = self._checked(self.packaged.score(given), len(call))
        mark("score")
        records = self._records(call, request_id, decision_time, given, degraded, predictions)
        body = Answer(
            self.pointer.model,
            self.pointer.version,
            self.pointer.generation,
            request_id,
            [self._shown(value, names) for value, names in zip(predictions, degraded, strict=True)],
        )
        answered = Answered(ENCODER.encode(body), ENCODER.encode_lines(records), len(call), sum(map(bool, degraded)))
        mark("write")
        return answered

    def summary(self) -> dict[str, Any]:
        """What a list of models says about it."""
        return msgspec.to_builtins(catalogue.summary(self))

    def details(self) -> dict[str, Any]:
        """What its own page says: the summary, how it was made, how good it was, and the request it takes."""
        return msgspec.to_builtins(catalogue.details(self))

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
        given: Filled,
        degraded: list[list[Degraded]],
        predictions: list[float],
    ) -> list[Record]:
        manifest, pointer, decided, size = self.packaged.manifest, self.pointer, iso(decision_time), len(call)
        inputs = {
            name: list(map(iso, call.columns[name])) if dtype == "timestamp" else call.columns[name]
            for name, dtype in manifest.inputs.items()
        }
        keys, asked = _rows(call.columns, tuple(manifest.keys), size), _rows(inputs, tuple(inputs), size)
        features = _rows(given, tuple(given), size)
        return [
            Record(
                request_id, number, call.example_ids[number], pointer.model, pointer.version, pointer.digest,
                pointer.generation, decided, keys[number], asked[number], features[number],
                [gap.feature for gap in degraded[number]], prediction, self.role,
            )
            for number, prediction in enumerate(predictions)
        ]  # fmt: skip


def _rows(columns: Mapping[str, Any], names: Sequence[str], size: int) -> list[dict[str, Any]]:
    """The named columns of n rows, row by row."""
    rows = zip(*(columns[name] for name in names), strict=True) if names else [()] * size
    return [dict(zip(names, row, strict=True)) for row in rows]
