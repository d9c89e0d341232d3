"""The as-of offline store: Feast's point-in-time retrieval over Parquet files, in seconds.

Named in `feature_store.yaml` as `offline_store: {type: pipelines.store.asof.AsOfOfflineStore}`. Its answers are those
of Feast's DuckDB store (`tests/pipelines/store/test_asof.py` holds the two against each other, cell by cell), which
joins every entity row to all feature rows within the TTL before it ranks them, and so takes minutes where this takes a
second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage

from features import HeadwayError
from pipelines.home import utc
from pipelines.store.asof_join import View, arrow, asof_join, instant

EVENT_TIME = "event_timestamp"


class AsOfOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The store's part of `feature_store.yaml`: nothing to set. Feast finds this class by its name."""

    type: str = "pipelines.store.asof.AsOfOfflineStore"


class AsOfOfflineStore(DuckDBOfflineStore):
    """Reads each feature view's Parquet files (one, a glob, or a folder of them) and joins them as of each row's time.

    A newer file may have columns that older ones lack. Writing (push, logged features) is Feast's DuckDB store.
    """

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pl.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **_span: Any,
    ) -> RetrievalJob:
        """The features of each entity row as of its time: see `asof_join` for the rules.

        Args:
            config: of the feature store; relative paths of sources start at its `repo_path`.
            feature_views: what to join.
            feature_refs: "view:feature" of each feature wanted, on-demand features too.
            entity_df: (n, any columns): keys, request inputs, and `event_timestamp` (or one column of timestamps).
                An Arrow table or polars frame saves the way through pandas, half of the time of a large retrieval.
            registry: where on-demand feature views are looked up.
            project: of the feature store.
            full_feature_names: name features view__feature.
            filter_by_created_timestamp: let a feature row count only from its created timestamp on.

        Returns:
            A job; it reads and joins when asked for its result: n rows, in the order of `entity_df`.

        Raises:
            HeadwayError: no frame of entity rows, no timestamp in it, or a source without Parquet files.
        """
        entities, event_time = _entity_rows(entity_df)
        views = [_view(config, view, feature_refs, full_feature_names) for view in feature_views]
        span = pc.min_max(entities.column(event_time))
        return AsOfRetrievalJob(
            lambda: asof_join(
                entities, views, event_time=event_time, filter_by_created_timestamp=filter_by_created_timestamp
            ),
            repo_path=str(config.repo_path or "."),
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != event_time],
                min_event_timestamp=span["min"].as_py(),
                max_event_timestamp=span["max"].as_py(),
            ),
        )

    # The stock store's two pulls below are right, also outside UTC, but cast the time column before they compare it,
    # so every row group is read (0.3 s a week of 3.4 million rows, against 0.01 s), look for a relative path in the
    # current folder, and fail on a folder that also holds another file or has no file_format.

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The latest row of each key with start_date <= time <= end_date; of equal times the latest created."""
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        rows = _between(config, data_source, timestamp_field, start_date, end_date)
        rows = rows.select(list(dict.fromkeys([*join_key_columns, *feature_name_columns, *order])))
        rows = rows.sort(order, maintain_order=True)
        latest = rows.unique(join_key_columns, keep="last", maintain_order=True) if join_key_columns else rows.tail(1)
        return AsOfRetrievalJob(lambda: _collect(latest), repo_path=str(config.repo_path or "."))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with start_date <= time <= end_date; None is unbounded."""
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        rows = _between(config, data_source, timestamp_field, start_date, end_date)
        rows = rows.select(list(dict.fromkeys([*join_key_columns, *feature_name_columns, *order])))
        return AsOfRetrievalJob(lambda: _collect(rows), repo_path=str(config.repo_path or "."))


class AsOfRetrievalJob(RetrievalJob):
    """A retrieval that is computed when its result is asked for, each time anew."""

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        *,
        repo_path: str,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__()
        self._compute = compute
        self._repo_path = repo_path
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named view__feature."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """What Feast computes from the joined rows."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for; None of a pull."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._compute().to_pandas()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result, on-demand features too, as one Parquet file: the path of `storage`, or in it if a folder.

        Raises SavedDatasetLocationAlreadyExists.
        """
        source = storage.to_data_source()
        path = Path(FileSource.get_uri_for_file_path(self._repo_path, _file_source(source).path))
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        target = path if path.suffix == ".parquet" else path / "part-0.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.to_arrow(), target)


def _view(config: RepoConfig, view: FeatureView, feature_refs: Sequence[str], full_feature_names: bool) -> View:
    source, projection = view.batch_source, view.projection
    if source is None:
        raise HeadwayError(f"feature view {view.name} has no batch source to read its past from")
    asked = f"{projection.name_to_use()}:"
    wanted = [ref.removeprefix(asked) for ref in feature_refs if ref.startswith(asked)]
    prefix = f"{projection.name_alias or view.name}__" if full_feature_names else ""
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    columns = {new: old for old, new in source.field_mapping.items()}
    return View(
        name=view.name,
        rows=_rows(config, source),
        keys={columns.get(key, key): projection.join_key_map.get(key, key) for key in keys},
        features={columns.get(name, name): prefix + name for name in wanted},
        event_time=columns.get(source.timestamp_field, source.timestamp_field),
        created=columns.get(source.created_timestamp_column, source.created_timestamp_column) or None,
        ttl=view.ttl,
    )


def _file_source(source: DataSource) -> FileSource:
    if isinstance(source, FileSource) and isinstance(source.file_format, ParquetFormat | None):
        return source
    raise HeadwayError(f"data source {source.name}: the as-of store reads and writes Parquet files, as a FileSource")


def _rows(config: RepoConfig, source: DataSource) -> pl.LazyFrame:
    path = FileSource.get_uri_for_file_path(config.repo_path, _file_source(source).path)
    files = _files(path)
    if not files:
        raise HeadwayError(
            f"data source {source.name}: no Parquet files at {path}. Compute the feature table first: "
            "`headway ingest DOMAIN --history SINCE`."
        )
    return pl.scan_parquet(
        files,
        schema=pl.read_parquet_schema(files[-1]),
        missing_columns="insert",
        extra_columns="ignore",
        glob=False,
        hive_partitioning=False,
    )


def _files(path: str) -> list[str]:
    """The Parquet files of a folder, a pattern or one file, by name; what is hidden is still being written."""
    if "://" in path:
        return [path]
    here = Path(path)
    found = here.rglob("*.parquet") if here.is_dir() else [here] if here.exists() else here.parent.glob(here.name)
    return sorted(str(file) for file in found if not file.name.startswith("."))


def _between(
    config: RepoConfig, source: DataSource, time: str, since: datetime | None, until: datetime | None
) -> pl.LazyFrame:
    rows = _rows(config, source)
    at = instant(time, rows.collect_schema()[time], f"data source {source.name}")
    if since:
        rows = rows.filter(at >= since.astimezone(UTC))
    return rows.filter(at <= until.astimezone(UTC)) if until else rows


def _collect(rows: pl.LazyFrame) -> pa.Table:
    # In one chunk: materialization reads the first record batch of a table, and no other.
    found = rows.collect()
    return pa.table({name: arrow(found[name]) for name in found.columns})


def _entity_rows(frame: Any) -> tuple[pa.Table, str]:
    """The entity rows as Arrow, and which column is their time (UTC, microseconds)."""
    if isinstance(frame, pl.DataFrame):
        frame = frame.to_arrow()
    if isinstance(frame, pd.DataFrame):
        event_time = _event_time(list(frame.columns), frame.select_dtypes(["datetime", "datetimetz"]).columns)
        if pd.api.types.is_object_dtype(frame[event_time]) or pd.api.types.is_string_dtype(frame[event_time]):
            times = [_instant(value) for value in frame[event_time]]
            frame = frame.assign(**{event_time: pd.Series(times, frame.index, "datetime64[us, UTC]")})
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    elif isinstance(frame, pa.Table):
        table = frame
        event_time = _event_time(table.column_names, [f.name for f in table.schema if pa.types.is_timestamp(f.type)])
    else:
        raise HeadwayError(
            "entity_df must be a DataFrame (or Arrow table) with one row for each prediction: "
            "the as-of store takes neither SQL nor a span of time"
        )
    return _microseconds(table), event_time


def _event_time(columns: Sequence[str], timestamps: Sequence[str]) -> str:
    if EVENT_TIME in columns:
        return EVENT_TIME
    if len(timestamps) == 1:
        return str(timestamps[0])
    raise HeadwayError(
        f"entity_df needs a column {EVENT_TIME}, the time of each row (UTC), or just one column of timestamps; "
        f"it has: {', '.join(map(str, columns))}"
    )


def _instant(value: Any) -> Any:
    # One by one: pandas gives a text without an offset the offset of the text before it.
    if isinstance(value, str):
        return utc(value)
    if isinstance(value, date) or pd.isna(value):
        at = pd.Timestamp(value)
        return at.tz_localize(UTC) if at.tzinfo is None else at.tz_convert(UTC)
    raise HeadwayError(f"entity_df: {value!r} is no time. Give each row a timestamp (UTC).")


def _microseconds(table: pa.Table) -> pa.Table:
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz)) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields), safe=False)
