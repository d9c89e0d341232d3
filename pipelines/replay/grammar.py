"""Policies as text: `drift or age > 8w with cooldown 3w and approval 2d`.

policy   = cause {"or" cause} ["with" setting {"and" setting}]
cause    = "nightly" | "weekly" | N "-weekly" | "every" SPAN | "age >" SPAN | [K "of" N] ("drift" | "quality")
         | "current" | "never" | "random" N | "fixed" N | MODULE ":" FUNCTION
setting  = "cooldown" SPAN | "budget" N "in" SPAN | "approval" SPAN | "window" SPAN
SPAN     = a number with d (days) or w (weeks)
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from features import HeadwayError
from pipelines.replay.policies import Alarmed, Chosen, Current, Every, Named, Never, Older, Or, Own, Policy

SPAN = r"(\d+)\s*([dw])"
CAUSES = (
    "nightly, weekly, 4-weekly, every 10d, age > 8w, drift, quality, 2 of 3 drift, current, never, random 7, fixed 7, "
    "module:function"
)
SETTINGS = "cooldown 3w, budget 2 in 30d, approval 2d, window 26w"
DUMMY = "dummy"
"""Asks for the dummies of every policy that looks at evidence, at that policy's own number of retrainings."""


def parse(text: str, declared: Mapping[str, Any] | None = None) -> Named:
    """The policy that a text names.

    Args:
        declared: the model's own policies by name: texts, functions or objects with `asks`.

    Raises:
        HeadwayError: saying what is wrong, and what is valid.
    """
    name = " ".join(text.split())
    own = (declared or {}).get(name)
    if own is not None and not isinstance(own, str):
        return Named(name, own if hasattr(own, "asks") else Own(own))
    causes, _, settings = (own or name).partition(" with ")
    parts = tuple(_cause(part.strip(), text, declared or {}) for part in causes.split(" or "))
    found = Named(name, parts[0] if len(parts) == 1 else Or(parts))
    wanted = [setting.strip() for setting in settings.split(" and ")] if settings else []
    return Named(name, found.policy, **{key: value for each in wanted for key, value in _setting(each, text).items()})


def parse_all(text: str, declared: Mapping[str, Any] | None = None) -> tuple[list[Named], bool]:
    """The policies of a comma-separated text, each once, and whether `dummy` is among them. Raises HeadwayError."""
    names = list(dict.fromkeys(" ".join(part.split()) for part in text.split(",") if part.strip()))
    if not names:
        raise HeadwayError(f"no policy is named. Name some, separated by commas: {CAUSES}.")
    return [parse(name, declared) for name in names if name != DUMMY], DUMMY in names


def _cause(text: str, whole: str, declared: Mapping[str, Any]) -> Policy:
    for pattern, make in PATTERNS:
        if match := re.fullmatch(pattern, text):
            return make(match)
    if text in declared and not isinstance(declared[text], str):
        return parse(text, declared).policy
    if ":" in text:
        return Own(_function(text))
    also = f"; declared by the model: {', '.join(declared)}" if declared else ""
    raise HeadwayError(f"policy {whole!r}: {text!r} is no cause to retrain. There are: {CAUSES}{also}.")


def _setting(text: str, whole: str) -> dict[str, Any]:
    if match := re.fullmatch(rf"(cooldown|approval|window) {SPAN}", text):
        return {match[1]: _span(match[2], match[3])}
    if match := re.fullmatch(rf"budget (\d+) in {SPAN}", text):
        return {"budget": (int(match[1]), _span(match[2], match[3]))}
    raise HeadwayError(f"policy {whole!r}: {text!r} is no setting. There are: {SETTINGS}; join them by `and`.")


def _function(text: str) -> Callable[..., bool]:
    module, _, name = text.partition(":")
    try:
        found: Callable[..., bool] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HeadwayError(f"policy {text!r}: {error}. Write it as module:function, importable from here.") from None
    if not callable(found):
        raise HeadwayError(f"policy {text!r} is no function. Write one that takes `Tonight` and returns a bool.")
    return found


def _alarmed(match: re.Match[str]) -> Policy:
    least, among = int(match[1] or 1), int(match[2] or 1)
    if not 1 <= least <= among:
        raise HeadwayError(f"policy {match[0]!r}: {least} of {among} windows can never alarm. Write, say, `2 of 3`.")
    return Alarmed("drift" if match[3] == "drift" else "quality", (least, among))


def _span(number: str, unit: str) -> timedelta:
    if not int(number):
        raise HeadwayError(f"{number}{unit} is no time: write a number of days or weeks, such as 10d or 8w.")
    return timedelta(days=int(number) * (7 if unit == "w" else 1))


PATTERNS: tuple[tuple[str, Callable[[re.Match[str]], Policy]], ...] = (
    ("never", lambda _: Never()),
    ("nightly", lambda _: Every(timedelta(days=1))),
    ("weekly", lambda _: Every(timedelta(days=7))),
    (r"(\d+)-weekly", lambda match: Every(_span(match[1], "w"))),
    (rf"every {SPAN}", lambda match: Every(_span(match[1], match[2]))),
    (rf"age\s*>\s*{SPAN}", lambda match: Older(_span(match[1], match[2]))),
    (r"(?:(\d+) of (\d+) )?(drift|quality)", _alarmed),
    ("current", lambda _: Current()),
    (r"random (\d+)(?: seed (\d+))?", lambda match: Chosen(int(match[1]), int(match[2] or 0))),
    (r"fixed (\d+)", lambda match: Chosen(int(match[1]))),
)
