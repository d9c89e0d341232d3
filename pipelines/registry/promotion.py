"""Who is champion: decided in the ledger, told to serving by one pointer file a model.

Promotion appends to the ledger, then replaces the pointer. Killed between the two, the ledger is right and the pointer
is late: the next promotion, rollback or `repair` writes it again. Readers see the old pointer or the new, never half.
A version that becomes champion is on trial no longer: the same acts bring the file of the trials up to the ledger.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from features import HeadwayError
from pipelines.registry import trials, versions
from pipelines.registry.chain import Entry, LedgerTampered, instant
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Pointer, alone, champions, heads, pointer_path, read_pointer, replace
from pipelines.registry.versions import pending

__all__ = [
    "Pointer",
    "approve",
    "champions",
    "heads",
    "pending",
    "promote",
    "read_pointer",
    "reigns",
    "repair",
    "rollback",
]


def reigns(ledger: Ledger, model: str, until: datetime | None = None) -> list[Pointer]:
    """Every champion of `model`, oldest first, one for each promotion and rollback with `as_of <= until`."""
    acts = _acts(ledger, model)
    return [reign for reign, act in zip(_pointers(acts), acts, strict=True) if until is None or act.as_of <= until]


def promote(
    ledger: Ledger,
    folder: Path,
    *,
    model: str,
    version: int,
    tag: str,
    digest: str,
    as_of: datetime,
    actor: str,
    why: str,
    key: str,
    despite_gates: bool = False,
) -> Pointer:
    """Make a version champion and return its pointer. Repeated with the same `key`, it changes nothing.

    Raises:
        HeadwayError: the version still waits for approval, or failed its gates and this is not `despite_gates`
            (which the ledger keeps), or a field is wrong.
        LedgerTampered: the pointer file records an act that this ledger does not have.
    """
    with alone(folder):
        acts = _settle(ledger, folder, model)
        versions.must_be_approved(ledger, model, version)
        if not despite_gates:
            versions.must_have_passed(ledger, model, version)
        standing = _standing(_before(acts, key))
        replaces = standing[-1].body["version"] if standing else None
        body = {"version": version, "tag": tag, "digest": digest, "why": why, "replaces": replaces}
        body |= {"despite_gates": True} if despite_gates else {}
        entry = ledger.append("promotion", model, as_of=as_of, body=body, actor=actor, key=key)
        return _made_by(entry, _settle(ledger, folder, model))


def rollback(ledger: Ledger, folder: Path, *, model: str, as_of: datetime, actor: str, why: str, key: str) -> Pointer:
    """Make the version champion that this one replaced. A second rollback goes one further back, never forward.

    Raises:
        HeadwayError: there is no earlier champion, or a field is wrong.
        LedgerTampered: the pointer file records an act that this ledger does not have.
    """
    with alone(folder):
        acts = _settle(ledger, folder, model)
        standing = _standing(_before(acts, key))
        if len(standing) < 2:
            only = f"version {standing[0].body['version']} is its first champion" if standing else "it has no champion"
            raise HeadwayError(f"{model} has nothing to roll back to: {only}. Promote another version instead.")
        target, replaced = standing[-2].body, standing[-1].body["version"]
        body = {name: target[name] for name in ("version", "tag", "digest")} | {"why": why, "replaces": replaced}
        entry = ledger.append("rollback", model, as_of=as_of, body=body, actor=actor, key=key)
        return _made_by(entry, _settle(ledger, folder, model))


def repair(ledger: Ledger, folder: Path, model: str) -> Pointer | None:
    """Make the files say what the ledger says; return the pointer, or None when nobody was ever promoted.

    Raises:
        LedgerTampered: a file records an act that this ledger does not have; it is left as it is.
    """
    with alone(folder):
        acts = _settle(ledger, folder, model)
    return _pointers(acts)[-1] if acts else None


def approve(ledger: Ledger, *, model: str, version: int, as_of: datetime, actor: str, why: str, key: str) -> Entry:
    """Record that the owner approves a version that waits; `promote` may then make it champion.

    Raises:
        HeadwayError: the version does not wait for approval (the message lists those that do), or a field is wrong.
    """
    waiting = [entry.body["version"] for entry in pending(ledger, model)]
    if version not in waiting and ledger.find(key) is None:
        others = ", ".join(str(other) for other in waiting) or "none"
        raise HeadwayError(f"Version {version} of {model} does not wait for approval. Waiting: {others}.")
    body = {"version": version, "why": why}
    return ledger.append("approval", model, as_of=as_of, body=body, actor=actor, key=key)


def _acts(ledger: Ledger, model: str) -> list[Entry]:
    both = ledger.entries(model, "promotion") + ledger.entries(model, "rollback")
    return sorted(both, key=lambda entry: entry.seq)


def _before(acts: list[Entry], key: str) -> list[Entry]:
    """The acts that came before the one with this key: repeated, an act is decided on what it was decided on."""
    return list(itertools.takewhile(lambda act: act.key != key, acts))


def _standing(acts: list[Entry]) -> list[Entry]:
    """The champion and, below it, those that it and they replaced: promotion puts on top, rollback takes off."""
    stack: list[Entry] = []
    for act in acts:
        if act.kind == "rollback":
            while stack and stack[-1].body["version"] != act.body["version"]:
                stack.pop()
        elif not stack or stack[-1].body["version"] != act.body["version"]:
            stack.append(act)
    return stack


def _pointers(acts: list[Entry]) -> list[Pointer]:
    return [
        Pointer(
            model=act.model,
            version=act.body["version"],
            tag=act.body["tag"],
            digest=act.body["digest"],
            generation=generation,
            as_of=instant(act.as_of),
            ledger=act.hash,
            by=act.actor,
        )
        for generation, act in enumerate(acts, start=1)
    ]


def _made_by(entry: Entry, acts: list[Entry]) -> Pointer:
    return next(pointer for pointer in _pointers(acts) if pointer.ledger == entry.hash)


def _settle(ledger: Ledger, folder: Path, model: str) -> list[Entry]:
    """Bring the files of a model up to the ledger, and return the acts that made champions.

    Only ever forward: a ledger that lost acts must not demote anyone.
    """
    acts = _acts(ledger, model)
    past = _pointers(acts)
    try:
        current = read_pointer(folder, model)
    except HeadwayError:
        current = None
    if current and current.ledger not in {pointer.ledger for pointer in past}:
        raise LedgerTampered(
            f"{pointer_path(folder, model)} records generation {current.generation} (version {current.version}), "
            f"and this ledger has no entry {current.ledger}: its end was cut off, or it is another ledger."
        )
    tried = trials.standing(ledger, folder, model)
    if past and current != past[-1]:
        replace(pointer_path(folder, model), past[-1])
    trials.write(folder, model, tried)
    return acts
