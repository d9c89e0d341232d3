"""`prefect.yaml` is what the declarations say, and works: on a real server, with a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import features
import models
from features import HeadwayError
from pipelines.commands.cli import main
from pipelines.home import PROJECT, QUIET, Home, home, settle
from pipelines.orchestration import deployments, stack
from pipelines.orchestration.orchestrator import RETRAIN
from pipelines.orchestration.stack import Stack
from pipelines.registry.ledger import Ledger

EMIT = """
import sys
from prefect.events import emit_event
emit_event(sys.argv[1], resource={"prefect.resource.id": f"model.{sys.argv[2]}"}, payload={"forged": "retrain now"})
"""


def until(there: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def test_the_committed_file_is_in_step_with_the_declarations() -> None:
    assert deployments.in_step(), "run `headway deployments --write`"


def test_every_model_and_every_domain_has_its_deployments() -> None:
    names = {entry["name"] for entry in deployments.deployed()}
    wanted = {f"{flow}-{name}" for name in models.names() for flow in ("check", "retrain", "weekly")}
    assert names == wanted | {f"ingest-{name}" for name in features.names()}


def test_check_tells_a_file_that_is_out_of_step_and_write_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "prefect.yaml"
    stale.write_text(deployments.PATH.read_text().replace("nightly", "hourly"))
    assert not deployments.in_step(stale)
    assert deployments.write(stale)
    assert deployments.in_step(stale)
    assert not deployments.write(stale)
    assert stale.read_bytes() == deployments.PATH.read_bytes()
    assert main(["deployments", "--check"]) == 0
    assert "is in step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cadence", "crons"),
    [
        (timedelta(days=1), ["0 0 * * *"]),
        (timedelta(hours=1), ["0 * * * *"]),
        (timedelta(hours=6), ["0 0,6,12,18 * * *"]),
        (timedelta(minutes=30), ["0 * * * *", "30 * * * *"]),
        (timedelta(minutes=480), ["0 0,8,16 * * *"]),
        (timedelta(minutes=90), ["0 0,3,6,9,12,15,18,21 * * *", "30 1,4,7,10,13,16,19,22 * * *"]),
    ],
)
def test_crons_fire_at_every_tick_and_at_no_other_time(cadence: timedelta, crons: list[str]) -> None:
    assert deployments.ticks(cadence) == crons
    fired = [
        (int(hour), int(cron.split()[0]))
        for cron in crons
        for hour in (range(24) if cron.split()[1] == "*" else cron.split()[1].split(","))
    ]
    step = int(cadence.total_seconds()) // 60
    assert sorted(fired) == [divmod(minute, 60) for minute in range(0, 24 * 60, step)]


def test_a_cadence_that_no_cron_can_say_is_refused() -> None:
    with pytest.raises(HeadwayError, match="whole minutes"):
        deployments.ticks(timedelta(seconds=90))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server and a worker with everything deployed, as a person would deploy it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BENTOML_HOME", "PREFECT_HOME", "PYTHONHASHSEED", *QUIET):
            patch.setenv(name, os.environ.get(name, ""))
        patch.setenv("HEADWAY_HOME", str(tmp_path_factory.mktemp("deployed")))
        patch.delenv("HEADWAY_LEDGER_URL", raising=False)
        settle(home())
        with Stack(home(), parts=("server", "worker")) as running:
            stack.deploy(running.environment)
            yield running


@pytest.mark.slow
@pytest.mark.e2e
def test_every_cron_has_future_runs(running: Stack) -> None:
    planned = until(lambda: _all(deployments.planned(running.api, datetime.now(UTC))))
    with_cron = {entry["name"] for entry in yaml.safe_load(deployments.PATH.read_text())["deployments"]}
    with_cron -= {f"retrain-{name}" for name in models.names()}
    assert set(planned) == with_cron
    assert min(planned.values()) >= 1


@pytest.mark.slow
@pytest.mark.e2e
def test_the_event_starts_a_retraining_that_believes_the_ledger_and_not_the_event(running: Stack) -> None:
    name = models.names()[0]
    others = [f"retrain-{other}" for other in models.names()[1:]]
    subprocess.run([sys.executable, "-c", EMIT, RETRAIN, name], cwd=PROJECT, env=running.environment, check=True)
    run = until(lambda: _finished(running, f"retrain-{name}"))
    assert run["parameters"] == {"model": name}
    assert run["created_by"]["type"] == "AUTOMATION"
    assert run["state_name"] == "Completed", run["state"]
    # Prefect sends the log of a run in batches, the last one after the run has ended.
    until(lambda: any("No standing verdict in the ledger" in line["message"] for line in _log(running, run)))
    assert Ledger(running.home.ledger_url).entries(name) == []
    for other in others:
        assert _runs(running, other) == []


@pytest.mark.slow
@pytest.mark.e2e
def test_a_run_that_fails_is_noted_for_the_doctor(running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    name = models.names()[0]
    known = running.api.post("/deployments/filter", {"deployments": {"name": {"any_": [f"check-{name}"]}}})
    created = running.api.post(
        f"/deployments/{known[0]['id']}/create_flow_run", {"parameters": {"as_of": "not an instant"}}
    )
    until(lambda: _ended(running, created["id"]))
    noted = running.home.logs / "failures.jsonl"
    assert "'not an instant' is not an instant" in until(lambda: noted.exists() and noted.read_text())
    until(lambda: _all(deployments.planned(running.api, datetime.now(UTC))))
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"check-{name}" in told
    assert "is not an instant" in told


def _all(planned: dict[str, int]) -> dict[str, int] | None:
    return planned if all(planned.values()) else None


def _runs(running: Stack, deployment: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.api.post(
        "/flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}}
    )
    return found


def _finished(running: Stack, deployment: str) -> dict[str, Any] | None:
    ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    return next((run for run in _runs(running, deployment) if run["state_type"] in ended), None)


def _ended(running: Stack, run: str) -> bool:
    found = running.api.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return bool(found and found[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))


def _log(running: Stack, run: dict[str, Any]) -> Any:
    return running.api.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
