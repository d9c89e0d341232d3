"""API keys: made here, shown once, kept as hashes.

A key is 256 random bits, so nobody can try them all: a plain SHA-256 of it is as safe at rest as a slow hash would
be (those protect secrets that people can guess), and costs a request a microsecond in place of 100 ms.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from features import NAME, HeadwayError

PREFIX = "hw_"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key at rest. `models` is None for a key to all of them."""

    name: str
    sha256: str
    models: tuple[str, ...] | None = None

    def opens(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models


def make(path: Path, name: str, models: Sequence[str] | None = None) -> str:
    """Add a key called `name` to the file at `path` and return its secret, which is not kept anywhere.

    Args:
        models: the models it opens; None for all.

    Raises:
        HeadwayError: the name is taken or not a name.
    """
    if not NAME.fullmatch(name):
        raise HeadwayError(f"{name!r} cannot name a key: use a-z, 0-9 and _, starting with a letter.")
    secret = PREFIX + secrets.token_urlsafe(32)
    with _alone(path):
        keys = list_keys(path)
        if any(key.name == name for key in keys):
            raise HeadwayError(f"There is a key called {name} already. Revoke it first, or choose another name.")
        _write(path, [*keys, Key(name, _digest(secret), tuple(models) if models is not None else None)])
    return secret


def list_keys(path: Path) -> list[Key]:
    """The keys in the file at `path`, oldest first. Raises HeadwayError for a damaged file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Key])
    except FileNotFoundError:
        return []
    except (msgspec.MsgspecError, OSError) as error:
        raise HeadwayError(f"{path} is not a key file ({error}). Put it back from a backup, or remove it.") from None


def revoke(path: Path, name: str) -> None:
    """Remove the key called `name`; workers stop taking it at once. Raises HeadwayError naming those there are."""
    with _alone(path):
        keys = list_keys(path)
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            raise HeadwayError(f"No key is called {name!r}. There are: {', '.join(k.name for k in keys) or 'none'}.")
        _write(path, kept)


class KeyRing:
    """The keys as one worker sees them: read again whenever the file changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: list[Key] = []

    def find(self, secret: str) -> Key | None:
        """The key that `secret` is, or None. Takes the same time for every wrong secret.

        Raises HeadwayError for a damaged file: then nobody gets in.
        """
        self._refresh()
        digest, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _refresh(self) -> None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, []
            return
        now = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if now != self._seen:
            self._keys = list_keys(self.path)
            self._seen = now


def loopback(host: str | None) -> bool:
    """Whether a local address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: Path, keys: list[Key]) -> None:
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(keys)))
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change at a time, so that two people who make keys at once both get theirs."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path.with_name(".keys.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
