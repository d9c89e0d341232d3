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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta

from features import NAME, HeadwayError
from services.rates import Rate

PREFIX = "hw_"
PROXIED = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key at rest. `models` is None for a key to all of them, `rate` for one without a limit of its own.

    `slot` is its place, from 1, in the file that rates are counted in.
    """

    name: str
    sha256: Sha256
    models: tuple[str, ...] | None = None
    rate: Rate | None = None
    slot: Annotated[int, Meta(ge=0)] = 0

    @property
    def account(self) -> tuple[int, Rate | None]:
        """Where its calls are counted, and against which rate: what `Rates.take` takes."""
        return self.slot, self.rate

    def opens(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models


def make(path: Path, name: str, models: Sequence[str] | None = None, rate: Rate | None = None) -> str:
    """Add a key called `name` to the file at `path` and return its secret, which is not kept anywhere.

    Args:
        models: the models it opens; None for all.
        rate: how often it may be used; None for as often as HEADWAY_RATE says.

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
        slot = min({*range(1, len(keys) + 2)} - {key.slot for key in keys})
        _write(path, [*keys, Key(name, _digest(secret), tuple(models) if models is not None else None, rate, slot)])
    return secret


def list_keys(path: Path) -> list[Key]:
    """The keys in the file at `path`, oldest first. Raises HeadwayError for a damaged file."""
    try:
        return _decoded(path.read_bytes())
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from None


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
        self._held: BinaryIO | None = None
        self._keys: list[Key] = []

    def find(self, secret: str) -> Key | None:
        """The key that `secret` is, or None. Takes the same time for every wrong secret.

        Raises HeadwayError for a file that is damaged or cannot be read: then nobody gets in.
        """
        try:
            self._refresh()
        except (ValueError, OSError) as error:
            raise _damaged(self.path, error) from None
        digest, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _refresh(self) -> None:
        try:
            changed = _mark(self.path.stat()) != self._seen
        except FileNotFoundError:
            self._seen, self._keys = None, []
            return
        if changed:
            self._seen, self._keys = None, []
            # Held open, so that its number is given to no other file: two changes within one tick of the file
            # system's clock could else look like none.
            file, old = self.path.open("rb"), self._held
            self._held = file
            if old is not None:
                old.close()
            mark = _mark(os.fstat(file.fileno()))
            self._keys = _decoded(file.read())
            self._seen = mark


def loopback(host: str | None) -> bool:
    """Whether a local address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def unasked(server: str | None, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request may do without a key where keys are off: it comes from this machine, as far as can be known.

    Args:
        server: the address that the connection came to, as the kernel tells it; no header changes it.
        headers: of the request, names in lower case. A proxy's mark in one of them means that the caller is elsewhere;
            so does a name of another machine in `Host`, by which a page in a browser here can ask for its maker there.
    """
    name = headers.get(b"host", b"localhost").decode("latin-1")
    host = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return loopback(server) and loopback(host) and not any(mark in headers for mark in PROXIED)


def _mark(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _decoded(raw: bytes) -> list[Key]:
    return msgspec.json.decode(raw, type=list[Key])


def _damaged(path: Path, error: Exception) -> HeadwayError:
    return HeadwayError(f"{path} is not a key file ({error}). Put it back from a backup, or remove it.")


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
