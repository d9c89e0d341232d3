"""The room of OpenTelemetry: by HEADWAY_TRACES=http://127.0.0.1:4318 every request is a span, its steps are children.

The steps are marked while a request runs and told once it has been answered, so that a request waits for no span. A
caller's `traceparent` is honoured; OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and their like mean what they mean elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.exchange import Exchange

DISABLED = "OTEL_SDK_DISABLED"
"""Headway sets it for every process, so that no dependency's telemetry leaves it. Our own provider, which somebody
asked for, is made without it; the others stay as they are."""


class Traces:
    """Spans of one worker, sent in the background.

    Args:
        url: where an OTLP/HTTP receiver listens, like `http://127.0.0.1:4318`.
    """

    def __init__(self, url: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "headway"})
        with _enabled():
            self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces")))
        self._tracer = self._provider.get_tracer("headway")
        self._extract = TraceContextTextMapPropagator().extract
        self._server, self._error = SpanKind.SERVER, Status(StatusCode.ERROR)

    def tell(self, exchange: Exchange, model: str) -> None:
        """The span of a request that has been answered, and one for each step that was marked."""
        from opentelemetry.trace import set_span_in_context

        asked = {name: exchange.header(name.encode()) for name in ("traceparent", "tracestate")}
        shift = time.time_ns() - int(time.perf_counter() * 1e9)
        began = shift + int(exchange.began * 1e9)
        span = self._tracer.start_span(
            f"{exchange.scope['method']} {exchange.route}",
            context=self._extract(asked),
            kind=self._server,
            attributes=_attributes(exchange, model),
            start_time=began,
        )
        if not span.is_recording():  # the sampler, or the caller, does not want it
            return
        if exchange.status >= 500:
            span.set_status(self._error)
        inside, step_began = set_span_in_context(span), began
        for step, at in exchange.marks or ():
            step_ended = shift + int(at * 1e9)
            self._tracer.start_span(step, context=inside, start_time=step_began).end(step_ended)
            step_began = step_ended
        span.end(time.time_ns())

    def close(self) -> None:
        """Send what waits, and stop."""
        self._provider.shutdown()


def _attributes(exchange: Exchange, model: str) -> dict[str, Any]:
    """In the words of OpenTelemetry's conventions for HTTP where they have one. Nothing that a caller sent."""
    return {
        "http.request.method": exchange.scope["method"],
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "headway.request_id": exchange.request_id,
        **({"headway.model": model} if model else {}),
    }


@contextmanager
def _enabled() -> Iterator[None]:
    """OTEL_SDK_DISABLED is read when a provider is made, and only then."""
    was = os.environ.pop(DISABLED, None)
    try:
        yield
    finally:
        if was is not None:
            os.environ[DISABLED] = was
