"""A request that can be shown: the plainest value that each field of a JSON Schema lets through.

Nothing of what callers sent or a model was trained on is in it: the documentation needs no key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import msgspec

from services.refusals import Refused

Schema = Mapping[str, Any]
ALPHABET = "A1a -_.:/@"
CATEGORIES = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}


def taken(schema: Schema, parse: Callable[[bytes], object]) -> Any:
    """An example of `schema`, in whose `$defs` all references lie, that `parse` takes; None where none was found."""
    try:
        made = example(schema, schema.get("$defs", {}))
        parse(msgspec.json.encode(made))
    except (ValueError, Refused):
        return None
    return made


def example(schema: Schema, definitions: Mapping[str, Schema]) -> Any:
    """A value that should pass `schema`, in which references are to `definitions` by the last part of their name.

    Only what is required is in it. Raises ValueError for a regular expression that is too much for it.
    """
    if "$ref" in schema:
        return example(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return example(next(each for each in schema["anyOf"] if each.get("type") != "null"), definitions)
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: example(schema["properties"][name], definitions) for name in schema.get("required", ())}
    if schema["type"] == "array":
        return [example(schema["items"], definitions)]
    return _plain(schema)


def _plain(schema: Schema) -> Any:
    if schema["type"] == "boolean":
        return True
    if schema["type"] in ("integer", "number"):
        return _number(schema)
    if schema.get("format") == "date-time":
        return "2030-01-01T12:00:00Z"
    return matching(schema["pattern"]) if "pattern" in schema else "text"


def _number(schema: Schema) -> float | int:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -2e9))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2e9))
    if low < 1 < high:
        return 1
    if "exclusiveMinimum" not in schema and low > -1e9:
        return low
    middle = (low + high) / 2 if high - low < 1e9 else low + 1
    return int(middle) if schema["type"] == "integer" else middle


def matching(pattern: str) -> str:
    """A short text in which `pattern` is found. Raises ValueError when none was."""
    text = _text(parser.parse(pattern))
    if re.search(pattern, text) is None:
        raise ValueError(f"no text was found that matches {pattern}")
    return text


def _text(parsed: Sequence[tuple[Any, Any]]) -> str:
    return "".join(_part(str(kind), value) for kind, value in parsed)


def _part(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return chr(value)
    if kind == "ANY":
        return "a"
    if kind == "NOT_LITERAL":
        return next(one for one in ALPHABET if one != chr(value))
    if kind == "IN":
        return _one_of(value)
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        return _text(inner) * max(least, min(1, most))
    if kind == "SUBPATTERN":
        return _text(value[-1])
    if kind == "BRANCH":
        return _text(value[1][0])
    return ""  # an anchor, or what only looks: `matching` sees whether it holds


def _one_of(choices: Sequence[tuple[Any, Any]]) -> str:
    kind, value = str(choices[0][0]), choices[0][1]
    if kind == "NEGATE":
        taken = {chr(code) for each, code in choices[1:] if str(each) == "LITERAL"}
        spans = [span for each, span in choices[1:] if str(each) == "RANGE"]
        free = (one for one in ALPHABET if one not in taken and not any(a <= ord(one) <= b for a, b in spans))
        return next(free, "~")
    if kind == "RANGE":
        return chr(value[0])
    return CATEGORIES.get(str(value), "~") if kind == "CATEGORY" else chr(value)
