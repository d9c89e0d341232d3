"""The archive of weekly reports: filed by the weekly flow, thinned by age, shown by `headway archive`."""

from __future__ import annotations

import argparse
import warnings
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from pipelines import children
from pipelines.files import secret
from pipelines.home import Home, home
from pipelines.nights import pages

if TYPE_CHECKING:
    from monitoring.evidently_report import Snapshot

KEPT = timedelta(days=371)
"""How long a week's full report is kept: a year and a week, so that a week can be seen beside that of the year before.
The weekly pages are kept for good."""


def keep(at: Home, model: str, report: Snapshot, day: date) -> None:
    """File the full report of the week that ended on `day`, and remove those that are too old by then."""
    archive = _archive()
    archive.keep(report, folder(at), model, day)
    archive.prune(folder(at), model, day - KEPT)
    _unlink_old(at.reports, model, day - KEPT)


def folder(at: Home) -> Path:
    """The workspace that Evidently's UI shows."""
    return at.room("archive", "weeks")


def password(at: Home) -> Path:
    """The file of mode 0600 with the archive's `user:password`, made on first use."""
    path = at.room("archive") / "auth"
    secret(path, "headway:")
    return path


def run(given: argparse.Namespace) -> int:
    """Show the archive on loopback, in the foreground, until it is interrupted."""
    at, port = home(), children.free_port(given.port)
    archive, auth = _archive(), password(at)
    print(f"archive   http://127.0.0.1:{port}   (its user and password are in {auth}; Ctrl-C ends it)", flush=True)
    archive.serve(folder(at), auth.read_text(), port)
    return 0


def _archive() -> ModuleType:
    """Slow to import, so only where it is wanted; and not with what its libraries have to say of each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monitoring import archive
    return archive


def _unlink_old(reports: Path, model: str, before: date) -> None:
    """Remove Evidently's files beside the pages of old weeks, and the links to them."""
    for week in pages.read(reports):
        if week.model == model and week.links and date.fromisoformat(week.until) < before:
            pages.write(msgspec.structs.replace(week, links=[]), reports)
            for link in week.links:
                (reports / link.href).unlink(missing_ok=True)
