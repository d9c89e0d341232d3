"""The contracts: what a wrong declaration is told, and how one is found by its name."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import expectations
import features
import models
from expectations import Expectations, Rule, Suite
from features import DeclarationError, Domain, Feature, FeatureService, FeatureTable, HeadwayError, Source, _contract
from models import Gates, Model

FLIGHTS = features.load("flights")
WEATHER = FLIGHTS.source("weather")
TABLE = FLIGHTS.table("weather_now")
LATE = models.load("late_arrival")
DAY = timedelta(days=1)


def said(make: Callable[[], Any]) -> str:
    with pytest.raises(DeclarationError) as caught:
        make()
    return str(caught.value)


def given(declared: Any) -> dict[str, Any]:
    return {field.name: getattr(declared, field.name) for field in fields(declared)}


@pytest.mark.parametrize("declared", [WEATHER, TABLE, FLIGHTS, LATE, LATE.gates, LATE.examples, TABLE.features[0]])
def test_an_unknown_field_is_named_beside_those_that_there_are(declared: Any) -> None:
    kind = type(declared)
    text = said(lambda: kind(**given(declared), colour="red"))
    assert text.startswith(f"{kind.__name__} is declared wrongly:")
    assert "colour: Unexpected keyword argument" in text
    assert all(field.name in text.splitlines()[-1] for field in fields(kind))


@pytest.mark.parametrize("declared", [WEATHER, TABLE, FLIGHTS, LATE])
def test_each_required_field_is_asked_for_by_name(declared: Any) -> None:
    text = said(type(declared))
    optional = {"request_features", "classes", "slices", "timezone", "approval", "keep_predictions", "policies"}
    for field in fields(declared):
        assert (f"  {field.name}: Field required" in text) == (field.name not in optional)


@pytest.mark.parametrize(
    ("declared", "field", "wrong", "complaint"),
    [
        (WEATHER, "name", "Weather Now", "'Weather Now' is not a name: use a-z, 0-9 and _"),
        (WEATHER, "name", "w" * 64, "at most 63 long"),
        (WEATHER, "key", (), "key: Tuple should have at least 1 item"),
        (WEATHER, "cadence", timedelta(0), "cadence: Input should be greater than 0"),
        (WEATHER, "cadence", 3600, "cadence: Input should be a valid timedelta"),
        (WEATHER, "read", "weather.csv", "read: Input should be callable"),
        (TABLE, "features", (), "features: Tuple should have at least 1 item"),
        (TABLE, "lag", timedelta(minutes=-1), "lag: Input should be greater than or equal to"),
        (TABLE, "cadence", timedelta(days=2), "cadence: Input should be less than or equal to"),
        (TABLE, "cadence", timedelta(hours=7), "cadence 7:00:00 does not divide a day evenly"),
        (TABLE, "features", TABLE.features[:1] * 2, "two features of weather_now are called temp"),
        (TABLE.features[0], "dtype", "double", "dtype: Input should be 'float', 'int', 'str', 'bool' or 'timestamp'"),
        (TABLE.features[0], "honest", "", "honest: String should have at least 1 character"),
        (FLIGHTS, "sources", (WEATHER, WEATHER), "two sources are called weather"),
        (FLIGHTS, "tables", (TABLE, TABLE), "two feature tables are called weather_now"),
        (FLIGHTS, "sources", (WEATHER,), "feature table airport_delays: sources departures not among the domain's"),
        (FLIGHTS, "entities", {"origin": "str"}, "keys carrier not among the domain's entities (origin)"),
        (FLIGHTS, "request_features", (), "request_features plan not among the domain's request features"),
        (LATE, "task", "ranking", "task: Input should be 'binary', 'multiclass' or 'regression'"),
        (LATE, "schedule", "daily", "schedule: String should match pattern"),
        (LATE, "holdout", 90 * DAY, "holdout 90 days, 0:00:00 must be shorter than training_window"),
        (LATE, "holdout", timedelta(hours=12), "holdout: Input should be greater than or equal to"),
        (LATE, "baselines", {}, "baselines: Dictionary should have at least 1 item"),
        (LATE, "slices", LATE.slices[:1] * 2, "two slices are called from_newark"),
        (LATE, "approval", "yes", "approval: Input should be a valid boolean"),
        (LATE.gates, "confidence", 95.0, "confidence: Input should be less than 1"),
        (LATE.gates, "calibration", 0.0, "calibration: Input should be greater than 0"),
        (LATE.monitoring, "false_alarms_per_year", 53.0, "false_alarms_per_year: Input should be less than or equal"),
    ],
)
def test_a_wrong_field_is_told_where_and_what_is_allowed(declared: Any, field: str, wrong: Any, complaint: str) -> None:
    text = said(lambda: replace(declared, **{field: wrong}))
    assert complaint in text
    assert text.splitlines()[-1].startswith("  its fields are: ")


def test_every_wrong_field_is_told_at_once() -> None:
    wrong: dict[str, Any] = {"task": "ranking", "owner": "", "schedule": "daily"}
    text = said(lambda: replace(LATE, **wrong))
    assert all(f"\n  {field}: " in text for field in wrong)


def test_a_feature_that_two_parts_of_a_service_give_is_refused() -> None:
    twin = replace(FLIGHTS.table("airport_delays"), features=TABLE.features)
    service = FeatureService(name="both", tables=("weather_now", "airport_delays"))
    tables = tuple(twin if table.name == twin.name else table for table in FLIGHTS.tables)
    text = said(lambda: replace(FLIGHTS, tables=tables, services=(service,)))
    assert "two features of service both are called humid, precip_6h, pressure" in text


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda: FLIGHTS.source("wether"), "domain flights has no source 'wether'; it has: schedule, departures"),
        (lambda: FLIGHTS.table("weather"), "domain flights has no feature table 'weather'; it has: weather_now"),
        (lambda: FLIGHTS.service("plan"), "domain flights has no feature service 'plan'; it has: flight_plan"),
        (lambda: expectations.load("flights").suite("x"), "has no suite for source 'x'; it has: schedule, departures"),
        (lambda: features.load("flihgts"), "features/ has no 'flihgts'. It has: flights. Name one of these, or add"),
        (lambda: expectations.load("trains"), "expectations/ has no 'trains'. It has: flights."),
        (lambda: models.load("late"), "models/ has no 'late'. It has: arrival_delay, late_arrival."),
        (lambda: models.load("../secrets"), "models/ has no '../secrets'."),
        (lambda: models.load("__init__"), "models/ has no '__init__'."),
    ],
)
def test_a_wrong_name_answers_at_once_with_the_valid_ones(ask: Callable[[], Any], answer: str) -> None:
    began = time.monotonic()
    assert answer in said(ask)
    assert time.monotonic() - began < 1


def test_declarations_are_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        WEATHER.name = "other"  # type: ignore[misc]
    with pytest.raises((DeclarationError, TypeError)):
        Feature("temp", "float", "known")  # type: ignore[call-arg]


def test_a_default_is_of_the_feature_kept_as_it_is() -> None:
    for default in (1.5, 2, "EWR", True, None):
        kept = Feature(name="x", dtype="float", honest="known", default=default).default
        assert kept == default and type(kept) is type(default)


def test_a_service_says_what_a_request_must_carry() -> None:
    assert FLIGHTS.keys_of("flight_plan") == ("origin", "carrier", "dest", "tailnum")
    assert FLIGHTS.inputs_of("flight_plan") == {"scheduled_departure": "timestamp", "distance": "int"}
    assert [feature.name for feature in FLIGHTS.features_of("flight_plan")][-2:] == ["airline", "airport"]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"expect": "column_is_fine"}, "expect: String should match pattern"),
        ({"severity": "error"}, "severity: Input should be 'critical', 'warning' or 'info'"),
        ({"why": ""}, "why: String should have at least 1 character"),
        ({"severity": "warning", "args": {}}, "a warning quarantines rows, and expect_column_to_exist speaks"),
    ],
)
def test_a_wrong_rule_is_told(rule: dict[str, Any], complaint: str) -> None:
    good = {"expect": "expect_column_to_exist", "severity": "critical", "args": {"column": "a"}, "why": "needed"}
    assert complaint in said(lambda: Rule(**good | rule))


def test_two_suites_of_one_source_are_refused() -> None:
    suite = Suite(source="a", rules=(Rule(expect="expect_column_to_exist", severity="info", why="x"),))
    assert "two suites are called a" in said(lambda: Expectations(domain="d", suites=(suite, suite)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of declarations called `ours`, of which one is good."""
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_shared.py").write_text("raise AssertionError('not a declaration')")
    (package / "good.py").write_text("from models import Gates\nG = Gates(**dict(" + GATES + "))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "ours"]:
        del sys.modules[name]


GATES = "gain_over_baseline=0.0, loss_to_champion=0.0, calibration=0.1"


def test_a_declaration_is_found_by_the_name_of_its_file(folder: Path) -> None:
    (folder / "broken.py").write_text("syntax error here")
    assert _contract.names("ours") == ["broken", "good"]
    assert _contract.load("ours", "good", Gates) == Gates(gain_over_baseline=0.0, loss_to_champion=0.0, calibration=0.1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"from models import Gates\nA = Gates({GATES})\nB = Gates({GATES})\n", "declares 2 objects of type Gates"),
        ("X = 1\n", "declares 0 objects of type Gates; it must declare one"),
        ("from models import Gates\nA = Gates(confidence=2.0)\n", "Gates is declared wrongly"),
        ("def f(:\n", "line 1"),
        ("import nothing_of_the_kind\n", "No module named 'nothing_of_the_kind'"),
        ("\n\nA = Gates()\n", "line 3"),
    ],
)
def test_a_broken_file_is_told_by_its_name(folder: Path, text: str, complaint: str) -> None:
    (folder / "mine.py").write_text(text)
    answer = said(lambda: _contract.load("ours", "mine", Gates))
    assert answer.startswith("ours/mine.py")
    assert complaint in answer


def test_a_file_that_was_mended_loads(folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text("raise RuntimeError('not yet')")
    assert "not yet" in said(lambda: _contract.load("ours", "mine", Gates))
    path.write_text("from models import Gates\n" + "# mended\n" * 3 + f"A = Gates({GATES})\n")
    assert isinstance(_contract.load("ours", "mine", Gates), Gates)


def test_the_contracts_make_a_domain_without_any_of_the_declared_ones() -> None:
    source = Source(
        name="sales", description="Sales", read=lambda since, until: pd.DataFrame(), key=("id",), event_time="at",
        known_at="known", cadence=DAY,
    )  # fmt: skip
    table = FeatureTable(
        name="turnover", description="Turnover", keys=("shop",), sources=("sales",), sql="SELECT 1", cadence=DAY,
        features=(Feature(name="sum", dtype="float", honest="known"),), lag=timedelta(0), ttl=DAY, lookback=DAY,
    )  # fmt: skip
    service = FeatureService(name="shops", tables=("turnover",))
    domain = Domain(name="retail", entities={"shop": "int"}, sources=(source,), tables=(table,), services=(service,))
    assert domain.keys_of("shops") == ("shop",) and domain.inputs_of("shops") == {}
    assert issubclass(DeclarationError, HeadwayError) and isinstance(LATE, Model)
