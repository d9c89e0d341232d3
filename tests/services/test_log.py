import asyncio
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.log import CLOSED, LEAST, PIECE, DurableLog, LogUnavailable, Segment, close_leftovers, records
from services.tail import Tail

PROJECT = Path(__file__).parents[2]
LINE = b'{"a": 1}\n'


def everything(folder: Path) -> list[dict[str, Any]]:
    return [record for path in sorted(folder.glob("*.jsonl")) for record in records(path)]


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    for round_ in range(3):
        said = tmp_path / f"said{round_}"
        with said.open("wb") as out:
            writer = subprocess.Popen(
                [sys.executable, "-m", "tests.services.writer", str(folder)], stdout=out, cwd=PROJECT
            )
        try:
            until(lambda said=said: said.stat().st_size > 5_000, 30)
        finally:
            writer.kill()
            writer.wait()
        acknowledged = {line for line in said.read_text().split("\n")[:-1] if line}
        found = everything(folder)
        assert len(acknowledged) > 500
        assert acknowledged <= {record["id"] for record in found}
        assert all(len(record["padding"]) == 200 for record in found)
        close_leftovers(folder)  # none, if it was killed between two segments
        assert not [path for path in folder.glob("*.jsonl") if not path.name.endswith(CLOSED)]
        assert [record["id"] for record in everything(folder)] == [record["id"] for record in found]
        assert not [path for path in folder.glob("*.jsonl") if b"\0" in path.read_bytes()]
        shutil.rmtree(folder)


def test_a_torn_line_is_never_a_record(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    line = b'{"a": 1, "b": "\\n"}\n'
    for cut in range(len(line)):
        path.write_bytes(line * 2 + line[:cut])
        assert len(list(records(path))) == 2
    path.write_bytes(line + b"\0\0\0\n" + b"[1]\n" + line)
    assert len(list(records(path))) == 2


def test_a_commit_within_the_room_ahead_leaves_length_and_blocks_alone(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "x.jsonl")
    segment.write(LINE)
    before = segment.path.stat()
    for _ in range(200):
        segment.write(LINE)
    after = segment.path.stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert before.st_size == segment.room > segment.size == 201 * len(LINE)
    assert len(list(records(segment.path))) == 201
    segment.write(LINE * LEAST)  # more than there was room for
    assert segment.path.stat().st_size == segment.room > segment.size
    segment.close()
    assert (tmp_path / f"x{CLOSED}").read_bytes() == LINE * (201 + LEAST)


@given(
    told=st.lists(st.text(max_size=9), max_size=4),
    untold=st.lists(st.text(max_size=30), max_size=4),
    kept=st.lists(st.booleans(), min_size=80, max_size=80),
    ahead=st.sampled_from([0, 1, 40, PIECE - 1, PIECE + 1]),
)
@example(told=["", "a"], untold=["b" * 20, "c"], kept=[True, False, False] + [True] * 77, ahead=40)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_batch_that_the_power_cut_tore(
    tmp_path_factory: pytest.TempPathFactory, told: list[str], untold: list[str], kept: list[bool], ahead: int
) -> None:
    """Of a batch that was not acknowledged any sectors may be on the disk; of those before it, all are."""
    folder = tmp_path_factory.mktemp("log")
    whole, batch = (b"".join(msgspec.json.encode({"a": text}) + b"\n" for text in texts) for texts in (told, untold))
    sectors = [batch[place : place + 8] for place in range(0, len(batch), 8)]
    torn = b"".join(sector if kept[k % 80] else bytes(len(sector)) for k, sector in enumerate(sectors))
    path = folder / "1-dead-1.jsonl"
    path.write_bytes(b"before\n")
    tail = Tail(folder, but="none")
    path.write_bytes(b"before\n" + whole + torn + bytes(ahead))
    found, read = [record["a"] for record in records(path)], tail.lines()
    assert found[: len(told)] == told
    assert set(found[len(told) :]) <= set(untold)
    assert b"".join(line + b"\n" for line in read[: len(told)]) == whole
    (closed,) = close_leftovers(folder)
    assert [record["a"] for record in records(closed)] == found
    assert closed.read_bytes() == (b"before\n" + whole + torn)[: len(closed.read_bytes())]
    assert closed.read_bytes().endswith(b"\n")
    tail.close()


def test_a_tail_that_begins_late_passes_over_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "x.jsonl")
    segment.write(LINE)
    tail = Tail(tmp_path, but="none")
    assert tail.lines() == []
    for size in (1, LEAST // 4):
        segment.write(LINE * size)
        assert tail.lines() == [LINE[:-1]] * size
    segment.close()
    assert tail.lines() == []
    tail.close()


def test_a_segment_closed_meanwhile_is_found_by_its_new_name(tmp_path: Path) -> None:
    (tmp_path / f"x{CLOSED}").write_bytes(LINE)
    assert list(records(tmp_path / "x.jsonl")) == [{"a": 1}]


def test_segments_roll_by_size_and_by_age(tmp_path: Path) -> None:
    async def write() -> None:
        log = DurableLog(tmp_path, segment_bytes=30)
        await log.start()
        for _ in range(8):
            await log.append(LINE)
        await log.stop()
        old = DurableLog(tmp_path, segment_seconds=0.1)
        await old.start()
        await old.append(LINE)
        assert old._segment is not None
        while old._segment is not None:  # nobody writes any more, and it is closed all the same
            await asyncio.sleep(0.01)
        await old.stop()

    asyncio.run(write())
    assert {path.name.removesuffix(CLOSED)[-2:] for path in tmp_path.iterdir()} == {"-1", "-2"}
    assert all(path.name.endswith(CLOSED) for path in tmp_path.iterdir())
    assert len(everything(tmp_path)) == 9


def test_what_a_living_worker_writes_is_left_alone(tmp_path: Path) -> None:
    async def write() -> None:
        log = DurableLog(tmp_path)
        await log.append(LINE)
        assert close_leftovers(tmp_path) == []
        dead = tmp_path / "1-dead-1.jsonl"
        dead.write_bytes(LINE)
        (tmp_path / "1-dead-2.jsonl").touch()
        await DurableLog(tmp_path).start()
        assert not dead.exists()
        assert (tmp_path / f"1-dead-1{CLOSED}").exists()
        await log.append(LINE)
        await log.stop()

    asyncio.run(write())
    assert len(everything(tmp_path)) == 3
    assert not list(tmp_path.glob("1-dead-2*"))


def test_group_commit_shares_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: (syncs.append(1), real(handle)))

    async def write() -> None:
        log = DurableLog(tmp_path)
        await asyncio.gather(*(log.append(LINE) for _ in range(500)))
        await log.stop()

    asyncio.run(write())
    assert len(everything(tmp_path)) == 500
    assert len(syncs) < 10


async def refused_then_taken(log: DurableLog, mend: Callable[[], Any]) -> None:
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            await log.append(b'{"lost": 1}\n')
    assert log.failure
    mend()
    await log.append(b'{"after": 1}\n')
    assert log.failure is None
    await log.stop()


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    async def write() -> None:
        log = DurableLog(tmp_path)
        await log.append(LINE)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (15, hard))  # in the middle of the next line
        try:
            with pytest.raises(LogUnavailable):
                await log.append(b'{"lost": 1}\n' * 2)
            await log.append(LINE)  # there is room for this one
            with pytest.raises(LogUnavailable):
                await log.append(b'{"lost": 1}\n' * 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await log.append(LINE)
        await log.stop()

    asyncio.run(write())
    assert everything(tmp_path) == [{"a": 1}] * 3


def test_a_disk_with_no_room_ahead_takes_what_fits(tmp_path: Path) -> None:
    segment, (soft, hard) = Segment.create(tmp_path / "x.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * len(LINE), hard))
    try:
        for _ in range(3):
            segment.write(LINE)
        with pytest.raises(OSError, match="File too large"):
            segment.write(LINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    segment.close()
    assert (tmp_path / f"x{CLOSED}").read_bytes() == LINE * 3


def test_what_nobody_foresaw_is_a_refusal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise ValueError("odd")

    async def write() -> None:
        log = DurableLog(tmp_path)
        monkeypatch.setattr(Segment, "write", breaks)
        await refused_then_taken(log, monkeypatch.undo)

    asyncio.run(write())
    assert everything(tmp_path) == [{"after": 1}]


def test_a_folder_that_is_gone_refuses_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "open"

    async def write() -> None:
        log = DurableLog(folder)
        await log.append(LINE)
        shutil.rmtree(folder)
        folder.write_text("in the way")
        await refused_then_taken(log, folder.unlink)

    asyncio.run(write())
    assert everything(folder) == [{"after": 1}]


def test_a_failing_disk_refuses_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    async def write() -> None:
        log = DurableLog(tmp_path)
        await log.append(LINE)
        monkeypatch.setattr(os, "fdatasync", fails)
        await refused_then_taken(log, monkeypatch.undo)

    asyncio.run(write())
    assert everything(tmp_path) == [{"a": 1}, {"after": 1}]


def test_the_lock_goes_with_its_writer(tmp_path: Path) -> None:
    async def write() -> None:
        log = DurableLog(tmp_path)
        await log.append(LINE)
        with next(tmp_path.glob("*.jsonl")).open() as segment, pytest.raises(BlockingIOError):
            fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await log.stop()

    asyncio.run(write())
