"""A file is replaced whole or not at all, and what killed writers left is swept by the next one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.files import half_of, replacing, sweep, write_bytes


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_writer_of_a_file_sweeps_what_a_killed_one_left(tmp_path: Path, dead: int) -> None:
    path = tmp_path / "a.json"
    left = [tmp_path / f".a.json.{dead}.half", tmp_path / ".a.json.no-number.half"]
    living, other = tmp_path / f".a.json.{os.getppid()}.half", tmp_path / f".b.json.{dead}.half"
    for half in (*left, living, other):
        half.write_text("torn")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert {each.name for each in tmp_path.iterdir()} == {"a.json", living.name, other.name}
    assert sweep(tmp_path) == 1 and living.exists() and not other.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_bytes(path, b"longer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["a"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with replacing(path) as half:
        half.write_bytes(b"new")
        assert path.read_bytes() == b"old" and half == half_of(path)
    assert path.read_bytes() == b"new"
