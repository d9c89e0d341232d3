"""One version at work: from a checked call to an answer, and the records that remember it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from pipelines.registry.package import Packaged
from pipelines.registry.pointers import Pointer
from pipelines.store.matrix import filled
from services.answers import Answer, Degraded, Record, Role, iso
from services.asked import Answered, Asked
from services.kinds import Kind, kind
from services.lookup import Lookup
from services.refusals import Refused
from services.schema import Call, RequestSchema

ENCODER = msgspec.json.Encoder()
QUICK_INSTANCES = 16
Row = tuple[dict[str, Any], list[Degraded], Any]
"""What an instance's model was given, the gaps in it, and what it predicted."""


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

        Measured: one instance takes 0.22 ms and 8 take 0.44, of which nobody notices a stall; handing it to a thread
        costs 0.1 ms, and several times that when threads take turns holding the interpreter. Whatever may be slow (a
        pipeline, a store elsewhere, a thousand instances) goes to a thread, where it keeps nobody waiting.
        """
        return self.packaged.fast is not None and not self.lookup.waits and len(call) <= QUICK_INSTANCES

    def answer(self, asked: Sequence[Asked]) -> list[Answered]:
        """Predict for every instance of every call, in one pass.

        Raises:
            Refused: 400 when request features cannot be computed, 503 when the online store does not answer, 500 when
                a prediction is not finite, or not the probabilities it should be. It is about all calls together: to
                know which one is at fault, ask for each alone.
        """
        _mark(asked, "wait")
        moments = [one.decision_time for one in asked for _ in range(len(one.call))]
        found, degraded = self.lookup.find(_joined([one.call.columns for one in asked]), moments)
        _mark(asked, "lookup")
        given = filled(found, self.packaged.manifest.features)
        predictions = self._checked(self.packaged.score(given), len(moments))
        _mark(asked, "score")
        rows = iter(zip(_rows(given, tuple(given), len(moments)), degraded, predictions, strict=True))
        answers = [self._answered(one, list(islice(rows, len(one.call)))) for one in asked]
        _mark(asked, "write")
        return answers

    @cached_property
    def kind(self) -> Kind:
        """What its answers are."""
        manifest = self.packaged.manifest
        return kind(manifest.task, manifest.classes, manifest.interval)

    def _checked(self, scores: np.ndarray, size: int) -> list[Any]:
        predictions: list[Any] = scores.tolist()
        if scores.shape != (size, *self.kind.shape) or not all(map(self.kind.sane, predictions)):
            raise Refused(500, "bad_output", f"{self.pointer.tag} gave a prediction that cannot be; nothing was logged")
        return predictions

    def _answered(self, asked: Asked, rows: Sequence[Row]) -> Answered:
        pointer, shown = self.pointer, [self.kind.shown(prediction, gaps) for _, gaps, prediction in rows]
        decided = iso(asked.decision_time)
        body = Answer(pointer.model, pointer.version, pointer.generation, asked.request_id, decided, shown)
        lines = ENCODER.encode_lines(self._records(asked, decided, rows))
        return Answered(ENCODER.encode(body), lines, len(rows), sum(1 for _, gaps, _ in rows if gaps))

    def _records(self, asked: Asked, decided: str, rows: Sequence[Row]) -> list[Record]:
        call, manifest, pointer, kind = asked.call, self.packaged.manifest, self.pointer, self.kind
        texts = {
            name: list(map(iso, call.columns[name])) if dtype == "timestamp" else call.columns[name]
            for name, dtype in manifest.inputs.items()
        }
        keys, inputs = _rows(call.columns, tuple(manifest.keys), len(call)), _rows(texts, tuple(texts), len(call))
        return [
            Record(
                asked.request_id, number, call.example_ids[number], pointer.model, pointer.version, pointer.digest,
                pointer.generation, decided, keys[number], inputs[number], given, [gap.feature for gap in gaps],
                kind.number(prediction), self.role, kind.chances(prediction),
            )
            for number, (given, gaps, prediction) in enumerate(rows)
        ]  # fmt: skip


def _joined(calls: Sequence[Mapping[str, list[Any]]]) -> Mapping[str, list[Any]]:
    """The columns of several calls, one below the other."""
    if len(calls) == 1:
        return calls[0]
    return {name: [value for columns in calls for value in columns[name]] for name in calls[0]}


def _mark(asked: Sequence[Asked], step: str) -> None:
    for one in asked:
        one.mark(step)


def _rows(columns: Mapping[str, Any], names: Sequence[str], size: int) -> list[dict[str, Any]]:
    """The named columns of n rows, row by row."""
    rows = zip(*(columns[name] for name in names), strict=True) if names else [()] * size
    return [dict(zip(names, row, strict=True)) for row in rows]
