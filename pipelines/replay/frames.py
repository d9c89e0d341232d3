"""Point-in-time frames, built once for the whole past, a file a day, and looked up by what was asked.

The features of a request follow from its keys, its inputs and its decision time alone: snapshots are stamped with when
they could be seen, and none is written back. So they are joined once, by the join that live training uses, and found
again by a hash of just these. What is not found (a plan that was read otherwise at that instant) is joined anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import feather

import features
from models import Model
from pipelines.files import replacing
from pipelines.nights.decision import DAY, midnight
from pipelines.records.examples import labelled
from pipelines.records.frame import Frame, with_features
from pipelines.records.predictions import asked_examples
from pipelines.replay.past import Past
from pipelines.store.matrix import matrix

HASH, INPUT = "hash", "in."
HELD = 40
"""Days of frames that are held in memory."""
CHUNK = timedelta(days=28)
"""Days that are joined at once."""


@dataclass(frozen=True)
class Asked:
    """A day's requests: `rows` as `Past.asked` has them (n, ...), `inputs` what a model is given (n, features)."""

    rows: pd.DataFrame
    inputs: pd.DataFrame


class Frames:
    """The frames of a past, on disk below its room."""

    def __init__(self, past: Past, key: str) -> None:
        self.past = past
        self.folder = past.room.room("frames", key)
        self._held: OrderedDict[datetime, Asked] = OrderedDict()

    def missing(self, since: datetime, until: datetime) -> list[datetime]:
        """The UTC days that begin in [since, until) and are not built yet."""
        first = midnight(since)
        days = [first + number * DAY for number in range(-((first - until) // DAY))]
        return [day for day in days if not self._path(day).exists()]

    def build(self, days: Sequence[datetime]) -> None:
        """Build the frames of some days together."""
        if not days:
            return
        asked = [self.past.asked(day) for day in days]
        rows = pd.concat(asked, ignore_index=True)
        given = asked_examples(rows)
        inputs = self._joined(given).add_prefix(INPUT)
        table = pd.concat([rows, pd.DataFrame({HASH: hashes(given)}), inputs], axis=1)
        ends = np.cumsum([0, *map(len, asked)])
        for day, first, last in zip(days, ends, ends[1:], strict=False):
            with replacing(self._path(day)) as half:
                whole = pa.Table.from_pandas(table.iloc[first:last], preserve_index=False)
                feather.write_feather(whole, str(half), compression="uncompressed")

    def day(self, day: datetime) -> Asked:
        """The requests of a UTC day that was built."""
        if day not in self._held:
            table = self._read([day])
            inputs = [name for name in table if name.startswith(INPUT)]
            rows = table.drop(columns=[*inputs, HASH])
            self._held[day] = Asked(rows, table[inputs].rename(columns=lambda name: name.removeprefix(INPUT)))
        self._held.move_to_end(day)
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return self._held[day]

    def week(self, day: datetime) -> list[datetime]:
        """The days of the calendar week around a day that are built."""
        days = [day + number * DAY for number in range(-day.weekday(), 7 - day.weekday())]
        return [each for each in days if self._path(each).exists()]

    def training(self, model: Model, as_of: datetime) -> Frame:
        """`frame.training_frame` as of an instant: labels known by then, features as of each decision time."""
        return self.frame(labelled(self.past.at, model, as_of=as_of, window=model.training_window))

    def frame(self, rows: pd.DataFrame) -> Frame:
        """Examples with their features: `frame.with_features`, looked up where it was built before."""
        return Frame(rows.reset_index(drop=True), self.found(rows))

    def found(self, rows: pd.DataFrame) -> pd.DataFrame:
        """What a model is given (n, features) for rows that have keys, inputs and decision time."""
        asked = rows[asked_columns(self.past.model)].reset_index(drop=True)
        built = self._built(asked["decision_time"])
        place = pd.Index(built[HASH]).get_indexer(pd.Index(hashes(asked)))
        if (lacking := place < 0).any():
            fresh = self._joined(asked[lacking])
            place[lacking] = len(built) + np.arange(lacking.sum())
            built = pd.concat([built, fresh], ignore_index=True) if len(built) else fresh
        return built[[name for name in built if name != HASH]].take(place).reset_index(drop=True)

    def _joined(self, asked: pd.DataFrame) -> pd.DataFrame:
        if len(asked):
            return with_features(self.past.at, self.past.model, asked).inputs
        declared = features.load(self.past.model.domain).features_of(self.past.model.feature_service)
        return matrix({feature.name: [] for feature in declared}, declared)

    def _built(self, instants: pd.Series) -> pd.DataFrame:
        """Hashes and inputs of the days in which these instants lie, as far as they were built; each hash once."""
        # A day's last instant is the next midnight: its file is that of the day before.
        days = (instants - pd.Timedelta(microseconds=1)).dt.floor("D").unique()
        there = [day for day in sorted(days) if self._path(day.to_pydatetime()).exists()]
        table = self._read([day.to_pydatetime() for day in there], only=True) if there else pd.DataFrame({HASH: []})
        return table.drop_duplicates(HASH, ignore_index=True)

    def _read(self, days: Sequence[datetime], *, only: bool = False) -> pd.DataFrame:
        tables = [feather.read_table(str(self._path(day)), memory_map=True) for day in days]
        whole = pa.concat_tables(tables, promote_options="permissive")
        if only:
            whole = whole.select([name for name in whole.column_names if name == HASH or name.startswith(INPUT)])
            whole = whole.rename_columns([name.removeprefix(INPUT) for name in whole.column_names])
        return whole.to_pandas()

    def _path(self, day: datetime) -> Path:
        return self.folder / f"{day:%Y-%m-%d}.arrow"


def asked_columns(model: Model) -> list[str]:
    """What features follow from: keys, inputs and the decision time."""
    domain, service = features.load(model.domain), model.feature_service
    return [*domain.keys_of(service), *domain.inputs_of(service), "decision_time"]


def hashes(asked: pd.DataFrame) -> np.ndarray:
    """One number for each row of keys, inputs and decision time: uint64 (n,); the order of columns is of no account."""
    plain = asked[sorted(asked.columns)]
    return pd.util.hash_pandas_object(plain, index=False).to_numpy()
