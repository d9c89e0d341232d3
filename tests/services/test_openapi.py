"""The document is exact: a client made from it works, every answer is as it says, and its examples are taken."""

from __future__ import annotations

import dataclasses
import html
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from starlette.testclient import TestClient

from pipelines.home import Home, settle
from services import keys
from services.app import create_app
from services.example import matching
from tests.services import world

PREDICT = "/v1/models/{}/predict"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MODELS = (world.VALUED, world.MODEL)


@pytest.fixture
def app(both: tuple[Path, str], home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Both models, keys on."""
    monkeypatch.setenv("HEADWAY_HOME", str(both[0]))
    monkeypatch.setenv("HEADWAY_CLOCK", "request")
    monkeypatch.delenv("HEADWAY_KEYS", raising=False)
    settle(Home(both[0]))
    headers = {"Authorization": f"Bearer {both[1]}"}
    with TestClient(create_app(Home(both[0])), base_url="http://127.0.0.1:8000", headers=headers) as client:
        yield client


def resolved(document: dict[str, Any], part: Any) -> Any:
    """The part that a reference is to."""
    while isinstance(part, dict) and "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def fits(document: dict[str, Any], path: str, response: Any) -> None:
    """Assert that a response is one that the document has for the path: status, headers, body."""
    method = response.request.method.lower()
    told = document["paths"][path][method]["responses"][str(response.status_code)]
    for name, header in told["headers"].items():
        schema = resolved(document, header)["schema"]
        value = response.headers[name]
        jsonschema.validate(int(value) if schema["type"] == "integer" else value, schema)
    schema = {**told["content"]["application/json"]["schema"], "components": document["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(response.json())


def test_every_answer_is_as_the_document_says(app: TestClient, both: tuple[Path, str]) -> None:
    document = app.get("/v1/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for model in MODELS:
        path = PREDICT.format(model)
        response = app.post(path, json=world.call(world.instance(), world.instance(tailnum=None)))
        assert response.status_code == 200, response.text
        fits(document, path, response)
        fits(document, "/v1/models/{model}", app.get(f"/v1/models/{model}"))
    assert "low" in response.json()["predictions"][0] or model == world.MODEL
    fits(document, "/v1/models", app.get("/v1/models"))
    path, scoped = PREDICT.format(world.MODEL), keys.make(Home(both[0]).keys, "scoped", ["other"])
    refusals = [
        app.post(path, json={}),
        app.post(path, json={}, headers={"Authorization": "Bearer x"}),
        app.post(path, json={}, headers={"Authorization": f"Bearer {scoped}"}),
        app.post(path, content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"}),
        app.post(path, content=b"{}"),
    ]
    keys.revoke(Home(both[0]).keys, "scoped")
    assert [response.status_code for response in refusals] == [400, 401, 403, 413, 415]
    for response in refusals:
        fits(document, path, response)
    missing = app.get("/v1/models/nonesuch")
    assert missing.status_code == 404
    fits(document, "/v1/models/{model}", missing)


def test_a_shed_call_and_one_too_many_are_as_the_document_says(app: TestClient, both: tuple[Path, str]) -> None:
    from services.rates import parse

    document, path = app.get("/v1/openapi.json").json(), PREDICT.format(world.MODEL)
    slow = keys.make(Home(both[0]).keys, "slow", rate=parse("1/min"))
    asked = [app.post(path, json=world.call(), headers={"Authorization": f"Bearer {slow}"}) for _ in range(3)]
    keys.revoke(Home(both[0]).keys, "slow")
    app.app.state.service.endpoint.in_flight = 10**6  # type: ignore[attr-defined]
    asked.append(app.post(path, json=world.call()))
    assert [response.status_code for response in asked] == [200, 429, 429, 503]
    for response in asked:
        fits(document, path, response)
    assert 55 <= int(asked[1].headers["retry-after"]) <= 60


@dataclasses.dataclass
class Broken:
    """An estimator gone wrong."""

    value: float

    def predict(self, frame: Any) -> np.ndarray:
        return np.full(len(frame), self.value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_value_that_cannot_be_is_a_fault_that_pages_and_never_an_answer(
    app: TestClient, value: float, capfd: pytest.CaptureFixture[str]
) -> None:
    champions, path = app.app.state.service.endpoint.champions, PREDICT.format(world.VALUED)  # type: ignore[attr-defined]
    good = champions.served[world.VALUED]
    packaged = dataclasses.replace(good.packaged, estimator=Broken(value), fast=None)
    champions.served = {**champions.served, world.VALUED: dataclasses.replace(good, packaged=packaged)}
    response = app.post(path, json=world.call())
    assert (response.status_code, response.json()["error"]["code"]) == (500, "bad_output")
    fits(app.get("/v1/openapi.json").json(), path, response)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "bad_output" in line]
    assert [(line["level"], line["status"], line["request_id"]) for line in lines] == [
        ("error", 500, response.json()["request_id"])
    ]
    assert app.post(PREDICT.format(world.MODEL), json=world.call()).status_code == 200


def test_a_key_sees_the_models_that_it_opens(app: TestClient, both: tuple[Path, str]) -> None:
    scoped = {"X-API-Key": keys.make(Home(both[0]).keys, "narrow", [world.VALUED]), "Authorization": ""}
    listed = app.get("/v1/models", headers=scoped).json()["models"]
    assert [model["model"] for model in listed] == [world.VALUED]
    assert app.get(f"/v1/models/{world.VALUED}", headers=scoped).status_code == 200
    for model in (world.MODEL, "nonesuch"):
        refused = app.get(f"/v1/models/{model}", headers=scoped)
        assert refused.status_code == 403
        assert world.MODEL not in refused.text
    keys.revoke(Home(both[0]).keys, "narrow")
    assert app.get("/v1/models", headers=scoped).status_code == 401


def test_the_schema_that_a_model_tells_is_the_one_it_checks_by(app: TestClient) -> None:
    schema = app.get(f"/v1/models/{world.MODEL}").json()["request"]
    jsonschema.validate(world.call(), schema)
    for wrong in (world.call(world.instance(distance=9)), world.call(world.instance(more=1)), {"instances": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_its_examples_are_taken(app: TestClient) -> None:
    document = app.get("/v1/openapi.json").json()
    for model in MODELS:
        content = document["paths"][PREDICT.format(model)]["post"]["requestBody"]["content"]["application/json"]
        assert app.post(PREDICT.format(model), json=content["example"]).status_code == 200
    assert document["paths"]["/v1/models/{model}"]["get"]["parameters"][0]["examples"].keys() == set(MODELS)


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{3}$",
        r"^N[0-9A-Z]{1,5}$",
        r"^\d{4}-\d\d$",
        "^(ab|c)+$",
        "^[^A-Z0-9]{2,3}$",
        "x?y*",
        r"^(\d)x\1$",
        "(?i)-id$",
        "^$",
    ],
)
def test_a_text_is_found_for_the_patterns_of_the_field(pattern: str) -> None:
    assert re.search(pattern, matching(pattern))


@pytest.mark.parametrize("pattern", ["^(?=.*b$)a", "a^", "A{101}"])
def test_where_no_text_is_found_none_is_shown(pattern: str) -> None:
    with pytest.raises(ValueError, match="no text"):
        matching(pattern)


def test_a_client_made_from_the_document_works(app: TestClient, tmp_path: Path) -> None:
    package = generated(app.get("/v1/openapi.json").json(), tmp_path)
    client = package.AuthenticatedClient("http://127.0.0.1:8000", token="unused")
    client.set_httpx_client(app)  # its calls go to the app, with the app's key
    models, api = importlib.import_module("made.models"), "made.api.predictions"
    for model, name in zip(MODELS, ("ArrivalDelay", "LateArrival"), strict=True):
        body = getattr(models, f"{name}Request").from_dict(world.call(world.instance(example_id="mine")))
        answer = importlib.import_module(f"{api}.predict_{model}").sync(client=client, body=body)
        assert isinstance(answer, getattr(models, f"{name}Answer"))
        assert (answer.model, answer.version, len(answer.predictions)) == (model, 1, 1)
        one = answer.predictions[0]
        assert isinstance(one.prediction, float)
        assert one.degraded == []
        assert one.low < one.prediction < one.high if model == world.VALUED else one.label is (one.probability >= 0.5)
    body.instances[0].tailnum = None
    one = importlib.import_module(f"{api}.predict_{model}").sync(client=client, body=body).predictions[0]
    assert {gap.feature for gap in one.degraded} == {"previous_delay", "previous_3_delay", "age_years", "seats"}
    body.instances[0].distance = 1
    refused = importlib.import_module(f"{api}.predict_{model}").sync_detailed(client=client, body=body)
    assert (refused.status_code, refused.parsed.error.path) == (400, "instances[0].distance")
    listed = importlib.import_module("made.api.models.list_models").sync(client=client)
    assert [one.model for one in listed.models] == list(MODELS)
    details = importlib.import_module("made.api.models.get_model").sync(client=client, model=world.VALUED)
    assert (details.task.value, details.interval, details.promoted_by) == ("regression", 0.9, "test")
    unknown = importlib.import_module("made.api.models.get_model").sync(client=client, model="nonesuch")
    assert f"Served are: {', '.join(MODELS)}" in unknown.error.message


def generated(document: dict[str, Any], folder: Path) -> Any:
    """The package that openapi-python-client makes of a document, imported."""
    from openapi_python_client import generate
    from openapi_python_client.config import Config, ConfigFile, MetaType

    source = folder / "openapi.json"
    source.write_text(json.dumps(document))
    settings = ConfigFile(post_hooks=[], package_name_override="made")
    config = Config.from_sources(settings, MetaType.NONE, source, "utf-8", overwrite=True, output_path=folder / "made")
    errors = generate(config=config)
    assert not errors, errors
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("made")
    finally:
        sys.path.remove(str(folder))


def test_the_document_needs_no_key_and_says_nothing_that_does(app: TestClient) -> None:
    open_ = httpx.Headers({"Authorization": ""})
    text = app.get("/v1/openapi.json", headers=open_).text
    assert "version" in text
    assert '"promoted_by":"' not in text
    assert "2013-03-01" not in text


PHONE = """<iframe id="f" style="width:390px;height:800px;border:0" srcdoc="FRAME"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = event => {
  const page = event.target.contentDocument;
  document.getElementById("out").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("main > *, dl *")].filter(e => e.getBoundingClientRect().right > 390.5).length,
    calls: [...page.querySelectorAll("main > pre")].map(e => e.textContent),
    titles: [...page.querySelectorAll("h2")].map(e => e.textContent),
  });
};</script>"""
"""A page in a frame as wide as a phone, and what a browser finds in it."""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found")
def test_a_real_browser_draws_the_page_offline_and_its_calls_can_be_copied(app: TestClient, tmp_path: Path) -> None:
    text = app.get("/v1/docs").text
    for outside in ("src=", "@import", " url(", "http://", "https://"):
        assert outside not in text
    (tmp_path / "phone.html").write_text(PHONE.replace("FRAME", html.escape(text)))
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--proxy-server=127.0.0.1:9"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"),
        (tmp_path / "phone.html").as_uri(),
    ]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="out">(.*?)</pre>', drawn, re.DOTALL)
    assert found
    said = json.loads(html.unescape(found[1]))
    assert (said["width"], said["wide"]) == (390, 0)
    paths = app.get("/v1/openapi.json").json()["paths"]
    assert said["titles"] == [*(f"{m.upper()}{path}" for path, methods in paths.items() for m in methods), "Refusals"]
    assert len(said["calls"]) == len(paths)
    for call in said["calls"]:
        words = shlex.split(call.replace("\\\n", ""))
        assert words[:2] == ["curl", "--fail-with-body"]
        assert "Authorization: Bearer $HEADWAY_API_KEY" in words
        path = words[2]  # the frame has no address of its own to put before it
        if "-d" in words:
            typed = {"Content-Type": words[words.index("-d") - 1].removeprefix("Content-Type: ")}
            assert app.post(path, content=words[words.index("-d") + 1], headers=typed).status_code in (200, 202)
        else:
            assert app.get(path).status_code == 200
