"""Bodies, decoded strictly; and a second look once that has failed or is in doubt: what is wrong, and where.

msgspec is strict about nearly everything. What it leaves is a name that comes twice in an object: it takes the last
one, others the first, so two readers of one body could see two requests (RFC 8259, section 4). It is refused. In one
point msgspec is stricter than JSON Schema, which knows no difference between 7.0 and 7: `decoded` knows none either.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

import msgspec

from services.refusals import Refused

MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Twice:
    """Stands where an object was that has a name twice."""

    def __init__(self, name: str) -> None:
        self.name = name


class _NotANumber:
    """Stands where NaN or Infinity was."""


def decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The value that `body` is.

    Raises msgspec.ValidationError, which names its path, for a value that does not fit the decoder's type, and Refused
    (400) for what is not JSON.
    """
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            text = str(error)
            if not (text.startswith("Expected `int") and "got `float`" in text):
                raise
            return decoder.decode(_in_whole_numbers(body))
    except msgspec.ValidationError:
        raise
    except (ValueError, RecursionError) as error:
        raise malformed(body, error) from None


def malformed(body: bytes, error: Exception) -> Refused:
    """What is wrong with a body that is not JSON: the commonest reasons are looked for, and their place."""
    if body.startswith(MARKS):
        return Refused(400, "malformed", "The body begins with a byte order mark: send UTF-8 without one", "$")
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return Refused(400, "malformed", f"The body is not UTF-8 (byte {wrong.start})", "$")
    path, _ = _find(body, lambda part: isinstance(part, _NotANumber))
    if path:
        return Refused(400, "invalid", "NaN and Infinity are not JSON numbers", path)
    return Refused(400, "malformed", "The body is not JSON: " + str(error).removeprefix("JSON is malformed: "), "$")


def repeated(body: bytes) -> Refused | None:
    """The refusal of a JSON body in which some object has a name twice; None where none has."""
    path, part = _find(body, lambda part: isinstance(part, _Twice))
    if not path:
        return None
    where = part.name if path == "$" else f"{path}.{part.name}"
    return Refused(400, "invalid", "The name is given twice in one object", where)


def _in_whole_numbers(body: bytes) -> bytes:
    # Encoded again, so that all that is strict in the decoder is asked once more.
    return msgspec.json.encode(json.loads(body, parse_float=_number, parse_constant=_refused))


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _find(body: bytes, wanted: Callable[[Any], bool]) -> tuple[str, Any]:
    """The path of the first part that is wanted, and the part; ("", None) where there is none or nothing to search."""
    try:
        value = json.loads(body, parse_constant=lambda _: _NotANumber(), object_pairs_hook=_object)
        return _search(value, wanted, "") or ("", None)
    except (ValueError, RecursionError):
        return "", None


def _object(pairs: list[tuple[str, Any]]) -> Any:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            return _Twice(name)
        made[name] = value
    return made


def _search(value: Any, wanted: Callable[[Any], bool], path: str) -> tuple[str, Any] | None:
    if wanted(value):
        return path.removeprefix(".") or "$", value
    parts: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        parts = [(f"{path}.{name}", part) for name, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{path}[{number}]", part) for number, part in enumerate(value)]
    found = (_search(part, wanted, where) for where, part in parts)
    return next((one for one in found if one is not None), None)
