"""What leaves the endpoint: a value with its interval where the model has one, and without the words where not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pipelines.home import Home
from pipelines.registry.package import Band, Packaged, load
from services.answers import Prediction
from services.champion import Served
from tests.services import world


@pytest.fixture
def packaged(root: Home, manifests: world.Manifests) -> Packaged:
    return load(root, manifests[0].tag)


def shown(packaged: Packaged, **manifest: Any) -> dict[str, Any]:
    changed = replace(packaged, manifest=msgspec.structs.replace(packaged.manifest, **manifest))
    nothing: Any = None
    served = Served(nothing, changed, nothing, nothing, "a test", datetime(2013, 4, 1, tzinfo=UTC))
    return dict(msgspec.json.decode(msgspec.json.encode(served.kind.shown(7.5, []))))


def test_a_value_comes_with_its_interval_where_the_model_has_one(packaged: Packaged) -> None:
    found = shown(packaged, task="regression", interval=Band(0.9, -2.0, 4.5))
    assert found == {"prediction": 7.5, "degraded": [], "low": 5.5, "high": 12.0}


def test_a_value_without_one_does_not_speak_of_it(packaged: Packaged) -> None:
    assert shown(packaged, task="regression") == {"prediction": 7.5, "degraded": []}
    schema = msgspec.json.schema(Prediction)["$defs"]["Prediction"]
    assert schema["required"] == ["prediction", "degraded"] and schema["properties"]["low"] == {"type": "number"}


def test_a_probability_has_no_interval(packaged: Packaged) -> None:
    assert set(shown(packaged)) == {"prediction", "degraded", "probability", "label"}
