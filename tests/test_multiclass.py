"""One of several classes, all the way: trained, promoted, asked, logged, told what came true, judged at night."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import jsonschema
import numpy as np
import pytest
from httpx import Response
from starlette.testclient import TestClient
from threadpoolctl import threadpool_limits

import features
from monitoring.verdict import Verdict
from pipelines.commands.asking import _plain
from pipelines.home import Home
from pipelines.nights import night, weekly
from pipelines.nights.quality import quality
from pipelines.records import predictions
from pipelines.records.examples import examples
from pipelines.registry import package
from pipelines.scorers.tasks import answers
from pipelines.store import feature_tables
from pipelines.training import compare, retraining
from services import keys
from services.app import create_app
from tests.classes import CLASSES, PUNCTUALITY, declared
from tests.history import DOMAIN, START, copy, history, in_force

__all__ = ["history"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DAY = timedelta(days=1)
NIGHTS = [START + n * DAY + timedelta(minutes=30) for n in range(1, 7)]
TICK, LAG = timedelta(hours=6), max(table.lag for table in features.load(DOMAIN).tables)
TICKS = [START + n * TICK for n in range(4 * len(NIGHTS))]
NOON = TICKS[2] + TICK / 2
ASKED = 25
"""Flights of an hour that are asked about."""
URL = f"/v1/models/{PUNCTUALITY.name}"
FIELDS = ["example_id", "origin", "dest", "carrier", "tailnum", "scheduled_departure", "distance"]


@dataclass
class Story:
    """What was lived through, as the tests look at it."""

    home: Home
    trained: retraining.Outcome
    answers: list[dict[str, Any]]
    document: dict[str, Any]
    details: dict[str, Any]
    told: list[Response]
    verdicts: list[Verdict]


@pytest.fixture(scope="module")
def story(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Six days of real flights, each hour's in one request, on features that are as fresh as they are live."""
    at = Home(tmp_path_factory.mktemp("classes"))
    with in_force(at), declared(), threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_CLOCK", "request")
        copy(history, at)
        trained = retraining.retrain(at, PUNCTUALITY, START, actor="test")
        night.ingest(at, DOMAIN, NIGHTS[-1])
        feature_tables.backfill(at, DOMAIN, START, NIGHTS[-1])
        header = {"Authorization": f"Bearer {keys.make(at.keys, 'tests')}"}
        with TestClient(create_app(at), headers=header, base_url="http://127.0.0.1:8000") as client:
            document, details = client.get("/v1/openapi.json").json(), client.get(URL).json()
            answers, told = [], []
            for tick in TICKS:
                answers += ask(at, client, tick)
                told += tell(client) if tick == TICKS[2] else ()
        verdicts = [night.night(at, PUNCTUALITY, evening) for evening in NIGHTS]
        yield Story(at, trained, answers, document, details, told, verdicts)


def ask(at: Home, client: TestClient, tick: datetime) -> Iterator[dict[str, Any]]:
    """Flights that were planned by the tick and are decided until the next one is visible."""
    from pipelines.store import feature_store

    visible = tick + LAG
    feature_store.materialize(at, DOMAIN, visible)
    rows = examples(at, PUNCTUALITY, visible, visible + TICK, as_of=tick)
    for _, group in rows.groupby(rows["decision_time"].dt.floor("1h")):
        instances = [_plain(row) for row in group[FIELDS].head(ASKED).to_dict("records")]
        sent = {"as_of": group["decision_time"].max().isoformat(), "instances": instances}
        answer = client.post(f"{URL}/predict", json=sent)
        assert answer.status_code == 200, answer.text
        yield answer.json()


def tell(client: TestClient) -> Iterator[Response]:
    """A prediction that names no flight, and what callers say became of it: one knows its class, the others do not."""
    instance = {"origin": "EWR", "dest": "ORD", "carrier": "UA", "tailnum": None, "distance": 719}
    asked = {
        "as_of": NOON.isoformat(),
        "instances": [instance | {"scheduled_departure": (NOON + DAY / 12).isoformat()}],
    }
    answer = client.post(f"{URL}/predict", json=asked).json()
    for label in ("later", 2, "late"):
        said = {
            "outcomes": [{"request_id": answer["request_id"], "label": label}],
            "as_of": (NOON + DAY / 4).isoformat(),
        }
        yield client.post(f"{URL}/outcomes", json=said)


def test_it_was_trained_judged_and_promoted_and_a_compiled_scorer_serves(story: Story) -> None:
    assert story.trained.promoted, story.trained.sentence
    manifest = package.manifest_of(story.home, story.trained.tag)
    assert (manifest.task, manifest.classes, manifest.scorer) == ("multiclass", CLASSES, "treelite")
    assert {len(row) for row in manifest.golden.predictions if isinstance(row, list)} == {3}
    assert {gate.name for gate in manifest.gates} >= {"beats always_the_same", "slice from_newark", "calibration"}
    assert all(gate.passed for gate in manifest.gates)
    assert manifest.interval is None
    loaded = package.load(story.home, story.trained.tag)
    assert loaded.fast is not None and loaded.sample.filter(like="probability.").shape[1] == 3


def test_every_answer_names_a_class_and_the_chance_of_each_as_the_document_says(story: Story) -> None:
    exact = {**story.document, "$ref": "#/components/schemas/PunctualityAnswer"}
    jsonschema.Draft202012Validator(exact).validate(story.answers[0])
    assert story.document["components"]["schemas"]["PunctualityPrediction"]["properties"]["prediction"] == {
        "enum": sorted(CLASSES)
    }
    assert (story.details["task"], story.details["classes"]) == ("multiclass", list(CLASSES))
    given = [each for answer in story.answers for each in answer["predictions"]]
    assert len(given) > 2000
    for each in given:
        assert list(each["probabilities"]) == list(CLASSES)
        assert sum(each["probabilities"].values()) == pytest.approx(1.0, abs=1e-9)
        assert each["prediction"] == max(each["probabilities"], key=each["probabilities"].__getitem__)


def test_what_was_answered_is_kept_with_every_chance_and_labelled(story: Story) -> None:
    rows = predictions.labelled(story.home, PUNCTUALITY, START, NIGHTS[-1], as_of=NIGHTS[-1])
    told = {answer["request_id"]: answer["predictions"] for answer in story.answers}
    known = rows[rows["request_id"].isin(told)]
    assert len(known) == sum(map(len, told.values()))
    said = [told[row.request_id][row.instance]["probabilities"] for row in known.itertuples()]
    kept = answers(CLASSES, known)
    np.testing.assert_array_equal(kept, [[each[name] for name in CLASSES] for each in said])
    np.testing.assert_array_equal(known["prediction"], kept.max(axis=1))
    assert known["label"].dropna().isin([0.0, 1.0, 2.0]).all() and known["label"].notna().mean() > 0.75


def test_an_outcome_is_told_by_the_name_of_its_class(story: Story) -> None:
    *refused, taken = story.told
    assert [answer.status_code for answer in refused] == [400, 400]
    assert refused[0].json()["error"] == {
        "code": "invalid", "message": "Expected one of early, on_time, late", "path": "outcomes[0].label"
    }  # fmt: skip
    assert taken.status_code == 202
    rows = predictions.labelled(story.home, PUNCTUALITY, START, NIGHTS[-1], as_of=NIGHTS[-1])
    (unnamed,) = rows[rows["example_id"].isna()].itertuples()
    assert CLASSES[int(unnamed.label)] == "late"


def test_a_week_in_which_nothing_changed_is_quiet(story: Story) -> None:
    last = story.verdicts[-1]
    assert {each.action for each in story.verdicts} == {"nothing"}, last.sentence
    relation = last.evidence.relation
    assert relation is not None and (relation.status, relation.alarm) == ("judged", False)
    assert relation.labels > 1000 and "nats" in relation.sentence
    assert 0.5 < (relation.auc or 0) < (relation.reference_auc or 0) + 0.1
    assert last.evidence.parity is not None and not last.evidence.parity.breach


def test_its_quality_is_told_with_and_without_labels_and_the_page_is_drawn(story: Story) -> None:
    (week,) = quality(story.home, PUNCTUALITY, NIGHTS[-1])
    assert (week.metric, week.baseline) == ("roc_auc_ovr", 0.5)
    assert week.value is not None and week.low is not None and week.high is not None and week.estimate is not None
    assert 0.5 < week.low < week.value < week.high and abs(week.estimate - week.value) < 0.1
    assert [part.name for part in week.parts] == ["from_newark"]
    text = weekly.weekly(story.home, PUNCTUALITY, NIGHTS[-1], evidently=False).read_text()
    assert "Early, on time or late" in text and "surprise differs by" in text


def test_classes_that_change_places_are_found_and_named(story: Story) -> None:
    """Who was early is late: nothing that a look at the inputs could see."""
    sql = PUNCTUALITY.examples.sql.replace("'late'", "'?'").replace("'early'", "'late'").replace("'?'", "'early'")
    watchful = replace(PUNCTUALITY.monitoring, false_alarms_per_year=12.0)  # five days of labels are in
    changed = replace(PUNCTUALITY, examples=replace(PUNCTUALITY.examples, sql=sql), monitoring=watchful)
    verdict = night.judge(story.home, changed, NIGHTS[-1] + timedelta(minutes=15))
    relation = verdict.evidence.relation
    assert relation is not None and relation.alarm
    assert (relation.surprise or 0) > (relation.reference_surprise or 0) + 0.05
    assert (verdict.action, verdict.cause) == ("retrain", "relation drift")
    assert "the labels no longer follow as on the holdout" in verdict.sentence


def test_a_challenger_is_judged_beside_the_champion_and_compared_on_what_that_answered(story: Story) -> None:
    later = NIGHTS[-1] + timedelta(hours=1)
    waits = replace(PUNCTUALITY, approval=True)
    again = retraining.retrain(story.home, waits, later, actor="test")
    assert (again.version, again.promoted) == (2, False)
    gates = {gate.name: gate for gate in package.manifest_of(story.home, again.tag).gates}
    against = gates["not worse than the champion"]
    assert against.value is not None and against.low is not None and against.high is not None
    assert against.low < against.value < against.high and abs(against.value) < 0.05
    found = compare.compare(story.home, waits, 2, later, since=START, actor="test")
    assert (found.how, found.pairs) == ("rescored", len(predictions.predictions(story.home, waits, START, later)))
    assert found.paired is not None and found.paired.low is not None and found.paired.labels > 1000
    assert 0 < (found.apart or 0) < 0.1 and 0 < (found.disagree or 0) < 0.5
