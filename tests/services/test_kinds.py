"""What leaves the endpoint by task: an answer that cannot be one does not, and outcomes are told in its words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.answers import Degraded
from services.kinds import KINDS, kind
from services.outcomes import OutcomeSchema
from services.refusals import Refused

CLASSES = ("early", "on_time", "class")
SEVERAL = kind("multiclass", CLASSES)
number = st.floats(allow_nan=True, allow_infinity=True)


def test_the_likeliest_class_is_named_and_every_probability_told() -> None:
    gap = Degraded("x", "missing", None)
    answer = msgspec.json.encode(SEVERAL.shown([0.25, 0.5, 0.25], [gap]))
    assert msgspec.json.decode(answer) == {
        "prediction": "on_time",
        "degraded": [{"feature": "x", "why": "missing", "stood_in": None}],
        "probabilities": {"early": 0.25, "on_time": 0.5, "class": 0.25},
    }
    assert SEVERAL.number([0.25, 0.5, 0.25]) == 0.5
    assert msgspec.json.decode(answer, type=SEVERAL.documented("Trip")) is not None


def test_the_document_speaks_of_exactly_these_classes() -> None:
    exact = SEVERAL.documented("Trip")
    schemas = msgspec.json.schema(exact)["$defs"]
    assert set(schemas) == {"TripPrediction", "TripProbabilities", "Degraded"}
    assert schemas["TripPrediction"]["properties"]["prediction"]["enum"] == sorted(CLASSES)
    assert schemas["TripPrediction"]["required"] == ["prediction", "degraded", "probabilities"]
    chances = schemas["TripProbabilities"]
    assert list(chances["properties"]) == chances["required"] == list(CLASSES)
    assert chances["properties"]["class"] == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.json.decode(b'{"prediction": "later", "degraded": [], "probabilities": {}}', type=exact)


@given(st.lists(number, min_size=3, max_size=3))
def test_only_probabilities_that_sum_to_one_may_leave(chances: list[float]) -> None:
    good = all(0 <= each <= 1 for each in chances) and abs(sum(chances) - 1) < 1e-6
    assert SEVERAL.sane(chances) == good


@pytest.mark.parametrize(
    ("chances", "good"),
    [([0.2, 0.3, 0.5], True), ([0.0, 1.0, 0.0], True), ([1 / 3] * 3, True), ([0.2, 0.3, 0.6], False),
     ([-0.1, 0.6, 0.5], False), ([0.5, 0.5, float("nan")], False)],
)  # fmt: skip
def test_what_may_leave(chances: list[float], good: bool) -> None:
    assert SEVERAL.sane(chances) is good


@given(number)
def test_one_number_may_leave_when_it_can_be_one(value: float) -> None:
    assert kind("binary").sane(value) == (0 <= value <= 1)
    assert kind("regression").sane(value) == (abs(value) < float("inf"))


def test_every_task_has_its_kind() -> None:
    from models import Task
    from monitoring.relation import EFFECT_FLOOR
    from pipelines.scorers.scorer import FITS
    from pipelines.scorers.tasks import TASKS

    tasks = set(Task.__args__)  # type: ignore[attr-defined]
    assert set(KINDS) == set(TASKS) == set(FITS) == set(EFFECT_FLOOR) == tasks


@pytest.mark.parametrize("label", ["later", "", "Early"])
def test_an_outcome_that_is_no_class_is_refused_with_those_there_are(label: Any) -> None:
    schema = OutcomeSchema("m", SEVERAL, {"city": "str"}, clock=False)
    told = schema.parse(msgspec.json.encode({"outcomes": [{"example_id": "e", "label": "class"}]}))
    assert told.outcomes == [{"example_id": "e", "label": "class"}]
    with pytest.raises(Refused) as caught:
        schema.parse(msgspec.json.encode({"outcomes": [{"example_id": "e", "label": label}]}))
    complaint = caught.value.complaint
    assert (caught.value.status, complaint.path) == (400, "outcomes[0].label")
    assert complaint.message == "Expected one of early, on_time, class"


def test_an_outcome_of_another_type_is_refused_by_its_path() -> None:
    schema = OutcomeSchema("m", SEVERAL, {"city": "str"}, clock=False)
    for label in (2, None, True, ["early"]):
        with pytest.raises(Refused) as caught:
            schema.parse(msgspec.json.encode({"outcomes": [{"example_id": "e", "label": label}]}))
        assert caught.value.complaint.path == "outcomes[0].label"
    (by_request, *_) = schema.types
    assert msgspec.json.schema(by_request)["$defs"]["MOutcomesByRequest"]["properties"]["label"]["enum"] == sorted(
        CLASSES
    )
