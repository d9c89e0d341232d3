"""The folder of weekly pages: each is HTML beside its JSON, and an index lists them all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from features import HeadwayError
from monitoring.page import Listed, Week
from monitoring.render import render, render_index
from pipelines.files import read_json, write_bytes, write_json
from pipelines.registry.pointers import alone

T = TypeVar("T", Week, Listed)

PAGES = "*-????-??-??.json"
"""A page's JSON is called `<model>-<last day>.json`; what else lies in the folder is not listed."""


def write(week: Week, folder: Path) -> Path:
    """Write `<name>.html`, `<name>.json` and the index of all weeks in `folder`; return the page's path.

    Each file is replaced whole. Pages of several models may be written at once: none is missing from the index.
    """
    page = folder / f"{week.name}.html"
    write_bytes(page, render(week).encode())
    with alone(folder):
        write_json(folder / f"{week.name}.json", week)
        write_bytes(folder / "index.html", render_index(listed(folder)).encode())
    return page


def read(folder: Path) -> list[Week]:
    """The weeks written to `folder`, in order of file name, but for those that another release wrote otherwise."""
    return _read(folder, Week)


def listed(folder: Path) -> list[Listed]:
    """The same, as the index has them: of any release."""
    return _read(folder, Listed)


def _read(folder: Path, kind: type[T]) -> list[T]:
    found = []
    for path in sorted(folder.glob(PAGES)):
        with suppress(HeadwayError):  # one spoiled file must not keep the new page out of the index
            found.append(read_json(path, kind))
    return found
