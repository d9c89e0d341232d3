"""`prefect.yaml`, made from what is declared: which flow runs when, or on what event, for which model or domain.

The file is committed, and is what `prefect deploy --all` works on. `headway deployments --write` renews it after a
declaration was added or changed its schedule; `--check`, and a test, tell when that was forgotten.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

import features
import models
from features import Domain, HeadwayError
from models import Model
from pipelines.home import PROJECT
from pipelines.orchestration.orchestrator import POOL, RETRAIN, Api

PATH = PROJECT / "prefect.yaml"

WEEKLY = "0 7 * * 1"
"""Cron of the weekly page, in the model's time zone: there when the week begins."""

HEADER = """\
# What Prefect runs, and when. Made from the declarations by `headway deployments --write`: edit those, not this.
# Deploy it with `headway up --deploy`, or, with PREFECT_API_URL set, with `prefect deploy --all`.
"""


def declared() -> dict[str, Any]:
    """The content of `prefect.yaml` for the declared domains and models.

    Raises DeclarationError where a declaration cannot be loaded, HeadwayError for a cadence that no cron can say.
    """
    deployments = [_ingest(features.load(name)) for name in features.names()]
    for name in models.names():
        model = models.load(name)
        deployments += [_check(model), _retrain(model), _weekly(model)]
    return {"name": "headway", "deployments": deployments}


def render() -> str:
    """The text of `prefect.yaml`."""
    return HEADER + yaml.safe_dump(declared(), sort_keys=False, width=110)


def write(path: Path = PATH) -> bool:
    """Renew the file; True if that changed it."""
    if in_step(path):
        return False
    path.write_text(render())
    return True


def in_step(path: Path = PATH) -> bool:
    """Whether the file is what the declarations say."""
    return path.exists() and path.read_text() == render()


def deployed() -> list[dict[str, Any]]:
    """The deployments that the committed `prefect.yaml` lists."""
    return list(yaml.safe_load(PATH.read_text())["deployments"])


def planned(api: Api, now: datetime) -> dict[str, int]:
    """{deployment of `prefect.yaml` that has a schedule: how many runs the server plans for it after `now`}.

    One that was never deployed counts 0. With the wrong SQLAlchemy a server takes crons and never plans a run, in
    silence: this is what tells.
    """
    future = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"after_": now.astimezone(UTC).isoformat()},
    }
    names = [entry["name"] for entry in deployed() if "schedules" in entry]
    return {
        name: api.post("/flow_runs/count", {"flow_runs": future, "deployments": {"name": {"any_": [name]}}})
        for name in names
    }


def ticks(cadence: timedelta) -> list[str]:
    """Crons, in UTC, that together fire at every tick of a cadence that divides a day.

    Raises HeadwayError for a cadence that is no whole number of minutes.
    """
    step = cadence.total_seconds() / 60
    if step < 1 or step % 1:
        raise HeadwayError(f"No cron can fire every {cadence}: declare a cadence in whole minutes.")
    hours: dict[int, list[int]] = {}
    for minute in range(0, 24 * 60, int(step)):
        hours.setdefault(minute % 60, []).append(minute // 60)
    return [f"{minute} {_hours(fires)} * * *" for minute, fires in sorted(hours.items())]


def _hours(fires: list[int]) -> str:
    return "*" if len(fires) == 24 else ",".join(str(hour) for hour in fires)


def _ingest(domain: Domain) -> dict[str, Any]:
    crons = ticks(domain.cadence)
    return {
        **_deployment("ingest", "domain", domain.name, "Take in what arrived and let serving see it."),
        "schedules": [_cron(cron, "UTC", f"tick-{number}") for number, cron in enumerate(crons)],
        # Every window has to be taken in, so a run that comes too early waits for the one before it.
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
    }


def _check(model: Model) -> dict[str, Any]:
    return {
        **_deployment("check", "model", model.name, "Is it still right, and if not, why?"),
        "schedules": [_cron(model.schedule, model.timezone, "nightly")],
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
    }


def _retrain(model: Model) -> dict[str, Any]:
    return {
        **_deployment("retrain", "model", model.name, "Train a challenger when a stored verdict asks for it."),
        # A second request while one runs says nothing new: the ledger is read when a run begins.
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
        "triggers": [
            {
                "type": "event",
                "name": f"headway: a verdict asks to retrain {model.name}",
                "posture": "Reactive",
                "expect": [RETRAIN],
                "match": {"prefect.resource.id": f"model.{model.name}"},
                "for_each": ["prefect.resource.id"],
                "threshold": 1,
                "within": 1,
            }
        ],
    }


def _weekly(model: Model) -> dict[str, Any]:
    return {
        **_deployment("weekly", "model", model.name, "Write the weekly page."),
        "schedules": [_cron(WEEKLY, model.timezone, "weekly")],
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
    }


def _deployment(flow: str, parameter: str, name: str, description: str) -> dict[str, Any]:
    return {
        "name": f"{flow}-{name}",
        "description": description,
        "entrypoint": f"pipelines/orchestration/flows.py:{flow}_flow",
        "parameters": {parameter: name},
        "work_pool": {"name": POOL},
    }


def _cron(cron: str, timezone: str, slug: str) -> dict[str, Any]:
    return {"slug": slug, "cron": cron, "timezone": timezone, "active": True}
