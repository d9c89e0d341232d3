"""The files that tell serving what the ledger decided: a model's champion, and its trials. Light: no database here.

Each is one small JSON file, written by whoever acted, under one lock, and replaced whole: readers see the old or the
new.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from features import NAME, HeadwayError
from pipelines.files import write_json
from pipelines.registry.chain import named

Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Meta(gt=0.0, lt=1.0)]
TrialKind = Literal["canary", "shadow"]
T = TypeVar("T", "Pointer", "Trials")


@dataclass(frozen=True)
class Pointer:
    """The champion of a model, as its pointer file tells it.

    `generation` counts the promotions and rollbacks of the model, from 1; `as_of` is ISO 8601 in UTC; `ledger` is the
    hash of the entry that made it champion, and `by` its actor.
    """

    model: Text
    version: Count
    tag: Text
    digest: Text
    generation: Count
    as_of: Text
    ledger: Sha256
    by: str = ""


@dataclass(frozen=True)
class Trial:
    """A version on trial beside the champion: a canary answers its `share` of entities, a shadow (None) answers nobody.

    `as_of` is when it began, ISO 8601 in UTC; `ledger` is the hash of the entry that began it.
    """

    version: Count
    tag: Text
    digest: Text
    as_of: Text
    ledger: Sha256
    share: Share | None = None


@dataclass(frozen=True)
class Trials:
    """The trials of a model, at most one of each kind. `ledger` is the hash of the entry that left them so."""

    model: Text
    ledger: Sha256
    canary: Trial | None = None
    shadow: Trial | None = None


def read_pointer(folder: Path, model: str) -> Pointer | None:
    """The champion of `model`, or None while there is none. Raises HeadwayError for a damaged file."""
    return _read(pointer_path(folder, model), model, Pointer, "pointer")


def read_trials(folder: Path, model: str) -> Trials | None:
    """The trials of `model`, or None when there never was one. Raises HeadwayError for a damaged file."""
    return _read(trials_path(folder, model), model, Trials, "trials")


def champions(folder: Path) -> list[str]:
    """The models that have a pointer file in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.json") if NAME.fullmatch(path.stem))


def heads(folder: Path) -> list[str]:
    """The ledger hash that each file recorded: `ledger.verify(heads(folder))` finds a ledger that was cut."""
    models = champions(folder)
    files = [*(read_pointer(folder, model) for model in models), *(read_trials(folder, model) for model in models)]
    return [file.ledger for file in files if file]


def pointer_path(folder: Path, model: str) -> Path:
    """Where the pointer of `model` is kept. Raises HeadwayError for what cannot name a model."""
    return folder / f"{named(model)}.json"


def trials_path(folder: Path, model: str) -> Path:
    """Where the trials of `model` are kept. Raises HeadwayError for what cannot name a model."""
    return folder / f"{named(model)}.trials.json"


def replace(path: Path, value: Pointer | Trials) -> None:
    """Write a file anew, to outlive a power cut."""
    write_json(path, value)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One act at a time, so that files are written in the ledger's order. The kernel frees a dead holder's lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path, model: str, kind: type[T], what: str) -> T | None:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=kind)
        if found.model != model:
            raise ValueError(f"it is of {found.model!r}")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise HeadwayError(
            f"{path} is not the {what} of {model}: {error}. What serves now keeps serving; "
            f"`headway repair {model}` writes it again from the ledger."
        ) from None
