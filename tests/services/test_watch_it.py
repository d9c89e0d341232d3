"""What the documentation gives to paste into Prometheus: well-formed, and about metrics that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pipelines.home import PROJECT
from services.figure_files import Now, Version, Worker
from services.metrics import exposition
from services.shadow import Progress
from services.tallies import Stored, Timing

DOCUMENT = (PROJECT / "docs" / "serving.md").read_text()
SECTION = DOCUMENT.partition("\n## Watch it\n")[2].partition("\n## ")[0]


def block(name: str) -> dict[str, Any]:
    return next(yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", SECTION, re.S) if f"# {name}" in text)


@pytest.fixture
def told() -> dict[str, set[str]]:
    """Every sample that a scrape can tell, and its labels."""
    counts = {f"{kind}|{labels}": 1.0 for kind, labels in (
        ("predictions", "m|champion|1"), ("degraded", "m"), ("canary_failures", "m"), ("swaps", "m|refused"),
    )}  # fmt: skip
    worker = Worker(1e12, Now(0, False, [Version("m", 1, 1, "2026-01-01T00:00:00+00:00")]), Stored(
        counts, {"request|/predict|m|200": Timing(), "commit": Timing()}
    ))  # fmt: skip
    text, _ = exposition([worker], {"m": Progress(1, "", "")}, "")
    families = text_string_to_metric_families(text.decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_the_scrape_configuration_names_a_target() -> None:
    (job,) = block("prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:3000"]}]
    assert block("prometheus.yml")["rule_files"] == ["headway.rules.yml"]


def test_alerts_ask_for_metrics_and_labels_that_there_are(told: dict[str, set[str]]) -> None:
    rules = [rule for group in block("headway.rules.yml")["groups"] for rule in group["rules"]]
    assert len(rules) == 4
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "todo"}
        assert rule["expr"].count("(") == rule["expr"].count(")")
        asked = re.findall(r"(headway_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert asked
        for name, matchers in asked:
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= told[name]


def test_the_first_impossible_prediction_of_a_served_model_is_seen_as_a_rise() -> None:
    worker = Worker(1e12, Now(0, False, [Version("m", 1, 1, "2026-01-01T00:00:00+00:00")]), Stored({}, {}))
    (rule,) = (r for g in block("headway.rules.yml")["groups"] for r in g["rules"] if "bad_output" in r["expr"])
    assert rule["labels"] == {"severity": "page"}
    text, _ = exposition([worker], {}, "")
    assert 'headway_refusals_total{code="bad_output",model="m"} 0.0' in text.decode()


def test_every_metric_is_described(told: dict[str, set[str]]) -> None:
    described = set(re.findall(r"`(headway_\w+)`", SECTION))
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in told}
    assert described == families
