"""Children end with their parent, whatever ends it, and with everything that descends from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipelines import children
from pipelines.children import MARK, Child
from pipelines.home import PROJECT

# A child with a grandchild that left its group and its session, as Prefect's worker makes them; both are stubborn.
FAMILY = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN) if sys.argv[2] == "stubborn" else None
away = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(away.pid))
time.sleep(600)
"""

PARENT = """
import os, sys, time
from pathlib import Path
from pipelines.children import Child
child = Child("one", [sys.executable, "-c", "import time; time.sleep(600)"], os.environ, Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


def until(there: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path)
    children.sweep(str(tmp_path), grace=0.1)


def family(tmp_path: Path, mark: str, manner: str = "meek") -> tuple[Child, int]:
    told = tmp_path / "away.pid"
    command = [sys.executable, "-c", FAMILY, str(told), manner]
    child = Child("family", command, {**os.environ, MARK: mark}, tmp_path / "family.log")
    child.start()
    until(lambda: told.exists() and told.read_text() != "")
    return child, int(told.read_text())


@pytest.mark.parametrize("manner", ["meek", "stubborn"])
def test_stop_leaves_nobody_not_even_who_left_the_group(tmp_path: Path, mark: str, manner: str) -> None:
    child, away = family(tmp_path, mark, manner)
    assert child.running
    assert alive(away)
    children.stop([child], mark, grace=0.5)
    assert not child.running
    assert child.exit_code is not None
    assert not alive(away)


def test_a_sweep_spares_who_works_for_another_root(tmp_path: Path, mark: str) -> None:
    child, away = family(tmp_path, mark)
    try:
        assert children.sweep(mark + "-other") == 0
        assert alive(away)
    finally:
        children.stop([child], mark)


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is the Linux kernel's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent_however_that_ends(tmp_path: Path, number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # Once the leash is on it has become the command; before that its own check would end it as well.
    until(lambda: "sleep" in " ".join(psutil.Process(child).cmdline()[-1:]))
    assert alive(child)
    parent.send_signal(number)
    parent.wait(20)
    until(lambda: not alive(child))


def test_the_log_keeps_what_it_said_and_how_it_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('about to fail'); sys.exit(3)"]
    child = Child("failing", command, os.environ, tmp_path / "failing.log")
    assert child.exit_code is None
    child.start()
    until(lambda: child.exit_code is not None)
    assert child.exit_code == 3
    assert child.tail() == "about to fail"


def test_a_port_that_is_taken_is_not_given_out() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert children.free_port(taken) != taken
    assert children.free_port(taken) == taken
