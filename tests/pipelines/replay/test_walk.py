"""A walk over the past: honest about what was known, each fit made once, and none again after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import expectations
from features import HeadwayError
from pipelines.data import lake
from pipelines.home import Home, utc
from pipelines.records.examples import examples
from pipelines.replay import fits, replayed
from pipelines.replay.branch import Branch
from pipelines.replay.common import Common
from pipelines.replay.fits import Fitted, Order
from pipelines.replay.frames import Frames
from pipelines.replay.grammar import parse_all
from pipelines.replay.past import Past, covers
from pipelines.replay.policies import Named
from pipelines.replay.pool import Here, pool
from pipelines.replay.replayed import Replayed, replay
from pipelines.replay.walk import build, walk
from pipelines.store import feature_tables
from tests.history import START, copy, history, in_force, until
from tests.pipelines.replay.past import DAY, SINCE, SMALL, UNTIL, small

__all__ = ["history"]

pytestmark = pytest.mark.slow

BLIND = "weekly,every 3d with approval 2d"
POLICIES = f"{BLIND},drift or quality or age > 5d with cooldown 4d,never"
DRAWS = 2
LEAKED = utc("2013-02-22T06:00Z")
"""From when what is planted is known."""


def silent(what: str, done: int, of: int) -> None:
    """Nobody watches."""


def named(text: str = POLICIES) -> list[Named]:
    return parse_all(text)[0]


def walked(past: Past, text: str = POLICIES) -> list[Branch]:
    frames = Frames(past, "test")
    build(past, frames, SINCE, UNTIL, Here(), silent)
    return walk(past, Common(frames, SMALL), named(text), past.nights(SINCE, UNTIL), Here(), silent)


@pytest.fixture(scope="module")
def past(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    with in_force(history):
        yield small(history, tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="module")
def planted(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same past, into which it came later that three weeks of arrivals had been otherwise."""
    at = Home(tmp_path_factory.mktemp("planted"))
    with in_force(at):
        plant(copy(history, at))
    return at


@pytest.fixture(scope="module")
def branches(past: Past) -> list[Branch]:
    return walked(past)


@pytest.fixture(scope="module")
def found(past: Past, branches: list[Branch]) -> Iterator[Replayed]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replayed, "RANDOM", DRAWS)
        yield replay(past, named(), SINCE, UNTIL, Here(), silent, dummies=True)


def test_each_policy_trains_when_it_says_and_promotes_what_passes(branches: list[Branch]) -> None:
    weekly, waits, drift, never = branches
    assert trained(weekly) == ["2013-02-12", "2013-02-19", "2013-02-26"]
    assert trained(never) == ["2013-02-12"]
    assert trained(waits) == [f"{SINCE + number * 3 * DAY:%Y-%m-%d}" for number in range(7)]
    made, promoted = waits.ledger.entries(kind="version"), waits.ledger.entries(kind="promotion")
    passed = [entry for entry in made[1:] if entry.body["passed"]]
    assert passed
    assert [entry.as_of - passed[0].as_of for entry in promoted[1:2]] == [2 * DAY]
    assert trained(drift)[1:] == ["2013-02-18", "2013-02-24", "2013-03-02"]  # too old, unless it alarmed before


def test_a_policy_that_looks_leaves_a_verdict_each_night_and_a_blind_one_pays_for_none(branches: list[Branch]) -> None:
    weekly, _, drift, never = branches
    assert len(drift.ledger.entries(kind="verdict")) == len(drift.nights) - 1
    assert never.ledger.entries(kind="verdict") == []
    doubted = [f"{entry.as_of:%Y-%m-%d}" for entry in weekly.ledger.entries(kind="verdict")]
    assert set(doubted) < {*trained(weekly), *(f"{as_of:%Y-%m-%d}" for as_of in weekly.vetoed)}
    closed = [each for each in drift.judged.values() if each.evidence.drift]
    assert all(each.evidence.relation is not None for each in closed)
    assert {each.evidence.drift.status for each in closed if each.evidence.drift} == {"judged"}


def test_what_became_known_later_moves_nothing_before_it(
    branches: list[Branch], planted: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(expectations, "load", tightened)
    with in_force(planted):
        theirs = walked(small(planted, tmp_path))
    differs = 0
    for ours, other in zip(branches, theirs, strict=True):
        assert said(ours, until=LEAKED) == said(other, until=LEAKED)
        differs += said(ours, until=UNTIL) != said(other, until=UNTIL)
    assert differs, "what was planted changed nothing at all, so this test could not fail"
    day = utc("2013-02-21")
    np.testing.assert_array_equal(branches[0].given(day), theirs[0].given(day))


def test_what_is_planted_could_have_leaked(history: Home, planted: Home) -> None:
    span = (utc("2013-02-10"), utc("2013-02-20"))
    before = examples(history, SMALL, *span, as_of=LEAKED)["label"]
    assert examples(planted, SMALL, *span, as_of=LEAKED)["label"].equals(before)
    after = examples(planted, SMALL, *span, as_of=LEAKED + 2 * DAY)["label"]
    assert (after != before)[before.notna()].mean() > 0.5


def test_policies_share_their_fits_and_a_second_replay_makes_none(
    past: Past, branches: list[Branch], found: Replayed
) -> None:
    wanted = [order.key for branch in branches for order in branch.orders]
    assert len(set(wanted)) < len(wanted)
    made = sorted(path.name for path in past.room.room("fits").iterdir())
    again = replay(past, named(), SINCE, UNTIL, Here(), silent, dummies=True)
    assert sorted(path.name for path in past.room.room("fits").iterdir()) == made
    assert again == found


def test_killed_and_run_again_it_goes_on_from_the_fits_that_are_there(
    past: Past, branches: list[Branch], tmp_path: Path
) -> None:
    other = small(past.at, tmp_path / "room")
    (other.room.root / "frames").parent.mkdir()
    (other.room.root / "frames").symlink_to(past.room.root / "frames")
    forks = multiprocessing.get_context("fork")
    process = forks.Process(target=walked, args=(other, BLIND))
    process.start()
    until(lambda: len(whole(other)) >= 2 or not process.is_alive(), pause=0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = whole(other)
    ended = walked(other, BLIND)
    assert kept.items() <= whole(other).items()
    assert [said(each, until=UNTIL) for each in ended] == [said(each, until=UNTIL) for each in branches[:2]]


def test_quality_is_that_of_the_version_that_was_live(found: Replayed, branches: list[Branch]) -> None:
    by = {each.policy: each for each in found.outcomes}
    never, weekly, current = by["never"], by["weekly"], by[found.current]
    assert len(found.windows) == len(never.series) == 17
    assert never.series[:7] == weekly.series[:7]  # the same version until then
    assert never.series[8:] != weekly.series[8:]
    gained = by[str(found.always)].quality.value - never.quality.value
    assert never.gain_kept == (0.0 if gained > 0 else None), "of no gain there is no share"
    assert current.against_current is None
    assert never.against_current is not None
    assert never.against_current.value == pytest.approx(np.mean(never.series) - np.mean(current.series), abs=1e-5)
    assert min(each.loss_to_best for each in found.outcomes if not each.dummy) == 0.0
    assert found.choice in by
    assert f"`{found.choice}`" in found.sentence


def test_dummies_retrain_as_often_as_what_they_stand_beside(found: Replayed) -> None:
    looking = [each for each in found.outcomes if each.alarms is not None and each.retrainings]
    counts = {each.retrainings for each in looking}
    dummies = [each for each in found.outcomes if each.dummy]
    assert {each.retrainings for each in dummies} <= counts
    assert len(dummies) == (DRAWS + 1) * len(counts)
    assert all(each.against_random is not None for each in looking)


def test_a_fit_that_was_changed_is_not_loaded(past: Past, branches: list[Branch], tmp_path: Path) -> None:
    order = branches[0].orders[0]
    folder = tmp_path / "fit"
    folder.mkdir()
    for path in order.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with (folder / "estimator.joblib").open("ab") as file:
        file.write(b"more")
    with pytest.raises(Exception, match="was changed since it was fitted"):
        fits.estimator(folder)


def test_a_process_pool_gives_the_same_fit(past: Past, branches: list[Branch], tmp_path: Path) -> None:
    here = branches[0].orders[0]
    there = elsewhere(past, here, tmp_path / "room")
    with pool(past.at, 2) as executor:
        made = executor.submit(fits.order, there).result()
    assert (there.key, there.done) == (here.key, True)
    assert same(made, fits.read(here))


def test_a_past_is_covered_when_it_was_lived_through(history: Home) -> None:
    assert covers(history, SMALL, SINCE, UNTIL)
    assert not covers(history, SMALL, SINCE, START + 8 * DAY)
    assert not covers(Home(history.root / "nowhere"), SMALL, SINCE, UNTIL)


def elsewhere(past: Past, order: Order, room: Path) -> Order:
    """The same order, to be made in another room from the same frames."""
    room.mkdir()
    (room / "frames").symlink_to(past.room.root / "frames")
    return Order(small(past.at, room), order.frames, order.as_of, evidence=True)


def same(one: Fitted, other: Fitted) -> bool:
    """Whether two fits are the same, but for what they took and how the estimator was written."""
    plain = [msgspec.structs.replace(each, seconds=0.0, spent=0.0, sha256="") for each in (one, other)]
    return plain[0] == plain[1]


def trained(branch: Branch) -> list[str]:
    return [f"{entry.as_of:%Y-%m-%d}" for entry in branch.ledger.entries(kind="version")]


def said(branch: Branch, until: Any) -> list[tuple[str, str]]:
    """What the ledger says up to an instant: key and content."""
    return [(row["key"], row["body"]) for row in branch.ledger.rows() if row["as_of"] < until.isoformat()]


def whole(past: Past) -> dict[str, int]:
    """The fits that are there, and the files that they are."""
    folder = past.room.room("fits")
    return {path.parent.name: path.stat().st_ino for path in folder.glob("[0-9a-f]*/estimator.joblib")}


def plant(at: Home) -> None:
    """Every arrival of three weeks is corrected, all at once and late; the tables are computed anew over all of it."""
    folder = at.room("lake", "flights", "arrivals")
    rows = lake.read(folder, utc("2013-02-01"), LEAKED)
    assert rows is not None
    wrong = rows.to_pandas()
    wrong["arr_delay"] = np.where(wrong["arr_delay"] > 15, -20.0, 90.0)
    wrong["arrived_at"] = pd.Timestamp(LEAKED) + pd.to_timedelta(np.arange(len(wrong)) % 3600 + 1, unit="s")
    wrong = wrong.drop_duplicates(["flight_id", "arrived_at"])
    table = lake.microseconds(pa.Table.from_pandas(wrong, preserve_index=False)).cast(lake.schema(folder))
    lake.write(folder, table, key=("flight_id",), by="arrived_at")
    feature_tables.backfill(at, "flights", LEAKED - DAY, UNTIL)


def tightened(name: str) -> Any:
    raise AssertionError(f"the suite of {name} was asked about rows that were judged when they came")


def test_a_dask_cluster_gives_the_same_fit(past: Past, branches: list[Branch], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    here = branches[0].orders[0]
    there = elsewhere(past, here, tmp_path / "room")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            host="127.0.0.1",
            protocol="tcp://",
        ) as cluster,
        pool(past.at, 2, cluster.scheduler_address) as executor,
    ):
        made = executor.submit(fits.order, there).result()
    assert same(made, fits.read(here))


def test_a_cluster_that_does_not_answer_is_named(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("pipelines.replay.pool.PATIENCE", "0.5s")
    with pytest.raises(HeadwayError, match="no Dask scheduler answers at"), pool(past.at, 2, "tcp://127.0.0.1:1"):
        pass
