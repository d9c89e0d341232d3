"""The archive: Evidently's report of every week, kept in a workspace that its own UI lists and draws.

Evidently's secret guards writing only: whoever reaches its port can read. Here the whole application is behind a
password, since loopback is open to every user of the machine; to write, Evidently's secret is asked for on top.
Importing this module takes seconds, so callers import it where they need it.
"""

from __future__ import annotations

import base64
import hmac
import json
import uuid
from collections.abc import MutableMapping
from datetime import date
from pathlib import Path
from typing import Any

import uvicorn
from evidently.core.report import Snapshot
from evidently.legacy.utils import NumpyEncoder
from evidently.sdk.models import ProjectModel
from evidently.ui.service.app import create_app, get_config
from evidently.ui.workspace import Workspace
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"
"""Evidently's pages draw with what this server has, and ask no other host for a map or a font."""


def keep(snapshot: Snapshot, folder: Path, model: str, day: date) -> Path:
    """Put the report of the week that ended on `day` into the workspace `folder`; the same week again replaces it.

    The file appears whole: it is written beside the workspace, and a UI that runs lists it at once.

    Returns:
        The report's file.
    """
    workspace, project = Workspace(str(folder)), _project(model)
    if workspace.get_project(project) is None:
        workspace.add_project(ProjectModel(id=project, name=model))
    path = _reports(folder, model) / f"{_identity(model, day)}.json"
    path.parent.mkdir(exist_ok=True)
    half = folder.with_name(f"{path.name}.half")
    half.write_text(json.dumps(snapshot.to_snapshot_model().dict(), cls=NumpyEncoder), encoding="utf-8")
    return half.replace(path)


def prune(folder: Path, model: str, before: date) -> list[date]:
    """Remove the model's reports of weeks that ended before a day; return their last days, oldest first."""
    kept = {_day(path): path for path in sorted(_reports(folder, model).glob("*-0000-4000-8000-*.json"))}
    old = [day for day in kept if day < before]
    for day in old:
        kept[day].unlink()
    return old


def application(folder: Path, auth: str) -> ASGIApp:
    """Evidently's UI of the workspace, for those who know `auth`, `user:password`, and for nobody else.

    What writes also has to send the password as the header `evidently-secret`, which no foreign page can make a
    browser do.
    """
    return _guarded(create_app(get_config(workspace=str(folder), secret=auth.partition(":")[2])), auth)


def serve(folder: Path, auth: str, port: int) -> None:
    """Run the UI on loopback until it is interrupted."""
    uvicorn.run(application(folder, auth), host="127.0.0.1", port=port, log_level="warning")


def _guarded(app: ASGIApp, auth: str) -> ASGIApp:
    expected = b"Basic " + base64.b64encode(auth.encode())

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        known = scope["type"] == "lifespan" or _said(scope, expected)
        challenge = {"WWW-Authenticate": 'Basic realm="Headway archive"'}
        guarded = app if known else PlainTextResponse("The archive asks for its password.\n", 401, challenge)
        await guarded(scope, receive, closed)

    return answer


def _said(scope: Scope, expected: bytes) -> bool:
    said = dict(scope["headers"]).get(b"authorization", b"")
    return scope["type"] == "http" and hmac.compare_digest(said, expected)


def _reports(folder: Path, model: str) -> Path:
    return folder / str(_project(model)) / "snapshots"


def _project(model: str) -> uuid.UUID:
    """The same for a model on every machine."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"headway:{model}")


def _identity(model: str, day: date) -> uuid.UUID:
    """Evidently names files by UUID only: this one begins with the day, so that age is read off the name."""
    return uuid.UUID(f"{day:%Y%m%d}-0000-4000-8000-{_project(model).hex[-12:]}")


def _day(path: Path) -> date:
    return date.fromisoformat(path.stem[:8])
