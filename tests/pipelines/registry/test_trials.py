"""Trials: the ledger decides who is on trial, the file follows, whatever dies in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from features import HeadwayError
from pipelines.registry import promotion, trials
from pipelines.registry.chain import LedgerTampered
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Trials, champions, heads, read_trials, trials_path
from pipelines.registry.promotion import repair
from pipelines.registry.versions import challenger, find

DAY = datetime(2013, 4, 7, tzinfo=UTC)
STARTER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines.registry import trials
from pipelines.registry.ledger import Ledger
url, folder, act = sys.argv[1:]
os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
said = dict(kind="canary", model="late", as_of=datetime(2013, 4, 7, tzinfo=UTC), actor="me", why="try", key=act)
if act == "start":
    trials.start(Ledger(Path(url)), Path(folder), version=2, share=0.25, **said)
else:
    trials.end(Ledger(Path(url)), Path(folder), **said)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Versions 1 to 3 that passed, 4 that failed a gate, and 5 that waits for approval."""
    return registered(Ledger(tmp_path / "ledger.db"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "champions"


def registered(ledger: Ledger) -> Ledger:
    for version in range(1, 6):
        gates = [{"name": "slice night", "passed": version != 4}]
        body = {"version": version, "tag": f"late:{version}", "digest": f"d{version}", "passed": version != 4}
        body |= {"awaiting_approval": version == 5, "gates": gates}
        ledger.append("version", "late", as_of=DAY, body=body, actor="night", key=f"version-{version}")
    return ledger


def crown(ledger: Ledger, folder: Path, version: int, key: str | None = None, **more: Any) -> None:
    promotion.promote(
        ledger, folder, model="late", version=version, tag=f"late:{version}", digest=f"d{version}", as_of=DAY,
        actor="me", why="better", key=key or f"crown-{version}", **more,
    )  # fmt: skip


def start(ledger: Ledger, folder: Path, kind: Any, version: int, key: str | None = None, **more: Any) -> Trials:
    more = {"share": 0.1 if kind == "canary" else None} | more
    return trials.start(
        ledger, folder, kind=kind, model="late", version=version, as_of=DAY, actor="me", why="try it",
        key=key or f"{kind}-{version}", **more,
    )  # fmt: skip


def end(ledger: Ledger, folder: Path, kind: Any, key: str = "end") -> Trials:
    return trials.end(ledger, folder, kind=kind, model="late", as_of=DAY, actor="me", why="enough", key=key)


def child(tmp_path: Path, act: str) -> int:
    arguments = [str(tmp_path / "ledger.db"), str(tmp_path / "champions"), act]
    return subprocess.run([sys.executable, "-c", STARTER, *arguments], timeout=60).returncode


def test_a_trial_is_told_by_its_file_and_by_the_ledger(ledger: Ledger, folder: Path) -> None:
    crown(ledger, folder, 1)
    assert read_trials(folder, "late") is None
    begun = start(ledger, folder, "canary", 2)
    assert begun == read_trials(folder, "late")
    assert begun.canary is not None
    assert (begun.canary.version, begun.canary.tag, begun.canary.digest, begun.canary.share) == (2, "late:2", "d2", 0.1)
    assert begun.ledger == begun.canary.ledger == ledger.head()
    both = start(ledger, folder, "shadow", 3)
    assert (both.canary, both.shadow and both.shadow.version) == (begun.canary, 3)
    assert json.loads(trials_path(folder, "late").read_text()) == asdict(both)
    assert champions(folder) == ["late"]
    ended = end(ledger, folder, "canary")
    assert (ended.canary, ended.shadow) == (None, both.shadow)
    assert ledger.verify(heads(folder)) == len(ledger.entries())
    assert [entry.body["why"] for kind in ("canary", "shadow", "ended") for entry in ledger.entries("late", kind)] == [
        "try it", "try it", "enough",
    ]  # fmt: skip


def test_another_trial_of_a_kind_takes_the_place_of_the_first(ledger: Ledger, folder: Path) -> None:
    crown(ledger, folder, 1)
    start(ledger, folder, "canary", 2)
    wider = start(ledger, folder, "canary", 2, key="wider", share=0.5)
    assert wider.canary is not None
    assert wider.canary.share == 0.5
    assert start(ledger, folder, "canary", 3).canary == read_trials(folder, "late").canary  # type: ignore[union-attr]


def test_a_repeated_act_changes_nothing(ledger: Ledger, folder: Path) -> None:
    crown(ledger, folder, 1)
    assert start(ledger, folder, "canary", 2) == start(ledger, folder, "canary", 2)
    ended = end(ledger, folder, "canary")
    assert end(ledger, folder, "canary") == ended
    assert start(ledger, folder, "canary", 2) == ended
    with pytest.raises(HeadwayError, match="'canary-2' already names"):
        start(ledger, folder, "canary", 2, share=0.2)


def test_only_the_promotion_of_its_version_ends_a_trial(ledger: Ledger, folder: Path) -> None:
    crown(ledger, folder, 1)
    start(ledger, folder, "canary", 2)
    start(ledger, folder, "shadow", 2)
    crown(ledger, folder, 3)
    promotion.rollback(ledger, folder, model="late", as_of=DAY, actor="me", why="no", key="back")
    running = read_trials(folder, "late")
    assert running is not None
    assert running.canary is not None
    crown(ledger, folder, 2)
    over = read_trials(folder, "late")
    assert over is not None
    assert (over.canary, over.shadow) == (None, None)
    assert over.ledger == ledger.head()
    promotion.rollback(ledger, folder, model="late", as_of=DAY, actor="me", why="no", key="back again")
    assert read_trials(folder, "late") == over
    start(ledger, folder, "canary", 2, key="once more")


def test_what_may_be_on_trial(ledger: Ledger, folder: Path) -> None:
    with pytest.raises(HeadwayError, match="late has no champion to try a version beside"):
        start(ledger, folder, "canary", 2)
    crown(ledger, folder, 1)
    with pytest.raises(HeadwayError, match=r"late has no version 9. It has: 1, 2, 3, 4, 5\."):
        start(ledger, folder, "canary", 9)
    with pytest.raises(HeadwayError, match="Version 1 is the champion of late"):
        start(ledger, folder, "shadow", 1)
    with pytest.raises(HeadwayError, match=r"failed its gates \(slice night\).* --despite-gates"):
        start(ledger, folder, "canary", 4)
    with pytest.raises(HeadwayError, match="Version 5 of late waits for approval"):
        start(ledger, folder, "canary", 5)
    for share in (None, 0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(HeadwayError, match="share must be above 0 and below 1"):
            start(ledger, folder, "canary", 2, share=share)
    with pytest.raises(HeadwayError, match="a shadow has no share"):
        start(ledger, folder, "shadow", 2, share=0.1)
    with pytest.raises(HeadwayError, match="late has no shadow to end"):
        end(ledger, folder, "shadow")
    assert read_trials(folder, "late") is None
    # Nobody is given what a shadow says.
    assert [start(ledger, folder, "shadow", version).shadow.version for version in (4, 5)] == [4, 5]  # type: ignore[union-attr]
    start(ledger, folder, "canary", 4, despite_gates=True)
    assert ledger.entries("late", "canary")[-1].body["despite_gates"] is True


def test_a_version_that_failed_its_gates_is_champion_only_on_purpose(ledger: Ledger, folder: Path) -> None:
    with pytest.raises(HeadwayError, match=r"failed its gates \(slice night\).*add --despite-gates"):
        crown(ledger, folder, 4)
    assert ledger.entries("late", "promotion") == []
    crown(ledger, folder, 4, despite_gates=True)
    assert ledger.entries("late", "promotion")[0].body["despite_gates"] is True
    with pytest.raises(HeadwayError, match="waits for approval"):
        crown(ledger, folder, 5, despite_gates=True)


def test_versions_are_found_by_number(ledger: Ledger, tmp_path: Path) -> None:
    assert find(ledger, "late", 3).body["digest"] == "d3"
    assert [challenger(ledger, "late", champion) for champion in (None, 1, 5)] == [5, 5, 4]
    with pytest.raises(HeadwayError, match="It has: none; train one"):
        find(Ledger(tmp_path / "empty.db"), "late", 1)
    with pytest.raises(HeadwayError, match="no version beside its champion"):
        challenger(Ledger(tmp_path / "empty.db"), "late", None)


@pytest.mark.parametrize("act", ["start", "end"])
def test_killed_between_ledger_and_file_repair_writes_it(ledger: Ledger, folder: Path, act: str) -> None:
    crown(ledger, folder, 1)
    before = start(ledger, folder, "canary", 3, key="first") if act == "end" else None
    assert child(folder.parent, act) == -signal.SIGKILL
    assert ledger.verify(heads(folder)) == len(ledger.entries())
    assert read_trials(folder, "late") == before
    repair(ledger, folder, "late")
    mended = read_trials(folder, "late")
    assert mended is not None
    assert mended.ledger == ledger.head()
    assert (mended.canary and mended.canary.version) == (2 if act == "start" else None)


@pytest.mark.parametrize("content", [b"", b'{"model": "la', b"null", b"\xff", b'{"model": "early", "ledger": "00"}'])
def test_a_damaged_file_is_refused_and_repaired(ledger: Ledger, folder: Path, content: bytes) -> None:
    crown(ledger, folder, 1)
    begun = start(ledger, folder, "canary", 2)
    trials_path(folder, "late").write_bytes(content)
    with pytest.raises(HeadwayError, match=r"late\.trials\.json is not the trials of late.*headway repair late"):
        read_trials(folder, "late")
    repair(ledger, folder, "late")
    assert read_trials(folder, "late") == begun


def test_another_ledger_ends_no_trial(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    crown(ledger, folder, 1)
    begun = start(ledger, folder, "canary", 2)
    other = registered(Ledger(tmp_path / "other.db"))
    crown(other, tmp_path / "elsewhere", 1)
    (folder / "late.json").unlink()
    with pytest.raises(LedgerTampered, match=begun.ledger):
        repair(other, folder, "late")
    with pytest.raises(LedgerTampered, match=begun.ledger):
        other.verify(heads(folder) or [begun.ledger])
    assert read_trials(folder, "late") == begun
    assert champions(folder) == []


class TrialsOfAModel(RuleBasedStateMachine):
    """Any order of promotions, rollbacks and trials, beside a plain account of them."""

    @initialize()
    def begin(self) -> None:
        self.root = tempfile.TemporaryDirectory()
        self.folder, self.acts = Path(self.root.name) / "champions", 0
        self.ledger = registered(Ledger(Path(self.root.name) / "ledger.db"))
        self.stack: list[int] = []
        self.running: dict[str, int] = {}

    def key(self) -> str:
        self.acts += 1
        return f"act-{self.acts}"

    def crowned(self, version: int) -> None:
        self.running = {kind: tried for kind, tried in self.running.items() if tried != version}

    @rule(version=st.integers(1, 3))
    def promote(self, version: int) -> None:
        crown(self.ledger, self.folder, version, key=self.key())
        self.stack += [version] if self.stack[-1:] != [version] else []
        self.crowned(version)

    @precondition(lambda self: len(self.stack) > 1)
    @rule()
    def rollback(self) -> None:
        promotion.rollback(self.ledger, self.folder, model="late", as_of=DAY, actor="me", why="no", key=self.key())
        self.stack.pop()
        self.crowned(self.stack[-1])

    @precondition(lambda self: self.stack)
    @rule(version=st.integers(1, 3), kind=st.sampled_from(["canary", "shadow"]))
    def start(self, version: int, kind: str) -> None:
        if version == self.stack[-1]:
            with pytest.raises(HeadwayError, match="is the champion"):
                start(self.ledger, self.folder, kind, version, key=self.key())
        else:
            start(self.ledger, self.folder, kind, version, key=self.key())
            self.running[kind] = version

    @rule(kind=st.sampled_from(["canary", "shadow"]))
    def end(self, kind: str) -> None:
        if kind in self.running:
            end(self.ledger, self.folder, kind, key=self.key())
            del self.running[kind]
        else:
            with pytest.raises(HeadwayError, match=f"has no {kind} to end"):
                end(self.ledger, self.folder, kind, key=self.key())

    @precondition(lambda self: self.stack)
    @rule()
    def lose_the_file(self) -> None:
        trials_path(self.folder, "late").unlink(missing_ok=True)
        repair(self.ledger, self.folder, "late")

    @invariant()
    def the_file_says_what_the_account_says(self) -> None:
        found = read_trials(self.folder, "late")
        told = {kind: trial.version for kind in ("canary", "shadow") if found and (trial := getattr(found, kind))}
        assert told == self.running
        assert self.ledger.verify(heads(self.folder)) == len(self.ledger.entries())

    def teardown(self) -> None:
        self.root.cleanup()


TestTrialsOfAModel = TrialsOfAModel.TestCase
TestTrialsOfAModel.settings = settings(max_examples=6, stateful_step_count=10, deadline=None, derandomize=True)
