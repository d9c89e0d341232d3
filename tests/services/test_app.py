import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

import features
from features import HeadwayError
from pipelines.home import Home
from pipelines.registry import package
from pipelines.store import feature_store
from pipelines.store.matrix import filled, matrix
from services import keys
from services.app import Service, create_app
from services.log import records
from services.refusals import ErrorBody
from tests.services import world

PREDICT = f"/v1/models/{world.MODEL}/predict"
TABLES = features.load(world.DOMAIN).tables_of(world.SERVICE)
MICRO = timedelta(microseconds=1)


def service(client: TestClient) -> Service:
    assert isinstance(client.app, Starlette)
    return client.app.state.service


def logged(at: Home) -> list[dict[str, Any]]:
    return [record for path in sorted(at.room("predictions", "open").glob("*.jsonl")) for record in records(path)]


def refused(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    body = msgspec.json.decode(response.content, type=ErrorBody)
    assert body.error.code == code
    assert body.request_id == response.headers["x-request-id"]
    return body.error.path


MOMENTS = [
    world.NOW,
    world.VISIBLE_AT,
    world.VISIBLE_AT - MICRO,
    *(world.VISIBLE_AT + table.ttl + extra for table in TABLES for extra in (timedelta(0), MICRO)),
]


@pytest.mark.parametrize("moment", sorted(set(MOMENTS)), ids=lambda moment: moment.strftime("%d-%H:%M:%S.%f"))
def test_answers_are_those_of_the_training_path(
    client: TestClient, root: Home, manifests: world.Manifests, moment: datetime
) -> None:
    rows = world.examples().assign(decision_time=pd.Series([moment] * 12).dt.as_unit("us"))
    manifest = manifests[0]
    offline = feature_store.point_in_time(root, world.SERVICE, rows)
    expected = matrix({f.name: offline[f.name].tolist() for f in manifest.features}, manifest.features)
    asked = rows.drop(columns="decision_time").astype(object).where(rows.notna(), None).to_dict("records")
    instances = [row | {"scheduled_departure": row["scheduled_departure"].isoformat()} for row in asked]
    response = client.post(PREDICT, json={"instances": instances, "as_of": moment.isoformat()})
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    version = package.load(root, manifest.tag)
    assert version.fast is not None
    assert [answer["prediction"] for answer in answers] == version.score(filled(expected, manifest.features)).tolist()
    assert [answer["prediction"] for answer in answers] == pytest.approx(version.predict(expected), rel=0, abs=1e-9)
    looked_up = [f.name for table in TABLES for f in table.features]
    missing = offline[looked_up].isna()
    gaps = [[gap["feature"] for gap in answer["degraded"]] for answer in answers]
    assert gaps == [list(row.index[row]) for _, row in missing.iterrows()]
    given_ = pd.DataFrame([record["features"] for record in logged(root)])[list(expected)]
    pd.testing.assert_frame_equal(given_, expected, check_exact=True, check_dtype=False)


def test_an_answer_says_what_made_it_and_is_in_the_log_before(client: TestClient, root: Home) -> None:
    response = client.post(PREDICT, json=world.call(world.instance(example_id="mine"), world.instance(tailnum=None)))
    answer = response.json()
    assert answer["model"] == world.MODEL
    assert (answer["version"], answer["generation"]) == (1, 1)
    assert response.headers["x-request-id"] == answer["request_id"]
    assert (response.headers["x-model-version"], response.headers["x-model-generation"]) == ("1", "1")
    first, second = answer["predictions"]
    assert first["probability"] == first["prediction"]
    assert first["label"] is (first["prediction"] >= 0.5)
    assert first["degraded"] == []
    names = ["previous_delay", "previous_3_delay", "age_years", "seats"]
    assert second["degraded"] == [{"feature": name, "why": "missing", "stood_in": None} for name in names]
    one, two = logged(root)
    assert (one["request_id"], one["instance"], one["example_id"]) == (answer["request_id"], 0, "mine")
    assert one["decision_time"] == "2013-04-01T12:00:00.000000Z"
    assert one["keys"] == {"origin": "EWR", "carrier": "UA", "dest": "ATL", "tailnum": "N1"}
    assert one["inputs"] == {"scheduled_departure": "2013-04-01T14:00:00.000000Z", "distance": 746}
    assert two["features"]["seats"] is None
    assert two["degraded"] == names
    assert [record["prediction"] for record in (one, two)] == [first["prediction"], second["prediction"]]


def test_without_the_requests_clock_it_is_now(
    root: Home, manifests: world.Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADWAY_CLOCK")
    world.crowned(root, manifests[0], 1)
    with TestClient(create_app(root), base_url="http://127.0.0.1") as client:
        assert refused(client.post(PREDICT, json=world.call()), 400, "invalid") == "as_of"
        before = datetime.now(UTC)
        response = client.post(PREDICT, json={"instances": [world.instance()]})
        assert len(response.json()["predictions"][0]["degraded"]) == sum(len(table.features) for table in TABLES)
        assert before <= datetime.fromisoformat(logged(root)[0]["decision_time"]) <= datetime.now(UTC)


def test_many_instances_are_answered_in_order(client: TestClient) -> None:
    several = [world.instance(distance=100 + number, origin="JFK" if number % 2 else "EWR") for number in range(300)]
    answers = client.post(PREDICT, json=world.call(*several)).json()["predictions"]
    alone = [client.post(PREDICT, json=world.call(one)).json()["predictions"][0] for one in several[:6]]
    assert answers[:6] == alone


def test_bad_bodies_name_their_field_and_leave_no_trace(
    client: TestClient, root: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = world.call(world.instance(), world.instance(tailnum=["SECRET"]))
    assert refused(client.post(PREDICT, json=bad), 400, "invalid") == "instances[1].tailnum"
    bad = world.call(world.instance(origin="SECRET"))
    assert refused(client.post(PREDICT, json=bad), 400, "invalid") == "instances[0].origin"
    bad = world.call(world.instance(distance=9))
    assert refused(client.post(PREDICT, json=bad), 400, "invalid") == "instances[0].distance"
    assert logged(root) == []
    said = capfd.readouterr().err
    assert "SECRET" not in said
    assert "Traceback" not in said
    lines = [json.loads(line) for line in said.splitlines() if '"request"' in line]
    # The first of a kind has a line of its own; how many more there were is told in one.
    assert [(line["status"], line["code"]) for line in lines] == [(400, "invalid")]
    assert all(len(line["request_id"]) == 32 for line in lines)


def test_other_refusals(client: TestClient) -> None:
    good = json.dumps(world.call())
    typed = {"content-type": "application/json; charset=utf-8"}
    assert client.post(PREDICT, content=good, headers=typed).status_code == 200
    refused(client.post(PREDICT, content=good, headers={"content-type": "text/plain"}), 415, "not_json")
    refused(client.post(PREDICT, content=good), 415, "not_json")
    refused(client.post(PREDICT, content=b" " * 2**20 + good.encode(), headers=typed), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 2**12

    refused(client.post(PREDICT, content=chunks(), headers=typed), 413, "too_large")
    response = client.post("/v1/models/nonesuch/predict", content=good, headers=typed)
    refused(response, 404, "unknown_model")
    assert f"Served are: {world.MODEL}" in response.json()["error"]["message"]
    refused(client.get(PREDICT), 405, "wrong_method")
    refused(client.get("/v1/nothing"), 404, "not_found")


def test_keys_open_the_door(root: Home, manifests: world.Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    world.crowned(root, manifests[0], 1)
    monkeypatch.setenv("HEADWAY_KEYS", "on")
    with TestClient(create_app(root), base_url="http://127.0.0.1") as client:
        ask = world.call()
        refused(client.post(PREDICT, json=ask), 401, "no_key")
        refused(client.get("/v1/models"), 401, "no_key")
        secret, other = keys.make(root.keys, "app"), keys.make(root.keys, "other", models=["else"])
        assert client.post(PREDICT, json=ask, headers={"Authorization": f"Bearer {secret}"}).status_code == 200
        assert client.post(PREDICT, json=ask, headers={"X-API-Key": secret}).status_code == 200
        refused(client.post(PREDICT, json=ask, headers={"X-API-Key": secret[:-1]}), 401, "no_key")
        refused(client.post(PREDICT, json=ask, headers={"X-API-Key": other}), 403, "wrong_key")
        keys.revoke(root.keys, "app")
        refused(client.post(PREDICT, json=ask, headers={"X-API-Key": secret}), 401, "no_key")
        root.keys.write_text("[")
        refused(client.post(PREDICT, json=ask, headers={"X-API-Key": other}), 503, "keys_unreadable")


def test_keys_are_off_on_loopback_only(root: Home, manifests: world.Manifests) -> None:
    world.crowned(root, manifests[0], 1)
    with TestClient(create_app(root), base_url="http://10.0.0.1") as client:
        refused(client.post(PREDICT, json=world.call()), 401, "no_key")


def test_past_its_bound_it_sheds(client: TestClient) -> None:
    endpoint = service(client).endpoint
    endpoint.in_flight = 256
    response = client.post(PREDICT, json=world.call())
    refused(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"
    endpoint.in_flight = 0
    assert client.post(PREDICT, json=world.call()).status_code == 200
    assert endpoint.in_flight == 0
    assert client.get("/readyz").json()["shed"] == 1


def test_what_cannot_be_logged_is_not_answered_until_it_can(client: TestClient, root: Home) -> None:
    folder = root.room("predictions", "open")
    assert client.post(PREDICT, json=world.call()).status_code == 200
    shutil.rmtree(folder)
    folder.write_text("in the way")
    response = client.post(PREDICT, json=world.call())
    refused(response, 503, "log_unavailable")
    assert response.headers["retry-after"] == "1"
    assert client.get("/readyz").json()["log"] != "ok"
    folder.unlink()
    assert client.post(PREDICT, json=world.call()).status_code == 200
    assert client.get("/readyz").json()["log"] == "ok"
    assert len(logged(root)) == 1


def test_without_the_online_store_it_asks_to_come_back(client: TestClient, root: Home) -> None:
    with sqlite3.connect(root.feast / "online.db") as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = next(name for name in tables if name.endswith("aircraft"))
        store.execute(f'ALTER TABLE "{table}" RENAME TO away')
    response = client.post(PREDICT, json=world.call())
    refused(response, 503, "lookup_failed")
    assert response.headers["retry-after"] == "1"
    with sqlite3.connect(root.feast / "online.db") as store:
        store.execute(f'ALTER TABLE away RENAME TO "{table}"')
    assert client.post(PREDICT, json=world.call()).status_code == 200


@dataclasses.dataclass
class Broken:
    """An estimator gone wrong."""

    value: float

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full((len(frame), 2), self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_its_own_output_is_checked(client: TestClient, root: Home, value: float) -> None:
    champions = service(client).endpoint.champions
    good = champions.served[world.MODEL]
    broken = dataclasses.replace(good, packaged=dataclasses.replace(good.packaged, estimator=Broken(value), fast=None))
    champions.served = {world.MODEL: broken}
    refused(client.post(PREDICT, json=world.call()), 500, "bad_output")
    champions.served = {world.MODEL: good}
    assert client.post(PREDICT, json=world.call()).status_code == 200
    assert len(logged(root)) == 1


def test_what_breaks_inside_says_so_without_the_input(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    champions = service(client).endpoint.champions
    good = champions.served[world.MODEL]
    champions.served = {
        world.MODEL: dataclasses.replace(good, packaged=dataclasses.replace(good.packaged, estimator=None, fast=None))
    }
    refused(client.post(PREDICT, json=world.call(world.instance(tailnum="SECRET"))), 500, "internal")
    said = capfd.readouterr().err
    assert "SECRET" not in said
    assert json.loads(said.splitlines()[-1])["error"] == "AttributeError"


def test_the_catalogue(client: TestClient) -> None:
    listed = client.get("/v1/models").json()["models"]
    assert [(model["model"], model["version"]) for model in listed] == [(world.MODEL, 1)]
    one = client.get(f"/v1/models/{world.MODEL}").json()
    assert one["trained_as_of"] == "2013-03-01T00:00:00+00:00"
    assert "LateArrivalRequest" in one["request"]["$defs"]
    assert one["promoted_by"] == listed[0]["promoted_by"] == "test"
    refused(client.get("/v1/models/nonesuch"), 404, "unknown_model")
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["models"][world.MODEL]["generation"] == 1
    assert client.get("/healthz").json() == {"status": "alive"}


def test_the_document_is_whole_and_its_page_needs_nobody(client: TestClient) -> None:
    document = client.get("/v1/openapi.json").json()
    text = json.dumps(document)
    for reference in [part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]]:
        assert reference in document["components"]["schemas"]
    schema = document["components"]["schemas"]["LateArrivalInstance"]
    assert schema["properties"]["distance"] == {"type": "integer", "minimum": 10, "maximum": 6000}
    assert schema["additionalProperties"] is False
    page = client.get("/v1/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "LateArrivalRequest" in page.text
    for outside in ("http://", "https://", " src=", "@import"):
        assert outside not in page.text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.fixed_dictionaries({name: st.just(value) | anything for name, value in world.instance().items()})
plausible = st.fixed_dictionaries(
    {
        "origin": st.sampled_from(["EWR", "JFK"]),
        "dest": st.from_regex(r"\A[A-Z]{3}\Z") | st.none(),
        "carrier": st.text(),
        "tailnum": st.text() | st.none(),
        "scheduled_departure": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        "distance": st.integers(0, 10_000),
    }
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(anything, st.fixed_dictionaries({"instances": st.lists(fields | plausible, min_size=1, max_size=3)})))
def test_whatever_json_comes_nothing_breaks(client: TestClient, value: Any) -> None:
    raw = json.dumps(value)
    response = client.post(PREDICT, content=raw, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)
    answer = json.loads(response.content)
    if response.status_code == 200:
        assert all(0 <= one["prediction"] <= 1 for one in answer["predictions"])
    else:
        assert answer["error"]["path"]


def test_it_does_not_start_with_thread_pools(root: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(HeadwayError, match="OMP_NUM_THREADS=1 bentoml serve"):
        create_app(root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HEADWAY_CLOCK", "yesterday")
    with pytest.raises(HeadwayError, match="server, request"):
        create_app(root)


def test_importing_the_app_is_light() -> None:
    import subprocess
    import sys

    heavy = (
        "import services.app, sys; print(sorted({'numpy', 'pandas', 'feast', 'sklearn', 'bentoml'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", heavy], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
