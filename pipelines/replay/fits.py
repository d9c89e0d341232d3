"""Fits: the same declaration, data and instant give the same model, so it is fitted once, whoever asks, and kept.

A fit is a folder named by all that it follows from. It appears whole or not at all, so a replay that was killed goes on
from those that are there. What hangs on a policy's champion is left out: a challenger is judged alone here, and put
beside a champion where it meets one (`judge.beside`).

Two gates say nothing of the past: that the estimator gives the same answers when it is fitted again, and that one
answer takes no longer than it may. They are taken to hold.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
from pyarrow import feather

import features
from features import HeadwayError
from models import Model
from monitoring.profile import iso_days
from pipelines.data import lake
from pipelines.files import read_json, write_json
from pipelines.home import PROJECT
from pipelines.records.frame import Frame, Split, split
from pipelines.registry.package import ESTIMATOR, REFERENCE, Manifest
from pipelines.replay.frames import Frames, asked_columns
from pipelines.replay.past import Past
from pipelines.scorers.scoring import predict, score
from pipelines.training import retraining
from pipelines.training.judge import DIGITS, alone
from pipelines.training.retraining import Candidate, Evaluation

PLATFORM = ("pipelines", "monitoring")
FITTED, HOLDOUT, ANSWER = "fitted.json", "holdout.arrow", "answer "


@dataclass(frozen=True)
class Order:
    """A fit that is wanted: the model as of an instant."""

    past: Past
    frames: str
    """Name of the frames to train on."""
    as_of: datetime
    evidence: bool = False
    """Whether the reference of monitoring is wanted too: only policies that look at it pay for it."""

    @cached_property
    def key(self) -> str:
        """Names the fit by all that it follows from."""
        model = self.past.model
        said = (declared(model), state(self.past, self.as_of), self.as_of.isoformat(), str(model.training_window))
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:24]

    @property
    def folder(self) -> Path:
        """Where the fit is, or will be."""
        return self.past.room.room("fits") / self.key

    @property
    def done(self) -> bool:
        """Whether all that is wanted is there."""
        there = (self.folder / FITTED).exists()
        return there and (not self.evidence or (self.folder / REFERENCE).exists() or bool(read(self).error))


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a fit, beside its estimator."""

    key: str
    manifest: Manifest | None = None
    """Its gates are those that it passed or failed alone."""
    error: str = ""
    """Why there is no fit, if there is none: too few labelled rows, or what the estimator raised."""
    sha256: str = ""
    """Of the estimator's file."""
    missing: dict[str, float] = {}
    """Of each input the lowest share of rows that lack it, of all days behind the fit: no window has a lower one."""
    seconds: float = 0.0
    """CPU seconds of the bare fit."""
    spent: float = 0.0
    """CPU seconds in all, the fit among them."""


def order(asked: Order) -> Fitted:
    """Fit what was ordered, unless it is there. Runs in any process that sees the past's folders."""
    if not (asked.folder / FITTED).exists():
        with _whole(asked.folder) as folder:
            write_json(folder / FITTED, _fit(asked, folder))
    known = read(asked)
    if asked.evidence and not known.error and not (asked.folder / REFERENCE).exists():
        began = time.process_time()
        _refer(asked.past.model, _assemble(asked), estimator(asked.folder), asked.folder)
        known = msgspec.structs.replace(known, spent=known.spent + time.process_time() - began)
        write_json(asked.folder / FITTED, known)
    return known


def read(asked: Order) -> Fitted:
    """What is known of a fit that is there."""
    return read_json(asked.folder / FITTED, Fitted)


def estimator(folder: Path) -> Any:
    """The fitted estimator of a fit. Raises HeadwayError when its file is not the one that was written."""
    known = read_json(folder / FITTED, Fitted).sha256
    with (folder / ESTIMATOR).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known:
            raise HeadwayError(f"{folder / ESTIMATOR} was changed since it was fitted. Remove {folder}, and run again.")
        file.seek(0)
        return joblib.load(file)


def holdout(folder: Path, frames: Frames) -> tuple[Frame, np.ndarray]:
    """The holdout of a fit (of its rows, decision times and labels), and what the fit answers to it."""
    kept = feather.read_feather(str(folder / HOLDOUT))
    answers = kept[[name for name in kept if name.startswith(ANSWER)]].to_numpy()
    return Frame(kept, frames.found(kept)), answers[:, 0] if answers.shape[1] == 1 else answers


def declared(model: Model) -> str:
    """A digest of what is declared and of what reads it: the model and its domain, the platform, and its packages."""
    files = (f"models/{model.name}.py", f"features/{model.domain}.py", "requirements.lock")
    digest = hashlib.sha256(repr(replace(model, estimator=object, baselines={"none": object}, policies={})).encode())
    for name in files:
        digest.update((PROJECT / name).read_bytes() if (PROJECT / name).exists() else b"")
    digest.update(_platform())
    return digest.hexdigest()


@cache
def _platform() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(path for room in PLATFORM for path in (PROJECT / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def frames_of(past: Past) -> str:
    """Names the frames of a past by all that they follow from."""
    said = (declared(past.model), str(past.at.root), "logged" if past.logged else "")
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:24]


def state(past: Past, as_of: datetime) -> str:
    """A digest of the files that can hold what was known by an instant: by name, size and when they were written."""
    days, digests = _states(past.at.root, past.model.domain, past.model.name)
    known = bisect_right(days, as_of.date().isoformat())
    return digests[known - 1] if known else "nothing"


@cache
def _states(root: Path, domain: str, model: str) -> tuple[list[str], list[str]]:
    """The days there are files of, and for each the digest of all files up to it: listed once a process."""
    folders = [root / "lake" / domain / source.name for source in features.load(domain).sources]
    folders += [root / "snapshots" / domain / table.name for table in features.load(domain).tables]
    paths = [path for folder in (*folders, root / "outcomes" / model) for path in lake.days(folder)]
    digest, found = hashlib.sha256(), {}
    for path in sorted(paths, key=lambda path: (path.stem, path)):
        stat = path.stat()
        digest.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        found[path.stem] = digest.hexdigest()
    return list(found), list(found.values())


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write to, which becomes it when the block ends; the first to end wins."""
    half = folder.with_name(f".{folder.name}.{time.time_ns()}.half")
    half.mkdir(mode=0o700, parents=True)
    try:
        yield half
        if not folder.exists():
            half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _fit(asked: Order, folder: Path) -> Fitted:
    began, model = time.process_time(), asked.past.model
    try:
        parts = _assemble(asked)
        start = time.process_time()
        fitted = model.estimator().fit(parts.train.inputs, parts.train.rows["label"].to_numpy())
        seconds = time.process_time() - start
        found = _alone(model, parts, fitted)
        if asked.evidence:
            _refer(model, parts, fitted, folder)
    except Exception as error:  # the estimator is the user's: a night on which it fails is one without a new version
        what = str(error) if isinstance(error, HeadwayError) else f"{type(error).__name__}: {error}"
        return Fitted(key=asked.key, error=what)
    joblib.dump(fitted, folder / ESTIMATOR)
    answers = {f"{ANSWER}{place}": column for place, column in enumerate(np.atleast_2d(found.predictions.T))}
    asks = [*asked_columns(model), "label"]
    feather.write_feather(parts.holdout.rows[asks].assign(**answers), str(folder / HOLDOUT))
    return Fitted(
        key=asked.key, manifest=retraining.describe(model, asked.as_of, parts, found),
        sha256=hashlib.sha256((folder / ESTIMATOR).read_bytes()).hexdigest(), missing=_least_missing(parts),
        seconds=seconds, spent=time.process_time() - began,
    )  # fmt: skip


def _assemble(asked: Order) -> Split:
    model = asked.past.model
    return split(model, Frames(asked.past, asked.frames).training(model, asked.as_of), asked.as_of)


def _alone(model: Model, parts: Split, fitted: Any) -> Evaluation:
    label, ours = parts.holdout.rows["label"].to_numpy(), predict(model, fitted, parts.holdout.inputs)
    found = score(model, label, ours)
    gates = alone(model, fitted, parts)
    return Evaluation(gates, {"holdout": round(found, DIGITS)} if np.isfinite(found) else {}, {}, ours, "pipeline", "")


def _least_missing(parts: Split) -> dict[str, float]:
    gone = pd.concat([parts.train.inputs, parts.holdout.inputs]).isna()
    days = iso_days(pd.concat([parts.train.rows["decision_time"], parts.holdout.rows["decision_time"]]))
    return {str(name): float(share) for name, share in gone.groupby(days).mean().min().items()}


def _refer(model: Model, parts: Split, fitted: Any, folder: Path) -> None:
    """Write what monitoring compares with: it costs three times as much as the fit."""
    candidate, ours = Candidate(fitted, fitted), predict(model, fitted, parts.holdout.inputs)
    weights = retraining.importances(model, candidate, parts.holdout)
    reference, _ = retraining.make_reference(model, parts, candidate, Evaluation([], {}, weights, ours, "pipeline", ""))
    write_json(folder / REFERENCE, reference)
