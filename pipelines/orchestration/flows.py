"""The flows: each reads like the list of what happens, and every line is a plain step run as a task.

`as_of` is an ISO instant, by default the instant the run was scheduled for; a late run does the work of its own
night. Steps are imported when they run: Great Expectations alone takes five seconds.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import Flow, FlowRun, State
from prefect.events import emit_event
from prefect.runtime import flow_run as this_run

import models
from pipelines.home import home, utc
from pipelines.orchestration.orchestrator import RETRAIN

if TYPE_CHECKING:
    from monitoring.parity import Parity
    from monitoring.verdict import Verdict
    from pipelines.data.ingest import Delivery
    from pipelines.nights.night import Night
    from pipelines.registry.ledger import Entry
    from pipelines.training.retraining import Outcome

# Steps are idempotent by themselves, so no task result is kept: a cached one could outlive the state it speaks of.
STEP: dict[str, Any] = {"cache_policy": NO_CACHE}


def note_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Write down what failed, for `headway doctor`, and alert people. Prefect asks for exactly these argument names."""
    told = {
        "flow": flow.name,
        "parameters": flow_run.parameters,
        "run": flow_run.name,
        "state": state.name,
        "message": state.message,
        "at": state.timestamp.isoformat(),
    }
    with (home().logs / "failures.jsonl").open("a") as file:
        file.write(json.dumps(told, default=str) + "\n")
    from pipelines.alerting import alerts, outbox

    planned = flow_run.expected_start_time or state.timestamp
    if found := alerts.failed_run(flow.name, flow_run.parameters, state.message, planned):
        outbox.tell(home(), found)


NOTED: dict[str, Any] = {"on_failure": [note_failure], "on_crashed": [note_failure]}


@flow(name="ingest", flow_run_name="ingest {domain}", **NOTED)
def ingest_flow(domain: str, as_of: str | None = None) -> list[Delivery]:
    """Take in what arrived for a domain, and let serving see the features made of it."""
    instant = logical(as_of)
    deliveries = ingest(domain, instant)
    build_tables(domain, instant)
    materialize(domain, instant)
    alert_late(domain, instant, return_state=True)
    return deliveries


@flow(name="check", flow_run_name="check {model}", **NOTED)
def check_flow(model: str, as_of: str | None = None) -> Verdict:
    """Ask of a model: is it still right, and if not, why? The verdict is stored before anyone is told of it."""
    instant = logical(as_of)
    compact(model)
    expire(model, instant)
    parity = check_parity(model, instant)
    labels = match_labels(model, instant)
    take_profile(model, instant, parity, labels)
    verdict = judge(model, instant)
    announce(verdict)
    alert_verdict(verdict, instant, return_state=True)
    return verdict


@flow(name="retrain", flow_run_name="retrain {model}", **NOTED)
def retrain_flow(model: str, as_of: str | None = None) -> Outcome | None:
    """Train a challenger because a stored verdict asks for it, and promote it if it passes its gates.

    The event that started this run is not believed: only the ledger says whether there is a reason.
    """
    verdict = standing_verdict(model, logical(as_of))
    if verdict is None:
        get_run_logger().info("No standing verdict in the ledger asks for a retraining of %s.", model)
        return None
    outcome = retrain(model, verdict)
    if outcome.waiting:
        alert_approval(model, verdict.as_of, return_state=True)
    return outcome


@flow(name="weekly", flow_run_name="weekly {model}", **NOTED)
def weekly_flow(model: str, as_of: str | None = None) -> Path:
    """Write the weekly page of a model."""
    instant = logical(as_of)
    path = write_page(model, instant)
    alert_page(path, instant, return_state=True)
    return path


def logical(as_of: str | None) -> datetime:
    """The instant a run works for: the one it was given, else the one it was scheduled for.

    Raises HeadwayError for text that is no instant.
    """
    return utc(as_of or this_run.scheduled_start_time.isoformat())


def announce(verdict: Verdict) -> None:
    """Tell Prefect that a verdict asks for retraining. The event says which model, and nothing to be believed."""
    if verdict.action == "retrain":
        emit_event(RETRAIN, resource={"prefect.resource.id": f"model.{verdict.model}"})


@task(retries=2, retry_delay_seconds=10, **STEP)
def ingest(domain: str, as_of: datetime) -> list[Delivery]:
    """Read what arrived, check it, keep the good rows, quarantine the bad ones."""
    from pipelines.nights import night

    return night.ingest(home(), domain, as_of)


@task(**STEP)
def build_tables(domain: str, as_of: datetime) -> dict[str, int]:
    """Compute the feature tables' snapshots up to `as_of`."""
    from pipelines.nights import night

    return night.build_tables(home(), domain, as_of)


@task(**STEP)
def materialize(domain: str, as_of: datetime) -> str:
    """Put the latest snapshots where serving reads them."""
    from pipelines.nights import night

    night.materialize(home(), domain, as_of)
    return f"{domain} as of {as_of.isoformat()}"


@task(**STEP)
def compact(model: str) -> int:
    """Bring the logs of predictions and outcomes into Parquet by day; how many predictions are new."""
    from pipelines.nights import night

    return night.compact(home(), models.load(model))


@task(**STEP)
def expire(model: str, as_of: datetime) -> list[str]:
    """Remove the days of predictions and outcomes that are older than the model says, and tell each."""
    from pipelines.nights import night

    removed = night.expire(home(), models.load(model), as_of)
    for line in removed:
        get_run_logger().info(line)
    return removed


@task(**STEP)
def check_parity(model: str, as_of: datetime) -> Parity | None:
    """Recompute what serving saw, through the offline path, and compare cell by cell."""
    from pipelines.nights import night

    return night.check_parity(home(), models.load(model), as_of)


@task(**STEP)
def match_labels(model: str, as_of: datetime) -> int:
    """Join the predictions with the outcomes that are known by now; how many have one."""
    from pipelines.nights import night

    return night.match_labels(home(), models.load(model), as_of)


@task(**STEP)
def take_profile(model: str, as_of: datetime, parity: Parity | None, labels: int) -> Night | None:
    """Profile what serving saw, and keep it."""
    from pipelines.nights import night

    return night.take_profile(home(), models.load(model), as_of, parity, labels)


@task(**STEP)
def judge(model: str, as_of: datetime) -> Verdict:
    """Decide what to do, and store the verdict in the ledger."""
    from pipelines.nights import night

    return night.judge(home(), models.load(model), as_of)


@task(**STEP)
def standing_verdict(model: str, as_of: datetime) -> Entry | None:
    """The stored verdict that asks for retraining and was not acted on yet."""
    from pipelines.training import retraining

    return retraining.standing_verdict(home(), models.load(model), as_of)


@task(**STEP)
def retrain(model: str, verdict: Entry) -> Outcome:
    """Train, judge, package, and promote or refuse, as of the verdict's instant."""
    from pipelines.training import retraining

    return retraining.retrain(home(), models.load(model), verdict.as_of, actor="prefect", verdict=verdict)


@task(**STEP)
def write_page(model: str, as_of: datetime) -> Path:
    """Gather the week's evidence and render it."""
    from pipelines.nights import weekly

    return weekly.weekly(home(), models.load(model), as_of)


# What follows tells people. It is called for its state: that it fails is seen in Prefect, and fails no night.
@task(**STEP)
def alert_verdict(verdict: Verdict, as_of: datetime) -> None:
    """Try again the alerts that were not sent; tell of a veto, or of an alarm that starts a retraining."""
    from pipelines.alerting import alerts, outbox

    outbox.retry(home(), verdict.model, as_of)
    if found := alerts.of_verdict(verdict):
        outbox.tell(home(), found)


@task(**STEP)
def alert_approval(model: str, as_of: datetime) -> None:
    """Tell that a challenger waits for approval."""
    from pipelines.alerting import alerts, outbox
    from pipelines.nights import weekly

    if found := alerts.of_approval(weekly.gather(home(), models.load(model), as_of), as_of):
        outbox.tell(home(), found)


@task(**STEP)
def alert_late(domain: str, as_of: datetime) -> None:
    """The catch-up check: tell of a model of the domain whose night is late. It runs at every tick of the ingest."""
    from pipelines.alerting import alerts, outbox

    outbox.retry(home(), domain, as_of)
    for model in map(models.load, models.names()):
        if model.domain == domain and (found := alerts.of_late(home(), model, as_of)):
            outbox.tell(home(), found)


@task(**STEP)
def alert_page(path: Path, as_of: datetime) -> None:
    """Tell the weekly page's first line, where that is asked for."""
    from monitoring.page import Week
    from pipelines.alerting import addresses, alerts, outbox
    from pipelines.files import read_json

    if addresses.weekly():
        outbox.tell(home(), alerts.of_page(read_json(path.with_suffix(".json"), Week), as_of))
