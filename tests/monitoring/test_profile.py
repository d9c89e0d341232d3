from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import HeadwayError
from monitoring.profile import (
    TOP,
    Bins,
    Categories,
    Numbers,
    Profile,
    Reference,
    add,
    build_reference,
    fit_bins,
    iso_days,
    take,
    take_days,
)
from pipelines.files import read_json, write_json
from tests.monitoring.worlds import FEATURES, IMPORTANCE, Column, iso, rows, steady_days

NUMBERS = st.lists(st.floats(width=32) | st.none() | st.sampled_from([0.0, 1.0, 7.5]), min_size=1, max_size=60)
TEXTS = st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=60)


def frame(numbers: list[float | None], texts: list[str | None]) -> pd.DataFrame:
    n = min(len(numbers), len(texts))
    return pd.DataFrame({"x": np.array(numbers[:n], float), "c": np.array(texts[:n], object)})


COLUMNS = (Column("x"), Column("c", "str"))
TOGETHER = ("x", "c")


@given(trained=st.tuples(NUMBERS, TEXTS), served=st.tuples(NUMBERS, TEXTS), cut=st.integers(0, 60))
@settings(deadline=None)
def test_a_profile_is_the_sum_of_its_parts_and_counts_every_row(
    trained: tuple[list, list], served: tuple[list, list], cut: int
) -> None:
    bins, data = fit_bins(frame(*trained), COLUMNS, TOGETHER), frame(*served)
    whole, parts = take(data, bins), add([take(data[:cut], bins), take(data[cut:], bins)])
    assert parts.counts == whole.counts
    assert parts.rows == whole.rows == len(data)
    assert parts.together == pytest.approx(whole.together, abs=2e-4)
    assert all(sum(counts) == len(data) for counts in whole.counts.values())
    for name, moments in whole.moments.items():
        assert (parts.moments[name].low, parts.moments[name].high) == (moments.low, moments.high)
        if moments.mean is not None:
            scale = max(abs(moments.low or 0), abs(moments.high or 0), 1e-300)
            assert parts.moments[name].mean == pytest.approx(moments.mean, abs=1e-9 * scale)
            assert parts.moments[name].sd == pytest.approx(moments.sd, rel=1e-6, abs=1e-6 * scale)


@given(trained=st.tuples(NUMBERS, TEXTS))
@settings(deadline=None)
def test_edges_increase_and_no_trained_value_is_unseen(trained: tuple[list, list]) -> None:
    data = frame(*trained)
    bins = fit_bins(data, COLUMNS)
    numbers = bins.columns["x"]
    assert isinstance(numbers, Numbers)
    assert all(np.diff(numbers.edges) > 0)
    profile = take(data, bins)
    assert profile.counts["x"][-1] == np.isinf(data["x"]).sum()
    assert profile.counts["x"][-2] == data["x"].isna().sum()
    assert profile.counts["c"][-1] == 0
    assert profile.counts["c"][-2] == data["c"].isna().sum()


@given(trained=st.tuples(NUMBERS, TEXTS))
@settings(deadline=None, max_examples=30)
def test_json_round_trip(trained: tuple[list, list]) -> None:
    data = frame(*trained)
    bins = fit_bins(data, COLUMNS)
    profile = take(data, bins)
    assert msgspec.json.decode(msgspec.json.encode(bins), type=Bins) == bins
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


def test_bins_hold_about_equal_shares() -> None:
    data = pd.DataFrame({"x": np.random.default_rng(0).lognormal(size=30_000)})
    counts = take(data, fit_bins(data, [Column("x")])).counts["x"]
    assert len(counts) == 32
    assert min(counts[:-2]) > 900
    assert max(counts[:-2]) < 1100


def test_a_value_that_fills_many_quantiles_has_its_own_bin() -> None:
    data = pd.DataFrame({"x": np.concatenate([np.zeros(900), np.linspace(1, 2, 100)])})
    bins = fit_bins(data, [Column("x")])
    moved = take(pd.DataFrame({"x": [0.0, 1e-6]}), bins).counts["x"]
    assert max(moved) == 1


def test_constant_column_sees_its_value_and_nothing_else() -> None:
    bins = fit_bins(pd.DataFrame({"x": [3.0] * 5}), [Column("x")])
    assert take(pd.DataFrame({"x": [3.0, 3.1, np.nan]}), bins).counts["x"] == [1, 1, 1]


def test_column_missing_in_training_makes_every_value_unseen() -> None:
    bins = fit_bins(pd.DataFrame({"x": [np.nan] * 3}), [Column("x")])
    assert take(pd.DataFrame({"x": [1.0, np.nan]}), bins).counts["x"] == [0, 1, 1]


def test_categories_beyond_the_top_are_pooled_and_strangers_are_unseen() -> None:
    names = [f"c{i:03}" for i in range(TOP + 5) for _ in range(TOP + 6 - i)]
    bins = fit_bins(pd.DataFrame({"c": names}), [Column("c", "str")])
    categories = bins.columns["c"]
    assert isinstance(categories, Categories)
    assert categories.rare == [f"c{i:03}" for i in range(TOP, TOP + 5)]
    counts = take(pd.DataFrame({"c": ["c000", "c052", "stranger", None]}), bins).counts["c"]
    assert (counts[0], counts[-3:]) == (1, [1, 1, 1])


def test_days_are_utc_days() -> None:
    instants = pd.Series(["2021-03-01T23:30:00-05:00", "2021-03-01T05:00:00Z"])
    assert iso_days(instants).tolist() == ["2021-03-02", "2021-03-01"]


def test_reference_takes_bins_from_trained_rows_and_days_from_all() -> None:
    data = rows(np.random.default_rng(1), 300).assign(prediction=0.5)
    data.loc[200:, "temp"] += 100
    instants = pd.Series([iso(i // 100) for i in range(300)])
    found = build_reference(
        data, instants, FEATURES, IMPORTANCE | {"wind": -3.0}, surprise=steady_days(9), trained=data.index < 200
    )
    assert list(found.days) == [iso(0), iso(1), iso(2)]
    assert found.days[iso(2)].counts["temp"][-1] == 100
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.importance["wind"] == 0
    assert "prediction" in found.bins.columns
    assert msgspec.json.decode(msgspec.json.encode(found), type=Reference) == found


def test_days_add_up_to_the_week() -> None:
    data = rows(np.random.default_rng(2), 300)
    bins = fit_bins(data, FEATURES)
    by_day = take_days(data, pd.Series([iso(i % 7) for i in range(300)]), bins)
    assert len(by_day) == 7
    assert add(by_day.values()).counts == take(data, bins).counts


def test_mistakes_are_explained() -> None:
    data = pd.DataFrame({"x": [1.0]})
    with pytest.raises(HeadwayError, match=r"needs a column 'y'; the rows have: x"):
        fit_bins(data, [Column("y")])
    with pytest.raises(HeadwayError, match="Rename"):
        fit_bins(data, [Column("prediction")])
    with pytest.raises(HeadwayError, match="0 profiles"):
        add([])


def test_profiles_add_up_with_those_in_bins_that_were_kept_in_a_file(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    part = rows(random).assign(wind=lambda part: 3 * part["temp"] + random.normal(0, 0.1, len(part)))
    bins = fit_bins(part, FEATURES, ["wind", "temp", "place"])
    write_json(tmp_path / "bins.json", bins)
    kept = read_json(tmp_path / "bins.json", Bins)
    assert list(kept.together) != list(bins.together)  # a file has its own order
    assert kept.owners == bins.owners
    assert take(part, kept).together == take(part, bins).together
