"""BentoML's room for serving: `bentoml serve services.bento:Headway`, from the project root.

BentoML starts, supervises and stops the workers; each serves our own app, mounted at /. Its access log and metrics
are off: together they cost more than half of the throughput. Its own routes come before ours: /livez and /healthz (an
empty 200 while the worker lives), /readyz (asks our app through `__is_ready__`) and /schema.json. What our /readyz
tells is at /v1/ready too, and all that begins with /v1 is ours.

The same file is the entry of a bento, which brings a version for a root that has no champion yet.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from pipelines.home import home, settle
from services.seed import brought, seed
from services.settings import single_threaded, workers

single_threaded(os.environ)
settle(home())

import bentoml  # noqa: E402 - it reads BENTOML_HOME when it is imported

from services.app import create_app  # noqa: E402

if version := brought():
    seed(home(), version, lambda tag: Path(bentoml.models.get(tag).path), datetime.now(UTC))
app = create_app()


@bentoml.service(
    workers=workers(os.environ),
    http={"host": "127.0.0.1"},  # BentoML's own default is every address; --host and BENTOML_HOST go before this
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
@bentoml.asgi_app(app, path="/")
class Headway:
    """The prediction service. It has no API of BentoML's kind: all routes are our app's."""

    async def __is_ready__(self) -> bool:
        return bool(app.state.service.readiness()["ready"])
