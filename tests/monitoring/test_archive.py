"""The archive of weekly reports, in the real UI's own process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from monitoring import page
from pipelines.home import PROJECT, Home
from pipelines.nights import archive, pages
from tests.monitoring.weeks import FEATURES, judged, verdict, weather, week

pytestmark = pytest.mark.slow

MODEL = "tide"
LAST, BEFORE, OLD = date(2013, 4, 14), date(2013, 4, 7), date(2012, 4, 7)


def drawn(day: date) -> Any:
    from monitoring import evidently_report

    random = np.random.default_rng(0)
    told = verdict(6, drift=judged(storm=0.6))
    return evidently_report.draw(weather(random, 400), weather(random, 300, 0.6), told, FEATURES, day)


@pytest.fixture
def filed(home: Home) -> Home:
    """Three weeks in the archive, one of them filed twice; with the last, the one of a year before has gone."""
    report = drawn(BEFORE)
    for day in (OLD, BEFORE, BEFORE):
        archive.keep(home, MODEL, report, day)
    assert len(files(home)) == 2
    archive.keep(home, MODEL, drawn(LAST), LAST)
    return home


def files(at: Home) -> list[str]:
    return sorted(path.name[:8] for path in archive.folder(at).glob("*/snapshots/*"))


@pytest.fixture
def address(filed: Home) -> Iterator[str]:
    """Where the real UI answers."""
    command = [sys.executable, "-m", "pipelines.commands.cli", "archive", "--port", "0"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ui:
        assert ui.stdout is not None
        try:
            line = next(line for line in ui.stdout if "http://" in line)
            url = line.split()[1]
            assert url.startswith("http://127.0.0.1:")
            assert secret_of(filed)[1] not in line
            wait(lambda: answers(url), ui)
            yield url
        finally:
            ui.terminate()
            ui.communicate(timeout=30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 401
    except httpx.ConnectError:
        return False


def wait(there: Any, ui: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert ui is None or ui.poll() is None, ui.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def secret_of(at: Home) -> tuple[str, str]:
    user, _, password = archive.password(at).read_text().partition(":")
    return user, password


def test_the_ui_lists_the_weeks_to_those_who_know_the_password(filed: Home, address: str) -> None:
    assert archive.password(filed).stat().st_mode & 0o777 == 0o600
    assert files(filed) == ["20130407", "20130414"]
    user, password = secret_of(filed)
    for path in ("/", "/api/projects", "/api/version", "/schema", "/static/js/none.js"):
        assert httpx.get(address + path).status_code == 401
        assert httpx.get(address + path, auth=(user, "guess")).status_code == 401
        assert httpx.get(address + path, headers={"evidently-secret": password}).status_code == 401
    with httpx.Client(base_url=address, auth=(user, password)) as reader:
        front = reader.get("/")
        assert front.status_code == 200
        assert "default-src 'self'" in front.headers["content-security-policy"]
        (project,) = reader.get("/api/projects").json()
        assert project["name"] == MODEL
        reports = f"/api/projects/{project['id']}"
        listed = reader.get(f"{reports}/snapshots").json()
        assert sorted(each["name"] for each in listed) == [f"week to {BEFORE}", f"week to {LAST}"]
        shown = reader.get(f"{reports}/{listed[0]['id']}/data").text
        assert "Retrain: `wind_from`, `water_level`" in shown
        assert "Dataset Drift" not in shown
        # Who may read may not write: a page elsewhere can make a browser send its password, but no such header.
        assert reader.delete(f"{reports}/{listed[0]['id']}").status_code == 403
        archive.keep(filed, MODEL, drawn(date(2013, 4, 21)), date(2013, 4, 21))
        wait(lambda: len(reader.get(f"{reports}/snapshots").json()) == 3)
        known = {"evidently-secret": password}
        assert reader.delete(f"{reports}/{listed[0]['id']}", headers=known).status_code == 204
    assert len(files(filed)) == 2


def test_what_is_too_old_goes_with_its_links(home: Home) -> None:
    for until in ("2012-04-07", "2013-04-14"):
        name = f"{MODEL}-{until}.evidently.html"
        (home.reports / name).write_text("a report")
        links = [page.Link("All columns", name)]
        pages.write(msgspec.structs.replace(week(), until=until, links=links), home.reports)
    archive.keep(home, MODEL, drawn(LAST), LAST)
    assert sorted(path.name for path in home.reports.glob("*.evidently.html")) == [f"{MODEL}-2013-04-14.evidently.html"]
    old, new = pages.read(home.reports)
    assert old.links == []
    assert new.links
    assert "evidently" not in (home.reports / f"{old.name}.html").read_text()
