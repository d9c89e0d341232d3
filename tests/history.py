"""Three months of real flights and a first champion: built once, by the commands a user types, copied for each test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import models
from models import Model
from pipelines.commands.cli import main
from pipelines.home import PROJECT, Home, environment, settle, utc
from pipelines.orchestration.orchestrator import python_path

MODEL = "late_arrival"
DOMAIN = "flights"
START = utc("2013-04-01")
"""What became known by then is in the root; days from here on are the test's to live through."""


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The root to copy. Nobody writes to it; processes that share out the tests share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "history.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built(shared / "history")


@pytest.fixture
def root(history: Home, home: Home) -> Home:
    """A copy of the history, in force for this process and its children."""
    return copy(history, home)


@pytest.fixture
def model() -> Model:
    return models.load(MODEL)


def _built(path: Path) -> Home:
    at = Home(path)
    if (path / "built").exists():
        return at
    with in_force(at):
        assert main(["ingest", DOMAIN, "--history", "2013-01-01", "--as-of", START.isoformat()]) == 0
    # In a process of its own: the number of threads is in a trained estimator, and is decided before imports.
    trained = headway(at, "train", MODEL, "--as-of", START.isoformat(), "--actor", "history")
    assert trained.returncode == 0, trained.stderr
    (path / "built").touch()
    return at


@contextmanager
def in_force(at: Home) -> Iterator[Home]:
    """Make a root the one that this process and its children work on."""
    at.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEADWAY_LEDGER_URL", "HEADWAY_CLOCK", "HEADWAY_ALERTS", "HEADWAY_ALERTS_WEEKLY"):
            patch.delenv(name, raising=False)
        for name, value in environment(at, {}).items():
            patch.setenv(name, value)
        settle(at)
        yield at


def copy(source: Home, to: Home) -> Home:
    """A copy of a root, with Feast's registry (which holds absolute paths) brought in step with its new place."""
    from pipelines.store import feature_store  # slow to import: not for collecting tests

    shutil.copytree(source.root, to.root, dirs_exist_ok=True)
    feature_store.apply(to)
    return to


def variables(at: Home) -> dict[str, str]:
    """The environment of a process that works on a root from a checkout that is not installed."""
    return {**environment(at), "PYTHONPATH": python_path(os.environ)}


def headway(at: Home, *words: str) -> subprocess.CompletedProcess[str]:
    """`headway WORDS` on a root, in a process of its own."""
    command = [sys.executable, "-m", "pipelines.commands.cli", *words]
    return subprocess.run(command, env=variables(at), cwd=PROJECT, capture_output=True, text=True, check=False)


def run(environment: Mapping[str, str], words: Sequence[str]) -> int:
    """`headway WORDS` with these variables, in a forked process: its server may be older than they are."""
    os.environ.update(environment)
    return main(words)


def until(there: Callable[[], Any], seconds: float = 120.0, pause: float = 0.05) -> Any:
    """What `there` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)
    return found
