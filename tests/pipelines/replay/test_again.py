"""Live equals replay: nights that were really run, served and retrained come out again, to the byte of the ledger."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import features
from features import HeadwayError
from models import Retraining
from pipelines.commands.asking import Caller
from pipelines.home import Home
from pipelines.nights import night
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger
from pipelines.replay.again import again, linked
from pipelines.replay.past import Past
from pipelines.training import retraining
from services import keys
from tests.history import DOMAIN, START, copy, history
from tests.pipelines.replay import past as small
from tests.pipelines.replay.past import DAY

__all__ = ["history"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NIGHT = START + DAY + timedelta(minutes=30)
MODEL = replace(small.SMALL, retraining=Retraining(max_age=DAY, cooldown=DAY))


@pytest.fixture
def lived(history: Home, home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A first champion, a day of requests, a night whose verdict retrains it, and a person who takes that back."""
    at = copy(history, home)
    for room in ("registry", "bentoml", "keys"):
        shutil.rmtree(at.root / room, ignore_errors=True)
    retraining.retrain(at, MODEL, START, actor="test")
    ask(at, monkeypatch)
    night.refresh(at, DOMAIN, START + DAY)
    verdict = night.night(at, MODEL, NIGHT)
    assert verdict.action == "retrain", verdict.sentence
    standing = retraining.standing_verdict(at, MODEL, NIGHT)
    retraining.retrain(at, MODEL, NIGHT, actor="prefect", verdict=standing)
    promotion.rollback(
        Ledger(at.ledger_url), at.pointers, model=MODEL.name, as_of=NIGHT + timedelta(hours=1), actor="desk",
        why="complaints", key="back",
    )  # fmt: skip
    night.refresh(at, DOMAIN, START + 2 * DAY)  # brings labels of before the first night that it could not know
    night.night(at, MODEL, NIGHT + DAY)
    return at


def test_nights_that_were_really_run_come_out_again_to_the_byte(lived: Home, tmp_path: Path) -> None:
    before = [entry.hash for entry in Ledger(lived.ledger_url).entries()]
    past = Past(linked(lived, DOMAIN, tmp_path / "links"), MODEL, Home(tmp_path / "room"))
    kinds = [entry.kind for entry in Ledger(lived.ledger_url).entries(MODEL.name)]
    assert kinds == ["version", "promotion", "verdict", "version", "promotion", "rollback", "verdict"]
    count, differences = again(lived, past)
    assert (count, differences) == (len(kinds), [])
    assert [entry.hash for entry in Ledger(lived.ledger_url).entries()] == before  # it was only read


def test_what_was_not_so_is_told(lived: Home, tmp_path: Path) -> None:
    Ledger(lived.ledger_url).append(
        "verdict", MODEL.name, as_of=NIGHT + 2 * DAY, body={"action": "nothing", "sentence": "made up"},
        actor="night", key=f"verdict/{MODEL.name}/{(NIGHT + 2 * DAY).isoformat()}",
    )  # fmt: skip
    past = Past(linked(lived, DOMAIN, tmp_path / "links"), MODEL, Home(tmp_path / "room"))
    _, differences = again(lived, past)
    assert [(each.key.rpartition("/")[2][:10], each.fields) for each in differences] == [("2013-04-04", ["body"])]


def test_a_root_without_a_past_says_so(home: Home, tmp_path: Path) -> None:
    past = Past(home, MODEL, Home(tmp_path))
    with pytest.raises(HeadwayError, match="there is nothing to relive"):
        again(home, past)


def ask(at: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the service, in this process, for the examples of the first six hours that a refresh has made visible."""
    from services.app import create_app

    lag = max(table.lag for table in features.load(DOMAIN).tables)
    key = keys.make(at.keys, "tests")
    monkeypatch.setenv("HEADWAY_CLOCK", "request")
    with Caller("", key) as caller, TestClient(create_app(at), headers=caller._client.headers) as client:
        caller._client = client
        caller.ask(at, MODEL, START + lag, START + timedelta(hours=6), known_by=START)
