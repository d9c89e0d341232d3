"""The join against its rules written out in plain Python, and the cases that once went wrong elsewhere."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import HeadwayError
from pipelines.store.asof_join import INSTANT, View, asof_join

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
BEFORE = datetime(1970, 1, 1, tzinfo=UTC)

# Few keys on a coarse grid with a microsecond of play: ties, and TTLs met exactly or just missed, come up all the time.
instants = st.builds(
    lambda hours, play: NOON + hours * HOUR + play * MICROSECOND, st.integers(0, 6), st.integers(-1, 1)
)
maybe = lambda strategy: st.one_of(st.none(), strategy)  # noqa: E731
cities = st.sampled_from(["EWR", "JFK"])
numbers = st.integers(1, 2)
feature_rows = st.lists(st.tuples(maybe(cities), maybe(numbers), maybe(instants), maybe(instants)), max_size=12)
entity_rows = st.lists(st.tuples(maybe(cities), maybe(st.integers(1, 3)), maybe(instants)), max_size=8)
ttls = st.sampled_from([None, timedelta(0), HOUR, timedelta(minutes=90), 2 * HOUR + MICROSECOND, timedelta.max])


def entities_of(rows: list[tuple[Any, ...]]) -> pa.Table:
    times = pa.array([row[2] for row in rows], pa.timestamp("us", "UTC"))
    keys = [pa.array([row[0] for row in rows], pa.string()), pa.array([row[1] for row in rows], pa.int64())]
    return pa.table([*keys, times, pa.array(range(len(rows)), pa.int64())], names=["city", "number", "at", "row"])


def view_of(rows: list[tuple[Any, ...]], by: tuple[str, ...], /, **more: Any) -> View:
    schema = {"city": pl.String, "number": pl.Int64, "at": INSTANT, "made": INSTANT, "value": pl.Int64}
    frame = pl.DataFrame([(*row, i) for i, row in enumerate(rows)], schema=schema, orient="row")
    plain: dict[str, Any] = {"keys": {key: key for key in by}, "features": {"value": "value"}, "event_time": "at"}
    return View(**({"name": "view", "rows": frame.lazy(), "created": "made"} | plain | more))


def oracle(entity: tuple[Any, ...], rows: list[tuple[Any, ...]], view: View, cut_off: bool) -> int | None:
    """The number of the row that an entity row should see."""
    *_, now = entity
    best: tuple[Any, ...] | None = None
    for number, (city, n, at, made) in enumerate(rows):
        theirs, ours = {"city": city, "number": n}, {"city": entity[0], "number": entity[1]}
        if now is None or at is None or at > now or (view.ttl and now - at > view.ttl):
            continue
        if any(theirs[key] is None or theirs[key] != ours[key] for key in view.keys):
            continue
        if cut_off and view.created and (made is None or made > now):
            continue
        # A row that does not say when it was made loses to one that does.
        rank = (at, (made or BEFORE) if view.created else BEFORE, number)
        best = max(best or rank, rank)
    return best[-1] if best else None


@settings(max_examples=400, deadline=None)
@given(
    entity_rows,
    feature_rows,
    st.sampled_from([("city",), ("number",), ("city", "number"), ()]),
    ttls,
    st.sampled_from([None, "made"]),
    st.booleans(),
)
def test_every_cell_is_what_the_rules_say(
    entities: list[tuple[Any, ...]],
    rows: list[tuple[Any, ...]],
    keys: tuple[str, ...],
    ttl: timedelta | None,
    created: str | None,
    cut_off: bool,
) -> None:
    view = view_of(rows, keys, ttl=ttl, created=created)
    table = entities_of(entities)
    result = asof_join(table, [view], event_time="at", filter_by_created_timestamp=cut_off)
    assert result.select(table.column_names).equals(table)
    assert result["value"].to_pylist() == [oracle(entity, rows, view, cut_off) for entity in entities]


def test_a_correction_hides_the_first_version_only_once_it_is_made() -> None:
    rows = [("EWR", 1, NOON, NOON + HOUR), ("EWR", 1, NOON, NOON + 3 * HOUR), ("EWR", 1, NOON - HOUR, NOON + 4 * HOUR)]
    entities = entities_of([("EWR", 1, NOON + hours * HOUR) for hours in range(5)])
    view = view_of(rows, ("city",))
    cut = asof_join(entities, [view], event_time="at", filter_by_created_timestamp=True)
    assert cut["value"].to_pylist() == [None, 0, 0, 1, 1]
    assert asof_join(entities, [view], event_time="at")["value"].to_pylist() == [1] * 5


def test_values_keep_their_types() -> None:
    kinds: dict[str, tuple[Any, pa.DataType]] = {
        "count": (2**60 + 1, pa.int64()),
        "small": (7, pa.int8()),
        "share": (0.5, pa.float32()),
        "flag": (True, pa.bool_()),
        "text": ("é", pa.string()),
        "blob": (b"\0", pa.binary()),
        "tags": (["a", None], pa.list_(pa.string())),
        "vector": ([1.0, 2.0], pa.list_(pa.float32())),
        "day": (date(2013, 1, 1), pa.date32()),
        "when": (NOON, pa.timestamp("ms", "UTC")),
        "price": (Decimal("1.25"), pa.decimal128(9, 2)),
        "pair": ({"a": "x"}, pa.struct([("a", pa.string())])),
    }
    held = pa.table({name: pa.array([value], kind) for name, (value, kind) in kinds.items()})
    held = held.append_column("at", pa.array([NOON], pa.timestamp("us", "UTC")))
    frame = pl.from_arrow(held)
    assert isinstance(frame, pl.DataFrame)
    view = view_of([], (), rows=frame.lazy(), created=None, features={name: name for name in kinds})
    result = asof_join(entities_of([("EWR", 1, NOON), ("EWR", 1, NOON - HOUR)]), [view], event_time="at")
    for name, (value, kind) in kinds.items():
        assert result.schema.field(name).type == kind, name
        assert result[name].to_pylist() == [value, None], name


@pytest.mark.parametrize(
    "times",
    [
        pa.array([NOON], pa.timestamp("ns", "UTC")),
        pa.array([NOON], pa.timestamp("s", "America/New_York")),
        pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")),
        pa.array([date(2013, 3, 11)], pa.date32()),
    ],
    ids=["ns", "seconds in New York", "naive is UTC", "a day is its midnight"],
)
def test_times_of_any_unit_and_zone(times: pa.Array) -> None:
    entities = entities_of([("EWR", 1, NOON)]).set_column(2, "at", times)
    result = asof_join(entities, [view_of([("EWR", 1, NOON, NOON)], ("city",))], event_time="at")
    assert result["value"].to_pylist() == [0]
    assert result.schema.field("at").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        (pa.array([1, 2, None], pa.int32()), [0, None, None]),
        (pa.array([1.0, 1.5, None], pa.float64()), [0, None, None]),
        (pa.array([1, 2**63, None], pa.uint64()), [0, None, None]),
        (pa.nulls(3), [None] * 3),
    ],
    ids=["int32", "floats of a frame with gaps", "too large", "all null"],
)
def test_a_key_matches_across_number_types(keys: pa.Array, seen: list[int | None]) -> None:
    entities = entities_of([("EWR", 1, NOON)] * 3).set_column(1, "number", keys)
    rows = [("EWR", 1, NOON, NOON), ("EWR", None, NOON, NOON)]
    assert asof_join(entities, [view_of(rows, ("number",))], event_time="at")["value"].to_pylist() == seen


def test_dictionary_keys_match_text() -> None:
    entities = entities_of([("JFK", 1, NOON), ("EWR", 1, NOON)])
    entities = entities.set_column(0, "city", entities["city"].dictionary_encode())
    rows = view_of([("EWR", 1, NOON, NOON)], ("city",))
    assert asof_join(entities, [rows], event_time="at")["value"].to_pylist() == [None, 0]
    coded = view_of([], ("city",), rows=rows.rows.with_columns(pl.col("city").cast(pl.Categorical)))
    assert asof_join(entities, [coded], event_time="at")["value"].to_pylist() == [None, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"keys": {"city": "town"}}, "no column town.*they have: city, number, at, row"),
        ({"keys": {"town": "city"}}, "view view: its rows have no town"),
        ({"keys": {"number": "city"}}, "key city is String in the entity rows and Int64 in the view"),
        ({"features": {"value": "row"}}, "two columns of the result would be called row"),
        ({"event_time": "value"}, "'value' must be a timestamp and is Int64"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(HeadwayError, match=says):
        asof_join(entities_of([("EWR", 1, NOON)]), [view_of([], ("city",), **change)], event_time="at")
