"""Outcomes at the endpoint: strict, durable before they are answered, and dated by the server."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from features import HeadwayError
from pipelines.home import Home
from services import keys
from services.app import create_app
from services.kinds import kind
from services.log import records
from services.outcomes import Outcome, OutcomeSchema
from services.refusals import Refused
from tests.services import world

URL = f"/v1/models/{world.MODEL}/outcomes"
PREDICT = f"/v1/models/{world.MODEL}/predict"
SCHEMA = OutcomeSchema("m", kind("binary"), {"city": "str", "number": "int", "class": "str"}, clock=False)
VALUES = OutcomeSchema("m", kind("regression"), {"city": "str"}, clock=True)
ENTITY = {"city": "x", "number": 1, "class": None, "decision_time": "2013-04-01T02:00:00+02:00"}


def logged(at: Home) -> list[dict[str, Any]]:
    return [record for path in sorted(at.room("outcomes", "open").glob("*.jsonl")) for record in records(path)]


def body(*outcomes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"outcomes": list(outcomes), **more}


def parsed(schema: OutcomeSchema, *outcomes: dict[str, Any]) -> list[dict[str, Any]]:
    return schema.parse(msgspec.json.encode(body(*outcomes))).outcomes


def complaint(schema: OutcomeSchema, sent: bytes | dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        schema.parse(sent if isinstance(sent, bytes) else msgspec.json.encode(sent))
    assert caught.value.status == 400
    return caught.value.complaint.path, caught.value.complaint.message


def test_an_outcome_names_its_prediction_in_one_of_three_ways() -> None:
    assert parsed(
        SCHEMA, {"request_id": "r", "instance": 2, "label": True}, {"request_id": "r", "label": 0.0},
        {"example_id": "e", "label": 1}, {**ENTITY, "label": False},
    ) == [
        {"request_id": "r", "instance": 2, "label": 1.0},
        {"request_id": "r", "instance": 0, "label": 0.0},
        {"example_id": "e", "label": 1.0},
        {"decision_time": "2013-04-01T00:00:00.000000Z", "keys": {"city": "x", "number": 1, "class": None}, "label": 0},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "path", "message"),
    [
        ({"label": 1}, "outcomes[0]", "request_id (and instance), or example_id, or city, number, class and decision"),
        ({"request_id": "r"}, "outcomes[0].label", "missing required field"),
        ({"request_id": "r", "label": 2}, "outcomes[0].label", "Expected 0, 1, true or false"),
        ({"request_id": "r", "label": 0.5}, "outcomes[0].label", "Expected 0, 1, true or false"),
        ({"request_id": "r", "label": "1"}, "outcomes[0].label", "got `str`"),
        ({"request_id": "r", "label": None}, "outcomes[0].label", "got `null`"),
        ({"request_id": "", "label": 1}, "outcomes[0].request_id", "length >= 1"),
        ({"request_id": "r", "instance": -1, "label": 1}, "outcomes[0].instance", ">= 0"),
        ({"request_id": "r", "instance": 1000, "label": 1}, "outcomes[0].instance", "<= 999"),
        ({"request_id": "r", "instance": 1.5, "label": 1}, "outcomes[0].instance", "Expected `int`"),
        ({"request_id": "r", "label": 1, "unknown": 1}, "outcomes[0].unknown", "unknown field"),
        ({"request_id": "r", "example_id": "e", "label": 1}, "outcomes[0].example_id", "name it in one way"),
        ({"example_id": "e", "instance": 1, "label": 1}, "outcomes[0].instance", "name it in one way"),
        ({"instance": 1, "label": 1}, "outcomes[0].instance", "name it in one way"),
        ({**ENTITY, "request_id": "r", "label": 1}, "outcomes[0].city", "name it in one way"),
        ({"city": "x", "number": 1, "class": "c", "label": 1}, "outcomes[0].decision_time", "missing"),
        ({"decision_time": "2013-04-01T00:00:00Z", "label": 1}, "outcomes[0].city", "missing"),
        ({**ENTITY, "number": "1", "label": 1}, "outcomes[0].number", "got `str`"),
        ({**ENTITY, "decision_time": "2013-04-01T00:00:00", "label": 1}, "outcomes[0].decision_time", "timezone"),
        ({**ENTITY, "decision_time": "0013-04-01T00:00:00Z", "label": 1}, "outcomes[0].decision_time", ""),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(outcome: dict[str, Any], path: str, message: str) -> None:
    where, what = complaint(SCHEMA, body(outcome))
    assert where == path and message in what


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        (b'{"outcomes": []}', "outcomes"),
        (b"{}", "outcomes"),
        (b"[]", "$"),
        (b'{"outcomes": [{"example_id": "e", "label": NaN}]}', "outcomes[0].label"),
        (b'{"outcomes": [{"example_id": "e", "label": 1, "label": 0}]}', "outcomes[0].label"),
        (b'{"outcomes": [{"example_id": "e", "label": 1}], "as_of": "2013-04-01T00:00:00Z"}', "as_of"),
        (b'{"outcomes": [{"example_id": "e", "label": 1}', "$"),
        (msgspec.json.encode(body(*[{"example_id": "e", "label": 1}] * 1001)), "outcomes"),
    ],
)
def test_a_body_that_is_none_is_refused(sent: bytes, path: str) -> None:
    assert complaint(SCHEMA, sent)[0] == path


def test_the_value_of_a_regression_is_a_finite_number() -> None:
    assert [each["label"] for each in parsed(VALUES, *({"example_id": "e", "label": x} for x in (3, -2.5, 0)))] == [
        3.0, -2.5, 0.0,
    ]  # fmt: skip
    assert complaint(VALUES, body({"example_id": "e", "label": True}))[0] == "outcomes[0].label"
    for number in (b"1e999", b"-1e999", b"Infinity"):
        assert complaint(VALUES, b'{"outcomes": [{"example_id": "e", "label": %s}]}' % number)[0] == "outcomes[0].label"


def test_a_key_that_is_called_like_another_field_is_told() -> None:
    with pytest.raises(HeadwayError, match="an entity key cannot be called label"):
        OutcomeSchema("m", kind("binary"), {"label": "str"}, clock=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
some_outcome = st.dictionaries(
    st.sampled_from(["request_id", "instance", "example_id", "label", *ENTITY]),
    st.sampled_from(["r", 0, 1, True, None, 2.5, ENTITY["decision_time"]]) | json_values,
    max_size=7,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(some_outcome | json_values, min_size=1, max_size=3))
def test_whatever_is_sent_it_is_taken_whole_or_refused_by_a_path(outcomes: list[Any]) -> None:
    sent_body = msgspec.json.encode({"outcomes": outcomes})
    try:
        told = SCHEMA.parse(sent_body).outcomes
    except Refused:
        assert complaint(SCHEMA, sent_body)[0]
        return
    for sent, kept in zip(outcomes, told, strict=True):
        assert kept["label"] in (0.0, 1.0) and kept["label"] == sent["label"]
        Outcome("call", 0, "m", "2013-04-01T00:00:00.000000Z", **kept)
        assert sum(name in kept for name in ("request_id", "example_id", "decision_time")) == 1


def test_an_outcome_is_on_disk_before_it_is_answered(root: Home, client: TestClient) -> None:
    predicted = client.post(PREDICT, json=world.call()).json()["request_id"]
    at = {name: value for name, value in world.instance().items() if name in world.ENTITIES}
    outcomes = (
        {"request_id": predicted, "instance": 0, "label": 1},
        {"example_id": "e1", "label": False},
        {**at, "decision_time": world.NOW.isoformat(), "label": 0.0},
    )
    answer = client.post(URL, json=body(*outcomes, as_of=(world.NOW + timedelta(hours=5)).isoformat()))
    told = answer.headers["x-request-id"]
    assert (answer.status_code, answer.json()) == (
        202, {"model": world.MODEL, "request_id": told, "accepted": 3},
    )  # fmt: skip
    found = logged(root)
    assert [(each["call"], each["number"], each["label"]) for each in found] == [
        (told, 0, 1.0), (told, 1, 0.0), (told, 2, 0.0),
    ]  # fmt: skip
    assert {each["known_at"] for each in found} == {"2013-04-01T17:00:00.000000Z"}
    assert (found[0]["request_id"], found[0]["instance"], found[1]["example_id"]) == (predicted, 0, "e1")
    assert (found[2]["keys"], found[2]["decision_time"]) == (at, "2013-04-01T12:00:00.000000Z")


@pytest.fixture
def live(root: Home, manifests: world.Manifests, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The app by its own clock, with keys."""
    world.crowned(root, manifests[0], 1)
    monkeypatch.setenv("HEADWAY_CLOCK", "server")
    monkeypatch.setenv("HEADWAY_KEYS", "on")
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        yield client


def test_it_is_known_from_when_the_server_heard_of_it_and_only_keys_of_the_model_may_tell(
    root: Home, live: TestClient
) -> None:
    good, other = (keys.make(root.keys, name, models=only) for name, only in (("a", None), ("b", ["another"])))
    sent = body({"example_id": "e", "label": 1})

    def status(secret: str, **more: Any) -> int:
        headers = {"Authorization": f"Bearer {secret}"}
        return live.post(more.pop("url", URL), **{"json": sent, **more}, headers=headers).status_code

    before = datetime.now(UTC)
    assert status(good) == 202
    after = datetime.now(UTC)
    assert status("wrong") == 401
    assert status(other) == 403
    assert status(good, url=URL.replace(world.MODEL, "nobody")) == 404
    assert status(good, json={**sent, "as_of": "2013-04-01T00:00:00Z"}) == 400
    assert status(good, json=None, content=b" " * 2**21) == 413
    assert status(good, json=None, content=msgspec.json.encode(sent)) == 415
    assert live.get(URL).status_code == 405
    (found,) = logged(root)
    assert before <= datetime.fromisoformat(found["known_at"]) <= after


def test_a_full_disk_is_a_503_and_the_service_recovers(root: Home, client: TestClient) -> None:
    sent = body({"example_id": "e", "label": 1})
    assert client.post(URL, json=sent).status_code == 202
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        refused = client.post(URL, json=sent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    ready = client.get("/readyz").json()
    assert (ready["log"], "OSError" in ready["outcome_log"]) == ("ok", True)
    assert "headway_log_failing 1.0" in client.get("/metrics").text
    accepted = client.post(URL, json=sent)
    assert accepted.status_code == 202
    assert client.get("/readyz").json()["outcome_log"] == "ok"
    assert "headway_log_failing 0.0" in client.get("/metrics").text
    assert [each["call"] for each in logged(root)][1:] == [accepted.json()["request_id"]]
