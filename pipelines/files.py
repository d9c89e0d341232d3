"""Small JSON files: written whole or not at all, read strictly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from features import HeadwayError

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, keys sorted: write, fsync, rename."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value, order="deterministic")))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: write, fsync, rename. Readers see the old file or the new one."""
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    with half.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def read_json(path: Path, kind: type[T]) -> T:
    """The value in `path`. Raises HeadwayError naming the file when it is not a `kind`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HeadwayError(f"{path} is not readable: {error}. Put the file back from a backup, or remove it.") from None
