"""What a weekly page is made of, gathered from a root that really lived."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

import features
import models
from monitoring.render import render
from pipelines.files import write_json
from pipelines.home import Home
from pipelines.nights import night
from pipelines.nights.weekly import gather
from tests.history import DOMAIN, MODEL, START, history, root

__all__ = ["history", "root"]

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def replayed(at: Home, until: datetime, sentence: str) -> str:
    name = f"replay-{MODEL}-{until:%Y-%m-%d}"
    write_json(at.reports / f"{name}.json", {"since": "2013-01-01", "until": f"{until:%Y-%m-%d}", "sentence": sentence})
    return f"{name}.html"


def test_the_latest_replay_that_had_ended_by_then_is_told_and_linked(root: Home) -> None:
    replayed(root, START - 9 * DAY, "keep it")
    name = replayed(root, START - 2 * DAY, "choose another")
    replayed(root, START + 9 * DAY, "nobody could know")
    week = gather(root, models.load(MODEL), START + DAY + HOUR)
    assert week.opinion
    assert (week.opinion.sentence, week.opinion.page) == ("choose another", name)
    assert f'<a href="{name}">' in render(week)


@pytest.mark.parametrize("mended", [False, True])
def test_a_night_says_that_a_delivery_of_its_day_was_stopped(
    root: Home, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    declared = features.load(DOMAIN)
    weather = declared.source("weather")
    broken = replace(weather, read=lambda since, until: weather.read(since, until).drop(columns="temp"))
    others = tuple(broken if each.name == "weather" else each for each in declared.sources)
    module = __import__(f"features.{DOMAIN}", fromlist=[DOMAIN])
    name = next(name for name, value in vars(module).items() if value is declared)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, replace(declared, sources=others))
        stops = [each.stops for each in night.ingest(root, DOMAIN, START + DAY)]
    assert sum(map(bool, stops)) == 1
    if mended:
        assert not any(each.stops for each in night.ingest(root, DOMAIN, START + DAY + 6 * HOUR))
    as_of = START + DAY + 7 * HOUR
    week = gather(root, models.load(MODEL), as_of)
    (kept_out,) = [each for each in week.quarantine if datetime.fromisoformat(each.when) == START + DAY]
    assert kept_out.stands is not mended
    (told,) = [each for each in week.nights if each.date == f"{START:%Y-%m-%d}"]
    after = ", and came in good later" if mended else ""
    assert told.sentence.endswith(f"; a delivery of `weather` was stopped{after}")
