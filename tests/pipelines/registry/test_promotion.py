"""Promotion: the ledger decides, the pointer follows, whatever dies in between."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from features import HeadwayError
from pipelines.registry import promotion
from pipelines.registry.chain import LedgerTampered
from pipelines.registry.ledger import Ledger
from pipelines.registry.promotion import Pointer, approve, champions, heads, pending, read_pointer, reigns, repair

DAY = datetime(2013, 4, 7, tzinfo=UTC)
PROMOTER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines.registry.ledger import Ledger
from pipelines.registry.promotion import promote, rollback
url, folder, first, last, die = sys.argv[1:]
if die == "die":
    os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
ledger = Ledger(Path(url))
for version in range(int(first), int(last) + 1):
    promote(ledger, Path(folder), model="late", version=version, tag=f"late:{version}", digest="d",
            as_of=datetime(2013, 4, 7, tzinfo=UTC), actor="night", why="better", key=f"promote-{version}")
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "champions"


def promote(ledger: Ledger, folder: Path, version: int, **change: Any) -> Pointer:
    said: dict[str, Any] = {
        "model": "late",
        "tag": f"late:{version}",
        "digest": "d",
        "as_of": DAY,
        "actor": "night",
        "why": "better",
        "key": f"promote-{version}",
    }
    return promotion.promote(ledger, folder, version=version, **(said | change))


def rollback(ledger: Ledger, folder: Path, key: str) -> Pointer:
    return promotion.rollback(ledger, folder, model="late", as_of=DAY, actor="Zoë", why="slow", key=key)


def package(ledger: Ledger, version: int, awaiting: bool = True) -> None:
    body = {"version": version, "awaiting_approval": awaiting}
    ledger.append("version", "late", as_of=DAY, body=body, actor="night", key=f"version-{version}")


def child(tmp_path: Path, first: int, last: int, die: str = "") -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "ledger.db"), str(tmp_path / "champions"), str(first), str(last), die]
    return subprocess.Popen([sys.executable, "-c", PROMOTER, *arguments])


def test_a_promotion_is_told_by_the_pointer(ledger: Ledger, folder: Path) -> None:
    assert read_pointer(folder, "late") is None
    assert (champions(folder), heads(folder), repair(ledger, folder, "late")) == ([], [], None)
    first = promote(ledger, folder, 1, as_of=DAY + timedelta(hours=6))
    assert first == Pointer("late", 1, "late:1", "d", 1, "2013-04-07T06:00:00.000000+00:00", ledger.head(), "night")
    second = promote(ledger, folder, 2)
    assert read_pointer(folder, "late") == second
    assert json.loads((folder / "late.json").read_text()) == asdict(second)
    assert ledger.entries(kind="promotion")[1].body["replaces"] == 1
    promote(ledger, folder, 1, model="early", key="other")
    assert champions(folder) == ["early", "late"]
    assert ledger.verify(heads(folder)) == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_repeated_act_changes_nothing_even_when_others_followed(ledger: Ledger, folder: Path) -> None:
    first, second = promote(ledger, folder, 1), promote(ledger, folder, 2)
    back = rollback(ledger, folder, "back")
    third = promote(ledger, folder, 3)
    assert (promote(ledger, folder, 1), promote(ledger, folder, 2)) == (first, second)
    assert rollback(ledger, folder, "back") == back
    assert read_pointer(folder, "late") == third
    assert reigns(ledger, "late") == [first, second, back, third]
    with pytest.raises(HeadwayError, match="'promote-2' already names ledger entry 2"):
        promote(ledger, folder, 2, digest="other")
    assert ledger.verify() == 4


def test_rollback_goes_further_back_each_time_and_never_to_what_was_rolled_back(ledger: Ledger, folder: Path) -> None:
    with pytest.raises(HeadwayError, match="it has no champion"):
        rollback(ledger, folder, "early")
    for version in (1, 2, 3):
        promote(ledger, folder, version)
    assert rollback(ledger, folder, "a").version == 2
    promote(ledger, folder, 2, key="the same again")
    promote(ledger, folder, 4)
    assert [rollback(ledger, folder, key).version for key in "bc"] == [2, 1]
    with pytest.raises(HeadwayError, match="nothing to roll back to: version 1 is its first champion"):
        rollback(ledger, folder, "d")
    assert [pointer.generation for pointer in reigns(ledger, "late")] == list(range(1, 9))


def test_reigns_tells_who_was_champion_then(ledger: Ledger, folder: Path) -> None:
    for version in (1, 2, 3):
        promote(ledger, folder, version, as_of=DAY + timedelta(days=version))
    then = reigns(ledger, "late", until=DAY + timedelta(days=2, hours=5))
    assert [(pointer.version, pointer.generation) for pointer in then] == [(1, 1), (2, 2)]


def test_killed_between_ledger_and_pointer_the_old_champion_stays_until_repair(ledger: Ledger, folder: Path) -> None:
    first = promote(ledger, folder, 1)
    assert child(folder.parent, 2, 2, die="die").wait(timeout=60) == -signal.SIGKILL
    assert ledger.verify(heads(folder)) == 2
    assert read_pointer(folder, "late") == first
    repaired = repair(ledger, folder, "late")
    assert repaired is not None
    assert (repaired.version, repaired.generation, repaired.ledger) == (2, 2, ledger.head())
    assert read_pointer(folder, "late") == repaired == repair(ledger, folder, "late")
    assert champions(folder) == ["late"]


def test_killed_between_ledger_and_pointer_the_same_run_again_finishes_it(ledger: Ledger, folder: Path) -> None:
    assert child(folder.parent, 1, 1, die="die").wait(timeout=60) == -signal.SIGKILL
    assert read_pointer(folder, "late") is None
    assert child(folder.parent, 1, 1).wait(timeout=60) == 0
    pointer = read_pointer(folder, "late")
    assert pointer is not None
    assert (pointer.version, pointer.generation, ledger.verify()) == (1, 1, 1)


def test_a_reader_never_sees_a_torn_or_missing_pointer(ledger: Ledger, folder: Path) -> None:
    promote(ledger, folder, 1)
    seen = [1]
    with child(folder.parent, 2, 201) as process:
        while process.poll() is None:
            pointer = read_pointer(folder, "late")
            assert pointer is not None
            assert pointer.version == pointer.generation
            seen.append(pointer.generation)
    last = read_pointer(folder, "late")
    assert process.returncode == 0
    assert last is not None
    assert last.generation == 201
    assert seen == sorted(seen)
    assert len(set(seen)) > 20


def test_processes_that_promote_at_once_take_turns(ledger: Ledger, folder: Path) -> None:
    running = [child(folder.parent, 10 * who + 1, 10 * who + 5) for who in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert [pointer.generation for pointer in reigns(ledger, "late")] == list(range(1, 16))
    assert read_pointer(folder, "late") == reigns(ledger, "late")[-1]
    replaced = [entry.body["replaces"] for entry in ledger.entries(kind="promotion")]
    assert replaced == [None, *(pointer.version for pointer in reigns(ledger, "late")[:-1])]


def test_a_slow_pointer_is_not_written_over_a_newer_one(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended, overtaken, write = threading.Event(), threading.Event(), promotion.replace

    def write_slowly(path: Path, pointer: Any) -> None:
        if pointer.version == 1:
            appended.set()
            # Unlocked, the second act ends here and the first then writes over it. Locked, it has to wait for us.
            overtaken.wait(timeout=0.5)
        write(path, pointer)

    monkeypatch.setattr(promotion, "replace", write_slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(promote, ledger, folder, 1)
        assert appended.wait(timeout=30)
        second = pool.submit(promote, ledger, folder, 2)
        second.add_done_callback(lambda _: overtaken.set())
    assert (first.result().generation, second.result().generation) == (1, 2)
    assert read_pointer(folder, "late") == second.result()


def test_a_ledger_that_lost_its_tail_demotes_nobody(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    promote(ledger, folder, 1)
    second = promote(ledger, folder, 2)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    with connection:
        connection.execute("DROP TRIGGER ledger_no_delete")
        connection.execute("DELETE FROM ledger WHERE seq = 2")
    connection.close()
    for act in (
        lambda: repair(ledger, folder, "late"),
        lambda: promote(ledger, folder, 3),
        lambda: rollback(ledger, folder, "back"),
        lambda: repair(Ledger(tmp_path / "another.db"), folder, "late"),
        lambda: ledger.verify(heads(folder)),
    ):
        with pytest.raises(LedgerTampered, match=second.ledger):
            act()
    assert read_pointer(folder, "late") == second
    assert ledger.verify() == 1


FIELDS = {"model": "late", "version": 1, "tag": "t", "digest": "d", "generation": 1, "as_of": "x", "ledger": "0" * 64}


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"model": "late", "ver',
        "[]",
        "null",
        json.dumps(FIELDS | {"version": 0}),
        json.dumps(FIELDS | {"version": "1"}),
        json.dumps(FIELDS | {"generation": 1.5}),
        json.dumps(FIELDS | {"model": "early"}),
        json.dumps(FIELDS | {"ledger": "short"}),
        json.dumps({name: value for name, value in FIELDS.items() if name != "tag"}),
        b"\xff\xfe",
    ],
)
def test_a_damaged_pointer_is_refused_and_repaired(ledger: Ledger, folder: Path, content: str | bytes) -> None:
    second = [promote(ledger, folder, version) for version in (1, 2)][-1]
    (folder / "late.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HeadwayError, match=r"late\.json is not the pointer of late: .*headway repair late"):
        read_pointer(folder, "late")
    assert repair(ledger, folder, "late") == second == read_pointer(folder, "late")


@pytest.mark.parametrize("name", ["", "../late", "a/b", "/etc/passwd", "Late", "1st", "late.json", "late\n", ".."])
def test_a_name_never_leaves_the_folder(ledger: Ledger, folder: Path, name: str) -> None:
    for act in (
        lambda: read_pointer(folder, name),
        lambda: promote(ledger, folder, 1, model=name),
        lambda: promotion.rollback(ledger, folder, model=name, as_of=DAY, actor="a", why="w", key="k"),
        lambda: repair(ledger, folder, name),
        lambda: pending(ledger, name),
    ):
        with pytest.raises(HeadwayError, match="cannot name a model"):
            act()
    assert ledger.verify() == 0
    assert [path.name for path in folder.rglob("*")] == [".lock"]


def test_approval_waits_in_the_ledger(ledger: Ledger, folder: Path) -> None:
    def waiting() -> list[int]:
        return [entry.body["version"] for entry in pending(ledger, "late")]

    def yes(version: int, key: str = "yes") -> None:
        approve(ledger, model="late", version=version, as_of=DAY, actor="Zoë", why="looks right", key=key)

    package(ledger, 1, awaiting=False)
    promote(ledger, folder, 1)
    for version in (2, 3, 4):
        package(ledger, version)
    assert waiting() == [2, 3, 4]
    ledger.append("refusal", "late", as_of=DAY, body={"version": 4, "why": "too slow"}, actor="Zoë", key="no")
    assert waiting() == [2, 3]
    with pytest.raises(HeadwayError, match="Version 3 of late waits for approval"):
        promote(ledger, folder, 3)
    with pytest.raises(HeadwayError, match=r"Version 4 of late does not wait for approval.* Waiting: 2, 3"):
        yes(4)
    yes(3)
    yes(3)
    assert waiting() == []
    assert promote(ledger, folder, 3).generation == 2
    with pytest.raises(HeadwayError, match=r"Version 2 of late does not wait for approval.* Waiting: none"):
        yes(2, key="late yes")
    with pytest.raises(HeadwayError, match="Version 2 of late waits for approval"):
        promote(ledger, folder, 2)
    assert len(ledger.entries("late", "approval")) == 1


class Promotions(RuleBasedStateMachine):
    """Any order of acts, repeats and damage, beside a list of who stood when."""

    keys = Bundle("keys")

    @initialize()
    def begin(self) -> None:
        self.root = tempfile.TemporaryDirectory()
        self.folder = Path(self.root.name) / "champions"
        self.ledger = Ledger(Path(self.root.name) / "ledger.db")
        self.stack: list[int] = []
        self.past: list[Pointer] = []
        self.made: dict[str, tuple[str, int, Pointer]] = {}

    def keep(self, key: str, act: str, version: int, pointer: Pointer) -> str:
        self.past.append(pointer)
        self.made[key] = (act, version, pointer)
        assert (pointer.version, pointer.generation) == (version, len(self.past))
        return key

    @rule(target=keys, version=st.integers(1, 4))
    def promote(self, version: int) -> str:
        key = f"act-{len(self.past)}"
        pointer = promote(self.ledger, self.folder, version, key=key)
        if self.stack[-1:] != [version]:
            self.stack.append(version)
        return self.keep(key, "promote", version, pointer)

    @precondition(lambda self: len(self.stack) > 1)
    @rule(target=keys)
    def rollback(self) -> str:
        key = f"act-{len(self.past)}"
        self.stack.pop()
        return self.keep(key, "rollback", self.stack[-1], rollback(self.ledger, self.folder, key))

    @rule(key=keys)
    def again(self, key: str) -> None:
        act, version, pointer = self.made[key]
        if act == "promote":
            assert promote(self.ledger, self.folder, version, key=key) == pointer
        else:
            assert rollback(self.ledger, self.folder, key) == pointer

    @rule(number=st.integers(0, 3))
    def note(self, number: int) -> None:
        self.ledger.append("night", "late", as_of=DAY, body={"rows": number}, actor="night", key=f"night-{number}")

    @precondition(lambda self: self.past)
    @rule(damage=st.sampled_from(["removed", "emptied", "late"]))
    def lose_the_pointer(self, damage: str) -> None:
        path = self.folder / "late.json"
        if damage == "removed":
            path.unlink()
        else:
            path.write_text("" if damage == "emptied" else json.dumps(asdict(self.past[0])))
        assert repair(self.ledger, self.folder, "late") == self.past[-1]

    @invariant()
    def the_pointer_is_the_last_act_and_the_chain_holds(self) -> None:
        assert read_pointer(self.folder, "late") == (self.past[-1] if self.past else None)
        assert reigns(self.ledger, "late") == self.past
        nights = len(self.ledger.entries(kind="night"))
        assert self.ledger.verify(heads(self.folder)) == len(self.past) + nights

    def teardown(self) -> None:
        self.root.cleanup()


TestPromotions = Promotions.TestCase
TestPromotions.settings = settings(max_examples=15, stateful_step_count=12, deadline=None, derandomize=True)
