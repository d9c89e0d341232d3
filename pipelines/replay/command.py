"""`headway replay`: the table on the terminal, and where the page is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import models
from features import HeadwayError
from monitoring.quality import metric_name
from monitoring.replayed import Outcome, Replayed
from pipelines.files import write_bytes, write_json
from pipelines.home import home, utc
from pipelines.progress import console, step
from pipelines.replay.grammar import parse_all
from pipelines.replay.past import open_past
from pipelines.replay.pool import pool
from pipelines.replay.replayed import replay
from pipelines.replay.walk import Told

POLICIES = "weekly,4-weekly,drift,quality,drift or age > 8w,never,dummy"


def run(given: argparse.Namespace) -> int:
    """Replay a model's past under some policies."""
    at, model = home(), models.load(given.model)
    since, until = utc(given.since), utc(given.until)
    if since >= until:
        raise HeadwayError(f"--from {given.since} does not lie before --to {given.until}")
    asked, dummies = parse_all(given.policies or POLICIES, model.policies)
    with step(f"the past of {model.name}, from {since:%d %B %Y} to {until:%d %B %Y}"):
        past = open_past(at, model, since, until)
    with pool(at, given.cores or os.cpu_count() or 1, given.dask) as executor, progress() as told:
        found = replay(past, asked, since, until, executor, told, dummies=dummies)
    console.print(table(found))
    for line in (found.sentence, *found.notes, *(found.advice.sentences if found.advice else ())):
        print(line)
    from monitoring import replay_page  # jinja2 is only wanted now

    page = at.reports / f"{found.name}.html"
    write_bytes(page, replay_page.render(found).encode())
    write_json(page.with_suffix(".json"), found)
    print(page)
    return 0


@contextmanager
def progress() -> Iterator[Told]:
    """Shows how far the replay is, and how long it will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, object] = {}

        def told(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done, total=of)  # type: ignore[arg-type]

        yield told


def table(found: Replayed) -> Table:
    """The outcomes as a table."""
    shown = Table(
        title=f"{found.model}, {found.since} to {found.until}", title_justify="left", box=None, pad_edge=False
    )
    heads = (
        metric_name(found.metric),
        "interval",
        "kept",
        "retrained",
        "promoted",
        "vetoed",
        "alarms",
        "false",
        "degraded",
        "CPU s",
    )
    shown.add_column("policy")
    for head in heads:
        shown.add_column(head, justify="right")
    for each in found.outcomes:
        shown.add_row(*_row(each))
    return shown


def _row(each: Outcome) -> list[str]:
    turn = abs
    quality = each.quality
    return [
        each.policy, f"{turn(quality.value):.4f}", f"{turn(quality.low):.4f} to {turn(quality.high):.4f}",
        "" if each.gain_kept is None else f"{each.gain_kept:.0%}", str(each.retrainings), str(each.promotions),
        str(each.vetoes), "" if each.alarms is None else str(each.alarms),
        "" if each.false_alarms is None else str(each.false_alarms), f"{each.days_degraded} d", f"{each.seconds:.0f}",
    ]  # fmt: skip
