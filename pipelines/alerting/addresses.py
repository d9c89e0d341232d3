"""Whom alerts go to: addresses from the environment, or from a file that only its owner can read.

HEADWAY_ALERTS (none): addresses as apprise writes them, separated by spaces. Without it, the file `keys/alerts` below
HEADWAY_HOME, mode 0600, has them, one a line. `MODEL=` before an address keeps it to alerts about that model.
HEADWAY_ALERTS_WEEKLY (off): `on` also sends the first line of each weekly page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import models
from features import HeadwayError
from pipelines.home import Home

ADDRESS = re.compile(r"(?:(?P<only>[A-Za-z0-9_]+)=)?(?P<url>(?P<kind>[A-Za-z][A-Za-z0-9+.-]*)://\S+)")

HOW = (
    "Write one as KIND://..., such as mailtos://USER:PASSWORD@HOST/?to=WHOM, a Slack webhook's https:// address, or "
    "jsons://HOST/PATH for a webhook of your own; MODEL= before it keeps it to one model."
)


@dataclass(frozen=True)
class Address:
    """Somebody to tell. Only `label` may be shown or stored."""

    label: str
    """Its kind and place in the list: `slack #2`."""
    only: str | None
    """The model that it is kept to; None for all."""
    url: str = field(repr=False)


def path(at: Home) -> Path:
    """The file of addresses."""
    return at.room("keys") / "alerts"


def addresses(at: Home, environment: Mapping[str, str] = os.environ) -> list[Address]:
    """Everybody to tell, in the order written.

    Raises HeadwayError for what is no address, a model that is not declared, or a file that others can read; its
    message quotes no address.
    """
    where, text = _written(at, environment)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [_address(where, number, word) for number, word in enumerate(" ".join(lines).split(), start=1)]


def of(at: Home, about: str) -> list[Address]:
    """Who is told of a model; of a domain, those who are told of any model that reads it. Raises HeadwayError."""
    concerned = {about, *(name for name in models.names() if models.load(name).domain == about)}
    return [each for each in addresses(at) if each.only is None or each.only in concerned]


def weekly(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the weekly page's first line is sent too. Raises HeadwayError."""
    said = environment.get("HEADWAY_ALERTS_WEEKLY") or "off"
    if said not in ("on", "off"):
        raise HeadwayError(f"HEADWAY_ALERTS_WEEKLY={said!r} is not valid. Use one of: on, off.")
    return said == "on"


def _written(at: Home, environment: Mapping[str, str]) -> tuple[str, str]:
    if said := environment.get("HEADWAY_ALERTS"):
        return "HEADWAY_ALERTS", said
    file = path(at)
    if not file.exists():
        return str(file), ""
    if file.stat().st_mode & 0o077:
        raise HeadwayError(f"{file} holds passwords, and others can read it. Run: chmod 600 {file}")
    return str(file), file.read_text(encoding="utf-8")


def _address(where: str, number: int, word: str) -> Address:
    found = ADDRESS.fullmatch(word)
    if found is None:
        raise HeadwayError(f"{where}: entry {number} is no address. {HOW}")
    only = found["only"]
    if only is not None and only not in models.names():
        raise HeadwayError(
            f"{where}: entry {number} is for {only!r}, which is no model. Declared: {', '.join(models.names())}."
        )
    return Address(f"{found['kind'].lower()} #{number}", only, found["url"])
