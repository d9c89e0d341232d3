"""BentoML's room for serving: `bentoml serve services.bento:Headway`, from the project root.

BentoML starts, supervises and stops the workers; each serves our own app, mounted at /. Its own routes come before
ours: /livez and /healthz (an empty 200 while the worker lives), /readyz (asks our app through `__is_ready__`) and
/schema.json. What our /readyz tells is at /v1/ready too, and all that begins with /v1 is ours.

What it puts round a mounted app costs 282 us of CPU a request by default, and 14 as set up here: access log and
metrics off (91 us: we have our own), no spans for any URL (152: they are made and dropped even where nothing exports
them), and past its request context and routers (25). What is left is its time limit, which cannot be turned off.

The same file is the entry of a bento, which brings a version for a root that has no champion yet.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.home import home, settle
from services.seed import brought, seed
from services.settings import single_threaded, workers

SECONDS = 30
"""Until BentoML gives a request up. It keeps something of each for so long, answered or not: a minute's worth, its
default, is 180,000 at 3,000 requests/s. Our own limits on reading and sending are shorter."""

single_threaded(os.environ)
settle(home())

import bentoml  # noqa: E402 - it reads BENTOML_HOME when it is imported

from services.app import create_app  # noqa: E402

if version := brought():
    seed(home(), version, lambda tag: Path(bentoml.models.get(tag).path), datetime.now(UTC))
app = create_app()


class Straight:
    """What begins with /v1 goes straight to our app; the rest takes BentoML's way."""

    def __init__(self, app: ASGIApp) -> None:
        self._theirs = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        ours = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (app if ours else self._theirs)(scope, receive, send)


@bentoml.service(
    workers=workers(os.environ),
    http={"host": "127.0.0.1"},  # BentoML's own default is every address; --host and BENTOML_HOST go before this
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
    traffic={"timeout": SECONDS},
)
@bentoml.asgi_app(app, path="/")
class Headway:
    """The prediction service. It has no API of BentoML's kind: all routes are our app's."""

    async def __is_ready__(self) -> bool:
        return bool(app.state.service.readiness()["ready"])


Headway.add_asgi_middleware(Straight)  # type: ignore[attr-defined]  # it is a bentoml.Service by now
