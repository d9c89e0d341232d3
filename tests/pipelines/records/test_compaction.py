"""Compaction, killed at any step, run twice at once, or given what is no record: nothing lost, nothing doubled."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import files
from pipelines.home import Home
from pipelines.records import compaction
from pipelines.records.predictions import compact, predictions
from services import log
from services.log import records
from tests.pipelines.records.test_predictions import DAY, DECLARED, MODEL, NOON, content, everything, record, segment

STEPPED = {compaction.__file__, files.__file__, log.__file__}
PURE = {"_records", "_record", "_struct", "_field", "_place", "_rows", "<listcomp>", "<dictcomp>", "<genexpr>"}
STEPS = 270
"""Lines that a run executes, about."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.pipelines.records.test_compaction"])


def compact_until(root: Path, step: int) -> None:
    """Compact, and die by `kill -9` before the `step`th line of what moves records and files about."""
    seen = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        seen += event == "line"
        if seen > step:
            os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, *_: Any) -> Any:
        return line if frame.f_code.co_filename in STEPPED and frame.f_code.co_name not in PURE else None

    sys.settrace(call)
    compact(Home(root), DECLARED)


def started(root: Path, step: int = 10**9) -> ForkServerProcess:
    process = FORKS.Process(target=compact_until, args=(root, step))
    process.start()
    return process


def killed(root: Path, step: int) -> bool:
    """Whether the run was killed; else it had ended before."""
    process = started(root, step)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kept(at: Home) -> set[str]:
    """The requests in Parquet; a reader sees each once."""
    found = predictions(at, MODEL, NOON - 9 * DAY, NOON + 9 * DAY)["request_id"].tolist()
    assert len(found) == len(set(found))
    return set(found)


def waiting(at: Home) -> set[str]:
    return {each["request_id"] for path in at.room("predictions", "open").glob("*.jsonl") for each in records(path)}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A day that is in Parquet already, and a log about it and the next: three segments, a torn line, repetitions."""
    at = Home(tmp_path_factory.mktemp("before"))
    segment(at, "a", *(record(number) for number in range(6)))
    compact(at, DECLARED)
    segment(at, "b", *(record(number) for number in range(4, 10)))
    segment(at, "c", record(10), record(11), torn=b'{"request_id": "r')
    segment(at, "d", *(record(number) for number in range(11, 16)), closed=False)  # its writer is dead
    return at


@pytest.fixture(scope="module")
def after(before: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run makes of it."""
    at = Home(shutil.copytree(before.root, tmp_path_factory.mktemp("after") / "home"))
    assert compact(at, DECLARED) == 10
    return content(at)


@settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, STEPS), min_size=1, max_size=3))
def test_killed_anywhere_and_run_again_each_record_is_there_once(
    before: Home, after: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    at = Home(shutil.copytree(before.root, tmp_path_factory.mktemp("killed") / "home"))
    for step in steps:
        killed(at.root, step)
        assert kept(at) | waiting(at) == {f"r{number}" for number in range(16)}
    compact(at, DECLARED)
    assert content(at) == after
    assert not waiting(at)
    assert {path.name for path in at.predictions.iterdir()} == {".lock", "open", MODEL.name}


def test_the_steps_that_are_drawn_from_cover_a_run(before: Home, tmp_path: Path) -> None:
    for step, dies in ((0, True), (STEPS - 20, True), (STEPS, False)):
        assert killed(shutil.copytree(before.root, tmp_path / str(step)), step) is dies


def test_two_runs_at_once_lose_nothing_that_one_of_them_saw(home: Home) -> None:
    """Each closes and reads the log by itself; a slower one must not put an older day back over a newer."""
    for number in range(40):
        segment(home, f"s{number:02}", *(record(number + 40 * k, instance=k) for k in range(2)))
    runs = [started(home.root) for _ in range(3)]
    for number in range(40, 50):
        segment(home, f"s{number}", record(number - 40, instance=7))
    for run in runs:
        run.join()
        assert run.exitcode == 0
    compact(home, DECLARED)
    assert len(everything(home)) == 90 and not waiting(home)


def test_what_is_no_record_of_a_declared_model_is_not_thrown_away(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    strange = segment(home, "strange", record(1), record(2, instance="first"))
    plain = segment(home, "plain", record(3))
    with caplog.at_level(logging.WARNING):
        assert compact(home, DECLARED) == 2
    assert "1 lines are no record of a declared model. Expected `int`, got `str` - at `$.instance`" in caplog.text
    assert strange.exists() and not plain.exists()
    assert compact(home, DECLARED) == 0


def test_a_part_of_a_record_may_lack_what_is_declared_since_and_have_what_is_not(home: Home) -> None:
    old = record(1)
    feature = next(iter(old["features"]))
    old["features"] = {name: value for name, value in old["features"].items() if name != feature} | {"gone": 1}
    segment(home, "a", old | {"added_later": 1})
    assert compact(home, DECLARED) == 1
    row = everything(home).iloc[0]
    assert row[f"feature.{feature}"] is None or row[f"feature.{feature}"] != row[f"feature.{feature}"]
    assert "feature.gone" not in row


def test_only_what_callers_were_given_is_read_unless_asked_for(home: Home) -> None:
    roles = ("champion", "canary", "shadow")
    segment(home, "a", *(record(1, role=role, version=n) for n, role in enumerate(roles)))
    assert compact(home, DECLARED) == 3
    assert everything(home)["role"].tolist() == ["canary", "champion"]
    shadows = predictions(home, MODEL, NOON, NOON + DAY, roles=("shadow",))
    assert shadows[["role", "version"]].to_numpy().tolist() == [["shadow", 2]]


def test_files_that_know_no_roles_are_the_champions(home: Home) -> None:
    segment(home, "a", record(1))
    compact(home, DECLARED)
    (path,) = compaction.lake.days(home.room("predictions", MODEL.name))
    compaction.lake.replace(path, compaction.pq.read_table(path).drop_columns(["role"]))
    assert everything(home)["role"].tolist() == ["champion"]
    segment(home, "b", record(1), record(2), record(2, role="shadow"))
    assert compact(home, DECLARED) == 2
    assert sorted(everything(home)["request_id"]) == ["r1", "r2"]


def test_a_segment_of_a_living_writer_is_read_to_its_last_whole_line(home: Home) -> None:
    path = segment(home, "a", record(1), closed=False)
    with path.open("ab") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        line = msgspec.json.encode(record(2)) + b"\n"
        writer.write(line[:50])
        writer.flush()
        assert compact(home, DECLARED) == 1
        writer.write(line[50:])
        writer.flush()
        assert compact(home, DECLARED) == 1
        assert path.exists()
