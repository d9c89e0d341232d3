"""`headway replay`: the table on the terminal, and where the page is."""

from __future__ import annotations

import argparse
import os

from rich.console import Console
from rich.table import Table

import models
from features import HeadwayError
from models import Model
from monitoring.quality import metric_name
from monitoring.replayed import Outcome, Replayed
from pipelines.files import write_bytes, write_json
from pipelines.home import Home, home, utc
from pipelines.progress import bars, step
from pipelines.replay.grammar import parse_all
from pipelines.replay.past import Past, open_past
from pipelines.replay.pool import pool
from pipelines.replay.replayed import replay

WIDTH = 132
"""Of the table: it is read in files, too."""
POLICIES = "weekly,4-weekly,drift,quality,drift or age > 8w with cooldown 3w,never,dummy"


def run(given: argparse.Namespace) -> int:
    """Replay a model's past under some policies, or relive what was really run. 1 when that comes out otherwise."""
    at, model = home(), models.load(given.model)
    if given.relive:
        return _relive(at, model)
    if not (given.since and given.until):
        raise HeadwayError("which nights? Say --from and --to, such as --from 2013-04-01 --to 2013-12-30")
    since, until = utc(given.since), utc(given.until)
    if since >= until:
        raise HeadwayError(f"--from {given.since} does not lie before --to {given.until}")
    asked, dummies = parse_all(given.policies or POLICIES, model.policies)
    with bars() as told, pool(at, given.cores or os.cpu_count() or 1, given.dask) as executor:
        past = open_past(at, model, since, until, told)
        found = replay(past, asked, since, until, executor, told, dummies=dummies)
    _show(at, found)
    return 0


def _show(at: Home, found: Replayed) -> None:
    from monitoring import replay_page  # jinja2 is only wanted now

    print(f"{found.model}, {found.since} to {found.until}\n")
    Console(width=WIDTH).print(table(found))
    print()
    for line in (found.sentence, *found.notes, *(found.advice.sentences if found.advice else ())):
        print(line)
    page = at.reports / f"{found.name}.html"
    write_bytes(page, replay_page.render(found).encode())
    write_json(page.with_suffix(".json"), found)
    print(page)


def _relive(at: Home, model: Model) -> int:
    from pipelines.replay.again import again, linked

    room = Home(at.room("replay", model.name))
    with step(f"reliving all that the ledger tells of {model.name}"):
        past = Past(linked(at, model.domain, room.root / "links"), model, room)
        count, differences = again(at, past)
    print(f"{count} entries relived, {len(differences)} came out otherwise")
    for each in differences:
        print(f"  {each.key}: {', '.join(each.fields)}")
    return 1 if differences else 0


def table(found: Replayed) -> Table:
    """The outcomes as a table; all draws of a dummy together."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    shown.add_column("policy", no_wrap=True)
    heads = ("interval", "kept", "retrained", "promoted", "vetoed", "alarms", "false", "degraded", "CPU s")
    for head in (metric_name(found.metric), *heads):
        shown.add_column(head, justify="right", no_wrap=True)
    for each in found.outcomes:
        if not each.dummy:
            shown.add_row(*_row(found, each))
    for name, count, value, draws in found.dummies:
        of = f" (mean of {draws} draws)" if draws > 1 else ""
        shown.add_row(f"[dim]{count} {name}{of}[/dim]", found.shown(value), "", "", str(count))
    return shown


def _row(found: Replayed, each: Outcome) -> list[str]:
    low, high = sorted((found.shown(each.quality.low), found.shown(each.quality.high)))
    counts = (each.retrainings, each.promotions, each.vetoes, each.alarms, each.false_alarms)
    return [
        each.policy, found.shown(each.quality.value), f"{low} to {high}",
        "" if each.gain_kept is None else f"{each.gain_kept:.0%}", *("" if n is None else str(n) for n in counts),
        f"{each.days_degraded} d", f"{each.seconds:.0f}",
    ]  # fmt: skip
