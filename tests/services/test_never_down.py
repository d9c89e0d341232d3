"""Never down: full load on a real `bentoml serve`, while its champion changes a hundred times and things break.

The load client is a process of its own. It compares every answer, byte for byte, with what the version that the answer
names must give; afterwards every record of the log is compared with that version's pipeline. To send more than the
suite does:

    NEVER_DOWN_REQUESTS=200000 python -m pytest -s tests/services/test_never_down.py
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import psutil
import pytest

from benchmarks.load import Shown
from pipelines.home import Home
from pipelines.registry import package
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Pointer, pointer_path, read_pointer
from pipelines.registry.promotion import repair, rollback
from pipelines.store.matrix import matrix
from services.keys import make
from tests.services import world
from tests.services.test_processes import BENTO, PREDICT, PROJECT, logged, serving, until

ACTS, CLIENTS, WORKERS = 102, 16, 2
REQUESTS = int(os.environ.get("NEVER_DOWN_REQUESTS", "50000"))
BODIES = [world.call(*(world.instance(distance=200 + 50 * (n + m)) for m in range(1 + n % 3))) for n in range(6)]
INSTANCES = sum(len(body["instances"]) for body in BODIES) / len(BODIES)


@dataclass
class Acts:
    """Promotions and rollbacks, one after the other, each waited for until it serves."""

    root: Home
    manifests: world.Manifests
    workers: list[httpx.Client]
    """A connection to each."""
    rollbacks: dict[int, float] = field(default_factory=dict)
    """When each rollback returned, by generation, on `time.monotonic()`."""

    def act(self) -> None:
        """A promotion of the next version; every third time a rollback."""
        now = self.pointer
        if now.generation % 3 == 0:
            made = rollback(
                Ledger(self.root.ledger_url), self.root.pointers, model=world.MODEL, as_of=world.NOW, actor="test",
                why="test", key=f"act {now.generation}",
            )  # fmt: skip
            self.rollbacks[made.generation] = time.monotonic()
        else:
            version = now.version % 3 + 1
            made = self.crown(self.manifests[version - 1], version)
        assert made.version != now.version
        self.seen(lambda told: told.get("generation") == made.generation and "refused" not in told)

    def crown(self, manifest: package.Manifest, version: int) -> Pointer:
        """Promote a version; every promotion by a key of its own."""
        return world.crowned(self.root, manifest, version, key=f"{version} after {self.pointer.generation}")

    def refused(self, why: str) -> None:
        """Wait until all workers say that they go on with what they have."""
        self.seen(lambda told: why in told.get("refused", {}).get("why", ""))

    def seen(self, true: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until it is true of what every worker tells of the model."""

        def look(worker: httpx.Client) -> bool:
            return true(worker.get("/v1/ready").json()["models"].get(world.MODEL, {}))

        until(lambda: all(map(look, self.workers)), 60)

    def mended(self, why: str) -> None:
        """Wait for the refusal of a broken pointer; then do as the error says, and wait for the end of it."""
        self.refused(why)
        repair(Ledger(self.root.ledger_url), self.root.pointers, world.MODEL)
        self.seen(lambda told: "refused" not in told)

    @property
    def path(self) -> Path:
        """The pointer file."""
        return pointer_path(self.root.pointers, world.MODEL)

    @property
    def pointer(self) -> Pointer:
        """The champion by the pointer file."""
        found = read_pointer(self.root.pointers, world.MODEL)
        assert found is not None
        return found


def corrupt(acts: Acts) -> None:
    acts.path.write_bytes(acts.path.read_bytes()[:-40])
    acts.mended("is not the pointer")


def missing(acts: Acts) -> None:
    acts.path.unlink()
    acts.mended("is gone")


def nowhere(acts: Acts) -> None:
    pointer = json.loads(acts.path.read_text())
    acts.path.write_text(json.dumps(pointer | {"tag": f"{world.MODEL}:nowhere"}))
    acts.mended("no version")


def tampered(acts: Acts) -> None:
    """One byte of an estimator is another than when it was stored."""
    manifest = world.packaged(acts.root, seed=4)
    path = package.load(acts.root, manifest.tag).folder / package.ESTIMATOR
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    acts.crown(manifest, 4)
    acts.refused("SHA-256 differs")


def other_golden_rows(acts: Acts) -> None:
    """Stored whole, but it does not give the answers that it is to give."""
    good = package.load(acts.root, world.packaged(acts.root, seed=5).tag)
    golden = good.manifest.golden
    wrong = msgspec.structs.replace(golden, predictions=[1 - value for value in golden.predictions])
    manifest = msgspec.structs.replace(good.manifest, golden=wrong)
    acts.crown(package.store(acts.root, manifest, good.estimator, good.reference, good.sample), 5)
    acts.refused("golden rows give other answers")


FAULTS = (corrupt, missing, nowhere, tampered, other_golden_rows)


def asked_alone(acts: Acts, key: str) -> dict[str, list[msgspec.Raw]]:
    """What each version answers to each body, while it alone is champion."""
    expected: dict[str, list[msgspec.Raw]] = {}
    while len(expected) < len(acts.manifests):
        version = acts.pointer.version
        shown = [acts.workers[0].post(PREDICT, json=body, headers={"X-Api-Key": key}) for body in BODIES]
        answers = [msgspec.json.decode(one.content, type=Shown) for one in shown]
        assert {answer.version for answer in answers} == {version}
        expected[str(version)] = [answer.predictions for answer in answers]
        acts.act()
    for answers in zip(*expected.values(), strict=True):
        assert len(set(map(bytes, answers))) == len(acts.manifests), "versions that answer the same prove nothing"
    return expected


@contextmanager
def one_each(process: psutil.Process, url: str) -> Iterator[list[httpx.Client]]:
    """A connection to each worker, kept."""
    found: dict[int, httpx.Client] = {}
    with ExitStack() as stack:

        def another() -> bool:
            client = stack.enter_context(httpx.Client(base_url=url))
            stream = client.get("/v1/ready").extensions["network_stream"]
            found[_holder(process, stream.get_extra_info("client_addr")[1])] = client
            return len(found) == WORKERS

        until(another, 60)
        yield list(found.values())


def _holder(process: psutil.Process, port: int) -> int:
    """The process at the other end of a connection."""
    family = process.children(recursive=True)
    ends = ((end, one.pid) for one in family for end in one.net_connections() if end.status == "ESTABLISHED")
    return next(pid for end, pid in ends if end.raddr and end.raddr.port == port)


@contextmanager
def loaded(url: str, key: str, expected: dict[str, list[msgspec.Raw]], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The load client at work, in a process of its own."""
    bodies, answers = folder / "bodies.jsonl", folder / "expected.json"
    bodies.write_bytes(b"\n".join(msgspec.json.encode(body) for body in BODIES))
    answers.write_bytes(msgspec.json.encode(expected))
    command = [sys.executable, "-m", "benchmarks.load", url + PREDICT, "--body", str(bodies), "--key", key, "--json"]
    command += ["--clients", str(CLIENTS), "--seconds", "3600", "--expect", str(answers)]
    client = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        yield client
    finally:
        client.kill()
        client.wait()


def ended(client: subprocess.Popen[str]) -> dict[str, Any]:
    """What it found, once it was asked to end."""
    client.send_signal(signal.SIGTERM)
    return json.loads(client.communicate(timeout=60)[0])


def written(root: Home) -> dict[str, int]:
    """Predictions in the log, by segment: each worker writes its own."""
    return {path.name: path.read_bytes().count(b"\n") for path in root.room("predictions", "open").glob("*.jsonl")}


def more(root: Home, before: dict[str, int]) -> list[int]:
    """How many predictions came to each segment since."""
    return [count - before.get(name, 0) for name, count in written(root).items()]


def told_of_its_own(root: Home, manifests: world.Manifests, records: list[dict[str, Any]]) -> None:
    """Every record names a version, and holds what that version's pipeline makes of the features beside it."""
    for version, manifest in enumerate(manifests, start=1):
        own = [record for record in records if record["version"] == version]
        assert {record["digest"] for record in own} == {manifest.digest}
        columns = {spec.name: [record["features"][spec.name] for record in own] for spec in manifest.features}
        truth = package.load(root, manifest.tag).predict(matrix(columns, manifest.features))
        assert np.abs(truth - [record["prediction"] for record in own]).max() < 1e-9


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(0)
def test_no_request_fails_and_none_is_mixed_while_champions_change_and_things_break(
    root: Home, manifests: world.Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_KEYS", "on")
    key = make(root.keys, "load")
    world.crowned(root, manifests[0], 1)
    with (
        serving(root, BENTO, HEADWAY_WORKERS=str(WORKERS)) as (process, url),
        one_each(process, url) as workers,
    ):
        acts = Acts(root, manifests, workers)
        expected = asked_alone(acts, key)
        acts.rollbacks.clear()
        began, before = acts.pointer.generation, written(root)
        with loaded(url, key, expected, tmp_path) as client:
            until(lambda: sum(count > 10 for count in more(root, before)) == WORKERS, 60)
            for fault in (None, *FAULTS):
                if fault is not None:
                    fault(acts)
                for _ in range(ACTS // (1 + len(FAULTS))):
                    acts.act()
            until(lambda: sum(more(root, before)) / INSTANCES > REQUESTS + 10 * CLIENTS, 3600)
            found = ended(client)
    assert found["failures"] == {}
    assert found["statuses"] == {"200": found["answered"]}
    assert found["answered"] >= REQUESTS
    assert found["versions"].keys() == expected.keys()
    answering = {int(generation): seen for generation, seen in found["generations"].items()}
    # All have answered but the two that must not.
    assert len(answering) == acts.pointer.generation - began + 1 - 2
    records = logged(root)
    assert len({record["request_id"] for record in records}) >= found["answered"]
    told_of_its_own(root, manifests, records)
    late = [last_of_earlier(answering, generation) - at for generation, at in acts.rollbacks.items()]
    print(
        f"{found['answered']:,} answers in {found['seconds']:.0f} s, {acts.pointer.generation - began} acts; after the "
        f"{len(late)} rollbacks, the last old answer came within {statistics.median(late):.2f} s, "
        f"{max(late):.2f} s at worst"
    )
    # One in twenty may have waited for a busy machine.
    assert statistics.quantiles(late, n=20)[-1] < 1.0


def last_of_earlier(answering: dict[int, list[float]], generation: int) -> float:
    """When a champion from before `generation` answered last."""
    return max(last for earlier, (_, last) in answering.items() if earlier < generation)
