"""Outcomes: callers who learn what became of a prediction tell it here, and training and monitoring hear of it.

An outcome names what it is the outcome of in one of three ways: by the request id of the prediction (and the number
of the instance in it), by the example id that was sent along, or by the entity keys and the decision time. It is
durable before it is answered. When it became known is the instant the server received it: nobody can date it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from features import HeadwayError
from services.answers import iso
from services.kinds import Kind, kind
from services.log import DurableLog, LogUnavailable
from services.refusals import Refused, busy
from services.rules import BASE, YEARS, constrain
from services.schema import MAX_INSTANCES, SHOWN
from services.strict import decoded, repeated

if TYPE_CHECKING:
    from pipelines.registry.package import Manifest
    from services.endpoint import Endpoint
    from services.exchange import Exchange

REQUEST, EXAMPLE, TIME, LABEL = ("request_id", "instance"), "example_id", "decision_time", "label"
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Number = Annotated[int, Meta(ge=0, lt=MAX_INSTANCES, description="Of the instance in its request, from 0")]


class Accepted(msgspec.Struct, frozen=True):
    """The answer: how many outcomes are on disk. They are joined with predictions by the next night."""

    model: str
    request_id: str
    accepted: int


class Outcome(msgspec.Struct, frozen=True):
    """One line of the log of outcomes. `call` and `number` name it: the request that told it, and its place in it."""

    call: str
    number: int
    model: str
    known_at: str
    label: float | str
    """The name of a class, where there are several."""
    request_id: str | None = None
    instance: int | None = None
    example_id: str | None = None
    decision_time: str | None = None
    keys: dict[str, Any] = {}


@dataclass(frozen=True)
class Told:
    """A body that passed: outcomes without names yet, and the instant that the caller gave, if any."""

    outcomes: list[dict[str, Any]]
    as_of: datetime | None


class OutcomeSchema:
    """The body that tells outcomes of one model's predictions: strict, like a request for predictions.

    Args:
        model: its name.
        kind: binary takes 0, 1, true and false; multiclass the name of a class; regression a finite number.
        keys: entity keys and their dtypes; each may be null, as in a prediction.
        clock: whether `as_of` may be sent.

    Raises HeadwayError for an entity key that is called like another field.
    """

    def __init__(self, model: str, kind: Kind, keys: Mapping[str, str], *, clock: bool):
        if taken := {*REQUEST, EXAMPLE, TIME, LABEL} & keys.keys():
            raise HeadwayError(f"{model}: an entity key cannot be called {', '.join(sorted(taken))}. Rename it.")
        self.model, self._kind, self._keys, self._clock = model, kind, tuple(keys), clock
        entity = {name: constrain(dtype, ()) | None for name, dtype in keys.items()}
        self._ways: dict[str, dict[str, Any]] = {
            "Request": {"request_id": Text, "instance": Number},
            "Example": {EXAMPLE: Text},
            "Entity": {**entity, TIME: BASE["timestamp"]},
        }
        title = "".join(part.capitalize() for part in model.split("_"))
        self.title = f"{title}Outcomes"
        whole = {name: kind for way in self._ways.values() for name, kind in way.items()}
        fields = [(_attribute(name), kind | UnsetType, UNSET) for name, kind in whole.items()]
        self._names = tuple(whole)
        row = _struct(f"{title}Outcome", [(_attribute(LABEL), kind.taken), *fields])
        rows = Annotated[list[row], Meta(min_length=1, max_length=MAX_INSTANCES)]  # type: ignore[valid-type]
        body: list[Any] = [("outcomes_", rows), *([("as_of_", BASE["timestamp"] | UnsetType, UNSET)] if clock else [])]
        self._decoder = msgspec.json.Decoder(_struct(self.title, body))

    @cached_property
    def types(self) -> tuple[type[msgspec.Struct], ...]:
        """An outcome in each of the three ways, as they are documented."""
        label = (_attribute(LABEL), self._kind.told)
        return tuple(
            _struct(
                f"{self.title}By{way}",
                [label, *((_attribute(n), kind, *([0] if n == "instance" else [])) for n, kind in fields.items())],
            )
            for way, fields in self._ways.items()
        )

    def document(self, reference: str) -> dict[str, Any]:
        """The JSON Schema of a body, its `types` referred to by `reference` ("...{name}")."""
        ways = [{"$ref": reference.format(name=kind.__name__)} for kind in self.types]
        rows = {"type": "array", "minItems": 1, "maxItems": MAX_INSTANCES, "items": {"anyOf": ways}}
        clock = {"as_of": msgspec.json.schema(BASE["timestamp"])} if self._clock else {}
        return {
            "title": self.title,
            "type": "object",
            "required": ["outcomes"],
            "properties": {"outcomes": rows, **clock},
            "additionalProperties": False,
        }

    def parse(self, body: bytes) -> Told:
        """The outcomes in `body`. Raises Refused (400) with the path of the field at fault."""
        try:
            told = decoded(self._decoder, body)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        if refusal := repeated(body):
            raise refusal
        as_of = getattr(told, "as_of_", UNSET)
        outcomes = [self._outcome(row, f"outcomes[{number}]") for number, row in enumerate(told.outcomes_)]
        return Told(outcomes, None if as_of is UNSET else _instant(as_of, "as_of"))

    def _outcome(self, row: Any, path: str) -> dict[str, Any]:
        given = {name: value for name in self._names if (value := getattr(row, _attribute(name))) is not UNSET}
        way = "Request" if "request_id" in given else "Example" if EXAMPLE in given else "Entity"
        fields = self._ways[way]
        if not given:
            keys = ", ".join(self._keys)
            choice = f"request_id (and instance), or {EXAMPLE}, or {keys} and {TIME}"
            raise Refused(400, "invalid", f"Say what it is the outcome of: {choice}", path)
        if surplus := [name for name in given if name not in fields]:
            raise Refused(400, "invalid", f"Not beside {', '.join(fields)}: name it in one way", f"{path}.{surplus[0]}")
        if missing := [name for name in fields if name not in given and name != "instance"]:
            raise Refused(400, "invalid", f"Object missing required field `{missing[0]}`", f"{path}.{missing[0]}")
        label = self._label(getattr(row, _attribute(LABEL)), f"{path}.{LABEL}")
        if way == "Request":
            return {LABEL: label, "instance": 0, **given}
        if way == "Example":
            return {LABEL: label, **given}
        moment = iso(_instant(given.pop(TIME), f"{path}.{TIME}"))
        texts = {name: iso(value) if isinstance(value, datetime) else value for name, value in given.items()}
        return {LABEL: label, TIME: moment, "keys": texts}

    def _label(self, value: bool | float | str, path: str) -> float | str:
        if why := self._kind.wrong(value):
            raise Refused(400, "invalid", why, path)
        return value if isinstance(value, str) else float(value)


class Outcomes:
    """Takes outcomes for what an endpoint serves.

    Args:
        endpoint: who may ask, and what is served.
        log: of outcomes; a prediction's is another one.
        now: the server's clock.
    """

    def __init__(self, endpoint: Endpoint, log: DurableLog, now: Callable[[], datetime]) -> None:
        self._endpoint, self._log, self._now = endpoint, log, now
        self._schemas: dict[str, OutcomeSchema] = {}

    @property
    def failure(self) -> str | None:
        """Why the last outcomes could not be made durable; None when they could."""
        return self._log.failure

    async def take(self, exchange: Exchange) -> None:
        """POST /v1/models/{model}/outcomes, within the endpoint's `guard`. Raises Refused."""
        model, settings = exchange.params["model"], self._endpoint.settings
        self._endpoint.authorize(exchange, model)
        served = self._endpoint.find(model)
        body = await exchange.body(settings.body_limit)
        told = self._schema(served.packaged.manifest).parse(body)
        known_at = iso(told.as_of or self._now())
        lines = [
            Outcome(exchange.request_id, number, model, known_at, **fields)
            for number, fields in enumerate(told.outcomes)
        ]
        try:
            await self._log.append(msgspec.json.Encoder().encode_lines(lines))
        except LogUnavailable:
            raise busy("log_unavailable", "The outcomes could not be made durable: send them again") from None
        await exchange.answer(msgspec.json.encode(Accepted(model, exchange.request_id, len(lines))), 202)

    def _schema(self, manifest: Manifest) -> OutcomeSchema:
        known = self._schemas.get(manifest.digest)
        if known is None:
            known = of_version(manifest, clock=self._endpoint.settings.request_clock)
            self._schemas[manifest.digest] = known
        return known


def of_version(manifest: Manifest, *, clock: bool) -> OutcomeSchema:
    """How outcomes of the predictions of a version are told."""
    return OutcomeSchema(manifest.model, kind(manifest.task, manifest.classes), manifest.keys, clock=clock)


def _struct(name: str, fields: list[Any]) -> type[msgspec.Struct]:
    rename = {field[0]: field[0].removesuffix("_") for field in fields}
    return msgspec.defstruct(name, fields, rename=rename, forbid_unknown_fields=True, kw_only=True, frozen=True)


def _attribute(name: str) -> str:
    """A field may be called like a keyword of Python; an attribute may not."""
    return f"{name}_"


def _invalid(text: str) -> Refused:
    head, _, where = text.rpartition(" - at `$")
    message, path = (head, where.rstrip("`").removeprefix(".")) if head else (text, "")
    if named := re.search(r"field `(.*)`$", message, re.DOTALL):
        path = f"{path}.{named[1]}".removeprefix(".")
    return Refused(400, "invalid", message[:SHOWN], path[:SHOWN] or "$")


def _instant(at: datetime, path: str) -> datetime:
    if not YEARS[0] <= at.year <= YEARS[1]:
        raise Refused(400, "invalid", f"Expected a year of {YEARS[0]} to {YEARS[1]}", path)
    return at.astimezone(UTC)
