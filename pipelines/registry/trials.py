"""Who is on trial beside the champion: a canary, a shadow, or both. Decided in the ledger, told to serving by a file.

As with promotion: the ledger first, then the file. Killed between the two, the next act on the model or `headway
repair` writes the file again. A trial ends when somebody ends it, when another of its kind begins, or when its version
becomes champion; whoever else becomes champion leaves it as it is.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import get_args

from features import HeadwayError
from pipelines.registry import versions
from pipelines.registry.chain import Entry, Kind, LedgerTampered, instant
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Trial, TrialKind, Trials, alone, read_pointer, read_trials, replace, trials_path

ACTS: tuple[Kind, ...] = ("canary", "shadow", "ended", "promotion", "rollback")


def start(
    ledger: Ledger,
    folder: Path,
    *,
    kind: TrialKind,
    model: str,
    version: int,
    as_of: datetime,
    actor: str,
    why: str,
    key: str,
    share: float | None = None,
    despite_gates: bool = False,
) -> Trials:
    """Put a version on trial, in the place of the one that is on a trial of that kind.

    A canary's answers reach callers, so it must be approved where the model asks for that, and have passed its gates
    (or be sent `despite_gates`, which the ledger keeps). A shadow's reach nobody: any version may be one, and the
    owner sees how it does before approving it.

    Args:
        share: of entities, above 0 and below 1: a canary's, and only a canary's.

    Raises:
        HeadwayError: no such version, it is champion, there is no champion, it may not be a canary, the share is
            wrong, or a field is.
        LedgerTampered: the file records an act that this ledger does not have.
    """
    _check_share(kind, share)
    with alone(folder):
        _settle(ledger, folder, model)
        if ledger.find(key) is None:
            _check_beside_champion(folder, model, version)
            if kind == "canary":
                versions.must_be_approved(ledger, model, version)
            if kind == "canary" and not despite_gates:
                versions.must_have_passed(ledger, model, version)
        found = versions.find(ledger, model, version).body
        body = {"version": version, "tag": found["tag"], "digest": found["digest"], "why": why}
        body |= {} if share is None else {"share": share}
        body |= {"despite_gates": True} if despite_gates else {}
        ledger.append(kind, model, as_of=as_of, body=body, actor=actor, key=key)
        return _settled(ledger, folder, model)


def end(
    ledger: Ledger, folder: Path, *, kind: TrialKind, model: str, as_of: datetime, actor: str, why: str, key: str
) -> Trials:
    """End the trial of a kind.

    Raises:
        HeadwayError: there is none, or a field is wrong.
        LedgerTampered: the file records an act that this ledger does not have.
    """
    with alone(folder):
        found = _settle(ledger, folder, model)
        known, trial = ledger.find(key), getattr(found, kind) if found else None
        if known is not None:
            body = known.body
        elif trial is not None:
            body = {"version": trial.version, "trial": kind, "why": why}
        else:
            raise HeadwayError(f"{model} has no {kind} to end. Begin one: `headway {kind} {model}`.")
        ledger.append("ended", model, as_of=as_of, body=body, actor=actor, key=key)
        return _settled(ledger, folder, model)


def standing(ledger: Ledger, folder: Path, model: str) -> Trials | None:
    """What the ledger says; None when there never was a trial. The caller holds the folder's lock.

    Raises LedgerTampered when the file records an act that this ledger does not have.
    """
    acts = sorted((entry for kind in ACTS for entry in ledger.entries(model, kind)), key=lambda entry: entry.seq)
    current = _current(folder, model)
    if current and current.ledger not in {act.hash for act in acts}:
        raise LedgerTampered(
            f"{trials_path(folder, model)} records a trial that this ledger has no entry {current.ledger} for: its "
            "end was cut off, or it is another ledger."
        )
    return _told(model, acts)


def write(folder: Path, model: str, said: Trials | None) -> Trials | None:
    """Make the file say it, if it does not; the caller holds the folder's lock."""
    if said and _current(folder, model) != said:
        replace(trials_path(folder, model), said)
    return said


def _settle(ledger: Ledger, folder: Path, model: str) -> Trials | None:
    return write(folder, model, standing(ledger, folder, model))


def _current(folder: Path, model: str) -> Trials | None:
    try:
        return read_trials(folder, model)
    except HeadwayError:
        return None


def _told(model: str, acts: list[Entry]) -> Trials | None:
    running: dict[str, Trial] = {}
    changed = None
    for act in acts:
        before = dict(running)
        if act.kind in get_args(TrialKind):
            running[act.kind] = Trial(
                act.body["version"], act.body["tag"], act.body["digest"], instant(act.as_of), act.hash,
                act.body.get("share"),
            )  # fmt: skip
        elif act.kind == "ended":
            running.pop(act.body["trial"], None)
        else:
            running = {kind: trial for kind, trial in running.items() if trial.version != act.body["version"]}
        changed = act.hash if running != before else changed
    return Trials(model, changed, running.get("canary"), running.get("shadow")) if changed else None


def _settled(ledger: Ledger, folder: Path, model: str) -> Trials:
    found = _settle(ledger, folder, model)
    assert found is not None, "an act was just appended"
    return found


def _check_share(kind: TrialKind, share: float | None) -> None:
    if kind == "canary" and (share is None or not 0 < share < 1):
        raise HeadwayError(f"a canary's share must be above 0 and below 1 (10% is 0.1), not {share}.")
    if kind == "shadow" and share is not None:
        raise HeadwayError("a shadow has no share: it scores what the champion answers.")


def _check_beside_champion(folder: Path, model: str, version: int) -> None:
    champion = read_pointer(folder, model)
    if champion is None:
        raise HeadwayError(f"{model} has no champion to try a version beside. Promote one: `headway promote {model}`.")
    if champion.version == version:
        raise HeadwayError(f"Version {version} is the champion of {model}: there is nothing to try. Name another.")
