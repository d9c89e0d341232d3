import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.home import Home
from pipelines.registry import package
from pipelines.registry.pointers import pointer_path
from services.app import create_app
from tests.services import world

PREDICT = f"/v1/models/{world.MODEL}/predict"


def until(true: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


def state(client: TestClient) -> dict[str, Any]:
    return client.get("/readyz").json()["models"].get(world.MODEL, {})


def asked(client: TestClient) -> dict[str, Any]:
    response = client.post(PREDICT, json=world.call())
    assert response.status_code == 200, response.text
    return response.json()


def test_the_first_champion_is_taken_in_without_a_restart(root: Home, manifests: world.Manifests) -> None:
    with TestClient(create_app(root), base_url="http://127.0.0.1") as client:
        assert client.get("/readyz").status_code == 200
        assert client.post(PREDICT, json=world.call()).status_code == 404
        world.crowned(root, manifests[0], 1)
        until(lambda: state(client))
        assert asked(client)["version"] == 1


def test_a_pointer_that_is_damaged_or_gone_changes_nothing(
    client: TestClient, root: Home, manifests: world.Manifests, capfd: pytest.CaptureFixture[str]
) -> None:
    before = asked(client)["predictions"]
    path = pointer_path(root.pointers, world.MODEL)
    good = path.read_bytes()
    for damage in (b"", good[:-20], b'{"model": "other"}', good.replace(world.MODEL.encode(), b"another_one")):
        path.write_bytes(damage)
        until(lambda: "refused" in state(client))
        assert asked(client)["predictions"] == before
        path.write_bytes(good)
        until(lambda: "refused" not in state(client))
    path.unlink()
    assert "is gone" in until(lambda: state(client).get("refused"))["why"]
    assert asked(client)["predictions"] == before
    world.crowned(root, manifests[1], 2)
    until(lambda: state(client).get("version") == 2)
    assert asked(client)["predictions"] != before
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert len([line for line in told if line["event"] == "refused"]) == 5
    assert [line["version"] for line in told if line["event"] == "swapped"][-1] == 2


@pytest.mark.parametrize("file", [package.ESTIMATOR, package.MANIFEST, package.REFERENCE])
def test_an_artefact_that_was_tampered_with_never_serves(
    client: TestClient, root: Home, manifests: world.Manifests, file: str
) -> None:
    before = asked(client)["predictions"]
    name, version = manifests[1].tag.split(":")
    path = root.bentoml / "models" / name / version / file
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"seed": 2', b'"seed": 9') if file == package.MANIFEST else good + b" ")
    assert path.read_bytes() != good
    world.crowned(root, manifests[1], 2)
    refused = until(lambda: state(client).get("refused"))
    assert "champion" in refused["why"]
    assert state(client)["version"] == 1
    assert asked(client)["predictions"] == before
    # The same version, mended and named again; and another one meanwhile.
    world.crowned(root, manifests[2], 3)
    until(lambda: state(client).get("version") == 3)
    path.write_bytes(good)
    world.crowned(root, manifests[1], 2, key="again")
    until(lambda: state(client).get("version") == 2)
    assert "refused" not in state(client)


def test_a_pointer_to_a_version_that_is_not_there_changes_nothing(client: TestClient, root: Home) -> None:
    before = asked(client)["predictions"]
    path = pointer_path(root.pointers, world.MODEL)
    pointer = json.loads(path.read_text())
    path.write_text(json.dumps(pointer | {"tag": f"{world.MODEL}:nowhere", "generation": 2}))
    assert "no version" in until(lambda: state(client).get("refused"))["why"]
    assert asked(client)["predictions"] == before


def test_a_pointer_whose_digest_is_not_the_versions_changes_nothing(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    path = pointer_path(root.pointers, world.MODEL)
    pointer = json.loads(path.read_text())
    path.write_text(json.dumps(pointer | {"tag": manifests[1].tag, "digest": manifests[2].digest, "generation": 2}))
    assert "is not the version" in until(lambda: state(client).get("refused"))["why"]
    assert asked(client)["version"] == 1
