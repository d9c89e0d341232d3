"""What the ledger tells of a model's year, for the weekly page: champions, trainings, alarms spent, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from models import Model
from monitoring import budget, verdict
from monitoring.history import Alarms, Champion, Gate, Mark, Plan, Training
from monitoring.verdict import Verdict
from pipelines.registry.ledger import Ledger

DAY, YEAR = timedelta(days=1), timedelta(days=365)


def verdicts(ledger: Ledger, model: str, as_of: datetime) -> list[Verdict]:
    """Those of the year up to `as_of`, oldest first."""
    found = [entry for entry in ledger.entries(model, "verdict", as_of) if entry.as_of > as_of - YEAR]
    return [msgspec.convert(entry.body, Verdict) for entry in found]


def champions(ledger: Ledger, model: str, as_of: datetime) -> list[Champion]:
    """Every version that was put in charge by `as_of`, oldest first."""
    versions = {entry.body["version"]: entry for entry in ledger.entries(model, "version")}
    acts = [entry for entry in ledger.entries(model, until=as_of) if entry.kind in ("promotion", "rollback")]
    return [
        Champion(
            version=act.body["version"],
            as_of=act.as_of.isoformat(),
            why=str(act.body.get("why") or act.kind),
            metric=made.body.get("metrics", {}).get("holdout") if made else None,
            trained=made.as_of.isoformat() if made else None,
        )
        for act in acts
        for made in [versions.get(act.body["version"])]
    ]


def trainings(ledger: Ledger, model: str, as_of: datetime) -> list[Training]:
    """Every challenger that was trained by `as_of`, oldest first."""
    return [
        Training(
            version=entry.body["version"],
            as_of=entry.as_of.isoformat(),
            passed=bool(entry.body.get("passed", True)),
            sentence=str(entry.body.get("sentence", "")),
            gates=[
                Gate(gate["name"], gate["passed"], gate.get("sentence", "")) for gate in entry.body.get("gates", [])
            ],
        )
        for entry in ledger.entries(model, "version", as_of)
    ]


def marks(told: Sequence[Verdict], trained: Sequence[Training]) -> list[Mark]:
    """What the time line shows of a year's verdicts and trainings, oldest first."""
    found = [Mark(each.as_of, "trained", each.sentence) for each in trained]
    found += [Mark(each.as_of, "veto", each.sentence) for each in told if each.action == "veto"]
    found += [Mark(each.as_of, "alarm", each.sentence) for each in told if verdict.alarmed(each)]
    return sorted(found, key=lambda mark: datetime.fromisoformat(mark.as_of))


def alarms(model: Model, told: Sequence[Verdict]) -> Alarms | None:
    """What a year's verdicts, oldest first, spent of the owner's budget; None without a verdict."""
    if not told:
        return None
    judged = [each for each in told if verdict.alarmed(each) is not None]
    a_year = budget.windows_per_year(model.monitoring.window)
    latest = [each for each in judged if each.windows]
    return Alarms(
        since=told[0].as_of[:10],
        windows=len(judged),
        raised=sum(bool(verdict.alarmed(each)) for each in judged),
        by_chance=sum(each.achieved_false_alarms_per_year for each in judged) / a_year,
        allowed_per_year=model.monitoring.false_alarms_per_year,
        achieved_per_year=latest[-1].achieved_false_alarms_per_year if latest else 0.0,
        reference_windows=latest[-1].windows if latest else 0,
    )


def plan(model: Model, as_of: datetime, reigns: Sequence[Champion], trained: Sequence[Training]) -> Plan | None:
    """What the policy does next, as of an instant; None while nobody is in charge."""
    if not reigns:
        return None
    live = reigns[-1]
    made, began = (datetime.fromisoformat(each) for each in (live.trained or live.as_of, live.as_of))
    window, began = model.monitoring.window, _midnight(began)
    held = verdict.held(model, as_of, sorted({made, *(datetime.fromisoformat(each.as_of) for each in trained)}))
    return Plan(
        version=live.version,
        age_days=(as_of - made) // DAY,
        limit_days=model.retraining.max_age // DAY,
        due=(made + model.retraining.max_age).date().isoformat(),
        judged=(began + ((_midnight(as_of) - began) // window + 1) * window).date().isoformat(),
        window=budget.window_word(window),
        held_until=held[0].date().isoformat() if held else None,
        held_why=held[1] if held else "",
        confirm=model.monitoring.confirm,
        approval=model.approval,
    )


def _midnight(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)
