"""What a person sees while something takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)

Told = Callable[[str, int, int], None]
"""(what is being done, done, of): called as it goes on."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that `what` is being done (a spinner on a terminal), then how long it took."""
    began = time.monotonic()
    if sys.stderr.isatty():
        with console.status(f"{what} ..."):
            yield
    else:
        yield
    console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {what}")


@contextmanager
def bars() -> Iterator[Told]:
    """Show how far each of several things is, and how long it will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=of)
            shown.update(tasks[what], completed=done, total=of)

        yield told
