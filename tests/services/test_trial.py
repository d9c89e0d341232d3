"""Canaries in a real worker: who answers whom, what is said and logged of it, and what becomes of a bad one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import models
from features import HeadwayError
from monitoring.profile import Reference
from pipelines.home import Home
from pipelines.nights import night
from pipelines.registry import package, trials
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Trials, trials_path
from services.app import create_app
from services.log import records
from services.trial import check_request, place
from tests.services import world

PREDICT = f"/v1/models/{world.MODEL}/predict"
MANY = [world.instance(tailnum=f"N{number}", carrier="UA") for number in range(60)]


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


def registered(root: Home, manifests: world.Manifests) -> Ledger:
    """The versions in the ledger, as training leaves them there."""
    ledger = Ledger(root.ledger_url)
    for version, manifest in enumerate(manifests, start=1):
        body = {"version": version, "tag": manifest.tag, "digest": manifest.digest, "passed": True}
        ledger.append("version", world.MODEL, as_of=world.NOW, body=body, actor="test", key=f"version {version}")
    return ledger


def tried(root: Home, kind: Any, version: int, key: str = "", **more: Any) -> Trials:
    return trials.start(
        Ledger(root.ledger_url), root.pointers, kind=kind, model=world.MODEL, version=version, as_of=world.NOW,
        actor="test", why="test", key=key or f"{kind} {version}", **more,
    )  # fmt: skip


def ended(root: Home, kind: Any, key: str = "end") -> None:
    trials.end(
        Ledger(root.ledger_url), root.pointers, kind=kind, model=world.MODEL, as_of=world.NOW, actor="test",
        why="test", key=key,
    )  # fmt: skip


def ready(client: TestClient) -> dict[str, Any]:
    return client.get("/v1/ready").json()["models"][world.MODEL]


def asked(client: TestClient, *instances: dict[str, Any]) -> dict[str, Any]:
    response = client.post(PREDICT, json=world.call(*instances))
    assert response.status_code == 200, response.text
    assert response.headers["x-model-version"] == str(response.json()["version"])
    return response.json()


def versions_of(client: TestClient, instances: list[dict[str, Any]]) -> list[int]:
    return [asked(client, one)["version"] for one in instances]


def logged(root: Home) -> list[dict[str, Any]]:
    return [record for path in root.room("predictions", "open").glob("*.jsonl") for record in records(path)]


def loaded(client: TestClient, version: int = 2) -> None:
    challengers = client.app.state.service.endpoint.champions.challengers  # type: ignore[attr-defined]
    until(
        lambda: (
            (trial := challengers.running.get(world.MODEL)) and trial.canary and trial.trials.canary.version == version
        )
    )


@given(share=st.floats(0.02, 0.98), salt=st.text(max_size=8), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_share_is_that_share_of_entities(share: float, salt: str, seed: int) -> None:
    places = np.array([place(("late", salt), [f"N{seed + number}", "UA", None]) for number in range(2000)])
    # Four standard deviations of a binomial share of 2000.
    assert abs((places < share).mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000)
    assert ((places >= 0) & (places < 1)).all()


@given(keys=st.lists(st.none() | st.text(max_size=5) | st.integers(-(2**53), 2**53), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_entity_keeps_its_place_and_two_versions_draw_apart(keys: list[Any]) -> None:
    assert place(("late", "a"), keys) == place(("late", "a"), list(keys))
    assert len({place(salt, keys) for salt in (("late", "a"), ("late", "b"), ("early", "a"))}) == 3


def test_two_trials_do_not_pick_the_same_entities() -> None:
    one, two = (np.array([place(("late", salt), [n]) < 0.3 for n in range(4000)]) for salt in ("digest a", "digest b"))
    assert abs((one & two).mean() - 0.09) < 0.02


def test_a_canary_answers_its_entities_and_nobody_elses(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    alone = [asked(client, one)["predictions"] for one in MANY]
    tried(root, "canary", 2, share=0.3)
    loaded(client)
    answers = [asked(client, one) for one in MANY]
    served = [answer["version"] for answer in answers]
    assert set(served) == {1, 2}
    assert 8 <= served.count(2) <= 30
    assert versions_of(client, MANY) == served
    # Each answer is of the version that it names, and the champion's are as without the canary.
    assert all((a["predictions"] == before) == (a["version"] == 1) for a, before in zip(answers, alone, strict=True))
    roles = {(record["version"], record["role"]) for record in logged(root)}
    assert roles == {(1, "champion"), (2, "canary")}
    # A larger share keeps those that it had.
    tried(root, "canary", 2, share=0.6, key="wider")
    until(lambda: ready(client)["trials"]["canary"]["share"] == 0.6)
    wider = versions_of(client, MANY)
    assert all(after == 2 for before, after in zip(served, wider, strict=True) if before == 2)
    assert wider.count(2) > served.count(2)
    # All instances of a call are answered by who answers the first.
    for first in (served.index(1), served.index(2)):
        call = asked(client, MANY[first], *MANY[:20])
        assert call["version"] == wider[first]
        assert len(call["predictions"]) == 21
    page = client.get(f"/v1/models/{world.MODEL}").json()
    assert page["trials"] == {
        "canary": {"version": 2, "since": "2013-04-01T12:00:00.000000+00:00", "share": 0.6, "failed": 0}
    }
    ended(root, "canary")
    until(lambda: "trials" not in ready(client))
    assert versions_of(client, MANY) == [1] * len(MANY)


def test_a_canary_that_is_promoted_is_champion_to_all(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    tried(root, "canary", 2, share=0.5)
    loaded(client)
    world.crowned(root, manifests[1], 2)
    until(lambda: ready(client)["version"] == 2)
    until(lambda: "trials" not in ready(client))
    assert versions_of(client, MANY[:10]) == [2] * 10
    assert {record["role"] for record in logged(root)} == {"champion"}


@dataclasses.dataclass
class Bad:
    """An artefact whose predictions cannot be."""

    good: Any
    value: float | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.good, name)

    def score(self, columns: dict[str, list[Any]]) -> np.ndarray:
        if self.value is None:
            raise ZeroDivisionError
        return np.full(len(next(iter(columns.values()))), self.value)


@pytest.mark.parametrize(("value", "why"), [(float("nan"), "Refused"), (7.0, "Refused"), (None, "ZeroDivisionError")])
def test_what_a_canary_cannot_answer_the_champion_does(
    client: TestClient, root: Home, manifests: world.Manifests, value: float | None, why: str
) -> None:
    registered(root, manifests)
    tried(root, "canary", 2, share=0.5)
    loaded(client)
    challengers = client.app.state.service.endpoint.champions.challengers  # type: ignore[attr-defined]
    trial = challengers.running[world.MODEL]
    served = dataclasses.replace(trial.canary.served, packaged=Bad(trial.canary.served.packaged, value))
    bad = dataclasses.replace(trial, canary=dataclasses.replace(trial.canary, served=served))
    meant = [trial.canary.takes(served.schema.parse(json.dumps(world.call(one)).encode())) for one in MANY]
    challengers.running = {world.MODEL: bad}
    assert versions_of(client, MANY) == [1] * len(MANY)
    canary = ready(client)["trials"]["canary"]
    assert (canary["failed"], canary["why"]) == (sum(meant), why)
    said = client.get("/metrics").text
    assert f'headway_canary_failures_total{{model="{world.MODEL}"}} {float(sum(meant))}' in said
    assert sum(meant) > 10
    assert [record["role"] for record in logged(root)] == ["champion"] * len(MANY)
    # What nobody can answer is not counted against it.
    assert client.post(PREDICT, json=world.call(world.instance(distance=-1))).status_code == 400
    assert ready(client)["trials"]["canary"]["failed"] == sum(meant)


@pytest.mark.parametrize("file", [package.ESTIMATOR, package.MANIFEST])
def test_a_canary_that_was_tampered_with_answers_nobody(
    client: TestClient, root: Home, manifests: world.Manifests, file: str
) -> None:
    registered(root, manifests)
    name, version = manifests[1].tag.split(":")
    path = root.bentoml / "models" / name / version / file
    path.write_bytes(path.read_bytes().replace(b'"seed": 2', b'"seed": 9') + b" ")
    tried(root, "canary", 2, share=0.9)
    refused = until(lambda: ready(client).get("trials", {}).get("refused"))
    assert "refused" in refused["why"]
    assert versions_of(client, MANY[:10]) == [1] * 10
    tried(root, "canary", 3, share=0.9)
    loaded(client, 3)
    assert 3 in versions_of(client, MANY[:10])
    assert "refused" not in ready(client)["trials"]


def test_a_damaged_file_leaves_the_canary_and_a_missing_one_ends_it(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    tried(root, "canary", 2, share=0.5)
    loaded(client)
    before = versions_of(client, MANY[:20])
    path = trials_path(root.pointers, world.MODEL)
    path.write_bytes(b"{")
    assert "headway repair" in until(lambda: ready(client)["trials"].get("refused"))["why"]
    assert versions_of(client, MANY[:20]) == before
    path.unlink()
    until(lambda: "trials" not in ready(client))
    assert versions_of(client, MANY[:20]) == [1] * 20


def test_a_worker_that_starts_finds_the_trial(root: Home, manifests: world.Manifests) -> None:
    registered(root, manifests)
    world.crowned(root, manifests[0], 1)
    tried(root, "canary", 2, share=0.5)
    with TestClient(create_app(root), base_url="http://127.0.0.1") as client:
        assert set(versions_of(client, MANY[:20])) == {1, 2}


def test_a_canary_that_needs_what_requests_do_not_say_is_refused(client: TestClient) -> None:
    champion = client.app.state.service.endpoint.champions.served[world.MODEL]  # type: ignore[attr-defined]
    manifest = champion.packaged.manifest
    more = msgspec.structs.replace(manifest, inputs={**manifest.inputs, "gate": "str"})
    less = msgspec.structs.replace(manifest, inputs={})
    other = msgspec.structs.replace(manifest, keys={**manifest.keys, "origin": "int"})
    served = [
        dataclasses.replace(champion, packaged=dataclasses.replace(champion.packaged, manifest=each))
        for each in (less, more, other)
    ]
    check_request(served[0], champion)
    with pytest.raises(HeadwayError, match="needs gate in a request"):
        check_request(served[1], champion)
    with pytest.raises(HeadwayError, match="needs origin in a request"):
        check_request(served[2], champion)


def test_no_artefact_at_all_is_no_trouble(client: TestClient, root: Home, manifests: world.Manifests) -> None:
    registered(root, manifests)
    name, version = manifests[1].tag.split(":")
    shutil.rmtree(root.bentoml / "models" / name / version)
    tried(root, "canary", 2, share=0.9)
    assert "no version" in until(lambda: ready(client).get("trials", {}).get("refused"))["why"]
    assert versions_of(client, MANY[:5]) == [1] * 5


def test_the_night_judges_the_champion_and_holds_a_canary_to_what_it_was_served(
    root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    world.crowned(root, manifests[0], 1)
    tried(root, "canary", 2, share=0.5)
    # Keys that the snapshots know, so that there is something to be wrong about.
    keys = itertools.product(("EWR", "JFK"), ("ATL", "ORD"), ("N1", "N2", "N9"))
    calls = [world.instance(origin=origin, dest=dest, tailnum=tailnum) for origin, dest, tailnum in keys]
    with TestClient(create_app(root), base_url="http://127.0.0.1") as client:
        served = versions_of(client, calls)
    assert set(served) == {1, 2}
    # As if the canary had been trained on one feature less.
    gone = manifests[1].features[0].name
    fewer = msgspec.structs.replace(manifests[1], features=manifests[1].features[1:])
    smaller = package.store(root, fewer, None, Reference({}, {}, {}, {}), pd.DataFrame({"prediction": [0.5]}))
    (segment,) = root.room("predictions", "open").glob("*.jsonl")
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    for line in lines:
        if line["role"] == "canary":
            line["digest"], line["features"] = smaller.digest, {k: v for k, v in line["features"].items() if k != gone}
    segment.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, tonight = models.load(world.MODEL), world.NOW.replace(hour=0) + timedelta(days=1, minutes=30)
    assert night.compact(root, model) == len(calls)
    parity = night.check_parity(root, model, tonight)
    assert parity is not None
    assert (parity.rows, parity.breach, set(parity.rates.values())) == (len(calls), False, {0.0})
    found = night.take_profile(root, model, tonight, parity, 0)
    assert found is not None
    assert found.version == 1
    assert found.profile.rows == served.count(1)
