"""The loop closes: Prefect's server and worker, `bentoml serve`, real flights, and nobody at the keyboard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import pandas as pd
import psutil
import pytest

import features
import models
from models import Model, Retraining
from monitoring.verdict import Verdict
from pipelines.commands.asking import Caller
from pipelines.commands.demo import Demo, Fault, Script
from pipelines.data import lake
from pipelines.data.ingest import deliveries
from pipelines.home import Home, utc
from pipelines.nights import night
from pipelines.orchestration.stack import Stack, deploy
from pipelines.records import predictions
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger
from pipelines.registry.promotion import Pointer
from services import keys
from services.log import records
from tests.history import DOMAIN, MODEL, START, copy, history, in_force, model, until

__all__ = ["history", "model"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

DAY = timedelta(days=1)
BROKEN = utc("2013-04-03T00:00Z")
"""The last delivery before the second night: what comes after it would mend it."""
SCRIPT = Script(
    domain=DOMAIN, models=(MODEL,), history_since="2013-01-01", start=START.isoformat(), nights=1,
    fault=Fault("weather", "pressure", 0.02953, BROKEN.isoformat()),
)  # fmt: skip


class Counting(Caller):
    """A caller that remembers how much it asked, and what it last asked for."""

    asked = 0
    body: dict[str, Any]

    def ask(self, at: Home, model: Model, since: datetime, until: datetime, *, known_by: datetime) -> int:
        found = super().ask(at, model, since, until, known_by=known_by)
        self.asked += found
        return found

    def _post(self, model: Model, body: dict[str, Any]) -> None:
        super()._post(model, body)
        self.body = body


class Meanwhile(threading.Thread):
    """Asks for one prediction after another until told to stop."""

    def __init__(self, stack: Stack, key: str, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.answers: list[httpx.Response] = []
        self._body = body
        self._client = httpx.Client(base_url=stack.service_url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self._enough = threading.Event()

    def run(self) -> None:
        with self._client:
            while not self._enough.wait(0.02):
                self.answers.append(self._client.post(f"/v1/models/{MODEL}/predict", json=self._body))

    def stop(self) -> None:
        self._enough.set()
        self.join()


@dataclass
class Story:
    """What happened, noted as it did."""

    home: Home
    asked: list[int] = field(default_factory=list)
    """Examples asked for on each day."""
    pointers: list[Pointer] = field(default_factory=list)
    """The champion after the first day, after the swap, after the repeated event, after the broken delivery."""
    workers: list[set[int]] = field(default_factory=list)
    """The service's processes before and after the swap."""
    reason: Verdict | None = None
    """The stored verdict that asked for a retraining."""
    again: Verdict | None = None
    """The same night judged again, after its retraining."""
    meanwhile: list[httpx.Response] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Prefect's retrain runs, oldest first."""
    ends: list[str] = field(default_factory=list)
    """What each of those said at its end."""


@pytest.fixture(scope="module")
def story(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Two days and nights, lived through on a copy of the history."""
    at = Home(tmp_path_factory.mktemp("loop"))
    with in_force(at) as at, pytest.MonkeyPatch.context() as patch:
        copy(history, at)
        key = keys.make(at.keys, "tests")
        with Stack(at, extra={"HEADWAY_CLOCK": "request"}) as stack:
            for name, value in stack.environment.items():
                patch.setenv(name, value)
            deploy(stack.environment, f"retrain-{MODEL}")
            with Counting(stack.service_url, key) as caller:
                yield live(Story(at), stack, caller, key)


def live(story: Story, stack: Stack, caller: Counting, key: str) -> Story:
    """A quiet day, a retraining for a reason that the ledger has, and a day with a delivery in another unit."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    server: dict[Any, Any] = {name: stack.environment[name.name] for name in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
    server[PREFECT_LOGGING_TO_API_ENABLED] = False  # it would try to send the last lines when the server is gone
    with temporary_settings(server):  # the environment was read when Prefect was imported, perhaps by another test
        day(story, caller, START)
        retraining(story, stack, caller, key)
        day(story, caller, START + DAY)
    return story


def day(story: Story, caller: Counting, start: datetime) -> None:
    """Ask, refresh and check as the demo does."""
    before = caller.asked
    Demo(story.home, replaced_start(start)).nights(caller)
    story.asked.append(caller.asked - before)
    story.pointers.append(champion(story.home))


def retraining(story: Story, stack: Stack, caller: Counting, key: str) -> None:
    """The owner is impatient: a model one day old is old. The verdict is judged, stored, announced, and acted on."""
    from pipelines.orchestration.flows import announce

    impatient = replace(models.load(MODEL), retraining=Retraining(max_age=DAY, cooldown=DAY))
    story.reason = night.judge(story.home, impatient, START + DAY + timedelta(minutes=45))
    story.workers.append(processes(stack))
    asking = Meanwhile(stack, key, caller.body)
    asking.start()
    for _ in range(2):  # the second time, the same event has nothing left to ask for
        announce(story.reason)
        story.runs.append(until(lambda: ended(stack, story.runs)))
        story.ends.append(until(lambda: said(stack, story.runs[-1])))
        until(lambda: caller.generation(MODEL) == champion(story.home).generation)
        story.pointers.append(champion(story.home))
    asking.stop()
    story.again = night.judge(story.home, impatient, START + DAY + timedelta(minutes=45))
    story.workers.append(processes(stack))
    story.meanwhile = asking.answers


def replaced_start(start: datetime) -> Script:
    return msgspec.structs.replace(SCRIPT, start=start.isoformat())


def champion(at: Home) -> Pointer:
    found = promotion.read_pointer(at.pointers, MODEL)
    assert found is not None
    return found


def processes(stack: Stack) -> set[int]:
    """The service's supervisor and workers."""
    supervisor = psutil.Process(stack.children["service"].pid)
    return {supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))}


def ended(stack: Stack, known: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A retrain run that ended and is not known yet."""
    asked = {"deployments": {"name": {"any_": [f"retrain-{MODEL}"]}}}
    runs = stack.api.post("/flow_runs/filter", asked)
    new = [run for run in runs if run["id"] not in {each["id"] for each in known}]
    return next((run for run in new if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")), None)


def said(stack: Stack, run: dict[str, Any]) -> str:
    """What a run said, once all of it has come in."""
    lines = stack.api.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    told = "\n".join(line["message"] for line in lines)
    return told if "Finished in state" in told else ""


def test_what_serving_answered_with_is_what_training_computes_to_the_last_cell(story: Story, model: Model) -> None:
    found = night.nights(story.home, model, START, START + 2 * DAY)
    assert [each.day for each in found] == ["2013-04-01", "2013-04-02"]
    for each in found:
        assert each.parity is not None
        assert each.parity.differences == []
        assert not each.parity.breach
        assert each.parity.rows == min(each.profile.rows, model.monitoring.parity_sample) > 500
        assert set(each.parity.rates) == {f.name for f in features.load(DOMAIN).features_of(model.feature_service)}


def test_every_prediction_that_was_asked_for_is_in_the_log_and_in_parquet_once(story: Story, model: Model) -> None:
    lines = [r for path in story.home.room("predictions", "open").glob("*.jsonl") for r in records(path)]
    kept = predictions.predictions(story.home, model, START - DAY, START + 3 * DAY)
    repeated = sum(len(answer.json()["predictions"]) for answer in story.meanwhile)
    assert len(lines) == len(kept) == sum(story.asked) + repeated
    assert not kept.duplicated(["request_id", "instance"]).any()
    assert {(line["request_id"], line["prediction"]) for line in lines} == set(
        zip(kept["request_id"], kept["prediction"], strict=True)
    )


def test_labels_are_those_of_the_flights_that_arrived_by_then(story: Story, model: Model) -> None:
    as_of = START + 2 * DAY
    rows = predictions.labelled(story.home, model, START, as_of, as_of=as_of)
    arrivals = features.load(DOMAIN).source("arrivals").read(START, as_of).set_index("flight_id")["arr_delay"]
    delay = rows["example_id"].map(arrivals)
    assert rows["example_id"].is_unique
    assert (rows["label"].notna() == delay.notna()).all()
    assert delay.notna().mean() > 0.8
    assert (rows["label"] == (delay > 15))[delay.notna()].all()
    assert night.nights(story.home, model, START, START + DAY)[0].labels > 0.6 * story.asked[0]


def test_a_broken_delivery_is_named_set_aside_and_vetoes_retraining(story: Story) -> None:
    veto = verdict(story, START + 2 * DAY)
    assert (veto.action, veto.cause) == ("veto", "data fault")
    assert "weather" in veto.sentence
    assert "`pressure`" in veto.sentence
    found = {each.source: each for each in deliveries(story.home, DOMAIN, BROKEN - timedelta(hours=1), BROKEN)}
    assert [name for name, each in found.items() if each.stops] == ["weather"]
    assert all(each.kept == each.read > 0 for name, each in found.items() if name in ("schedule", "departures"))
    assert found["weather"].kept == 0
    aside = pd.read_parquet(story.home.quarantine / DOMAIN / "weather" / f"{BROKEN:%Y%m%dT%H%M%SZ}.parquet")
    assert len(aside) == found["weather"].quarantined == found["weather"].read > 0
    assert aside["pressure"].max() < 40  # inches of mercury


def test_the_next_delivery_brings_what_the_broken_one_lacked(story: Story, model: Model) -> None:
    following = BROKEN + timedelta(hours=6)
    night.ingest(story.home, DOMAIN, following)
    assert not night.seen(story.home, model).faults(BROKEN - DAY, following)
    table = lake.read(story.home.room("lake", DOMAIN, "weather"), START, following)
    assert table is not None
    kept = table.to_pandas()
    kept = kept[kept["known_at"] > pd.Timestamp(START)]
    sent = features.load(DOMAIN).source("weather").read(START, following)
    assert sorted(kept["observed_at"]) == sorted(sent["observed_at"])
    assert not (kept["pressure"] < 900).any()


def test_the_verdict_that_asked_was_stored_before_and_the_new_version_names_it(story: Story) -> None:
    assert story.reason is not None
    assert (story.reason.action, story.reason.cause) == ("retrain", "age")
    assert story.again == story.reason
    ledger = Ledger(story.home.ledger_url)
    stored = ledger.find(f"verdict/{MODEL}/{(START + DAY + timedelta(minutes=45)).isoformat()}")
    versions = ledger.entries(MODEL, "version")
    assert stored is not None
    assert [entry.body["version"] for entry in versions] == [1, 2]
    assert (versions[1].body["verdict"], versions[1].as_of) == (stored.key, stored.as_of)
    assert stored.seq < versions[1].seq
    assert (versions[1].actor, versions[1].body["passed"]) == ("prefect", True)
    assert ledger.verify(promotion.heads(story.home.pointers)) == len(ledger.entries())


def test_the_event_started_a_run_and_the_same_event_again_changed_nothing(story: Story) -> None:
    assert [run["state_name"] for run in story.runs] == ["Completed", "Completed"]
    assert {run["created_by"]["type"] for run in story.runs} == {"AUTOMATION"}
    assert "No standing verdict" not in story.ends[0]
    assert "No standing verdict in the ledger asks for a retraining" in story.ends[1]
    assert [(pointer.version, pointer.generation) for pointer in story.pointers] == [(1, 1), (2, 2), (2, 2), (2, 2)]


def test_the_service_swapped_while_it_answered_and_without_a_restart(story: Story) -> None:
    before, after = story.workers
    assert before == after
    assert len(story.meanwhile) > 50
    assert {answer.status_code for answer in story.meanwhile} == {200}
    served = [(answer.json()["version"], answer.json()["generation"]) for answer in story.meanwhile]
    assert served == sorted(served)
    assert set(served) == {(1, 1), (2, 2)}


def test_the_night_before_the_retraining_found_nothing_to_do(story: Story) -> None:
    assert verdict(story, START + DAY).action == "nothing"


def verdict(story: Story, midnight: datetime) -> Verdict:
    """The verdict of the check half an hour after a midnight, as it is stored."""
    found = Ledger(story.home.ledger_url).find(f"verdict/{MODEL}/{(midnight + timedelta(minutes=30)).isoformat()}")
    assert found is not None
    return msgspec.convert(found.body, Verdict)
