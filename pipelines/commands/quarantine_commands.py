"""`headway quarantine list | show | replay`: look at what was refused, and put it back once it is mended."""

from __future__ import annotations

import argparse
from pathlib import Path

import features
from features import HeadwayError
from pipelines.commands.lifecycle import as_of
from pipelines.home import Home, home
from pipelines.progress import step


def run(given: argparse.Namespace) -> int:
    """List what stands in quarantine, show one delivery's, or replay it. 1 when a replayed batch is still broken."""
    at = home()
    if given.action == "list":
        return _list(at, given.domain)
    if not (given.domain and given.source and given.stamp):
        raise HeadwayError(
            f"which delivery? headway quarantine {given.action} DOMAIN SOURCE STAMP, as `headway quarantine list` says"
        )
    return (_show if given.action == "show" else _replay)(at, given)


def _list(at: Home, domain: str | None) -> int:
    from pipelines.nights import quarantine

    found = [item for name in ([domain] if domain else features.names()) for item in quarantine.items(at, name)]
    for item in found:
        delivery = item.delivery
        state = "stands" if item.stands else "replayed" if item.replays else "read again" if item.again else "empty"
        what = "batch stopped" if delivery.stops else "rows set aside"
        print(
            f"{state:10} {delivery.domain} {delivery.source} {item.stamp}  {what}: {item.rows} of {delivery.read} rows"
        )
        for sentence in (*(delivery.stops or delivery.notes), *item.replays):
            print(f"           {sentence}")
    if not found:
        print("Nothing was ever quarantined.")
    return 0


def _show(at: Home, given: argparse.Namespace) -> int:
    from pipelines.nights import quarantine

    item = quarantine.find(at, given.domain, given.source, given.stamp)
    rows = quarantine.rows_of(at, item)
    for sentence in (*item.delivery.stops, *item.delivery.notes, *item.replays):
        print(sentence)
    if len(rows):
        first = [name for name in quarantine.WHY if name in rows]
        shown = rows[[*first, *(name for name in rows if name not in first)]].head(given.rows)
        print(f"\n{len(rows)} rows, the first {len(shown)}:")
        print(shown.to_string(index=False, max_colwidth=60))
    print(f"\nmend the rule or the data, then: headway quarantine replay {given.domain} {given.source} {given.stamp}")
    return 0


def _replay(at: Home, given: argparse.Namespace) -> int:
    from pipelines.nights import night, quarantine

    item, instant = quarantine.find(at, given.domain, given.source, given.stamp), as_of(given)
    file = Path(given.file) if given.file else None
    with step(f"check {given.source} {given.stamp} again, and put back what is good"):
        done = quarantine.replay(at, item, instant, actor=given.actor, why=given.why, file=file, accept=given.accept)
    print(done.sentence)
    if done.stops:
        return 1
    with step("bring the renewed features to serving"):
        night.materialize(at, given.domain, instant)
    return 0
