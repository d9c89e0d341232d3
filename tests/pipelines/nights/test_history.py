"""The year as the weekly page tells it: from the ledger alone, and only as far as it was known."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitoring import budget
from monitoring.verdict import Verdict
from pipelines.home import utc
from pipelines.nights import history
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger
from tests.monitoring import weeks, worlds

DAY = timedelta(days=1)
START = utc("2021-01-04T00:00Z")
MODEL = worlds.model()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def train(ledger: Ledger, folder: Path, number: int, day: int, passed: bool = True) -> None:
    as_of = START + day * DAY
    gate = {"name": "latency", "passed": passed, "limit": 5.0, "value": None, "sentence": "one prediction"}
    body: dict[str, Any] = {
        "version": number, "tag": f"tide:{number}", "digest": "0" * 64, "metrics": {"holdout": 0.7 + number / 100},
        "gates": [gate], "passed": passed, "awaiting_approval": False, "sentence": f"version {number}",
    }  # fmt: skip
    ledger.append("version", MODEL.name, as_of=as_of, body=body, actor="test", key=f"version/{number}")
    if passed:
        promotion.promote(
            ledger, folder, model=MODEL.name, version=number, tag=f"tide:{number}", digest="0" * 64, as_of=as_of,
            actor="test", why="because it was time", key=f"promotion/{number}",
        )  # fmt: skip


def judge(ledger: Ledger, day: int, verdict: Verdict) -> None:
    as_of = START + day * DAY
    told = msgspec.structs.replace(verdict, as_of=as_of.isoformat())
    body = msgspec.to_builtins(told)
    ledger.append("verdict", MODEL.name, as_of=as_of, body=body, actor="test", key=f"verdict/{day}")


def test_champions_are_told_with_their_training_and_only_until_then(ledger: Ledger, tmp_path: Path) -> None:
    train(ledger, tmp_path, 1, 0)
    train(ledger, tmp_path, 2, 30, passed=False)
    train(ledger, tmp_path, 3, 60)
    as_of = START + 70 * DAY
    promotion.rollback(ledger, tmp_path, model=MODEL.name, as_of=as_of, actor="test", why="complaints", key="rollback")
    found = history.champions(ledger, MODEL.name, as_of)
    assert [(each.version, each.why) for each in found] == [
        (1, "because it was time"), (3, "because it was time"), (1, "complaints"),
    ]  # fmt: skip
    assert found[-1].trained == found[0].trained == START.isoformat()
    assert found[1].metric == 0.73
    assert [each.version for each in history.champions(ledger, MODEL.name, as_of - DAY)] == [1, 3]
    trained = history.trainings(ledger, MODEL.name, START + 40 * DAY)
    assert [(each.version, each.passed, len(each.failed)) for each in trained] == [(1, True, 0), (2, False, 1)]


def test_alarms_are_counted_against_what_chance_alone_would_raise(ledger: Ledger, tmp_path: Path) -> None:
    quiet = weeks.verdict(6, drift=weeks.judged())
    alarm = weeks.verdict(6, drift=weeks.judged(storm=0.6))
    vetoed = weeks.verdict(6, drift=weeks.judged(storm=0.6), faults=[weeks.Fault("gauge", "it is silent")])
    assert alarm.action == "retrain"
    for day, verdict in ((-400, alarm), (7, quiet), (8, weeks.verdict(0)), (14, alarm), (21, vetoed), (28, quiet)):
        judge(ledger, day, verdict)
    told = history.verdicts(ledger, MODEL.name, START + 30 * DAY)
    assert len(told) == 5, "a year is what counts"
    found = history.alarms(MODEL, told)
    assert found
    assert (found.since, found.windows, found.raised, found.over) == ("2021-01-11", 4, 1, False)
    a_year = budget.windows_per_year(MODEL.monitoring.window)
    assert found.by_chance == pytest.approx(4 * quiet.achieved_false_alarms_per_year / a_year)
    assert found.reference_windows == quiet.windows == 52
    train(ledger, tmp_path, 1, 0)
    marks = history.marks(told, history.trainings(ledger, MODEL.name, START + 30 * DAY))
    assert [(each.occasion, each.as_of[:10]) for each in marks] == [
        ("trained", "2021-01-04"), ("alarm", "2021-01-18"), ("veto", "2021-01-25"),
    ]  # fmt: skip
    assert history.alarms(MODEL, []) is None


@pytest.mark.parametrize(
    ("day", "judged", "held"),
    [(6, "2021-01-11", "2021-01-25"), (7, "2021-01-18", "2021-01-25"), (30, "2021-02-08", None)],
)
def test_the_plan_says_when_the_next_window_closes_and_when_the_calendar_is_due(
    ledger: Ledger, tmp_path: Path, day: int, judged: str, held: str | None
) -> None:
    train(ledger, tmp_path, 1, 0)
    as_of = START + day * DAY + timedelta(minutes=30)
    champions, trained = (read(ledger, MODEL.name, as_of) for read in (history.champions, history.trainings))
    found = history.plan(MODEL, as_of, champions, trained)  # type: ignore[arg-type]
    assert found
    assert (found.age_days, found.due, found.judged, found.held_until) == (day, "2021-03-01", judged, held)
    assert history.plan(MODEL, as_of, [], []) is None
