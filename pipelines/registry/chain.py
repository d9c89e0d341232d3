"""What a ledger entry is, and how one holds the next: plain functions, no database.

A row is an entry as it is stored: `as_of` as text, `body` as canonical JSON. Its hash is the SHA-256 of the
canonical JSON of all its other fields, the hash of the row before it among them. Nothing comes from a clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from features import NAME, HeadwayError

Kind = Literal[
    "version", "verdict", "promotion", "rollback", "approval", "refusal", "night",
    "canary", "shadow", "ended", "comparison", "release",
]  # fmt: skip
"""version: a challenger was packaged, with metrics and gates; refusal: gates failed, or files are bad; canary and
shadow: a version went on trial; ended: a trial was; comparison: how a version does beside the champion; release: rows
came back from quarantine (of a domain, which then stands in the model's place)."""

Row = Mapping[str, Any]

_OF_A_VERSION = ("version", "promotion", "rollback", "approval", "canary", "shadow", "ended", "comparison")

GENESIS = "0" * 64
"""What the first entry names as the hash before it."""


class LedgerTampered(HeadwayError):  # noqa: N818 - reads as what happened, not as an error of ours
    """The chain does not hold: an entry was edited, moved or removed after it was written."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} Promote nothing on it: champions keep serving from their pointer files. "
            "Keep a copy of this ledger as evidence, restore the last backup, and verify that."
        )


@dataclass(frozen=True)
class Entry:
    """One thing that happened. `seq` counts from 1, `as_of` is UTC, both hashes are SHA-256 in hex."""

    seq: int
    kind: str
    model: str
    as_of: datetime
    key: str
    actor: str
    body: dict[str, Any]
    previous: str
    hash: str


def content(kind: str, model: str, *, as_of: datetime, key: str, actor: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The row that says this, not yet in its place. Raises HeadwayError naming the field that is wrong."""
    if one_of(kind) in _OF_A_VERSION and not isinstance(body.get("version"), int):
        raise HeadwayError(f"The {kind} of {model} is about a version: its body needs 'version', a whole number.")
    return {
        "kind": kind,
        "model": named(model),
        "as_of": instant(as_of),
        "key": _line("key", key),
        "actor": _line("actor", actor),
        "body": _text(f"{kind} of {model}", body),
    }


def linked(row: Row, last: Row | None) -> dict[str, Any]:
    """`row` in its place after `last`, hashed."""
    seq, previous = (last["seq"] + 1, last["hash"]) if last else (1, GENESIS)
    placed = {**row, "seq": seq, "previous": previous}
    return {**placed, "hash": digest(placed)}


def digest(row: Row) -> str:
    """The SHA-256 (hex) that a row's `hash` must be."""
    said = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(_canonical({**said, "body": json.loads(row["body"])}).encode()).hexdigest()


def entry(row: Row) -> Entry:
    """The entry that a row stores. Raises LedgerTampered when its time or body cannot be read."""
    try:
        read = {"as_of": datetime.fromisoformat(row["as_of"]), "body": json.loads(row["body"])}
        return Entry(**{**row, **read})
    except (TypeError, ValueError) as error:
        raise LedgerTampered(f"Ledger entry {row['seq']} cannot be read ({error}).") from None


def repeated(known: Row, row: Row) -> Entry:
    """The entry of `known`, if `row` says the same under its key, whoever says it. Raises HeadwayError."""
    other = [name for name in ("kind", "model", "as_of", "body") if known[name] != row[name]]
    if other:
        raise HeadwayError(
            f"The key {row['key']!r} already names ledger entry {known['seq']} ({known['kind']} of "
            f"{known['model']}, {known['as_of']}), and this one differs in its {', '.join(other)}. "
            "An entry is never changed: repeat it with the same content, or append under another key."
        )
    return entry(known)


def fault(row: Row, place: int, previous: str) -> str | None:
    """What is wrong with the row at `place` (from 1), after the one with hash `previous`; None if it holds."""
    if row["seq"] != place:
        return f"the entry found there is numbered {row['seq']}, so one was removed or moved"
    if row["previous"] != previous:
        return "it does not follow the entry before it, so one of the two was replaced or moved"
    try:
        # The second half: spaces or key order changed inside the stored text would leave the hash as it is.
        if row["hash"] == digest(row) and row["body"] == _canonical(json.loads(row["body"])):
            return None
    except (TypeError, ValueError):
        pass
    return "what it says is not what was written, so it was edited"


def story(entries: Iterable[Entry]) -> list[str]:
    """One plain line an entry: the day, the kind, and its body's `sentence`, or else what its fields tell."""
    return [f"{one.as_of:%Y-%m-%d}  {one.kind:<9}  {_said(one)}" for one in entries]


def instant(as_of: datetime) -> str:
    """`as_of` as ISO 8601, UTC, microseconds: of fixed width, so text sorts as time. Raises HeadwayError."""
    if as_of.tzinfo is None:
        raise HeadwayError(f"as_of={as_of} has no time zone. Give it one: as_of.replace(tzinfo=UTC).")
    return as_of.astimezone(UTC).isoformat(timespec="microseconds")


def named(model: str) -> str:
    """`model`, if it can name one (so it is never a path). Raises HeadwayError."""
    if not NAME.fullmatch(model):
        raise HeadwayError(f"{model!r} cannot name a model: use a-z, 0-9 and _, starting with a letter.")
    return model


def one_of(kind: str) -> str:
    """`kind`, if it is one. Raises HeadwayError naming those there are."""
    if kind not in get_args(Kind):
        raise HeadwayError(f"{kind!r} is no kind of ledger entry. They are: {', '.join(get_args(Kind))}.")
    return kind


def _line(name: str, value: str) -> str:
    if not value or not value.isprintable():
        raise HeadwayError(f"A ledger entry's {name} must be one printable line, not {value!r}.")
    return value


def _text(what: str, body: Mapping[str, Any]) -> str:
    name = None
    try:
        for name, value in body.items():  # noqa: B007 - the message names the field that stopped the loop
            _canonical(value)
        return _canonical(dict(body))
    except (TypeError, ValueError, RecursionError) as error:
        raise HeadwayError(
            f"The {what} cannot be written to the ledger: its {name!r} is not plain JSON ({error}). "
            "Use text, finite numbers, true, false, null, lists, and mappings with text keys."
        ) from None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _said(one: Entry) -> str:
    body = one.body
    if isinstance(body.get("sentence"), str):
        return " ".join(body["sentence"].split())
    told = [f"version {body['version']}"] if "version" in body else []
    told += [f"in place of version {body['replaces']}"] if body.get("replaces") else []
    rest = [name for name in body if name not in ("version", "replaces", "why", "tag", "digest")]
    told += [f"{name} {body[name]}" for name in rest if isinstance(body[name], int | float | str)]
    why = f": {body['why']}" if body.get("why") else ""
    return " ".join(f"{', '.join(told) or one.model}{why} (by {one.actor})".split())
