"""A ledger that is kept in memory: of a past that never happened, with the same entries that a real one would hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pipelines.registry import chain
from pipelines.registry.chain import GENESIS, Entry
from pipelines.registry.ledger import Ledger


class Recalled(Ledger):
    """The entries of one model in one replay, chained as in any ledger."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._rows_by_key: dict[str, dict[str, Any]] = {}
        self._latest: dict[str, Any] | None = None

    def append(self, kind: str, model: str, *, as_of: datetime, body: Mapping[str, Any], actor: str, key: str) -> Entry:
        """`Ledger.append`."""
        row = chain.content(kind, model, as_of=as_of, key=key, actor=actor, body=body)
        if key in self._rows_by_key:
            return chain.repeated(self._rows_by_key[key], row)
        self._latest = self._rows_by_key[key] = chain.linked(row, self._latest)
        self._entries.append(chain.entry(self._latest))
        return self._entries[-1]

    def entries(self, model: str | None = None, kind: str | None = None, until: datetime | None = None) -> list[Entry]:
        """`Ledger.entries`."""
        return [
            each
            for each in self._entries
            if model in (None, each.model) and kind in (None, each.kind) and (until is None or each.as_of <= until)
        ]

    def last(self, model: str, kind: str, until: datetime | None = None) -> Entry | None:
        """`Ledger.last`."""
        return next(iter(reversed(self.entries(model, kind, until))), None)

    def find(self, key: str) -> Entry | None:
        """`Ledger.find`."""
        return chain.entry(self._rows_by_key[key]) if key in self._rows_by_key else None

    def head(self) -> str:
        """`Ledger.head`."""
        return self._entries[-1].hash if self._entries else GENESIS

    def verify(self, heads: Iterable[str] = ()) -> int:
        """How many entries there are: what was never stored cannot have been edited."""
        return len(self._entries)

    def rows(self) -> list[dict[str, Any]]:
        """The entries as a ledger stores them, oldest first."""
        return list(self._rows_by_key.values())
