"""What a person sees while something takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)


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
