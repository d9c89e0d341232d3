"""The first line of the weekly page: what to do, in words that need no statistics; and the line below it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from monitoring.history import Champion, Training, day
from monitoring.page import STOPPED, Approval, Night, State, Week
from monitoring.quality import Quality, latest_parts
from monitoring.verdict import Fault, Verdict

EXAMPLES = re.compile(r", such as [^;]*")
SURPRISE = re.compile(r": surprise is up by [^;]*")
CHANCES = re.compile(r" \([^()]*\bp [0-9.e-]+\)")
ISO_DAY = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")


def first_line(
    verdicts: Sequence[Verdict],
    *,
    since: str,
    champions: Sequence[Champion] = (),
    approval: Approval | None = None,
    trainings: Sequence[Training] = (),
    nights: Sequence[Night] = (),
) -> tuple[State, str]:
    """What to do this week: a veto that still stands, then a decision that waits, then what happened.

    Args:
        verdicts: of the week's nights, oldest first.
        since: first day of the week, ISO.
        champions: versions that were put in charge, oldest first.
        approval: the challenger that waits, if one does.
        trainings: of the week, oldest first.
        nights: of the week, oldest first.

    Returns:
        The week's state, and the line.
    """
    last = verdicts[-1] if verdicts else None
    if not last or [night.status for night in nights[-2:]] == ["missed", "missed"]:
        return "missed", f"Look at the nights: {_missed(last)}"
    if last.action == "veto":
        return _vetoed(last)
    if approval:
        gain = f"{approval.gain:.1f} {approval.unit}, interval {approval.low:.1f} to {approval.high:.1f}"
        return "approve", f"Approve version {approval.version}: better by {gain}"
    live = champions[-1] if champions else None
    refused = [training for training in trainings if not training.passed and training.as_of[:10] >= since]
    if refused and (not live or live.version < refused[-1].version):
        return "refused", f"Look at version {refused[-1].version}: it was trained and {_failed(refused[-1])}"
    if live and live.as_of[:10] >= since:
        return (
            "new version",
            f"Nothing to do: version {live.version} is live since {day(live.as_of)}, {plain(live.why)}",
        )
    asked = [verdict for verdict in verdicts if verdict.action in ("retrain", "wait")]
    if asked:
        return "alarm" if asked[-1].action == "retrain" else "waiting", plain(asked[-1].sentence)
    judged = [verdict for verdict in verdicts if verdict.evidence.drift]
    return "quiet", plain([last, *judged][-1].sentence)


def next_step(week: Week) -> str:
    """What follows from the first line, for whoever reads it; empty on a quiet week."""
    live = week.champions[-1].version if week.champions else None
    stays = f"version {live} keeps answering" if live else "nothing is promoted"
    undo = f" To undo it: `headway rollback {week.model}`." if len(week.champions) > 1 else ""
    said: dict[State, str] = {
        "fault": _mend(week, stays),
        "parity": f"Find out why serving and training disagree: the first example is below. Until then nothing is "
        f"retrained or promoted, and {stays}.",
        "approve": f"Read below what it was put through, then run `headway approve {week.model}`. Until then {stays}.",
        "alarm": "The next run retrains it; the new version takes over only if it proves better.",
        "refused": f"Meanwhile {stays}. What kept the new one out is below.",
        "missed": "Run `headway doctor`: it says what keeps the nights from running.",
        "new version": f"It passed all that it was put through.{undo}",
    }
    return said.get(week.state, "") or _below(week.quality)


def plain(text: str) -> str:
    """A sentence without its examples, chances and nats, days as people say them: those figures stand below."""
    for figures in (EXAMPLES, SURPRISE, CHANCES):
        text = figures.sub("", text)
    return ISO_DAY.sub(lambda found: day(found[0]), text)


def _mend(week: Week, stays: str) -> str:
    """What to do about a fault, and the command that shows the rows that it cost."""
    broken = {fault.source for fault in week.verdicts[-1].evidence.faults} if week.verdicts else set()
    held = [each for each in week.quarantine if each.source in broken and each.rule == STOPPED]
    if held and not any(each.stands for each in held):
        return f"The source has sent good data since: there is nothing to mend. Nothing was retrained, and {stays}."
    shown = next((f" `{each.command}` shows what is held." for each in held if each.stands and each.command), "")
    return f"Mend the source. Until then nothing is retrained, and {stays}.{shown}"


def _below(weeks: list[Quality]) -> str:
    """A slice that is not as good as it must be: no reason to retrain, but for a person to know."""
    part, count = next(((part, count) for part, count in latest_parts(weeks) if part.below), (None, 0))
    if not part:
        return ""
    since = f", for {count} weeks now" if count > 1 else ""
    return f"One thing to know: {part.sentence}{since}. It is no reason to retrain by itself."


def _vetoed(last: Verdict) -> tuple[State, str]:
    if last.cause == "parity breach":
        return "parity", f"Look at what serving sees: {plain(last.sentence.partition(': ')[2])}"
    fault = next(iter(last.evidence.faults), None)
    return "fault", f"Look at {_where(fault)}" if fault else plain(last.sentence)


def _where(fault: Fault) -> str:
    """The source and, where the sentence begins with it, the column, then what is wrong."""
    text, source = plain(fault.sentence), f"`{fault.source}`"
    column, colon, rest = text.partition(": ")
    if text.startswith(f"{source} is "):
        return f"{source}: it is {text.removeprefix(f'{source} is ')}"
    if colon and re.fullmatch(r"`[^`]+`", column):
        return f"{column} from {source}: {rest}"
    return f"{source}: {text}"


def _missed(last: Verdict | None) -> str:
    return f"none has run since {day(last.as_of)}" if last else "none has left a verdict this week"


def _failed(training: Training) -> str:
    failed = training.failed
    if not failed:
        return "did not pass its gates"
    return f"failed {len(failed)} of {len(training.gates)} gates, first {failed[0].name}"
