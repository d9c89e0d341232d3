"""What every declaration shares: strict fields, discovery by name, and errors that say what to do next.

The three folders that belong to the user (`features`, `expectations`, `models`) hold one declaration a file.
Platform code never imports such a file by name; it asks the folder for it: `models.load("some_name")`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

T = TypeVar("T")

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class HeadwayError(Exception):
    """A mistake that a person can mend: the message names what was wrong, where, and the next step."""


class DeclarationError(HeadwayError):
    """A declaration is missing, or one of its fields is missing, unknown or out of range."""


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: use a-z, 0-9 and _, starting with a letter, at most 63 long")
    return value


Name = Annotated[str, AfterValidator(_name)]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field, Field))
def contract(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only, strictly checked dataclass.

    Raises:
        DeclarationError: on construction, naming each field that is wrong and the fields that exist.
    """
    checked = pydantic_dataclass(
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, use_attribute_docstrings=True),
    )(cls)
    construct = checked.__init__

    @functools.wraps(construct)
    def explained(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            raise DeclarationError(_explain(cls.__name__, checked, error)) from None

    checked.__init__ = explained  # type: ignore[method-assign]
    return cast("type[T]", checked)


def _explain(contract_name: str, checked: Any, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "fields together"
        lines.append(f"  {where}: {problem['msg']}")
    allowed = ", ".join(field.name for field in dataclasses.fields(checked))
    return "\n".join([f"{contract_name} is declared wrongly:", *lines, f"  its fields are: {allowed}"])


def names(package: str) -> list[str]:
    """The declarations in one of the user's folders, sorted; no declaration is imported for it."""
    folder = Path(importlib.import_module(package).__file__ or "").parent
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(package: str, name: str, kind: type[T]) -> T:
    """The one object of type `kind` that `<package>/<name>.py` declares.

    Raises:
        DeclarationError: no such file (the message lists those there are), a file that fails, or a file
            that declares none or several of them.
    """
    known = names(package)
    if name not in known:
        raise DeclarationError(
            f"{package}/ has no {name!r}. It has: {', '.join(known) or 'none yet'}. "
            f"Name one of these, or add {package}/{name}.py."
        )
    try:
        module = importlib.import_module(f"{package}.{name}")
    except HeadwayError as error:
        raise DeclarationError(f"{package}/{name}.py: {error}") from None
    except Exception as error:  # the user's code: whatever it raises is told like any other mistake in it
        raise DeclarationError(f"{package}/{name}.py{_line(error, name)}: {type(error).__name__}: {error}") from error
    found = [value for value in vars(module).values() if isinstance(value, kind)]
    if len(found) != 1:
        raise DeclarationError(
            f"{package}/{name}.py declares {len(found)} objects of type {kind.__name__}; it must declare one."
        )
    return found[0]


def _line(error: Exception, name: str) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).stem == name]
    return f", line {frames[-1].lineno}" if frames else ""


def unique(things: tuple[Any, ...], what: str, of: Callable[[Any], str] = lambda thing: thing.name) -> None:
    """Raise ValueError when two of `things` share a name."""
    seen = [of(thing) for thing in things]
    twice = sorted({name for name in seen if seen.count(name) > 1})
    if twice:
        raise ValueError(f"two {what} are called {', '.join(twice)}")
