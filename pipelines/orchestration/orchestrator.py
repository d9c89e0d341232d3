"""Prefect's server as the rest of the platform sees it: its settings, its password, its REST calls, its set-up.

Nothing here imports Prefect (3 s): the command line and the supervisor speak to it over HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx

from features import HeadwayError
from pipelines.children import MARK
from pipelines.files import secret
from pipelines.home import PROJECT, Home, environment

POOL = "headway"
"""The work pool that the worker polls and `prefect.yaml` names."""

RETRAIN = "headway.verdict.retrain"
"""The event that says: the ledger has a verdict that asks for retraining."""

PATIENCE = 60
"""Seconds that the server may take for an answer: under load a call was seen to take more than 30."""

_PREFECT = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
# Without it a run that was killed with its worker stays Running for ever and holds its deployment's only slot.
_ZOMBIES: dict[str, Any] = {
    "name": "headway: fail runs whose heartbeat stopped",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "after": ["prefect.flow-run.heartbeat"],
        "expect": [
            "prefect.flow-run.heartbeat",
            *(f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")),
        ],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": 120,
    },
    "actions": [
        {"type": "change-flow-run-state", "state": "CRASHED", "message": "Its heartbeat stopped: it was killed."}
    ],
}


def client_environment(at: Home, prefect_url: str) -> dict[str, str]:
    """What a process needs in its environment to talk to the Prefect server of this root."""
    auth = auth_string(at)
    return {
        **environment(at),
        **_PREFECT,
        MARK: str(at.root),
        "PREFECT_API_URL": f"{prefect_url}/api",
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PYTHONPATH": python_path(os.environ),
    }


def auth_string(at: Home) -> str:
    """The Prefect server's `user:password`, made on first use and kept in a file of mode 0600."""
    return secret(at.prefect / "auth", "headway:")


class Api:
    """Prefect's REST API at `url`, with the password that `environ` carries."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        user, _, password = environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
        self._url, self._auth = url, (user, password)

    def post(self, path: str, body: Any) -> Any:
        """POST a JSON body; returns the JSON that comes back, or an empty list for "not found" or "there already".

        Raises HeadwayError when the server refuses, or is not there.
        """
        try:
            answer = httpx.post(f"{self._url}/api{path}", json=body, auth=self._auth, timeout=PATIENCE)
        except httpx.HTTPError as error:
            raise HeadwayError(f"No Prefect server answers at {self._url} ({error}). See `headway status`.") from None
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
            return []
        if answer.is_error:
            raise HeadwayError(f"Prefect refused {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def install(self) -> None:
        """Make the work pool, and the automation that fails a run whose process and worker are gone."""
        self.post("/work_pools/", {"name": POOL, "type": "process"})
        if not self.post("/automations/filter", {"automations": {"name": {"any_": [_ZOMBIES["name"]]}}}):
            self.post("/automations/", _ZOMBIES)


def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200 within two seconds."""
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def python_path(base: Mapping[str, str]) -> str:
    """PYTHONPATH with the checkout in front: deployed flows and the service are found there."""
    return os.pathsep.join(filter(None, [str(PROJECT), base.get("PYTHONPATH", "")]))
