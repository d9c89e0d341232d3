"""One private root, one environment, one way to read an instant."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from features import HeadwayError
from pipelines.commands.cli import main
from pipelines.home import INTERNAL, PROJECT, QUIET, SINGLE_THREAD, VARIABLES, Home, environment, home, known, utc

ROOMS = ("lake", "quarantine", "snapshots", "feast", "bentoml", "pointers", "predictions", "nights", "reports", "logs")


def test_every_room_is_a_private_folder_below_the_root(home: Home) -> None:
    for name in ROOMS:
        folder: Path = getattr(home, name)
        assert folder.is_dir() and folder.is_relative_to(home.root)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("part", ["..", "../x", "/etc", "", "a/b", ".hidden", "a\x00b", "a b"])
def test_no_part_leads_out_of_the_root(home: Home, part: str) -> None:
    with pytest.raises(HeadwayError, match="cannot name a folder below"):
        home.room("lake", part)


def test_a_root_that_others_could_read_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "open"))
    assert stat.S_IMODE(home().root.stat().st_mode) == 0o700


def test_the_root_is_beside_the_project_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipelines.home.PROJECT", tmp_path)
    monkeypatch.delenv("HEADWAY_HOME", raising=False)
    assert home().root == tmp_path / ".headway"
    assert (PROJECT / "pyproject.toml").is_file()


def test_a_root_that_cannot_be_a_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "file"))
    with pytest.raises(HeadwayError, match=r"cannot be used .* Name a folder that you own"):
        home()


def test_the_ledger_is_below_the_root_unless_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home.ledger_url == f"sqlite:///{home.root}/registry/ledger.db"
    monkeypatch.setenv("HEADWAY_LEDGER_URL", "postgresql://elsewhere/x")
    assert home.ledger_url == "postgresql://elsewhere/x"


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("HEADWAY_WORKER", "HEADWAY_WORKERS"), ("HEADWAY_HOEM", "HEADWAY_HOME"), ("HEADWAY_RATES", "HEADWAY_RATE")],
)
def test_a_variable_that_is_none_of_ours_is_told_with_the_nearest_when_a_command_starts(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typo: str, meant: str
) -> None:
    monkeypatch.setenv(typo, "2")
    assert main(["models"]) == 2
    told = capsys.readouterr().err
    assert f"{typo} is set, and is no setting. Did you mean {meant}?" in told
    assert all(name in told for name in VARIABLES)


def test_what_is_like_nothing_is_told_without_a_guess() -> None:
    with pytest.raises(HeadwayError, match=r"HEADWAY_X is set, and is no setting. Unset it, or use one of: HEADWAY_"):
        known({"HEADWAY_X": ""})


def test_what_others_set_is_none_of_our_business() -> None:
    links = ("HEADWAY_SERVICE_HOST", "HEADWAY_SERVICE_PORT_HTTP", "HEADWAY_PORT", "HEADWAY_NIGHTS_PORT_4200_TCP_ADDR")
    known(dict.fromkeys([*links, "HEADWAYS", "headway_home", "MY_HEADWAY_HOME"], "x"))


def test_every_variable_that_the_project_sets_reads_or_shows_is_known_and_none_other() -> None:
    folders = (
        "features",
        "expectations",
        "models",
        "pipelines",
        "monitoring",
        "services",
        "benchmarks",
        "tests",
        "docs",
    )
    paths = [path for folder in folders for path in (PROJECT / folder).rglob("*") if path.suffix not in ("", ".pyc")]
    ours = [path for path in paths if path.is_file() and path.name not in ("home.py", "test_home.py")]
    texts = [path.read_text(errors="ignore") for path in (*ours, PROJECT / "README.md", PROJECT / ".ci/run")]
    named = {name for text in texts for name in re.findall(r"\bHEADWAY_[A-Z][A-Z_]*\b", text)}
    assert named == {*VARIABLES, *INTERNAL}


def test_the_environment_wins_over_what_was_there(home: Home) -> None:
    found = environment(home, {"DO_NOT_TRACK": "0", "OMP_NUM_THREADS": "8", "PATH": "/bin", "TZ": "Asia/Tokyo"})
    assert found.items() >= {**QUIET, **SINGLE_THREAD, "PATH": "/bin", "TZ": "UTC"}.items()
    assert found["BENTOML_HOME"].startswith(found["HEADWAY_HOME"])


def test_a_settled_process_keeps_its_time_in_utc(home: Home) -> None:
    code = "from pipelines.home import *; settle(home()); import time; print(time.tzname[0], time.localtime(0).tm_hour)"
    environ = {**os.environ, "TZ": "America/New_York"}
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environ, capture_output=True, text=True)
    assert found.stdout.split() == ["UTC", "0"], found.stderr


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2013-04-07", datetime(2013, 4, 7, tzinfo=UTC)),
        ("2013-04-07T06:00Z", datetime(2013, 4, 7, 6, tzinfo=UTC)),
        ("2013-04-07T06:00:00.000001", datetime(2013, 4, 7, 6, 0, 0, 1, tzinfo=UTC)),
        ("2013-04-07T00:30+02:00", datetime(2013, 4, 6, 22, 30, tzinfo=UTC)),
    ],
)
def test_an_instant_is_utc_whatever_its_zone(text: str, instant: datetime) -> None:
    assert utc(text) == instant
    assert utc(text).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2013-02-30", "07.04.2013"])
def test_what_is_no_instant_is_told(text: str) -> None:
    with pytest.raises(HeadwayError, match=r"is not an instant. Write it like 2013-04-07"):
        utc(text)
