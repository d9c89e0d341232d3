"""The ledger: what happened to each model, who did it and why. Append-only and hash-chained: an edit shows.

One table, in SQLite by default and in Postgres by URL. The same nights, replayed, give the same ledger, byte
for byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from features import HeadwayError
from pipelines.registry import chain
from pipelines.registry.chain import GENESIS, Entry, Kind, LedgerTampered, story

__all__ = ["GENESIS", "Entry", "Kind", "Ledger", "LedgerTampered", "story"]

_TABLE = sa.Table(
    "ledger",
    sa.MetaData(),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "model", "as_of", "actor", "body")),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    # Unique: the database itself refuses a second successor, so the chain cannot fork.
    sa.Column("previous", sa.Text, nullable=False, unique=True),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
)
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
_LOCK = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(1214669905)"}
_LOCK_SECONDS = 30
# Against accidents only: whoever can drop a trigger can edit. Against intent there is the chain.
_APPEND_ONLY = {
    "sqlite": (
        """CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
        """CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$""",
        """CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()""",
    ),
}


class Ledger:
    """All entries of all models. Threads may share one; so may processes, and each may open its own."""

    def __init__(self, url: str | Path) -> None:
        """Open the ledger, or begin it. `url`: a file's Path, `sqlite:///FILE` or `postgresql://...`.

        Raises:
            HeadwayError: not such a URL, its driver is missing, or the database cannot be opened.
        """
        self._engine = _engine(url)
        with self._connection() as connection:
            exists = sa.inspect(connection).has_table("ledger")
        if not exists:
            with self._transaction() as connection:
                _begin(connection)

    def append(
        self, kind: Kind, model: str, *, as_of: datetime, body: Mapping[str, Any], actor: str, key: str
    ) -> Entry:
        """Add an entry at the end, durably, and return it.

        `key` is unique in the whole ledger and makes this safe to repeat: if its entry already says the same,
        that entry is returned and nothing is added (its actor stays the one who came first).

        Raises:
            HeadwayError: a field is wrong, the body is not plain JSON (NaN is not), the key's entry says
                something else, or the database failed. Nothing was appended then.
        """
        row = chain.content(kind, model, as_of=as_of, key=key, actor=actor, body=body)
        with self._transaction() as connection:
            known = _first(connection, sa.select(_TABLE).where(_TABLE.c.key == key))
            if known is not None:
                return chain.repeated(known, row)
            last = _first(connection, sa.select(_TABLE).order_by(_TABLE.c.seq.desc()).limit(1))
            placed = chain.linked(row, last)
            connection.execute(sa.insert(_TABLE).values(placed))
        return chain.entry(placed)

    def entries(self, model: str | None = None, kind: str | None = None, until: datetime | None = None) -> list[Entry]:
        """The entries, oldest first: of one model, of one kind, with `as_of <= until`."""
        return [chain.entry(row) for row in self._rows(_wanted(model, kind, until).order_by(_TABLE.c.seq))]

    def last(self, model: str, kind: str, until: datetime | None = None) -> Entry | None:
        """The latest of `entries(model, kind, until)`, or None."""
        rows = self._rows(_wanted(model, kind, until).order_by(_TABLE.c.seq.desc()).limit(1))
        return chain.entry(rows[0]) if rows else None

    def find(self, key: str) -> Entry | None:
        """The entry with this key, or None."""
        rows = self._rows(sa.select(_TABLE).where(_TABLE.c.key == key))
        return chain.entry(rows[0]) if rows else None

    def head(self) -> str:
        """The hash of the last entry; `GENESIS` while there is none."""
        rows = self._rows(sa.select(_TABLE.c.hash).order_by(_TABLE.c.seq.desc()).limit(1))
        return str(rows[0]["hash"]) if rows else GENESIS

    def verify(self, heads: Iterable[str] = ()) -> int:
        """Check the whole chain and return how many entries it has.

        `heads`: hashes that were recorded elsewhere (`promotion.heads` reads them from the pointer files).
        The chain alone cannot show that entries were cut off its end; a recorded hash that is missing does.

        Raises:
            LedgerTampered: naming the first entry that does not hold, and what to do next.
        """
        seen = [GENESIS]
        for place, row in enumerate(self._rows(sa.select(_TABLE).order_by(_TABLE.c.seq)), start=1):
            fault = chain.fault(row, place, seen[-1])
            if fault:
                raise LedgerTampered(f"Ledger entry {place} does not hold: {fault}.")
            seen.append(row["hash"])
        for missing in [head for head in heads if head not in seen]:
            raise LedgerTampered(
                f"The ledger ends at entry {len(seen) - 1}, and none has the recorded hash {missing}: "
                "entries were cut off its end, or this is another ledger (see HEADWAY_LEDGER_URL)."
            )
        return len(seen) - 1

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer, in any process, runs beside."""
        with self._connection() as connection:
            connection.exec_driver_sql(_LOCK[connection.dialect.name])
            yield connection
            connection.commit()

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise HeadwayError(
                f"The ledger at {self._engine.url} failed: {error.orig}. Nothing was appended by this call; "
                "see that the database is there and not locked, then run the same command again."
            ) from error


def _engine(url: str | Path) -> sa.Engine:
    try:
        address = sa.URL.create("sqlite", database=str(url)) if isinstance(url, Path) else sa.make_url(url)
        address = address.set(drivername=_DRIVERS.get(address.drivername, address.drivername))
        backend = address.get_backend_name()
        if backend == "sqlite" and address.database and address.database != ":memory:":
            return _sqlite(address)
        if backend == "postgresql":
            return sa.create_engine(address, poolclass=NullPool)
    except (ArgumentError, ImportError, OSError) as error:
        raise HeadwayError(
            f"The ledger cannot be opened ({error}). Set HEADWAY_LEDGER_URL to sqlite:///FILE in a folder "
            "that you own, or to postgresql://USER@HOST/DATABASE with psycopg installed."
        ) from None
    raise HeadwayError(f"{address} keeps no ledger. Use sqlite:///FILE or postgresql://USER@HOST/DATABASE.")


def _sqlite(address: sa.URL) -> sa.Engine:
    # isolation_level None: the driver begins no transaction by itself, so that _LOCK can.
    options = {"timeout": _LOCK_SECONDS, "isolation_level": None}
    engine = sa.create_engine(address, poolclass=NullPool, connect_args=options)
    sa.event.listen(engine, "connect", _prepare)
    file = Path(str(address.database))
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    file.chmod(0o600)
    return engine


def _prepare(connection: Any, _: Any) -> None:
    # A rollback journal rather than WAL: at rest the ledger is one file to copy, and with a connection a call
    # (so that a fork is harmless) reading is three times faster. EXTRA: an entry outlives a power cut.
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA synchronous=EXTRA")
    # A damaged character must reach verify(), which names its entry, rather than fail the whole read.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")


def _begin(connection: sa.Connection) -> None:
    if not sa.inspect(connection).has_table("ledger"):
        _TABLE.create(connection)
        for statement in _APPEND_ONLY[connection.dialect.name]:
            connection.exec_driver_sql(statement)


def _wanted(model: str | None, kind: str | None, until: datetime | None) -> sa.Select[Any]:
    query = sa.select(_TABLE)
    if model is not None:
        query = query.where(_TABLE.c.model == chain.named(model))
    if kind is not None:
        query = query.where(_TABLE.c.kind == chain.one_of(kind))
    if until is not None:
        query = query.where(_TABLE.c.as_of <= chain.instant(until))
    return query


def _first(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, Any] | None:
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None
