"""Quarantine: looked at, mended, put back, with an honest clock; twice or killed in the middle, nothing is doubled."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as with_fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import expectations
import expectations.flights
import features
import models
from expectations import Expectations, Suite
from features import HeadwayError
from pipelines.commands.cli import main
from pipelines.data import lake
from pipelines.data.ingest import deliveries, ingest
from pipelines.home import PROJECT, Home
from pipelines.nights import night, quarantine
from pipelines.nights.quarantine import Item
from pipelines.registry.ledger import Ledger
from pipelines.store import feature_tables
from tests.pipelines.test_faults import DAY, DOMAIN, FLIGHTS, HOUR, MODEL, START, Fault, only, some, spoiled

SOURCE = "weather"
END = START + DAY
LATER = END + 5 * HOUR
MOMENT = timedelta(seconds=1)
STAMP = "20130411T000000Z"
HIGH = Fault("two values in another unit", SOURCE, lambda rows: some(rows, pressure=29.9), "quarantines")
INCHES = Fault("all in another unit", SOURCE, lambda r: r.assign(pressure=r["pressure"] * 0.02953), "stops")
TABLE = FLIGHTS.tables[0]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Four weeks of one source in the lake, and a table computed of it."""
    at = Home(tmp_path_factory.mktemp("before"))
    source = FLIGHTS.source(SOURCE)
    with only(with_fields(source, read=lambda since, until: source.read(max(since, START - 29 * DAY), until))):
        ingest(at, DOMAIN, START)
        feature_tables.build_tables(at, DOMAIN, START)
    return at


@contextmanager
def broken(before: Home, at: Home, fault: Fault) -> Iterator[Item]:
    """The day after, spoiled, and its tables; the item that it left, the feed as it is when it is mended."""
    shutil.copytree(before.root, at.root, dirs_exist_ok=True)
    with only(spoiled(fault)):
        ingest(at, DOMAIN, END)
        night.build_tables(at, DOMAIN, END)
    with only(FLIGHTS.source(SOURCE)):
        yield quarantine.find(at, DOMAIN, SOURCE, STAMP)


@contextmanager
def mended() -> Iterator[None]:
    """The owner takes back the rule that the two rows broke."""
    suites = expectations.load(DOMAIN)
    rules = tuple(rule for rule in suites.suite(SOURCE).rules if rule.args.get("column") != "pressure")
    others = tuple(suite for suite in suites.suites if suite.source != SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        changed = Expectations(domain=DOMAIN, suites=(*others, Suite(source=SOURCE, rules=rules)))
        patch.setattr(expectations.flights, "FLIGHTS", changed)
        yield


def rows(at: Home, as_of: Any = None) -> pd.DataFrame:
    """What the lake has of the day, as of an instant."""
    with lake.connect() as connection:
        folder = at.room("lake", DOMAIN, SOURCE)
        lake.relation(connection, "found", folder, by="known_at", since=START, until=as_of or LATER)
        return connection.sql("SELECT * FROM found ORDER BY origin, observed_at").to_df()


def snapshots(at: Home, until: Any) -> pd.DataFrame:
    found = lake.read(at.room("snapshots", DOMAIN, TABLE.name))
    assert found is not None
    table = found.to_pandas()
    return table[table["visible_at"] <= pd.Timestamp(until)].reset_index(drop=True)


def content(at: Home) -> dict[str, str]:
    files = (path for path in sorted(at.root.rglob("*")) if path.is_file() and path.suffix != ".db")
    return {str(path.relative_to(at.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def replayed(at: Home, item: Item, **more: Any) -> quarantine.Replayed:
    return quarantine.replay(at, item, more.pop("as_of", LATER), actor="anna", why="mended", **more)


def test_rows_come_back_when_the_rule_is_mended_and_the_ledger_says_who_and_why(before: Home, home: Home) -> None:
    with broken(before, home, HIGH) as item, mended():
        assert (item.rows, item.stands, item.delivery.kept) == (2, True, item.delivery.read - 2)
        done = replayed(home, item)
        assert (done.released, done.left, done.stops) == (2, 0, [])
        again = quarantine.find(home, DOMAIN, SOURCE, STAMP)
        assert (again.rows, again.stands, again.replays) == (0, False, [done.sentence])
    assert len(rows(home)) == item.delivery.read
    (entry,) = Ledger(home.ledger_url).entries(DOMAIN, "release")
    assert (entry.actor, entry.as_of, entry.body["why"], entry.body["released"]) == ("anna", LATER, "mended", 2)


def test_a_released_row_keeps_its_known_at_and_is_not_there_before_its_release(before: Home, home: Home) -> None:
    with broken(before, home, HIGH) as item, mended():
        then = rows(home, END)
        refused = quarantine.rows_of(home, item)
        replayed(home, item)
    pd.testing.assert_frame_equal(rows(home, LATER - HOUR), then)
    now = rows(home, LATER)
    assert len(now) == len(then) + 2
    back = now[now["pressure"] < 900]
    assert sorted(back["known_at"]) == sorted(refused["known_at"])
    assert list(now) == list(then)  # no reader is given the instant of release


def test_what_was_visible_stays_and_the_table_is_computed_anew_as_of_the_release(before: Home, home: Home) -> None:
    with broken(before, home, INCHES) as item:
        served = snapshots(home, LATER)
        replayed(home, item, file=written(home, item))
        pd.testing.assert_frame_equal(snapshots(home, LATER), served)
        renewed = snapshots(home, LATER + TABLE.lag)
        new = renewed[renewed["visible_at"] == pd.Timestamp(LATER + TABLE.lag)]
        assert set(new["origin"]) == {"EWR", "JFK", "LGA"}
        assert new["pressure"].between(900, 1100).all()


def test_a_backfill_after_a_release_computes_older_ticks_without_the_released_rows(before: Home, home: Home) -> None:
    with broken(before, home, HIGH) as item, mended():
        moments = feature_tables.ticks(TABLE, START, LATER + 7 * HOUR)
        domain = features.load(DOMAIN)
        then = feature_tables.snapshots(home, domain, TABLE, moments)
        replayed(home, item)
        now = feature_tables.snapshots(home, domain, TABLE, moments)
    old = pd.Timestamp(LATER)
    frames = [table.to_pandas().sort_values(["visible_at", "origin"]) for table in (then, now)]
    past = [frame[frame["visible_at"] < old].reset_index(drop=True) for frame in frames]
    pd.testing.assert_frame_equal(*past)
    assert len(past[0]) == 12


def written(at: Home, item: Item, kind: str = "csv") -> Path:
    """What a person would hand in: the stored rows in the right unit."""
    stored = quarantine.rows_of(at, item)
    good = stored.assign(pressure=stored["pressure"] / 0.02953)
    path = at.root / f"fixed.{kind}"
    good.to_csv(path, index=False) if kind == "csv" else good.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_stopped_batch_comes_back_with_mended_data_and_is_no_fault_from_then_on(
    before: Home, home: Home, kind: str
) -> None:
    with broken(before, home, INCHES) as item:
        assert item.stands
        still = replayed(home, item)
        assert still.released == 0 and "`pressure`" in still.stops[0] and len(rows(home)) == 0
        assert Ledger(home.ledger_url).entries(DOMAIN, "release") == []
        done = replayed(home, item, file=written(home, item, kind))
        assert (done.released, done.left) == (item.delivery.read, 0)
        assert [len(found.stops) for found in deliveries(home, DOMAIN, START, LATER)] == [0]
        assert [bool(found.stops) for found in deliveries(home, DOMAIN, START, LATER - HOUR)] == [True]
        (following,) = ingest(home, DOMAIN, END + DAY)
    assert (following.since, following.stops) == (END.isoformat(), [])
    table = rows(home, END + DAY)
    assert not table.duplicated(["origin", "observed_at"]).any()


def test_replaying_twice_changes_nothing(before: Home, home: Home) -> None:
    with broken(before, home, HIGH) as item, mended():
        replayed(home, item)
        once, told = content(home), len(Ledger(home.ledger_url).entries())
        twice = replayed(home, quarantine.find(home, DOMAIN, SOURCE, STAMP), as_of=LATER + HOUR)
        assert (twice.released, twice.left) == (0, 0) and "nothing is left" in twice.sentence
    assert content(home) == once
    assert len(Ledger(home.ledger_url).entries()) == told


@pytest.mark.parametrize("step", ["lake.write", "Ledger", "feature_tables.renew", "quarantine"])
def test_ended_at_any_step_the_next_run_finishes_it(before: Home, home: Home, step: str) -> None:
    with broken(before, home, HIGH) as item, mended():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"pipelines.nights.quarantine.{step}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                replayed(home, item)
        replayed(home, item, as_of=LATER + HOUR)
        assert not quarantine.find(home, DOMAIN, SOURCE, STAMP).stands
    (entry,) = Ledger(home.ledger_url).entries(DOMAIN, "release")
    assert entry.body["released"] == 2
    found = rows(home, LATER + HOUR)
    assert len(found) == item.delivery.read
    assert not found.duplicated(["origin", "observed_at", "known_at"]).any()
    assert snapshots(home, LATER + DAY)["visible_at"].max() >= pd.Timestamp(LATER)


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_what_is_still_bad_stays_with_its_reason(before: Home, home: Home) -> None:
    with broken(before, home, HIGH) as item:
        stored = quarantine.rows_of(home, item)
        half = stored.assign(pressure=[1013.0, 29.9])
        half.to_parquet(home.root / "half.parquet")
        done = replayed(home, item, file=home.root / "half.parquet")
        assert (done.released, done.left) == (1, 1)
        again = quarantine.find(home, DOMAIN, SOURCE, STAMP)
        (left,) = quarantine.rows_of(home, again).to_dict("records")
        assert again.stands and left["pressure"] == 29.9 and "another unit" in left["_why"]


def test_the_feed_is_right_and_the_world_has_changed(before: Home, home: Home) -> None:
    warmer = Fault("another climate", SOURCE, lambda rows: rows.assign(temp=rows["temp"] + 41), "stops")
    with broken(before, home, warmer) as item:
        assert item.delivery.stops and replayed(home, item).stops
        assert replayed(home, item, accept=True).released == item.delivery.read


def test_a_batch_that_was_read_again_needs_no_replay(before: Home, home: Home) -> None:
    with broken(before, home, INCHES):
        ingest(home, DOMAIN, END + HOUR)
        item = quarantine.find(home, DOMAIN, SOURCE, STAMP)
        assert item.again and not item.stands
        done = replayed(home, item, as_of=END + DAY, file=written(home, item))
        assert done.released == 0
        assert len(rows(home, END)) == item.delivery.read


def faults(at: Home, since: Any, until: Any) -> set[str]:
    """The sources that veto as of `until`; days on which one was broken stay so, whatever came after."""
    seen = night.seen(at, models.load(MODEL))
    assert seen.broken(START, END)
    return {fault.source for fault in seen.faults(since, until)}


def test_a_stopped_batch_is_no_veto_once_a_later_good_one_holds_its_span(before: Home, home: Home) -> None:
    with broken(before, home, INCHES):
        assert faults(home, START, END) == {SOURCE}
        (good,) = ingest(home, DOMAIN, END + HOUR)
        assert (good.since, good.stops) == (START.isoformat(), [])
        assert faults(home, START, END + HOUR) == set()
        assert faults(home, START, END + HOUR - MOMENT) == {SOURCE}  # as it was known then
    with only(spoiled(INCHES)):
        (stopped,) = ingest(home, DOMAIN, END + DAY)
    assert stopped.stops and stopped.since == good.until
    assert faults(home, START, END + DAY) == {SOURCE}  # the good one came before it
    assert not night.seen(home, models.load(MODEL)).broken(END, END + HOUR)


def test_a_stopped_batch_is_no_veto_once_it_was_replayed_nor_those_whose_span_it_holds(
    before: Home, home: Home
) -> None:
    with broken(before, home, INCHES), only(spoiled(INCHES)):
        (wider,) = ingest(home, DOMAIN, END + HOUR)
        assert wider.stops and wider.since == START.isoformat()
    with only(FLIGHTS.source(SOURCE)):
        item = quarantine.find(home, DOMAIN, SOURCE, "20130411T010000Z")
        replayed(home, item, file=written(home, item))
    assert faults(home, START, LATER - HOUR) == {SOURCE}
    assert faults(home, START, LATER) == set()


def test_mistakes_say_what_to_do(before: Home, home: Home, tmp_path: Path) -> None:
    with broken(before, home, INCHES) as item:
        with pytest.raises(HeadwayError, match="Replay as of a later instant"):
            replayed(home, item, as_of=START)
        with pytest.raises(HeadwayError, match=f"it has: {STAMP}"):
            quarantine.find(home, DOMAIN, SOURCE, "20130101T000000Z")
        with pytest.raises(HeadwayError, match="is not there"):
            replayed(home, item, file=tmp_path / "none.csv")
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        assert "came without" in replayed(home, item, file=tmp_path / "other.csv").stops[0]


def test_a_delivery_that_could_not_be_read_has_nothing_to_replay(before: Home, home: Home) -> None:
    def unreadable(_: pd.DataFrame) -> pd.DataFrame:
        raise ConnectionError("no route")

    with broken(before, home, Fault("unreadable", SOURCE, unreadable, "stops")) as item:
        assert item.stands
        with pytest.raises(HeadwayError, match="the next ingest reads the window again"):
            replayed(home, item)


def test_the_commands(before: Home, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.store import feature_store

    with broken(before, home, HIGH) as item, mended():
        feature_store.apply(home)
        assert main(["quarantine", "list"]) == 0
        listed = capsys.readouterr().out
        assert f"stands     {DOMAIN} {SOURCE} {STAMP}  rows set aside: 2 of {item.delivery.read} rows" in listed
        assert "`pressure`: 2 of" in listed
        assert main(["quarantine", "show", DOMAIN, SOURCE, STAMP, "--rows", "1"]) == 0
        shown = capsys.readouterr().out
        assert "2 rows, the first 1:" in shown and "expect_column_values_to_be_between" in shown
        words = ["quarantine", "replay", DOMAIN, SOURCE, STAMP, "--as-of", LATER.isoformat(), "--why", "hPa after all"]
        assert main(words) == 0
        assert "2 rows released" in capsys.readouterr().out
        assert main(["quarantine", "list", DOMAIN]) == 0
        assert f"replayed   {DOMAIN} {SOURCE} {STAMP}" in capsys.readouterr().out
        assert main(["quarantine", "show", DOMAIN]) == 2
        assert "which delivery?" in capsys.readouterr().err


def test_the_commands_of_the_documentation(before: Home, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.store import feature_store

    text = (PROJECT / "docs" / "quarantine.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert [line.split()[2] for line in commands] == ["list", "show", "replay"]
    with broken(before, home, INCHES) as item:
        feature_store.apply(home)
        written(home, item).rename(home.root / "mended.csv")
        monkeypatch.chdir(home.root)
        for line in commands:
            # By default a replay is as of now, and waits for the tables' lag.
            more = ["--as-of", LATER.isoformat()] if "replay" in line else []
            assert main([*shlex.split(line)[1:], *more]) == 0
    assert len(rows(home)) == item.delivery.read
