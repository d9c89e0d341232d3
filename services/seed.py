"""What a bento brings: a version, which becomes the first champion where there is none.

State is kept in the root, outside of the bento. A root that has a pointer for the model decides by itself who serves;
so does one whose ledger knows of a champion. Only where nothing was ever promoted does the version of the bento
serve, and that is an act like any other: written to the ledger, by the actor `bento`.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pipelines.files import read_json
from pipelines.home import PROJECT, Home
from pipelines.registry.pointers import pointer_path

BROUGHT = "bento.json"
"""Beside the code in a bento: what it brings. A checkout has no such file."""


class Brought(msgspec.Struct, frozen=True):
    """The version in a bento, and what the ledger that it comes from says about it."""

    model: str
    version: int
    tag: str
    digest: str
    body: dict[str, Any]
    """The body of its "version" entry."""


def brought(project: Path = PROJECT) -> Brought | None:
    """What the bento that this code runs from brings; None in a checkout. Raises HeadwayError for a damaged file."""
    path = project / BROUGHT
    return read_json(path, Brought) if path.exists() else None


def seed(at: Home, version: Brought, folder: Callable[[str], Path], now: datetime) -> bool:
    """Make the bento's version the first champion of its model, if it has none. Done once, whoever else tries.

    Args:
        folder: tells where the files of a tag are; asked only when they are needed.

    Returns:
        Whether it became champion.
    """
    pointer = pointer_path(at.pointers, version.model)
    if pointer.exists():
        return False
    with (at.room("registry") / ".seed.lock").open("a") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        return not pointer.exists() and _seeded(at, version, folder(version.tag), now)


def _seeded(at: Home, version: Brought, folder: Path, now: datetime) -> bool:
    from pipelines.registry import promotion
    from pipelines.registry.ledger import Ledger
    from pipelines.store import feature_store

    ledger = Ledger(at.ledger_url)
    if promotion.repair(ledger, at.pointers, version.model) is not None:
        return False
    _copied(folder, at.room("bentoml", "models", version.model) / version.tag.partition(":")[2], at.bentoml / ".half")
    feature_store.apply(at)
    key, sentence = f"bento/{version.tag}", f"version {version.version} came with a bento"
    if ledger.find(f"version/{key}") is None:
        # It was approved where it was promoted first: only such versions are packaged.
        body = {**version.body, "awaiting_approval": False, "sentence": sentence}
        ledger.append("version", version.model, as_of=now, body=body, actor="bento", key=f"version/{key}")
    promotion.promote(
        ledger, at.pointers, model=version.model, version=version.version, tag=version.tag, digest=version.digest,
        as_of=now, actor="bento", why="there was no champion here yet", key=f"promotion/{key}",
    )  # fmt: skip
    return True


def _copied(folder: Path, to: Path, half: Path) -> None:
    """The version's files in the root's model store; whole or not at all."""
    if to.exists():
        return
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(folder, half)
    half.replace(to)
