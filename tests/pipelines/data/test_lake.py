"""Rows by day: written in any order, any number of times, killed anywhere, they are the same rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import HeadwayError
from pipelines.data import lake
from pipelines.home import PROJECT

MIDNIGHT = datetime(2013, 3, 10, tzinfo=UTC)
HOUR, MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)
KEY = ("city", "number")

Row = tuple[str | None, int, datetime, float | None]
instants = st.sampled_from([MIDNIGHT + step for step in (-HOUR, -MICROSECOND, 0 * HOUR, MICROSECOND, 30 * HOUR)])
rows = st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2), instants, st.sampled_from([None, 1.0, 2.5]))


def table(found: list[Row]) -> pa.Table:
    kinds = {"city": pa.string(), "number": pa.int64(), "known": lake.INSTANT, "value": pa.float64()}
    columns = zip(*found, strict=True) if found else [()] * 4
    arrays = {name: pa.array(list(part), kind) for (name, kind), part in zip(kinds.items(), columns, strict=True)}
    return pa.table(arrays)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(folder: Path, found: list[Row]) -> int:
    return lake.write(folder, table(found), key=KEY, by="known")


def known(folder: Path, since: datetime, until: datetime) -> list[datetime]:
    with lake.connect() as connection:
        lake.relation(connection, "it", folder, by="known", since=since, until=until)
        return [found.astimezone(UTC) for (found,) in connection.sql("SELECT known FROM it ORDER BY 1").fetchall()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(rows, max_size=8), max_size=5))
def test_any_writes_equal_one_write_of_the_last_of_each(tmp_path_factory: Any, batches: list[list[Row]]) -> None:
    many, once = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("once")
    added = sum(write(many, batch) for batch in batches)
    last = {row[:3]: row for batch in batches for row in batch}
    assert write(once, list(last.values())) == added == len(last)
    assert content(many) == content(once)
    assert all(write(many, [row]) == 0 for row in last.values())
    assert content(many) == content(once)


def test_a_day_is_a_day_of_utc(tmp_path: Path) -> None:
    at = [MIDNIGHT - MICROSECOND, MIDNIGHT, MIDNIGHT + 24 * HOUR - MICROSECOND, MIDNIGHT + 24 * HOUR]
    write(tmp_path, [("a", 0, instant, None) for instant in at])
    found = {path.stem: pq.read_table(path).num_rows for path in lake.days(tmp_path)}
    assert found == {"2013-03-09": 1, "2013-03-10": 2, "2013-03-11": 1}


def test_instants_of_another_zone_go_to_their_day_of_utc(tmp_path: Path) -> None:
    tokyo = MIDNIGHT.astimezone(timezone(9 * HOUR)) - HOUR  # the 10th on its own clock
    rows = pa.table({"city": ["a"], "known": pa.array([tokyo], pa.timestamp("us", "Asia/Tokyo"))})
    lake.write(tmp_path, lake.microseconds(rows), key=["city"], by="known")
    assert [path.stem for path in lake.days(tmp_path)] == ["2013-03-09"]


def test_all_timestamps_become_microseconds_of_utc() -> None:
    kinds = (pa.timestamp("ns"), pa.timestamp("ms", "America/New_York"), pa.timestamp("s"), lake.INSTANT)
    moment = MIDNIGHT + HOUR
    columns = {str(kind): pa.array([moment if kind.tz else moment.replace(tzinfo=None)], kind) for kind in kinds}
    found = lake.microseconds(pa.table({**columns, "n": [1]}))
    assert {str(kind) for kind in found.schema.types[:-1]} == {str(lake.INSTANT)}
    assert found.to_pylist()[0] == {**dict.fromkeys(columns, moment), "n": 1}


def test_a_column_that_was_all_missing_or_is_new_joins_in(tmp_path: Path) -> None:
    first = pa.table({"city": ["a"], "known": pa.array([MIDNIGHT], lake.INSTANT), "value": pa.nulls(1)})
    second = table([("b", 0, MIDNIGHT, 1.5)])
    lake.write(tmp_path, first, key=["city"], by="known")
    lake.write(tmp_path, second, key=["city"], by="known")
    found = lake.read(tmp_path)
    assert found is not None
    assert found.select(["city", "value", "number"]).to_pylist() == [
        {"city": "a", "value": None, "number": None},
        {"city": "b", "value": 1.5, "number": 0},
    ]


def test_keys_that_differ_in_their_last_digit_are_two_rows(tmp_path: Path) -> None:
    big = 2**60  # beyond what a float holds exactly, beside a missing one
    ids = pa.array([big, big + 1, None], pa.int64())
    stamp = pa.array([MIDNIGHT] * 3, lake.INSTANT)
    assert lake.write(tmp_path, pa.table({"id": ids, "known": stamp}), key=["id"], by="known") == 3


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
import pyarrow as pa
from pipelines.data import lake
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
stamp = pa.array([datetime(2013, 3, 10, tzinfo=UTC)], lake.INSTANT)
lake.write(Path(sys.argv[1]), pa.table({"city": ["new"], "number": [1], "known": stamp}), key=["city"], by="known")
"""


def test_a_killed_write_leaves_the_old_rows_and_the_next_one_goes_through(tmp_path: Path) -> None:
    write(tmp_path, [("a", 0, MIDNIGHT, 1.0)])
    before = content(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=PROJECT, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    halves = [path for path in tmp_path.iterdir() if path.name.endswith(".half")]
    assert halves, "the write was not killed in the middle"
    halves[0].write_bytes(b"torn")
    assert [path.name for path in lake.days(tmp_path)] == ["2013-03-10.parquet"]
    assert content(tmp_path).items() >= before.items()
    assert known(tmp_path, MIDNIGHT - HOUR, MIDNIGHT) == [MIDNIGHT]
    assert write(tmp_path, [("b", 0, MIDNIGHT, 1.0)]) == 1


@settings(max_examples=40, deadline=None)
@given(instants, instants)
def test_a_relation_holds_what_became_known_after_since_and_by_until(
    tmp_path_factory: Any, since: datetime, until: datetime
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    steps = (-HOUR, -MICROSECOND, 0 * HOUR, MICROSECOND, 30 * HOUR)
    at = [MIDNIGHT + step for step in steps]
    write(folder, [("a", 0, instant, None) for instant in at])
    assert known(folder, since, until) == [instant for instant in at if since < instant <= until]


def test_a_relation_without_rows_in_its_span_has_columns(tmp_path: Path) -> None:
    write(tmp_path, [("a", 0, MIDNIGHT, None)])
    assert known(tmp_path, MIDNIGHT + 240 * HOUR, MIDNIGHT + 250 * HOUR) == []


def test_a_relation_of_nothing_says_what_to_run(tmp_path: Path) -> None:
    with lake.connect() as connection, pytest.raises(HeadwayError, match=r"nothing ingested yet .* `headway ingest`"):
        lake.relation(connection, "it", tmp_path, by="known", since=MIDNIGHT, until=MIDNIGHT)


def test_a_folder_with_a_quote_in_its_name_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "o'hare"
    write(folder, [("a", 0, MIDNIGHT, None)])
    assert known(folder, MIDNIGHT - HOUR, MIDNIGHT) == [MIDNIGHT]


def test_queries_run_in_utc_and_one_thread() -> None:
    with lake.connect() as connection:
        found = connection.sql("SELECT current_setting('TimeZone'), current_setting('threads')").fetchall()
    assert found == [("UTC", 1)]
