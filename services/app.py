"""The service as an ASGI app: `uvicorn --factory services.app:create_app`, or mounted in BentoML (`services.bento`).

Importing this is light. Models, Feast and scikit-learn are imported when the worker starts up, and only if its
environment keeps the numeric libraries to one thread.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pipelines.home import Home, home, settle
from services import catalogue
from services.answers import iso
from services.docs import Documentation
from services.endpoint import Endpoint
from services.exchange import Exchange
from services.figure_files import Now, Version
from services.figures import Figures
from services.keys import KeyRing, unasked
from services.log import DurableLog
from services.observer import COUNTED, Observer, Others
from services.outcomes import Outcomes
from services.refusals import Complaint, ErrorBody
from services.report import report
from services.settings import Settings, single_threaded
from services.shadow import Keeper

SWEEP_AFTER = 20_000
"""New objects until the garbage collector looks at them. A call makes about 100, and nearly all are gone by then."""
PREDICT = "/v1/models/{model}/predict"
OUTCOMES = "/v1/models/{model}/outcomes"
PREDICT_PATH = re.compile("/v1/models/([^/]+)/predict")


def create_app(at: Home | None = None) -> App:
    """The service over the root `at` (default: the one that HEADWAY_HOME names).

    Raises HeadwayError for settings that are not valid, and unless the numeric libraries are kept to one thread.
    """
    single_threaded(os.environ)
    root = at or home()
    settle(root)
    return App(Service(root, Settings.read(os.environ)))


class App(Starlette):
    """The routes. Predictions go past Starlette's router and middlewares: they cost more than the rest of the path."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            routes=[
                _route("POST", PREDICT, service, service.predict),
                _route("POST", OUTCOMES, service, service.outcomes),
                _route("GET", "/v1/models", service, service.models),
                _route("GET", "/v1/models/{model}", service, service.model),
                Route("/v1/openapi.json", service.document),
                Route("/v1/docs", service.docs),
                Route("/v1/ready", service.private(service.readyz)),
                Route("/healthz", service.private(service.healthz)),
                Route("/readyz", service.private(service.readyz)),
                Route("/metrics", service.private(service.metrics)),
            ],
            middleware=[Middleware(Others, figures=lambda: service.endpoint.observer.figures)],
            lifespan=service.lifespan,
            exception_handlers={HTTPException: _not_here},
        )
        self.state.service = service
        self._predict = Guarded(PREDICT, service, service.predict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asks = scope["type"] == "http" and scope["method"] == "POST"
        if asks and (found := PREDICT_PATH.fullmatch(scope["path"])):
            scope["path_params"] = {"model": found[1]}
            await self._predict(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@dataclass(frozen=True)
class Guarded:
    """A route that counts as work, asks for a key and refuses in one shape: an ASGI app round one of the handlers."""

    route: str
    service: Service
    answer: Callable[[Exchange], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        scope[COUNTED] = True
        await self.service.endpoint.guard(Exchange(self.route, scope, receive, send), self.answer)


class Service:
    """The routes, and what they share while the worker lives."""

    def __init__(self, at: Home, settings: Settings) -> None:
        self._at, self._settings = at, settings
        self._documentation = Documentation()
        self._endpoint: Endpoint | None = None
        self._outcomes: Outcomes | None = None

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Load the champions, then follow their pointers until the worker ends."""
        from services.swap import Champions

        replayed = self._settings.request_clock
        worker = f"{os.getpid()}-{os.urandom(6).hex()}"
        figures = Figures(self._at, worker, None if replayed else _now, self.state)
        champions = Champions(self._at, request_clock=replayed, now=_now, told=figures.swapped)
        log = DurableLog(self._at.room("predictions", "open"), worker=worker, committed=figures.committed)
        observer = Observer(figures, self._settings, lambda: champions.served)
        self._endpoint = Endpoint(champions, log, KeyRing(self._at.keys), self._settings, _now, observer)
        told = DurableLog(self._at.room("outcomes", "open"), worker=worker)
        self._outcomes = Outcomes(self._endpoint, told, _now)
        await asyncio.gather(log.start(), told.start())
        await champions.refresh()
        watching = [asyncio.create_task(each.watch()) for each in (champions, figures)]
        shadow = Keeper(self._at)
        watching.append(asyncio.create_task(shadow.watch(lambda: champions.challengers.shadowed)))
        report("started", worker=worker, home=str(self._at.root), settings=self._settings.shown())
        try:
            with _unswept():
                yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await asyncio.to_thread(shadow.stop)
            self._endpoint.close()
            await asyncio.gather(log.stop(), told.stop())
            await figures.write(last=True)
            observer.close()
            report("stopped", worker=worker)

    @property
    def endpoint(self) -> Endpoint:
        """The hot path; there once the app has started up."""
        assert self._endpoint is not None, "the app has not been started up: its lifespan did not run"
        return self._endpoint

    @property
    def told(self) -> Outcomes:
        """Who takes outcomes; there once the app has started up."""
        assert self._outcomes is not None, "the app has not been started up: its lifespan did not run"
        return self._outcomes

    async def predict(self, exchange: Exchange) -> None:
        """POST /v1/models/{model}/predict."""
        await self.endpoint.predict(exchange)

    async def outcomes(self, exchange: Exchange) -> None:
        """POST /v1/models/{model}/outcomes."""
        await self.told.take(exchange)

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models: what is served, as far as the key opens it."""
        key = self.endpoint.authorize(exchange, None)
        served = self.endpoint.champions.served
        listed = [catalogue.summary(served[name]) for name in sorted(served) if key is None or key.opens(name)]
        await exchange.answer(msgspec.json.encode({"models": listed}))

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{model}: one model and the request it takes."""
        model = exchange.params["model"]
        self.endpoint.authorize(exchange, model)
        details = msgspec.to_builtins(catalogue.details(self.endpoint.find(model)))
        await exchange.answer(msgspec.json.encode({**details, "trials": self._trials(model)}))

    async def document(self, _: Request) -> Response:
        """GET /v1/openapi.json."""
        return Response(self._documentation.of(self.endpoint.champions.served)[0], media_type="application/json")

    async def docs(self, _: Request) -> Response:
        """GET /v1/docs: the same, for people."""
        return HTMLResponse(self._documentation.of(self.endpoint.champions.served)[1])

    async def healthz(self, _: Request) -> Response:
        """GET /healthz: the worker is alive."""
        return _json({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        """GET /readyz: 200, or 503 when there are champions and none could be loaded; and what was refused."""
        readiness = self.readiness()
        return _json(readiness, 200 if readiness["ready"] else 503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics: what all workers of the service counted, for Prometheus."""
        from services.metrics import exposition
        from services.shadow import progress

        workers = await self.endpoint.observer.figures.workers()
        found = {model: progress(self._at, model) for model in self.endpoint.champions.served}
        shadows = {model: shadow for model, shadow in found.items() if shadow}
        body, content_type = exposition(workers, shadows, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    def private(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`answer`, for this machine only unless the settings let others in; to them it is not there."""

        async def answer_here(request: Request) -> Response:
            server = (request.scope.get("server") or ("", 0))[0]
            if not self._settings.metrics and not unasked(server, dict(request.scope["headers"])):
                raise HTTPException(404)
            return await answer(request)

        return answer_here

    def state(self) -> Now:
        """How the worker is at the moment."""
        manifests = ((served.pointer, served.packaged.manifest) for served in self.endpoint.champions.served.values())
        versions = [Version(p.model, p.version, p.generation, m.trained_as_of) for p, m in manifests]
        failing = bool(self.endpoint.log.failure or self.told.failure)
        return Now(self.endpoint.in_flight, failing, versions)

    def _trials(self, model: str) -> dict[str, Any]:
        from services.trial import shown

        return shown(self._at, self.endpoint.champions.challengers, model)

    def readiness(self) -> dict[str, Any]:
        """Each model with what serves and since when, its last refusal, each log's last failure, and the load."""
        champions = self.endpoint.champions
        models: dict[str, dict[str, Any]] = {
            name: {
                "version": served.pointer.version,
                "generation": served.pointer.generation,
                "served_since": iso(served.since),
            }
            for name, served in champions.served.items()
        }
        for name in models:
            models[name] |= {"trials": trials} if (trials := self._trials(name)) else {}
        for name, refused in champions.refusals.items():
            models.setdefault(name, {})["refused"] = {"at": iso(refused.at), "why": refused.why}
        return {
            "ready": bool(champions.served) or not champions.refusals,
            "models": models,
            "log": self.endpoint.log.failure or "ok",
            "outcome_log": self.told.failure or "ok",
            "in_flight": self.endpoint.in_flight,
            "shed": self.endpoint.shed,
        }


def _route(method: str, path: str, service: Service, answer: Callable[[Exchange], Awaitable[None]]) -> Route:
    return Route(path, Guarded(path, service, answer), methods=[method])


@contextmanager
def _unswept() -> Iterator[None]:
    """Keep the garbage collector off what is there for good: a full sweep of it was seen to stop a worker for 0.6 s."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(SWEEP_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _not_here(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: "There is nothing here. See /v1/docs",
        405: "Not with this method. See /v1/docs",
    }.get(error.status_code, error.detail)
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
    request_id = os.urandom(16).hex()
    body = msgspec.json.encode(ErrorBody(Complaint(code, message), request_id))
    headers = {"X-Request-Id": request_id, **(error.headers or {})}
    return Response(body, error.status_code, headers, "application/json")


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _now() -> datetime:
    return datetime.now(UTC)
