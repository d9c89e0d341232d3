"""Traces and alarms, told to real receivers on loopback: what they are given, and what they never are."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from features import HeadwayError
from pipelines.home import Home
from services.app import create_app
from services.settings import Settings
from tests.services import world
from tests.services.test_processes import PREDICT

Received = list[tuple[str, bytes]]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def receiver() -> Iterator[tuple[str, Received]]:
    """A receiver on loopback: where it listens, and what it was sent, unpacked."""
    received: Received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def spans(received: Received) -> list[Any]:
    found = []
    for path, body in received:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        found += [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
    return found


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def test_a_request_is_a_span_with_its_steps_below_its_callers(
    root: Home, manifests: world.Manifests, receiver: tuple[str, Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.crowned(root, manifests[0], 1)
    monkeypatch.setenv("HEADWAY_TRACES", f"http://{receiver[0]}")
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        assert os.environ["OTEL_SDK_DISABLED"] == "true"  # for everybody but us
        good = client.post(PREDICT, json=world.call(), headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert client.post(PREDICT, json={"instances": [{"origin": "SECRET"}]}).status_code == 400
        client.post(PREDICT, json=world.call(), headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    found = spans(receiver[1])
    traced, refused = (span for span in found if span.kind == span.SPAN_KIND_SERVER)  # the third was not sampled
    assert (traced.trace_id.hex(), traced.parent_span_id.hex()) == (TRACE, PARENT)
    assert traced.name == "POST /v1/models/{model}/predict"
    assert attributes(traced) == {
        "http.request.method": "POST", "http.route": "/v1/models/{model}/predict", "http.response.status_code": 200,
        "headway.model": world.MODEL, "headway.request_id": good.json()["request_id"],
    }  # fmt: skip
    assert refused.trace_id.hex() != TRACE
    assert attributes(refused)["http.response.status_code"] == 400
    steps = [span for span in found if span.parent_span_id == traced.span_id]
    assert {"read", "parse", "lookup", "score", "log"} <= {span.name for span in steps}
    for before, after in pairwise(steps):
        assert traced.start_time_unix_nano <= before.end_time_unix_nano == after.start_time_unix_nano
        assert after.start_time_unix_nano <= after.end_time_unix_nano <= traced.end_time_unix_nano
    assert b"SECRET" not in b"".join(body for _, body in receiver[1])


def test_a_receiver_that_is_gone_costs_no_answer(
    root: Home, manifests: world.Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.crowned(root, manifests[0], 1)
    monkeypatch.setenv("HEADWAY_TRACES", "http://127.0.0.1:9")
    monkeypatch.setenv("HEADWAY_SENTRY_DSN", "http://key@127.0.0.1:9/1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        assert client.post(PREDICT, json=world.call()).is_success


def test_unexpected_errors_are_told_without_message_input_or_variables(
    root: Home, manifests: world.Manifests, receiver: tuple[str, Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.crowned(root, manifests[0], 1)
    monkeypatch.setenv("HEADWAY_SENTRY_DSN", f"http://public@{receiver[0]}/42")

    def broken(*_: object) -> None:
        secret = "SEC" + "RET"  # in two, since lines of the source are told
        raise KeyError(secret)

    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        assert client.post(PREDICT, json={"instances": []}).status_code == 400
        served = client.app.state.service.endpoint.champions.served[world.MODEL]  # type: ignore[attr-defined]
        monkeypatch.setattr(type(served.lookup), "find", broken)
        answer = client.post(PREDICT, json=world.call(world.instance(tailnum="SECRET")), headers={"X-A": "SECRET"})
        assert answer.status_code == 500
        assert client.post(PREDICT, json=world.call()).status_code == 500  # told with the first
    ((path, body),) = receiver[1]
    assert path == "/api/42/envelope/"
    assert b"SECRET" not in body
    event = next(item for item in map(json.loads, body.splitlines()) if "exception" in item)
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "KeyError"
    assert exception["stacktrace"]["frames"][-1]["function"] == "broken"
    assert event["tags"]["request_id"] == answer.json()["request_id"]
    assert event["tags"]["model"] == world.MODEL
    assert not {"request", "user", "breadcrumbs", "modules"} & {key for key, said in event.items() if said}


@pytest.mark.parametrize(
    ("name", "package"),
    [("HEADWAY_TRACES", "opentelemetry.exporter.otlp.proto.http"), ("HEADWAY_SENTRY_DSN", "sentry_sdk")],
)
def test_a_setting_whose_package_is_missing_says_what_to_install(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(HeadwayError, match=rf"{name} needs .*observe"):
        Settings.read({name: "http://key@127.0.0.1:4318/1"})
    with pytest.raises(HeadwayError, match=f"{name} is not an address"):
        Settings.read({name: "127.0.0.1:4318"})
    assert Settings.read({}) == Settings()


def test_off_it_is_not_even_imported() -> None:

    code = "import sys, services.app; print([n for n in ('opentelemetry.sdk', 'sentry_sdk') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
