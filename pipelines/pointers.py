"""The pointer files: one small JSON file a model that tells serving who is champion. Light: no database behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from features import NAME, HeadwayError
from pipelines.chain import named

Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Pointer:
    """The champion of a model, as its pointer file tells it.

    `generation` counts the promotions and rollbacks of the model, from 1; `as_of` is ISO 8601 in UTC; `ledger` is the
    hash of the entry that made it champion.
    """

    model: Text
    version: Count
    tag: Text
    digest: Text
    generation: Count
    as_of: Text
    ledger: Sha256


def read_pointer(folder: Path, model: str) -> Pointer | None:
    """The champion of `model`, or None while there is none. Raises HeadwayError for a damaged file."""
    path = pointer_path(folder, model)
    try:
        pointer = msgspec.json.decode(path.read_bytes(), type=Pointer)
        if pointer.model != model:
            raise ValueError(f"it names the champion of {pointer.model!r}")
        return pointer
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise HeadwayError(
            f"{path} is not the pointer of {model}: {error}. What serves now keeps serving; "
            f"`headway repair {model}` writes the pointer again from the ledger."
        ) from None


def champions(folder: Path) -> list[str]:
    """The models that have a pointer file in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.json") if NAME.fullmatch(path.stem))


def heads(folder: Path) -> list[str]:
    """The ledger hash that each pointer recorded: `ledger.verify(heads(folder))` finds a ledger that was cut."""
    pointers = (read_pointer(folder, model) for model in champions(folder))
    return [pointer.ledger for pointer in pointers if pointer]


def pointer_path(folder: Path, model: str) -> Path:
    """Where the pointer of `model` is kept. Raises HeadwayError for what cannot name a model."""
    return folder / f"{named(model)}.json"
