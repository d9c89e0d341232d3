"""What a scrape is told: by a real app, parsed as Prometheus parses it; summed over real workers; to whom."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from pipelines.home import Home
from pipelines.nights.serving_health import health
from services.app import create_app
from tests.services import world
from tests.services.test_processes import PREDICT, UVICORN, serving, until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
TEMPLATE = "/v1/models/{model}/predict"


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(amount for (each, has), amount in found.items() if each == name and labels.items() <= dict(has).items())


def test_a_scrape_tells_of_requests_by_template_and_of_what_serves(client: TestClient) -> None:
    for _ in range(3):
        assert client.post(PREDICT, json=world.call(world.instance(), world.instance(tailnum="N999"))).is_success
    assert client.post(PREDICT, json={"instances": []}).status_code == 400
    assert client.post("/v1/models/SECRET/predict", json=world.call()).status_code == 404
    assert client.get("/v1/SECRET").status_code == 404
    assert client.get("/v1/models").is_success
    assert client.get("/v1/docs").is_success
    answer = client.get("/metrics")
    found = samples(answer.text)
    asked = {"route": TEMPLATE, "model": world.MODEL}
    assert value(found, "headway_requests_total", **asked, status="200") == 3
    assert value(found, "headway_requests_total", **asked, status="400") == 1
    assert value(found, "headway_requests_total", route=TEMPLATE, model="", status="404") == 1
    assert value(found, "headway_requests_total", route="none", model="", status="404") == 1
    assert value(found, "headway_requests_total", route="/v1/models", model="", status="200") == 1
    assert value(found, "headway_requests_total", route="/v1/docs", model="", status="200") == 1
    assert value(found, "headway_request_seconds_bucket", **asked, status="200", le="10.0") == 3
    assert value(found, "headway_request_seconds_bucket", **asked, status="200", le="0.00025") == 0
    assert value(found, "headway_predictions_total", model=world.MODEL, role="champion", version="1") == 6
    assert value(found, "headway_degraded_predictions_total", model=world.MODEL) == 3
    assert value(found, "headway_refusals_total", model=world.MODEL, code="invalid") == 1
    assert value(found, "headway_refusals_total", model="", code="overloaded") == 0
    assert value(found, "headway_log_commit_seconds_count") == 3
    assert value(found, "headway_log_failures_total") == 0
    assert value(found, "headway_swaps_total", model=world.MODEL, outcome="loaded") == 1
    assert value(found, "headway_model_version", model=world.MODEL) == 1
    assert value(found, "headway_model_workers", model=world.MODEL, version="1", generation="1") == 1
    assert (value(found, "headway_model_age_seconds", model=world.MODEL) or 0) > 86400
    assert value(found, "headway_workers") == 1
    assert value(found, "headway_in_flight") == 0
    assert (value(found, "headway_cpu_seconds_total") or 0) > 0
    assert "SECRET" not in answer.text


def test_openmetrics_is_spoken_to_those_that_ask_for_it(client: TestClient) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(answer.text)}
    assert {"headway_requests", "headway_request_seconds", "headway_workers"} <= names


def test_swaps_sheds_and_a_failing_log_are_seen(
    client: TestClient, root: Home, manifests: world.Manifests, capfd: pytest.CaptureFixture[str]
) -> None:
    tag = world.crowned(root, manifests[1], 2).tag
    until(lambda: client.post(PREDICT, json=world.call()).json()["version"] == 2, 20)
    pointer = root.pointers / f"{world.MODEL}.json"
    pointer.write_text(pointer.read_text().replace(tag, "no:such"))
    until(lambda: "refused" in client.get("/readyz").json()["models"][world.MODEL], 20)
    folder = root.room("predictions", "open")
    folder.rename(folder.with_name("away"))
    folder.write_text("")
    assert client.post(PREDICT, json=world.call()).status_code == 503
    assert value(samples(client.get("/metrics").text), "headway_log_failing") == 1
    folder.unlink()
    assert client.post(PREDICT, json=world.call()).is_success
    found = samples(client.get("/metrics").text)
    assert value(found, "headway_swaps_total", model=world.MODEL, outcome="swapped") == 1
    assert value(found, "headway_swaps_total", model=world.MODEL, outcome="refused") == 1
    assert value(found, "headway_log_failures_total") == 1
    assert value(found, "headway_log_failing") == 0
    assert value(found, "headway_refusals_total", model=world.MODEL, code="log_unavailable") == 1
    told = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [event for event in told if event.startswith("log_")] == ["log_failing", "log_recovered"]


def test_replayed_calls_are_in_the_figures_of_their_week(root: Home, manifests: world.Manifests) -> None:
    world.crowned(root, manifests[0], 1)
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        for day in ("2013-04-01", "2013-04-07", "2013-04-08"):
            body = world.call(world.instance(), world.instance()) | {"as_of": f"{day}T12:00:00Z"}
            assert client.post(PREDICT, json=body).is_success
    since = datetime(2013, 4, 1, tzinfo=UTC)
    found = health(root, world.MODEL, since, since + timedelta(days=7))
    assert found is not None
    assert (found.requests, found.answered, found.predictions, found.swaps) == (2, 2, 4, 0)
    assert found.p50_ms is not None
    assert found.p50_ms > 0
    assert (found.cpu_per_thousand or 0) > 0


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/v1/ready"])
def test_figures_and_health_are_for_this_machine(
    root: Home, manifests: world.Manifests, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.crowned(root, manifests[0], 1)
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as here:
        assert here.get(path).is_success
        assert here.get(path, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 404
    with TestClient(create_app(root), base_url="http://192.0.2.7:8000") as elsewhere:
        assert elsewhere.get(path).json()["error"]["code"] == "not_found"
    monkeypatch.setenv("HEADWAY_METRICS", "on")
    with TestClient(create_app(root), base_url="http://192.0.2.7:8000") as elsewhere:
        assert elsewhere.get(path).is_success


@pytest.mark.e2e
def test_any_worker_tells_the_sum_over_all_and_a_killed_one_stays_in_it(root: Home, manifests: world.Manifests) -> None:
    world.crowned(root, manifests[0], 1)
    # A connection for each request: whichever worker takes it.
    apart = httpx.Client(headers={"Connection": "close"})
    with serving(root, [*UVICORN[:-1], "--workers", "2", "--port"]) as (_, url), apart as client:

        def scrape() -> Samples:
            return samples(client.get(f"{url}/metrics").text)

        def predictions() -> float:
            return total(scrape(), "headway_predictions_total")

        def ask(times: int) -> None:
            for _ in range(times):
                assert client.post(f"{url}{PREDICT}", json=world.call()).is_success

        until(lambda: value(scrape(), "headway_workers") == 2, 60)
        seen = []
        for _ in range(15):
            ask(4)
            seen.append(predictions())
        assert seen == sorted(seen)
        until(lambda: predictions() == 60, 20)
        assert total(scrape(), "headway_requests_total", status="200", route=TEMPLATE) == 60
        assert total(scrape(), "headway_model_workers", version="1") == 2
        files = sorted((root.root / "serving" / "live").glob("*/*.json"))
        assert len(files) == 2
        os.kill(int(files[0].name.split("-")[0]), signal.SIGKILL)
        assert predictions() == 60
        ask(4)
        until(lambda: predictions() == 64, 20)
