"""Nights that are cut short, repeated or empty: run again, each ends as if nothing had happened, nothing doubled."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

import features
import models
from models import Model
from monitoring.parity import Parity
from pipelines.commands.asking import Caller
from pipelines.commands.cli import main
from pipelines.home import PROJECT, Home, utc
from pipelines.nights import archive, night, weekly
from pipelines.registry import package, promotion
from pipelines.registry.ledger import Ledger
from pipelines.training import retraining
from services import keys
from services.log import records
from tests.history import DOMAIN, MODEL, START, copy, headway, history, in_force, model, root, run, until, variables

__all__ = ["history", "model", "root"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DAY = START.date()
AS_OF = utc("2013-04-02T00:30Z")
NIGHT = ("night", MODEL, "--as-of", AS_OF.isoformat())
VERDICT = f"verdict/{MODEL}/{AS_OF.isoformat()}"
AGAIN = f"""
from pipelines.commands.cli import main
assert main(["ingest", "{DOMAIN}", "--as-of", "{START.isoformat()}"]) == 0
assert main(["train", "{MODEL}", "--as-of", "{START.isoformat()}"]) == 0
"""
ROOMS = ("lake", "snapshots", "quarantine", "predictions", "nights")


@pytest.fixture(scope="module")
def asked(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The history, and a morning's requests in the log: what a night finds."""
    at = Home(tmp_path_factory.mktemp("asked"))
    with in_force(at):
        copy(history, at)
        ask(at, models.load(MODEL))
    return at


def ask(at: Home, model: Model) -> None:
    """Ask the service, in this process, for every example that is decided in the first hours and planned by then."""
    from services.app import create_app

    lag = max(table.lag for table in features.load(DOMAIN).tables)
    key = keys.make(at.keys, "tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_CLOCK", "request")
        with Caller("", key) as caller, TestClient(create_app(at), headers=caller._client.headers) as client:
            caller._client = client
            caller.ask(at, model, START + lag, START + timedelta(hours=18), known_by=START)


@pytest.fixture(scope="module")
def uninterrupted(asked: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same night on another copy, left in peace."""
    at = Home(tmp_path_factory.mktemp("uninterrupted"))
    with in_force(at):
        copy(asked, at)
        assert main(list(NIGHT)) == 0
    return at


def test_kill_9_at_every_step_of_a_night_and_the_next_run_ends_it_with_nothing_doubled(
    asked: Home, uninterrupted: Home, home: Home
) -> None:
    at = copy(asked, home)
    pointer = promotion.read_pointer(at.pointers, MODEL)
    killed = 0
    for step, reached in steps(at).items():
        if not reached():  # else the run before was killed so late that it had done this step too
            killed += kill_at(reached)
        assert reached(), f"{step}: not at all"
        assert promotion.read_pointer(at.pointers, MODEL) == pointer
    assert killed >= 3
    done = headway(at, *NIGHT)
    ledger = Ledger(at.ledger_url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ledger.entries(MODEL, "verdict")[0].body["sentence"]
    assert left_behind(at) == left_behind(uninterrupted)
    assert [entry.key for entry in ledger.entries(MODEL, "verdict")] == [VERDICT]
    assert [path.name for path in at.room("nights", MODEL).iterdir()] == [f"{DAY}.json"]
    assert ledger.verify(promotion.heads(at.pointers)) == len(ledger.entries())
    assert promotion.read_pointer(at.pointers, MODEL) == pointer


def test_what_a_whole_day_was_served_is_what_training_computes(uninterrupted: Home, asked: Home, model: Model) -> None:
    (found,) = night.nights(uninterrupted, model, START, AS_OF)
    assert found.parity is not None
    assert found.parity.rows == found.profile.rows == len(logged(asked)) > 300
    assert found.parity.differences == []
    assert not found.parity.breach


def test_the_weekly_page_links_to_the_full_report_and_the_archive_has_it(
    uninterrupted: Home, home: Home, model: Model
) -> None:
    at = copy(uninterrupted, home)
    written = weekly.weekly(at, model, AS_OF)
    report = at.reports / f"{written.stem}.evidently.html"
    assert f'href="{report.name}"' in written.read_text()
    told = Ledger(at.ledger_url).entries(MODEL, "verdict")[0].body["sentence"]
    (filed,) = archive.folder(at).glob("*/snapshots/*.json")
    assert filed.name.startswith(f"{DAY:%Y%m%d}-")
    assert all(told in path.read_text() for path in (report, filed))


def test_a_night_run_after_its_own_retraining_is_the_night_before_it_to_the_byte(
    uninterrupted: Home, asked: Home, home: Home, model: Model
) -> None:
    at = copy(asked, home)
    succeed(at, AS_OF)
    assert main(list(NIGHT)) == 0
    assert left_behind(at) == left_behind(uninterrupted)
    verdict = night.judge(at, model, AS_OF + timedelta(minutes=15))
    assert verdict.champion_version == 2  # an instant later, it is the new one that is judged
    night.take_profile(at, model, AS_OF + timedelta(minutes=15), *known(uninterrupted, model))
    (kept,) = night.nights(at, model, START, AS_OF)
    (before,) = night.nights(uninterrupted, model, START, AS_OF)
    assert (kept.version, kept.digest, kept.profile) == (1, before.digest, before.profile)


def test_windows_that_closed_are_remembered_by_the_ledger(uninterrupted: Home, home: Home, model: Model) -> None:
    at, later = copy(uninterrupted, home), AS_OF + timedelta(minutes=15)
    daily = replace(model, monitoring=replace(model.monitoring, window=timedelta(days=1), confirm=(2, 3)))
    first = night.judge(at, daily, later)
    assert first.evidence.drift is not None
    assert (first.evidence.drift.status, len(first.inputs)) == ("judged", 3)
    assert first.windows > 60
    assert 0 < first.achieved_false_alarms_per_year <= first.false_alarms_per_year
    assert first.action in ("nothing", "wait")  # one alarm is none
    assert first.gain is not None
    assert "after the champion was trained" in first.gain.sentence
    second = night.judge(at, daily, later + timedelta(days=1))
    assert second.alarms == [*first.alarms, False]
    silent = replace(daily, monitoring=replace(daily.monitoring, expected_gain=False))
    assert night.judge(at, silent, later + timedelta(hours=1)).gain is None


def succeed(at: Home, as_of: datetime) -> None:
    """Put another version in charge: the champion's own estimator, trained, as it says, at another time."""
    live = promotion.read_pointer(at.pointers, MODEL)
    assert live is not None
    old = package.load(at, live.tag)
    stated = msgspec.structs.replace(old.manifest, trained_as_of=as_of.isoformat())
    new = package.store(at, stated, old.estimator, old.reference, old.sample)
    ledger = Ledger(at.ledger_url)
    body = {"version": 2, "tag": new.tag, "digest": new.digest, "passed": True}
    ledger.append("version", MODEL, as_of=as_of, body=body, actor="test", key="version 2")
    promotion.promote(
        ledger, at.pointers, model=MODEL, version=2, tag=new.tag, digest=new.digest, as_of=as_of, actor="test",
        why="test", key="promotion 2",
    )  # fmt: skip


def known(at: Home, model: Model) -> tuple[Parity | None, int]:
    """What a night found of parity and labels."""
    (found,) = night.nights(at, model, START, AS_OF)
    return found.parity, found.labels


def test_a_night_on_which_nobody_asked_says_so_and_finds_no_fault(
    root: Home, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(NIGHT)) == 0
    (found,) = night.nights(root, model, START, AS_OF)
    assert (found.parity, found.profile.rows, found.labels, found.degraded) == (None, 0, 0, 0)
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing to do: 1 of 7 days of this week are in"


def test_a_night_before_what_is_ingested_says_where_to_go_on(root: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["night", MODEL, "--as-of", "2013-03-20"]) == 2
    assert "is ingested up to 2013-04-01" in capsys.readouterr().err
    assert Ledger(root.ledger_url).entries(MODEL, "verdict") == []


def test_training_twice_as_of_the_same_instant_is_one_version_whatever_else_the_process_did(root: Home) -> None:
    ledger, pointer = Ledger(root.ledger_url), promotion.read_pointer(root.pointers, MODEL)
    before = ledger.entries(MODEL)
    assert pointer is not None
    if package.load(root, pointer.tag).manifest.code_commit != retraining._commit():
        pytest.skip("a commit came in between, so by right it is another version")
    again = subprocess.run(
        [sys.executable, "-c", AGAIN], cwd=PROJECT, env=variables(root), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == before[0].body["sentence"]
    assert ledger.entries(MODEL) == before
    assert promotion.read_pointer(root.pointers, MODEL) == pointer


def test_feasts_own_command_lists_the_declared_views(history: Home) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("feast"), "-c", "features", "feature-views", "list"],
        cwd=PROJECT, env=variables(history), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    domain = features.load(DOMAIN)
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert listed == {part.name for part in (*domain.tables, *domain.request_features)}


def steps(at: Home) -> dict[str, Callable[[], bool]]:
    """The steps of a night in their order, each with how to see from outside that it has just been done."""
    domain, ledger = features.load(DOMAIN), Ledger(at.ledger_url)
    first, last, table = domain.sources[0].name, domain.sources[-1].name, domain.tables[0].name
    report = at.room("nights", DOMAIN, f"{AS_OF:%Y%m%dT%H%M%SZ}") / f"{last}.json"
    return {
        "a day of the first source is in the lake": replaced(at.room("lake", DOMAIN, first)),
        "the last source is ingested": report.exists,
        "the first feature table is computed": replaced(at.room("snapshots", DOMAIN, table)),
        "predictions are compacted": (at.room("predictions", MODEL) / f"{DAY}.parquet").exists,
        "the profile is kept": (at.room("nights", MODEL) / f"{DAY}.json").exists,
        "the verdict is in the ledger": lambda: ledger.find(VERDICT) is not None,
    }


def replaced(folder: Path) -> Callable[[], bool]:
    """Whether a day file of the folder was written or replaced from now on."""

    def seen() -> set[tuple[str, int]]:
        with suppress(FileNotFoundError):
            return {(path.name, path.stat().st_ino) for path in folder.glob("2*.parquet")}
        return set()

    before = seen()
    return lambda: not seen() <= before


def kill_at(reached: Callable[[], bool]) -> bool:
    """Run the night in a process that has its imports already, kill it as soon as the step is seen; if it was."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["pipelines.data.check", "pipelines.store.feature_store", "pipelines.commands.lifecycle"]
    )
    process = forks.Process(target=run, args=(dict(os.environ), NIGHT))
    process.start()
    try:
        until(lambda: reached() or not process.is_alive(), pause=0.001)
    finally:
        process.kill()
        process.join()
    return process.exitcode == -signal.SIGKILL


def left_behind(at: Home) -> dict[str, object]:
    """All that a night leaves: the bytes of each file (a dot marks one that was half written), and the verdicts."""
    found: dict[str, object] = {"verdicts": [entry.body for entry in Ledger(at.ledger_url).entries(MODEL, "verdict")]}
    for path in [path for room in ROOMS for path in at.room(room).rglob("[!.]*.*") if "open" not in path.parts]:
        found[str(path.relative_to(at.root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for each in night.deliveries(at, DOMAIN, START, AS_OF):
        # What a killed run had brought to the lake is not new to the run that ends the night.
        found[f"nights/{DOMAIN}/{AS_OF:%Y%m%dT%H%M%SZ}/{each.source}.json"] = msgspec.structs.replace(each, new=0)
    return found


def logged(at: Home) -> list[dict[str, Any]]:
    """The records in the log of the service."""
    return [record for path in at.room("predictions", "open").glob("*.jsonl") for record in records(path)]
