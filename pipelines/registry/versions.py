"""What the ledger knows of a model's versions: which there are, whether they passed, what waits for approval."""

from __future__ import annotations

from features import HeadwayError
from pipelines.registry.chain import Entry
from pipelines.registry.ledger import Ledger


def find(ledger: Ledger, model: str, number: int) -> Entry:
    """The "version" entry of a number. Raises HeadwayError naming those there are."""
    known = {entry.body["version"]: entry for entry in ledger.entries(model, "version")}
    if number not in known:
        numbers = ", ".join(map(str, sorted(known))) or f"none; train one: `headway train {model}`"
        raise HeadwayError(f"{model} has no version {number}. It has: {numbers}.")
    return known[number]


def challenger(ledger: Ledger, model: str, champion: int | None) -> int:
    """The newest version that is not champion. Raises HeadwayError when there is none."""
    numbers = [int(entry.body["version"]) for entry in ledger.entries(model, "version")]
    others = [number for number in numbers if number != champion]
    if not others:
        raise HeadwayError(f"{model} has no version beside its champion. Train one: `headway train {model}`.")
    return max(others)


def failed_gates(version: Entry) -> list[str]:
    """The names of the gates that a version failed."""
    return [gate["name"] for gate in version.body.get("gates", []) if not gate["passed"]]


def must_have_passed(ledger: Ledger, model: str, number: int) -> None:
    """Raise HeadwayError if a version failed gates."""
    for entry in ledger.entries(model, "version"):
        if entry.body["version"] == number and entry.body.get("passed") is False:
            failed = ", ".join(failed_gates(entry)) or "which ones was not recorded"
            raise HeadwayError(
                f"Version {number} of {model} failed its gates ({failed}). To let it answer callers all the same, add "
                "--despite-gates --why REASON: the ledger keeps both."
            )


def pending(ledger: Ledger, model: str) -> list[Entry]:
    """The "version" entries that wait for the owner's approval, oldest first.

    One stops waiting when it, or a later version, is approved or promoted, or when it is refused.
    """
    settled = {entry.body["version"] for kind in ("approval", "promotion") for entry in ledger.entries(model, kind)}
    refused = {entry.body.get("version") for entry in ledger.entries(model, "refusal")}
    latest = max(settled, default=0)
    return [
        entry
        for entry in ledger.entries(model, "version")
        if entry.body.get("awaiting_approval") is True
        and entry.body["version"] > latest
        and entry.body["version"] not in refused
    ]


def must_be_approved(ledger: Ledger, model: str, number: int) -> None:
    """Raise HeadwayError if a version asks for the owner's approval and does not have it."""

    def of(kind: str) -> list[Entry]:
        return [entry for entry in ledger.entries(model, kind) if entry.body.get("version") == number]

    if any(entry.body.get("awaiting_approval") is True for entry in of("version")) and not of("approval"):
        raise HeadwayError(f"Version {number} of {model} waits for approval: `headway approve {model} {number}`.")
