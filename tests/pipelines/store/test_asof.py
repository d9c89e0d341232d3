"""The as-of store, through real Feast, held against Feast's own DuckDB store cell by cell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    RequestSource,
    ValueType,
)
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.repo_config import load_repo_config
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, Float64, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import HeadwayError
from pipelines.store.asof import AsOfOfflineStore, AsOfOfflineStoreConfig

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)

OURS, STOCK = "pipelines.store.asof.AsOfOfflineStore", "duckdb"
CITY = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)
DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)


class Shape(NamedTuple):
    """A feature view of the property test: every one has the features `value`, `count` and `tags`."""

    keys: list[Entity]
    ttl: timedelta
    created: str


# TTLs of different units; without one, the stock store keeps every past row of a key.
SHAPES = {
    "by_city": Shape([CITY], 2 * HOUR, "created"),
    "by_driver": Shape([DRIVER], timedelta(days=1), "created"),
    "by_both": Shape([CITY, DRIVER], timedelta(minutes=90), "created"),
    "for_ever": Shape([CITY], timedelta(0), ""),
}
FEATURES = [
    Field(name="value", dtype=Float64),
    Field(name="count", dtype=Int64),
    Field(name="tags", dtype=Array(String)),
]
ARROW = pa.schema(
    [
        ("city", pa.string()),
        ("driver", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
        ("created", pa.timestamp("us", "UTC")),
        ("value", pa.float64()),
        ("count", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("junk", pa.string()),
    ]
)


def open_store(folder: Path, kind: str, *, pull_latest: bool = True) -> FeatureStore:
    """A Feast repository in `folder`, read from its YAML as a user's would be."""
    folder.mkdir(exist_ok=True)
    settings_file = folder / "feature_store.yaml"
    settings_file.write_text(
        f"project: test\nprovider: local\nregistry: {folder}/registry.db\n"
        f"offline_store:\n  type: {kind}\nonline_store:\n  type: sqlite\n  path: {folder}/online.db\n"
        f"materialization:\n  pull_latest_features: {str(pull_latest).lower()}\nentity_key_serialization_version: 3\n"
    )
    return FeatureStore(config=load_repo_config(folder, settings_file))


def view_of(name: str, shape: Shape, path: str, features: list[Field] = FEATURES, **more: Any) -> FeatureView:
    source = FileSource(
        name=f"{name}_rows",
        path=path,
        file_format=ParquetFormat(),
        timestamp_field="at",
        created_timestamp_column=shape.created,
        **more,
    )
    keys = [Field(name=key.name, dtype=String if key is CITY else Int64) for key in shape.keys]
    return FeatureView(name=name, entities=shape.keys, ttl=shape.ttl, schema=[*keys, *features], source=source)


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows") -> None:
    """Make `rows` the only content of a source. A new name each time: DuckDB may remember a file by its path."""
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob("*.parquet"))
    pq.write_table(pa.Table.from_pylist(rows, ARROW), folder / f"{name}-{time.monotonic_ns()}.parquet")
    for path in old:
        path.unlink()


def row(
    city: str | None = "EWR", driver: int | None = 1, at: datetime = NOON, value: float = 0.0, **more: Any
) -> dict[str, Any]:
    full = {
        "city": city,
        "driver": driver,
        "at": at,
        "created": at,
        "value": value,
        "count": int(value),
        "tags": ["a"],
    }
    return full | more


def ask(*rows: tuple[str | None, int | None, datetime]) -> pd.DataFrame:
    cities, drivers, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pd.DataFrame(
        {
            "row": range(len(rows)),
            "city": pd.Series(cities, dtype=object),
            "driver": pd.Series(drivers, dtype="Int64"),
            "event_timestamp": pd.to_datetime(pd.Series(times, dtype=object), utc=True),
        }
    )


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FeatureStore, FeatureStore]]:
    """The folder of the sources, the as-of store and the stock one: the same views over the same files."""
    root = tmp_path_factory.mktemp("asof")
    ours, stock = open_store(root / "ours", OURS), open_store(root / "stock", STOCK)
    views = [view_of(name, shape, str(root / name)) for name, shape in SHAPES.items()]
    for view in views:
        write(root / view.name, [row()])
    for store in (ours, stock):
        store.apply([CITY, DRIVER, *views])
    yield root, ours, stock
    for store in (ours, stock):
        store.teardown()


def refs(*views: str) -> list[str]:
    return [f"{view}:{field.name}" for view in views for field in FEATURES]


# Few keys on a coarse grid with a microsecond of play: ties, rows from the future, and TTLs met exactly or just
# missed come up all the time. Of rows equal in key, time and creation the stock store takes any, so there are none.
instants = st.builds(
    lambda half_hours, play: NOON + half_hours * HOUR / 2 + play * MICROSECOND, st.integers(0, 8), st.integers(-1, 1)
)
cities, drivers = st.sampled_from(["EWR", "JFK"]), st.integers(1, 2)
values = st.integers(0, 99)
sources = st.lists(
    st.tuples(cities, drivers, instants, st.integers(0, 3), values), max_size=10, unique_by=lambda made: made[:4]
)
asked = st.lists(
    st.tuples(st.none() | cities | st.just("LGA"), st.none() | drivers | st.just(9), instants), min_size=1, max_size=8
)


def stored(shape: Shape, drawn: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    rows = []
    seen = set()
    for city, driver, at, late, value in drawn:
        tie = (*[{CITY: city, DRIVER: driver}[key] for key in shape.keys], at, late if shape.created else 0)
        if tie not in seen:
            seen.add(tie)
            gaps = {
                "count": None if value % 5 == 0 else value,
                "tags": None if value % 7 == 0 else ["x"] * (value % 3),
            }
            rows.append(row(city, driver, at, value, created=at + late * HOUR, **gaps))
    return rows


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    asked=asked,
    drawn=st.dictionaries(st.sampled_from(list(SHAPES)), sources, min_size=1),
    full_names=st.booleans(),
    cut_off=st.booleans(),
)
def test_every_cell_is_that_of_the_stock_store(
    repos: tuple[Path, FeatureStore, FeatureStore],
    asked: list[tuple[Any, ...]],
    drawn: dict[str, list[tuple[Any, ...]]],
    full_names: bool,
    cut_off: bool,
) -> None:
    root, ours, stock = repos
    for name, rows in drawn.items():
        write(root / name, stored(SHAPES[name], rows))
    wanted = refs(*drawn) if full_names else refs(next(iter(drawn)))
    options: dict[str, Any] = {
        "features": wanted,
        "full_feature_names": full_names,
        "filter_by_created_timestamp": cut_off,
    }
    got = ours.get_historical_features(entity_df=ask(*asked), **options).to_arrow()
    # The stock store gives the rows back in any order.
    expected = stock.get_historical_features(entity_df=ask(*asked), **options).to_arrow().sort_by("row")
    assert got["row"].to_pylist() == list(range(len(asked)))
    assert got.schema.equals(expected.schema)
    assert got.to_pylist() == expected.to_pylist()


def test_the_store_is_found_by_its_name(repos: tuple[Path, FeatureStore, FeatureStore]) -> None:
    _, ours, _ = repos
    assert isinstance(ours.config.offline_store, AsOfOfflineStoreConfig)
    assert AsOfOfflineStore.supports_filter_by_created_timestamp


def test_rows_out_are_rows_in_and_in_order(repos: tuple[Path, FeatureStore, FeatureStore]) -> None:
    root, ours, _ = repos
    write(root / "by_city", [row("EWR", value=1), row("EWR", at=NOON + HOUR, value=2), row("JFK", value=3)])
    asked = ask(("JFK", 1, NOON), ("EWR", 1, NOON + HOUR), ("LGA", 1, NOON), ("EWR", 1, NOON), ("EWR", 1, NOON + HOUR))
    asked.index = pd.Index([7, 7, 3, 0, 1])
    got = ours.get_historical_features(entity_df=asked, features=["by_city:value"]).to_df()
    assert got["row"].tolist() == [0, 1, 2, 3, 4]
    assert got["value"].fillna(-1).tolist() == [3, 2, -1, 1, 2]
    assert list(got.index) == [0, 1, 2, 3, 4]


def test_no_entity_rows_give_no_rows_of_the_right_types(repos: tuple[Path, FeatureStore, FeatureStore]) -> None:
    _, ours, _ = repos
    got = ours.get_historical_features(entity_df=ask(), features=refs("by_city"))
    assert got.to_arrow().num_rows == 0
    assert got.to_arrow().schema.field("count").type == pa.int64()
    assert got.to_arrow().schema.field("tags").type == pa.list_(pa.string())


@pytest.mark.parametrize(
    "times",
    [
        ["2013-03-10T12:00:00Z", "2013-03-10"],
        ["2013-03-10 08:00:00-04:00", "2013-03-10 00:00"],
        [NOON, datetime(2013, 3, 10, tzinfo=UTC)],
        [NOON.replace(tzinfo=None), date(2013, 3, 10)],
        pd.to_datetime([NOON, "2013-03-10"], utc=True).tz_convert("America/New_York").as_unit("s"),
    ],
    ids=["text", "text with offsets", "objects", "naive objects and dates", "seconds in New York"],
)
def test_times_of_entity_rows_may_be_written_in_many_ways(
    repos: tuple[Path, FeatureStore, FeatureStore], times: Any
) -> None:
    root, ours, _ = repos
    write(root / "by_city", [row(value=1)])
    asked = pd.DataFrame({"city": ["EWR", "EWR"], "event_timestamp": times})
    got = ours.get_historical_features(entity_df=asked, features=["by_city:value"]).to_arrow()
    assert got["value"].to_pylist() == [1, None]
    assert got["event_timestamp"].to_pylist() == [NOON, datetime(2013, 3, 10, tzinfo=UTC)]


def test_arrow_and_polars_rows_need_no_pandas(repos: tuple[Path, FeatureStore, FeatureStore]) -> None:
    root, ours, _ = repos
    write(root / "by_city", [row(value=1)])
    frame = ask(("EWR", 1, NOON), (None, 2, NOON))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    got = [
        ours.get_historical_features(entity_df=rows, features=refs("by_city")).to_arrow().to_pylist()
        for rows in (frame, table, pl.from_arrow(table))
    ]
    assert got[0] == got[1] == got[2]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("SELECT 1", "takes neither SQL nor a span of time"),
        (None, "takes neither SQL nor a span of time"),
        (pd.DataFrame({"city": ["EWR"], "at": ["2013-03-10"]}), "needs a column event_timestamp.*it has: city, at"),
        (pd.DataFrame({"city": ["EWR"], "event_timestamp": ["yesterday"]}), "'yesterday' is not an instant"),
        (pd.DataFrame({"city": ["EWR"], "event_timestamp": [{}]}), "{} is no time"),
        (pd.DataFrame({"town": ["EWR"], "event_timestamp": [NOON]}), "entity rows have no column city"),
        (pd.DataFrame({"city": ["EWR"], "event_timestamp": [NOON], "value": 1}), "would be called value: rename one"),
    ],
)
def test_mistakes_are_named(repos: tuple[Path, FeatureStore, FeatureStore], asked: Any, says: str) -> None:
    _, ours, _ = repos
    with pytest.raises(HeadwayError, match=says):
        ours.get_historical_features(entity_df=asked, features=["by_city:value"]).to_arrow()


class World(NamedTuple):
    """A store whose one feature view, `cars`, has names that other stores trip over."""

    store: FeatureStore
    folder: Path


@pytest.fixture(params=[True, False], ids=["pull latest", "pull all"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    store = open_store(tmp_path / "repo", OURS, pull_latest=request.param)
    folder = tmp_path / "repo" / "rows"
    write(folder, [row(value=1)])
    (folder / "computed_until.json").write_text("{}")  # a folder may hold other things too
    # Its path is relative to the repository; `delay_y` is called `value` in the files.
    fields = [Field(name="delay_y", dtype=Float64), Field(name="count", dtype=Int64)]
    cars = view_of("cars", Shape([CITY], 2 * HOUR, "created"), "rows", fields, field_mapping={"value": "delay_y"})
    plan = OnDemandFeatureView(
        name="plan",
        sources=[cars, RequestSource(name="request", schema=[Field(name="limit", dtype=Float64)])],
        schema=[Field(name="excess", dtype=Float64)],
        feature_transformation=PythonTransformation(udf=excess, udf_string="excess"),
        mode="python",
    )
    store.apply([CITY, cars, plan])
    yield World(store, folder)
    store.teardown()


def excess(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    pairs = zip(inputs["delay_y"], inputs["limit"], strict=True)
    return {"excess": [None if delay is None else delay - limit for delay, limit in pairs]}


def test_a_feature_may_be_called_y_and_come_from_a_renamed_column(world: World) -> None:
    asked = ask(("EWR", 1, NOON), ("JFK", 1, NOON))
    got = world.store.get_historical_features(entity_df=asked, features=["cars:delay_y"]).to_arrow()
    assert got["delay_y"].to_pylist() == [1.0, None]


def test_on_demand_features_are_computed_from_the_joined_rows(world: World) -> None:
    asked = ask(("EWR", 1, NOON), ("JFK", 1, NOON)).assign(limit=[0.25, 0.5])
    got = world.store.get_historical_features(entity_df=asked, features=["plan:excess", "cars:count"]).to_arrow()
    assert got["excess"].to_pylist() == [0.75, None]
    assert got["count"].to_pylist() == [1, None]


def test_a_view_joins_under_another_key_and_name(world: World) -> None:
    cars = world.store.get_feature_view("cars")
    there = cars.with_name("there").with_join_key_map({"city": "to"})
    service = FeatureService(name="both", features=[cars.with_name("here"), there])
    world.store.apply([service])
    asked = ask(("EWR", 1, NOON), ("JFK", 1, NOON)).assign(to=["JFK", "EWR"])
    got = world.store.get_historical_features(entity_df=asked, features=service, full_feature_names=True).to_arrow()
    assert got["here__delay_y"].to_pylist() == [1.0, None]
    assert got["there__delay_y"].to_pylist() == [None, 1.0]


def test_a_newer_file_may_have_more_columns(world: World) -> None:
    old = next(world.folder.glob("*.parquet"))
    pq.write_table(pq.read_table(old).drop_columns(["count", "junk"]), old)
    pq.write_table(pa.Table.from_pylist([row(at=NOON + HOUR, value=2)], ARROW), world.folder / "z.parquet")
    asked = ask(("EWR", 1, NOON), ("EWR", 1, NOON + HOUR))
    got = world.store.get_historical_features(entity_df=asked, features=["cars:delay_y", "cars:count"]).to_arrow()
    assert got["delay_y"].to_pylist() == [1.0, 2.0]
    assert got["count"].to_pylist() == [None, 2]


def test_a_source_without_files_is_named(world: World) -> None:
    write(world.folder, [row()], ".half")
    with pytest.raises(HeadwayError, match=r"no Parquet files at .*rows\. Compute the feature table first"):
        world.store.get_historical_features(entity_df=ask(("EWR", 1, NOON)), features=["cars:count"])


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_materialize_and_retrieval_do_not_depend_on_the_time_zone_of_the_process(world: World) -> None:
    # On this night New York's clocks went forward. The window's ends are included; of equal times the later
    # created counts; one row is too late for the window, and one too early.
    rows = [
        row("EWR", value=1),
        row("EWR", value=2, created=NOON + HOUR),
        row("EWR", value=3, at=NOON + MICROSECOND),
        row("JFK", value=4, at=NOON - HOUR),
        row("LGA", value=5, at=NOON - HOUR - MICROSECOND),
    ]
    write(world.folder, rows)
    world.store.materialize(NOON - HOUR, NOON, feature_views=["cars"])
    asked = [{"city": city} for city in ("EWR", "JFK", "LGA")]
    online = world.store.get_online_features(features=["cars:delay_y"], entity_rows=asked).to_dict(True)
    assert online["delay_y"] == [2.0, 4.0, None]
    assert online["delay_y__ts"][:2] == [int(NOON.timestamp()), int((NOON - HOUR).timestamp())]
    naive = pd.DataFrame({"city": ["EWR", "JFK"], "event_timestamp": [pd.Timestamp("2013-03-10 12:00")] * 2})
    offline = world.store.get_historical_features(entity_df=naive, features=["cars:delay_y"]).to_arrow()
    assert offline["delay_y"].to_pylist() == [2.0, 4.0]


def test_a_saved_dataset_holds_the_retrieval_with_its_on_demand_features(world: World, tmp_path: Path) -> None:
    asked = ask(("EWR", 1, NOON), ("JFK", 1, NOON)).assign(limit=[0.25, 0.5])
    job = world.store.get_historical_features(entity_df=asked, features=["plan:excess", "cars:delay_y"])
    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    saved = world.store.create_saved_dataset(from_=job, name="training", storage=storage)
    assert saved.to_df()["excess"].fillna(-1).tolist() == [0.75, -1]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
