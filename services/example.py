"""A request that can be shown: the plainest value that each field of a JSON Schema lets through.

Nothing of what callers sent or a model was trained on is in it: the documentation needs no key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import regex  # unlike `re` it tells a text that cannot match from one that is only too short

from services.refusals import Refused

Schema = Mapping[str, Any]
ALPHABET, LONGEST = "A1a -_.:/@", 100


def taken(schema: Schema, parse: Callable[[bytes], object]) -> Any:
    """An example of `schema`, in whose `$defs` all references lie, that `parse` takes; None where none was found."""
    try:
        made = example(schema, schema.get("$defs", {}))
        parse(msgspec.json.encode(made))
    except (ValueError, Refused, regex.error):
        return None
    return made


def example(schema: Schema, definitions: Mapping[str, Schema]) -> Any:
    """A value that should pass `schema`, in which references are to `definitions` by the last part of their name.

    Only what is required is in it. Raises ValueError, or regex.error, for a regular expression that is too much for it.
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
    """A short text in which `pattern` is found. Raises ValueError when none was.

    Grown by a character at a time that completes it, else by the first after which a match is still possible.
    """
    grown, text = regex.compile(pattern), ""
    while re.search(pattern, text) is None:
        tried = (grown.match(text + one, partial=True) for one in dict.fromkeys(ALPHABET + pattern))
        longer = [match for match in tried if match and match.end() > len(text)]
        if not longer or len(text) == LONGEST:
            raise ValueError(f"no text was found that matches {pattern}")
        text = next((match for match in longer if not match.partial), longer[0]).string
    return text
