"""What a request to a model may carry: built once from the manifest and the expectations, checked by msgspec.

The declared types and the rules about the same columns become one msgspec type, so one strict decode does all the
checking and names the field at fault, and the OpenAPI document is generated from that very type.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Optional, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta

from expectations import Rule
from features import HeadwayError
from services.example import taken
from services.refusals import Refused
from services.rules import BASE, YEARS, compiles, constrain
from services.strict import decoded, repeated

MAX_INSTANCES = 1000
RESERVED = "example_id"
SHOWN = 200
"""Characters that a refusal repeats of what was sent, at most."""


@dataclass(frozen=True)
class Call:
    """A request that passed: n instances by column, timestamps as UTC datetimes."""

    columns: dict[str, list[Any]]
    example_ids: list[str | None]
    as_of: datetime | None

    def __len__(self) -> int:
        return len(self.example_ids)


class RequestSchema:
    """The request body of one model.

    Args:
        model: its name.
        keys: entity keys and their dtypes; one may be null (an unknown entity) where nothing forbids it.
        inputs: request-time inputs and their dtypes.
        required: keys that must not be null, since request features are computed from them.
        rules: expectations about columns of the same names; the kinds that `compiles` names are enforced.
        clock: whether `as_of` may be sent.

    Raises HeadwayError for a field called `example_id`, or rules that no value passes.
    """

    def __init__(
        self,
        model: str,
        keys: Mapping[str, str],
        inputs: Mapping[str, str],
        *,
        required: Sequence[str] = (),
        rules: Sequence[Rule] = (),
        clock: bool = False,
    ) -> None:
        self.names = (*keys, *inputs)
        if RESERVED in self.names:
            raise HeadwayError(f"{model}: a field of the request cannot be called {RESERVED}. Rename it in features/.")
        about = {name: [rule for rule in rules if compiles(rule, name)] for name in self.names}
        self._why = {name: "; ".join(dict.fromkeys(rule.why for rule in about[name])) for name in about}
        self._allowed: dict[str, str] = {}
        self._instants = [name for name, dtype in {**keys, **inputs}.items() if dtype == "timestamp"]
        fields: list[tuple[str, Any]] = []
        for name, dtype in {**keys, **inputs}.items():
            try:
                kind = constrain(dtype, about[name])
            except (ValueError, TypeError, re.error) as error:
                raise HeadwayError(f"{model}: the expectations on {name} cannot guard requests: {error}") from None
            if get_origin(kind) is Literal:
                self._allowed[name] = ", ".join(str(value) for value in get_args(kind))
            free = name in keys and name not in required and not any("not_be_null" in r.expect for r in about[name])
            fields.append((name, Optional[kind] if free else kind))  # noqa: UP045 - `|` does not take a Literal
        self.type = _request_type(model, fields, clock)
        self._decoder = msgspec.json.Decoder(self.type)
        self._values = {name: operator.attrgetter(_attribute(name)) for name in self.names}
        self._quoted = [msgspec.json.encode(name) for name in self.names]

    def parse(self, body: bytes) -> Call:
        """The call that `body` is. Raises Refused (400) with the path of the field at fault."""
        try:
            request = decoded(self._decoder, body)
        except msgspec.ValidationError as error:
            raise self._invalid(str(error)) from None
        if not self._once_each(body, request) and (refusal := repeated(body)):
            raise refusal
        rows = request.instances
        columns = {name: list(map(value, rows)) for name, value in self._values.items()}
        for name in self._instants:
            columns[name] = [_instant(at, f"instances[{i}].{name}") for i, at in enumerate(columns[name])]
        as_of = getattr(request, "as_of", UNSET)
        return Call(columns, [row.example_id for row in rows], None if as_of is UNSET else _instant(as_of, "as_of"))

    @cached_property
    def example(self) -> dict[str, Any] | None:
        """A body that this schema takes; None where none was found."""
        return taken(msgspec.json.schema(self.type), self.parse)

    def _once_each(self, body: bytes, request: Any) -> bool:
        """Whether it is sure, without parsing again, that no name of a good body comes twice in one object.

        Every name is there at least once in its object. So where no character is escaped and each name comes no more
        often than there are objects to have it, each comes once. A value that reads like a name leaves it unsure.
        """
        rows = request.instances
        named = sum(row.example_id is not None for row in rows)
        timed = getattr(request, "as_of", UNSET) is not UNSET
        return (
            b"\\" not in body
            and all(body.count(name) == len(rows) for name in self._quoted)
            and (body.count(b'"instances"'), body.count(b'"example_id"')) == (1, named)
            and body.count(b'"as_of"') == timed
        )

    def _invalid(self, text: str) -> Refused:
        # The last one: what the caller sent may hold the same words.
        head, _, tail = text.rpartition(" - at `$")
        message, where = (head, tail) if head else (text, "")
        path = where.rstrip("`").removeprefix(".")
        column = path.rpartition(".")[2]
        if named := re.search(r"field `(.*)`$", message, re.DOTALL):
            path, message = f"{path}.{named[1]}".removeprefix("."), message[:SHOWN]
        elif message.startswith("Invalid enum value"):
            message = f"Expected one of {self._allowed[column]} ({self._why[column]})"
        elif self._why.get(column) and "got `" not in message:
            # A wrong type needs no explanation; a value that breaks a rule does.
            message += f" ({self._why[column]})"
        return Refused(400, "invalid", message, path[:SHOWN] or "$")


def _attribute(name: str) -> str:
    """A field may be called like a keyword of Python; an attribute may not."""
    return f"{name}_"


def _request_type(model: str, fields: Sequence[tuple[str, Any]], clock: bool) -> type[msgspec.Struct]:
    title = "".join(part.capitalize() for part in model.split("_"))
    example_id = Annotated[str, Meta(max_length=200, description="Yours: comes back in the log, to join outcomes")]
    instance = msgspec.defstruct(
        f"{title}Instance",
        [*((_attribute(name), kind) for name, kind in fields), (RESERVED, Optional[example_id], None)],  # noqa: UP045
        rename={_attribute(name): name for name, _ in fields},
        forbid_unknown_fields=True,
        kw_only=True,
        frozen=True,
    )
    instances = Annotated[list[instance], Meta(min_length=1, max_length=MAX_INSTANCES)]  # type: ignore[valid-type]
    body: list[Any] = [("instances", instances)]
    if clock:
        body.append(("as_of", BASE["timestamp"] | msgspec.UnsetType, UNSET))
    return msgspec.defstruct(f"{title}Request", body, forbid_unknown_fields=True, kw_only=True, frozen=True)


def _instant(at: datetime | None, path: str) -> datetime | None:
    if at is None:
        return None
    if not YEARS[0] <= at.year <= YEARS[1]:
        raise Refused(400, "invalid", f"Expected a year of {YEARS[0]} to {YEARS[1]}", path)
    return at.astimezone(UTC)
