"""Files that are replaced whole or not at all, and small JSON files among them, read strictly."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from features import HeadwayError

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, keys sorted."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value, order="deterministic")))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`. Readers see the old file or the new one."""
    with replacing(path) as half:
        half.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; what is there when the block ends becomes `path`, on disk.

    What killed writers of the same file left behind is removed first: this is the one place that sweeps.
    """
    sweep(path.parent, path.name)
    half = half_of(path)
    try:
        yield half
        with half.open("rb") as file:
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def half_of(path: Path) -> Path:
    """What `path` is called while this process has not finished writing it."""
    return path.with_name(f".{path.name}.{os.getpid()}.half")


def sweep(folder: Path, name: str = "*") -> int:
    """Remove what dead writers of `name` left half written in `folder`; how many files that were."""
    dead = [half for half in folder.glob(f".{name}.*.half") if not _alive(half)]
    for half in dead:
        half.unlink(missing_ok=True)
    return len(dead)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(half: Path) -> bool:
    """Whether the process that its name carries is there; one of another user is."""
    try:
        os.kill(int(half.name.split(".")[-2]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def read_json(path: Path, kind: type[T]) -> T:
    """The value in `path`. Raises HeadwayError naming the file when it is not a `kind`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HeadwayError(f"{path} is not readable: {error}. Put the file back from a backup, or remove it.") from None


def secret(path: Path, prefix: str = "") -> str:
    """The secret in `path`, made on first use: `prefix` and 32 random characters, in a file of mode 0600."""
    if not path.exists():
        half = half_of(path)
        half.touch(0o600)
        half.write_text(prefix + secrets.token_urlsafe(24))
        with suppress(FileExistsError):  # whoever was first has made it
            os.link(half, path)
        half.unlink()
    return path.read_text()
