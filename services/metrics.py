"""The room of prometheus_client: what all workers of the service counted, as a scrape wants it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.figure_files import Version, Worker
from services.shadow import Progress
from services.tallies import BOUNDS, Key, Tally, Timing

COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "predictions": ("headway_predictions", "Instances answered", ("model", "role", "version")),
    "degraded": ("headway_degraded_predictions", "Instances for which a default stood in for a feature", ("model",)),
    "canary_failures": ("headway_canary_failures", "Calls that the champion answered for a failing canary", ("model",)),
    "refused": ("headway_refusals", "Requests refused, by the code that the caller was given", ("model", "code")),
    "log_failures": ("headway_log_failures", "Batches that the prediction log could not make durable", ()),
    "swaps": ("headway_swaps", "Champions that a worker loaded, swapped in or refused", ("model", "outcome")),
    "shadow": ("headway_shadow_instances", "Logged instances that met a shadow", ("model", "outcome")),
    "cpu": ("headway_cpu_seconds", "CPU time of the workers", ()),
}
"""What is counted: the metric, what it says, its labels."""
TIMINGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "request": ("headway_request_seconds", "From a request's arrival to its answer", ("route", "model", "status")),
    "commit": ("headway_log_commit_seconds", "One group commit of the prediction log", ()),
}
FROM_THE_START: tuple[Key, ...] = (
    ("refused", "", "overloaded"), ("refused", "", "too_many"), ("refused", "", "log_unavailable"),
    ("log_failures",), ("cpu",),
)  # fmt: skip
"""Told as 0 before they first happen, so that an alert sees the first time as a rise."""


def exposition(workers: Sequence[Worker], shadows: Mapping[str, Progress], accept: str) -> tuple[bytes, str]:
    """The answer to a scrape, and its content type.

    Args:
        workers: all of the service.
        shadows: how the shadow of each model that has one gets on.
        accept: the scraper's Accept header: OpenMetrics is given to those that ask for it.
    """
    registry = CollectorRegistry()
    registry.register(_Sum(workers, shadows))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Sum(Collector):
    """The sum over the workers, as metrics."""

    def __init__(self, workers: Sequence[Worker], shadows: Mapping[str, Progress]) -> None:
        self._workers, self._shadows = workers, shadows

    def collect(self) -> Iterator[Metric]:
        total = Tally()
        for key in FROM_THE_START:
            total.count(key, 0)
        for model in {version.model for worker in self._workers if worker.now for version in worker.now.versions}:
            total.count(("refused", model, "bad_output"), 0)
        for worker in self._workers:
            total.add(worker.since_start.tally())
        for model, shadow in self._shadows.items():
            for outcome in ("scored", "dropped", "failed"):
                total.count(("shadow", model, outcome), getattr(shadow, outcome))
        yield from _counted(total)
        yield from _timed(total)
        yield from _now(self._workers)


def _counted(total: Tally) -> Iterator[Metric]:
    for kind, (name, about, labels) in COUNTERS.items():
        family = CounterMetricFamily(name, f"{about}.", labels=labels)
        for (found, *values), amount in sorted(total.counts.items()):
            if found == kind:
                family.add_metric(values, amount)
        yield family


def _timed(total: Tally) -> Iterator[Metric]:
    requests = CounterMetricFamily("headway_requests", "Requests answered.", labels=TIMINGS["request"][2])
    for kind, (name, about, labels) in TIMINGS.items():
        family = HistogramMetricFamily(name, f"{about}, in seconds.", labels=labels)
        for (found, *values), timing in sorted(total.timings.items(), key=lambda item: item[0]):
            if found == kind:
                family.add_metric(values, _buckets(timing), timing.seconds)
                if kind == "request":
                    requests.add_metric(values, timing.count)
        yield family
    yield requests


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    """How many took at most so long, as Prometheus wants it."""
    return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(map(float, timing.buckets)), strict=True))


def _now(workers: Iterable[Worker]) -> Iterator[Metric]:
    alive = [now for worker in workers if (now := worker.alive)]
    yield GaugeMetricFamily("headway_workers", "Workers that are alive.", len(alive))
    yield GaugeMetricFamily("headway_in_flight", "Requests at work.", sum(now.in_flight for now in alive))
    yield GaugeMetricFamily(
        "headway_log_failing", "Workers whose last write of a log failed.", sum(now.log_failing for now in alive)
    )
    yield from _versions([version for now in alive for version in now.versions])


def _versions(served: Sequence[Version]) -> Iterator[Metric]:
    """Each model's newest generation, and how many workers serve which version: in a swap they differ for a moment."""
    version = GaugeMetricFamily("headway_model_version", "Version of the champion.", labels=["model"])
    generation = GaugeMetricFamily("headway_model_generation", "Generation of the champion.", labels=["model"])
    age = GaugeMetricFamily(
        "headway_model_age_seconds", "Since the instant that the champion was trained as of.", labels=["model"]
    )
    workers = GaugeMetricFamily(
        "headway_model_workers", "Workers that serve a version.", labels=["model", "version", "generation"]
    )
    for name in sorted({each.model for each in served}):
        newest = max((each for each in served if each.model == name), key=lambda each: each.generation)
        version.add_metric([name], newest.version)
        generation.add_metric([name], newest.generation)
        age.add_metric([name], time.time() - datetime.fromisoformat(newest.trained_as_of).timestamp())
    for each in sorted(set(served), key=lambda each: (each.model, each.generation)):
        workers.add_metric([each.model, str(each.version), str(each.generation)], served.count(each))
    yield from (version, generation, age, workers)
