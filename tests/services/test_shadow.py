"""Shadows: what the follower scores of the workers' log, what it drops, and that it never outlives its worker."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import models
from pipelines.files import write_json
from pipelines.home import Home
from pipelines.records import predictions
from pipelines.registry import package
from services.follower import BATCH, Follower
from services.log import CLOSED, Segment
from services.shadow import NAME, Keeper, followed_path, progress, unread
from services.tail import Tail
from tests.services import world
from tests.services.test_trial import asked, ended, logged, ready, registered, tried, until

CALL = [world.instance(tailnum="N1"), world.instance(tailnum="N3", carrier="XX"), world.instance(distance=2000)]


@pytest.fixture
def here(root: Home) -> Iterator[None]:
    """No follower but this test's own."""
    with (root.room("shadows") / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def followed(root: Home, waiting: int = 10_000) -> Follower:
    follower = Follower(root, waiting)
    follower.round()
    return follower


def finished(follower: Follower) -> None:
    while follower.round():
        pass
    follower.write()


def by_role(root: Home, role: str) -> dict[tuple[str, int], dict[str, Any]]:
    return {(each["request_id"], each["instance"]): each for each in logged(root) if each.get("role") == role}


@pytest.mark.usefixtures("here")
def test_a_shadow_scores_the_champions_own_instances(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    asked(client, *CALL)  # before its trial: none of its business
    tried(root, "shadow", 3)
    follower = followed(root)
    calls = [asked(client, *CALL) for _ in range(3)]
    finished(follower)
    champion, shadow = by_role(root, "champion"), by_role(root, "shadow")
    assert len(champion) == 12
    assert set(shadow) == {key for key in champion if key[0] in {call["request_id"] for call in calls}}
    loaded = package.load(root, manifests[2].tag)
    for key, record in shadow.items():
        ours = champion[key]
        same = [name for name in ours if name not in ("version", "digest", "role", "prediction")]
        assert {name: record[name] for name in same} == {name: ours[name] for name in same}
        assert (record["version"], record["digest"]) == (3, manifests[2].digest)
        (expected,) = loaded.score({name: [value] for name, value in ours["features"].items()})
        assert record["prediction"] == expected != ours["prediction"]
    found = progress(root, world.MODEL)
    assert found is not None
    assert (found.version, found.scored, found.dropped, found.failed, found.waiting, found.why) == (3, 9, 0, 0, 0, None)
    assert found.ms > 0
    until(lambda: ready(client).get("trials"))
    told = ready(client)["trials"]["shadow"]
    assert (told["version"], told["scored"], told["dropped"]) == (3, 9, 0)
    ended(root, "shadow")
    asked(client, *CALL)
    assert follower.round() is False
    assert not follower.wanted
    assert len(by_role(root, "shadow")) == 9


@pytest.mark.usefixtures("here")
def test_what_it_cannot_keep_up_with_is_dropped_the_oldest_first_and_counted(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    follower = followed(root, waiting=5)
    calls = [asked(client, CALL[0])["request_id"] for _ in range(12)]
    finished(follower)
    assert [key[0] for key in by_role(root, "shadow")] == calls[-5:]
    found = progress(root, world.MODEL)
    assert found is not None
    assert (found.scored, found.dropped) == (5, 7)


@pytest.mark.usefixtures("here")
def test_a_canarys_answers_are_not_the_shadows_business(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    tried(root, "canary", 3, share=0.5)
    until(lambda: ready(client).get("trials", {}).get("canary"))
    follower = followed(root)
    served = [asked(client, world.instance(tailnum=f"N{n}"))["version"] for n in range(20)]
    finished(follower)
    assert set(served) == {1, 3}
    assert len(by_role(root, "shadow")) == served.count(1)


@pytest.mark.usefixtures("here")
def test_a_shadow_that_reads_other_features_looks_them_up(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    follower = followed(root)
    call = asked(client, *CALL)
    # As if the champion had been trained before one of the features was declared.
    lines = [record for record in logged(root) if record["request_id"] == call["request_id"]]
    gone = manifests[0].features[-1].name
    older = [{**line, "request_id": "older", "features": dict(line["features"])} for line in lines]
    for line in older:
        del line["features"][gone]
    with_lines(root, older)
    finished(follower)
    shadow = by_role(root, "shadow")
    for number in range(3):
        whole, looked_up = shadow[call["request_id"], number], shadow["older", number]
        assert looked_up["features"] == whole["features"]
        assert looked_up["prediction"] == whole["prediction"]
        assert looked_up["degraded"] == whole["degraded"]


def with_lines(root: Home, lines: list[dict[str, Any]]) -> None:
    segment = Segment.create(root.room("predictions", "open") / "another.jsonl")
    segment.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    segment.close()


def test_compaction_removes_no_segment_that_a_follower_is_still_to_open(
    client: TestClient, root: Home, manifests: world.Manifests, here: None
) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    follower, declared = followed(root), {world.MODEL: models.load(world.MODEL)}
    call = asked(client, *CALL)
    with_lines(root, [{**line, "request_id": "other"} for line in logged(root)])  # begun and ended between two looks
    another = root.predictions / "open" / f"another{CLOSED}"
    assert predictions.compact(root, declared) == 6
    assert another.exists()
    finished(follower)
    assert {request for request, _ in by_role(root, "shadow")} == {call["request_id"], "other"}
    follower.close()
    assert predictions.compact(root, declared) == 6  # what the shadow said, and nothing of the champion again
    assert not another.exists() and not list((root.predictions / "open").glob(f"{NAME}*"))


def test_nothing_is_kept_for_a_follower_that_does_not_run(root: Home) -> None:
    segment = root.predictions / "open" / f"one{CLOSED}"
    assert unread(root, segment) is False
    with (root.room("shadows") / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert unread(root, segment) is True
        assert unread(root, segment.with_name(f"{NAME}1{CLOSED}")) is False
        write_json(followed_path(root), ["one"])
        assert unread(root, segment) is False


@pytest.mark.usefixtures("here")
def test_lines_that_are_no_answers_are_passed_over(client: TestClient, root: Home, manifests: world.Manifests) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    follower = followed(root)
    folder = root.room("predictions", "open")
    (folder / "odd.jsonl").write_bytes(
        b'{"torn\n[]\n\xff\n{"model": "late_arrival"}\n{"model": "x", "prediction": 1}\n'
    )
    asked(client, CALL[0])
    finished(follower)
    assert len(by_role(root, "shadow")) == 1


@pytest.mark.usefixtures("here")
def test_a_tampered_shadow_scores_nothing_and_says_why(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    name, version = manifests[1].tag.split(":")
    path = root.bentoml / "models" / name / version / package.ESTIMATOR
    path.write_bytes(path.read_bytes() + b" ")
    tried(root, "shadow", 2)
    follower = followed(root)
    asked(client, *CALL)
    finished(follower)
    assert by_role(root, "shadow") == {}
    found = progress(root, world.MODEL)
    assert found is not None
    assert (found.scored, found.failed) == (0, 3)
    assert "SHA-256" in (found.why or "")


@pytest.mark.usefixtures("here")
def test_many_lines_are_scored_in_batches(client: TestClient, root: Home, manifests: world.Manifests) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    follower = followed(root)
    asked(client, *[CALL[0]] * (2 * BATCH))
    assert follower.round() is True
    finished(follower)
    assert len(by_role(root, "shadow")) == 2 * BATCH


@given(
    pieces=st.lists(st.binary(max_size=12), max_size=8),
    closes=st.sets(st.integers(0, 7)),
    removed=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_tail_gives_each_whole_line_once(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], closes: set[int], removed: bool
) -> None:
    folder = tmp_path_factory.mktemp("log")
    (folder / "old.jsonl").write_bytes(b"before\n")
    (folder / f"{NAME}own.jsonl").write_bytes(b"ours\n")
    tail, found, written = Tail(folder, but=NAME), [], b""
    path, number = folder / "0.jsonl", 0
    for turn, piece in enumerate(pieces):
        with path.open("ab") as file:
            file.write(piece)
        written += piece
        found += tail.lines()
        if turn in closes:
            # The rest of a line that was torn is never written: its writer is dead.
            written = written[: written.rfind(b"\n") + 1]
            closed = path.rename(path.with_name(path.name.removesuffix(".jsonl") + CLOSED))
            found += tail.lines()
            if removed:
                closed.unlink()
            number += 1
            path = folder / f"{number}.jsonl"
    found += tail.lines()
    tail.close()
    assert found == written.split(b"\n")[:-1]


def test_a_failed_write_that_the_log_cut_off_is_not_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"")
    tail = Tail(tmp_path, but=NAME)
    path.write_bytes(b"one\ntwo\nthr")
    assert tail.lines() == [b"one", b"two"]
    os.truncate(path, 4)
    assert tail.lines() == []
    with path.open("ab") as file:
        file.write(b"four\n")
    assert tail.lines() == [b"four"]


def test_the_follower_is_a_process_of_the_lowest_priority_that_ends_with_its_worker(
    client: TestClient, root: Home, manifests: world.Manifests
) -> None:
    registered(root, manifests)
    tried(root, "shadow", 2)
    found = until(lambda: [each for each in psutil.Process().children() if "services.follower" in each.cmdline()], 60)
    (process,) = found
    until(lambda: "scored" in ready(client)["trials"]["shadow"], 60)
    assert process.nice() == 19
    if hasattr(os, "SCHED_IDLE"):
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    assert Keeper(root).start() is False  # one a machine, whoever wants it
    calls = {asked(client, *CALL)["request_id"] for _ in range(4)}
    until(lambda: len(by_role(root, "shadow")) == 12, 60)
    assert {key[0] for key in by_role(root, "shadow")} == calls
    until(lambda: ready(client)["trials"]["shadow"]["scored"] == 12)
    ended(root, "shadow")
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_the_follower_of_a_worker_that_is_gone_ends(root: Home, manifests: world.Manifests) -> None:
    registered(root, manifests)
    world.crowned(root, manifests[0], 1)
    tried(root, "shadow", 2)
    keeper = Keeper(root)
    assert keeper.start() is True
    assert keeper.start() is False
    until(lambda: progress(root, world.MODEL), 60)
    keeper.stop()
    assert not keeper.running
    with (root.room("shadows") / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
