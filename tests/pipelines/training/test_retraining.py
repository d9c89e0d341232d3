"""What a retraining believes: the stored verdict that stands, and the champion of an instant."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

import models
from pipelines.home import Home, utc
from pipelines.registry import promotion
from pipelines.registry.ledger import Entry, Ledger
from pipelines.registry.pointers import Pointer
from pipelines.training.retraining import reigning, standing_verdict

MODEL = "late_arrival"
NIGHT, HOUR = utc("2013-05-01T00:30Z"), timedelta(hours=1)


def wrote(at: Home, kind: Any, as_of: datetime, **body: Any) -> Entry:
    key = f"{kind}/{as_of.isoformat()}/{body}"
    return Ledger(at.ledger_url).append(kind, MODEL, as_of=as_of, body=body, actor="test", key=key)


def standing(at: Home, as_of: datetime = NIGHT + 9 * HOUR) -> Entry | None:
    return standing_verdict(at, models.load(MODEL), as_of)


@pytest.fixture
def asked(home: Home) -> Entry:
    """A verdict that asks for retraining."""
    return wrote(home, "verdict", NIGHT, action="retrain", sentence="Retrain: the world moved")


def version(at: Home, number: int, as_of: datetime, verdict: str | None = None) -> None:
    wrote(at, "version", as_of, version=number, tag=f"{MODEL}:{number}", digest=f"{number:064}", verdict=verdict)


def champion(at: Home, number: int, as_of: datetime) -> Pointer:
    return promotion.promote(
        Ledger(at.ledger_url), at.pointers, model=MODEL, version=number, tag=f"{MODEL}:{number}",
        digest=f"{number:064}", as_of=as_of, actor="test", why="test", key=f"promotion {number}",
    )  # fmt: skip


def test_without_a_verdict_there_is_nothing_to_do_whatever_an_event_says(home: Home) -> None:
    assert standing(home) is None
    for action in ("nothing", "wait", "veto"):
        wrote(home, "verdict", NIGHT + HOUR, action=action, sentence="No")
        assert standing(home) is None


def test_a_verdict_stands_until_it_was_acted_on(home: Home, asked: Entry) -> None:
    version(home, 1, NIGHT - HOUR)
    assert standing(home) == asked
    assert standing(home, NIGHT - HOUR) is None
    version(home, 2, NIGHT, verdict=asked.key)
    assert standing(home) is None


def test_a_later_verdict_takes_its_place(home: Home, asked: Entry) -> None:
    wrote(home, "verdict", NIGHT + HOUR, action="veto", sentence="Do not retrain, look at the data")
    assert standing(home) is None
    assert standing(home, NIGHT) == asked


@pytest.mark.parametrize("what", ["version", "promotion", "rollback"])
def test_a_verdict_on_a_champion_that_is_gone_stands_no_more(home: Home, asked: Entry, what: str) -> None:
    for number in (1, 2):
        version(home, number, NIGHT - 3 * HOUR)
        champion(home, number, NIGHT - (3 - number) * HOUR)
    assert standing(home) == asked
    later = NIGHT + HOUR
    if what == "version":
        version(home, 3, later)
    elif what == "promotion":
        champion(home, 3, later)
    else:
        ledger = Ledger(home.ledger_url)
        promotion.rollback(ledger, home.pointers, model=MODEL, as_of=later, actor="test", why="test", key="back")
    assert standing(home) is None
    assert standing(home, NIGHT) == asked


def test_what_was_promoted_at_an_instant_reigns_after_it(home: Home) -> None:
    reigns = [champion(home, number, NIGHT + number * HOUR) for number in range(1, 4)]
    assert reigns == promotion.reigns(Ledger(home.ledger_url), MODEL)
    assert reigning([], NIGHT) is None
    assert [reigning(reigns, NIGHT + hours * HOUR) for hours in (0, 1, 2, 3, 4)] == [
        reigns[0], reigns[0], reigns[0], reigns[1], reigns[2]
    ]  # fmt: skip
