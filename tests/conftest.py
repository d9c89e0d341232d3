"""What every test gets: a root of its own, telemetry off, and no way to reach another machine."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.home import QUIET, Home, settle
from pipelines.home import home as root_of

GUARD = Path(__file__).parent / "guard"
LOG = Path(tempfile.mkstemp(prefix="headway-guard-", suffix=".log")[1])

# At import, so that it holds before a test module imports a dependency, and in every child from then on.
os.environ.update(QUIET)
os.environ["HEADWAY_GUARD_LOG"] = str(LOG)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH", "")]))
_spec = importlib.util.spec_from_file_location("headway_guard", GUARD / "sitecustomize.py")
assert _spec is not None
assert _spec.loader is not None
guard = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(guard)


def pytest_sessionfinish() -> None:
    LOG.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def nothing_leaves_loopback(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Fails the test in which this process or a child of it tried to reach another machine."""
    LOG.write_text("")
    yield LOG
    if attempts := LOG.read_text():
        pytest.fail(f"tried to leave loopback:\n{attempts}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty root of its own, in force for this process and its children."""
    for name in ("HEADWAY_LEDGER_URL", "HEADWAY_CLOCK", "HEADWAY_ALERTS", "HEADWAY_ALERTS_WEEKLY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HEADWAY_HOME", "BENTOML_HOME", "PREFECT_HOME", "PYTHONHASHSEED", *QUIET):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
    root = root_of()
    settle(root)
    return root
