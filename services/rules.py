"""Expectations as types: the rules that can be checked on one request, in the words of msgspec.

Great Expectations takes 5 s to import and 0.2 s a call, so it is never online; the same declared rules are.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from expectations import Rule

YEARS = (1900, 2199)
"""Of an instant, as written, before its offset is taken off."""
RFC_3339 = Meta(
    tz=True,
    description=f"RFC 3339, with its offset from UTC, of the years {YEARS[0]} to {YEARS[1]}",
    extra_json_schema={"pattern": "^(19|20|21)"},
)
BASE: dict[str, Any] = {
    "float": float,
    "int": int,
    "str": Annotated[str, Meta(max_length=1000)],
    "bool": bool,
    "timestamp": Annotated[datetime, RFC_3339],
}
# Estimators take 32-bit floats, entity keys are 64-bit integers: beyond that nothing could be computed.
LIMITS: dict[str, tuple[float, float]] = {
    "float": (-3.4028234663852886e38, 3.4028234663852886e38),
    "int": (-(2**63), 2**63 - 1),
}
COMPILED = (
    "expect_column_values_to_be_between",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_not_be_null",
)


def compiles(rule: Rule, column: str) -> bool:
    """Whether a rule is about every value of `column`, stops or quarantines, and can be checked on a request."""
    args = rule.args
    whole = args.get("mostly", 1.0) == 1.0 and not args.get("row_condition")
    fixed = not any(isinstance(value, dict) for value in args.values())
    return args.get("column") == column and rule.severity != "info" and rule.expect in COMPILED and whole and fixed


def constrain(dtype: str, rules: Sequence[Rule]) -> Any:
    """The type of `dtype` narrowed by rules that `compiles` let through.

    Raises ValueError where no value is left, re.error for a regular expression that is none.
    """
    by_kind = {kind: [rule.args for rule in rules if rule.expect == kind] for kind in COMPILED}
    between, sets, patterns, _ = (by_kind[kind] for kind in COMPILED)
    checks: list[Callable[[Any], bool]] = []
    kind = BASE[dtype]
    if dtype in LIMITS:
        kind = Annotated[kind, Meta(**_bounds(dtype, between))]
        checks = [functools.partial(_within, args) for args in between]
    if dtype == "str" and patterns:
        pattern = _all_of([args["regex"] for args in patterns])
        kind = Annotated[kind, Meta(pattern=pattern)]
        checks = [lambda value: re.search(pattern, value) is not None]
    if dtype in ("int", "str") and sets:
        allowed = set.intersection(*(set(args["value_set"]) for args in sets))
        left = tuple(sorted(value for value in allowed if all(check(value) for check in checks)))
        if not left:
            raise ValueError("no value passes them all")
        return Literal[left]
    return kind


def _bounds(dtype: str, rules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tightest limits of several between-rules and of the type itself, as msgspec names them."""
    lowest, highest = LIMITS[dtype]
    lows, highs = [(lowest, False)], [(-highest, False)]
    for args in rules:
        if args.get("min_value") is not None:
            lows.append((args["min_value"], bool(args.get("strict_min"))))
        if args.get("max_value") is not None:
            highs.append((-args["max_value"], bool(args.get("strict_max"))))
    (low, above), (high, below) = max(lows), max(highs)
    high = -high
    if dtype == "int":
        low, above = (math.floor(low) + 1 if above else math.ceil(low)), False
        high, below = (math.ceil(high) - 1 if below else math.floor(high)), False
    return {"gt" if above else "ge": low, "lt" if below else "le": high}


def _within(args: Mapping[str, Any], value: float) -> bool:
    tests = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
    return all(tests[name](value, limit) for name, limit in _bounds("float", [args]).items())


def _all_of(patterns: Sequence[str]) -> str:
    unique = list(dict.fromkeys(patterns))
    return unique[0] if len(unique) == 1 else "^" + "".join(rf"(?=[\s\S]*?(?:{pattern}))" for pattern in unique)
