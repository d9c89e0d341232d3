"""The commands of the engineer on call: up, down, status, doctor, deployments."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from pipelines.home import Home, home
from pipelines.orchestration import deployments as plan
from pipelines.orchestration import stack
from pipelines.orchestration.orchestrator import Api, client_environment

PATIENCE = 30.0
"""Seconds that the doctor waits for the server to plan runs before it calls their absence wrong."""


def up(given: Namespace) -> int:
    """Start the stack, or find it running; deploy if asked to."""
    at = home()
    running = stack.up(at, {"server": given.prefect_port, "service": given.service_port})
    if given.deploy:
        stack.deploy(client_environment(at, running.prefect_url))
    print(_where(at, running))
    return 0


def down(given: Namespace) -> int:
    """End the stack; that there is none is no mistake."""
    print("Everything has ended." if stack.down(home()) else "Nothing was running.")
    return 0


def status(given: Namespace) -> int:
    """Say what runs, and where."""
    at = home()
    running = stack.status(at)
    if running is None:
        print(f"Nothing runs on {at.root}. Start it with `headway up`.")
        return 1
    print(_where(at, running))
    return 0


def doctor(given: Namespace) -> int:
    """Look at what usually goes wrong, say what does, and what to do about it."""
    from pipelines.alerting import alerts

    at = home()
    running = stack.status(at)
    if running is None:
        print(f"Nothing runs on {at.root}. Start it with `headway up --deploy`.")
        return 1
    api = Api(running.prefect_url, client_environment(at, running.prefect_url))
    planned = _planned(api)
    for name, runs in planned.items():
        print(f"{'ok   ' if runs else 'WRONG'} {name}: {runs} runs planned")
    missing = not all(planned.values())
    if missing:
        print(
            "A schedule without planned runs never fires. Deploy with `headway up --deploy`; if it stays, the "
            "environment is not the locked one (SQLAlchemy must be below 2.1): `make setup`."
        )
    failures = _failures(at)
    for told in failures[-5:]:
        print(f"failed {told['at'][:19]} {told['flow']} {told['parameters']}: {told['message']}")
    wrong = alerts.checkup(at, datetime.now(UTC))
    for line in wrong:
        print(line)
    if not missing and not failures and not wrong:
        print("Nothing is wrong.")
    return int(missing)


def _planned(api: Api) -> dict[str, int]:
    """Planned runs of each schedule; the server takes some seconds to plan for what was deployed just now."""
    deadline = time.monotonic() + PATIENCE
    while not all((planned := plan.planned(api, datetime.now(UTC))).values()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return planned


def deployments(given: Namespace) -> int:
    """List, write or check `prefect.yaml`."""
    if given.write:
        print(f"{plan.PATH.name} {'renewed' if plan.write() else 'was in step already'}.")
        return 0
    if given.check:
        in_step = plan.in_step()
        print(f"{plan.PATH.name} is {'' if in_step else 'not '}in step with the declarations.")
        if not in_step:
            print("Run `headway deployments --write`.")
        return int(not in_step)
    for entry in plan.declared()["deployments"]:
        print(f"{entry['name']:<32} {_when(entry)}")
    return 0


def _when(entry: dict[str, Any]) -> str:
    crons = [f"{schedule['cron']} ({schedule['timezone']})" for schedule in entry.get("schedules", ())]
    events = [f"on {event}" for trigger in entry.get("triggers", ()) for event in trigger["expect"]]
    return ", ".join(crons + events)


def _where(at: Home, running: stack.Running) -> str:
    pids = ", ".join(f"{name} {pid}" for name, pid in running.pids.items())
    return (
        f"Prefect   {running.prefect_url}   (its password is in {at.prefect / 'auth'})\n"
        f"service   {running.service_url}\n"
        f"logs      {at.logs}\n"
        f"processes supervisor {running.supervisor}, {pids}{'' if running.ready else '   (still starting)'}"
    )


def _failures(at: Home) -> list[dict[str, Any]]:
    path = at.logs / "failures.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
