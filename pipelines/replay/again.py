"""The nights that were really run, replayed: every verdict, version and promotion must come out as the ledger has it.

What people did (approvals, rollbacks, promotions by hand) is taken as it was; all else is found anew, from what was
known at each instant. The root is only read: what a night writes goes to a folder of links to it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from features import HeadwayError
from monitoring.parity import Parity
from monitoring.tell_apart import Apart
from pipelines.home import Home
from pipelines.nights import night
from pipelines.nights.decision import DAY, Seen, midnight, told_apart
from pipelines.records import predictions
from pipelines.records.frame import split
from pipelines.registry import chain, package
from pipelines.registry.chain import Entry
from pipelines.registry.ledger import Ledger
from pipelines.registry.package import Packaged
from pipelines.registry.promotion import Pointer, reigns
from pipelines.replay.branch import Branch
from pipelines.replay.common import Common
from pipelines.replay.fits import frames_of
from pipelines.replay.frames import Frames
from pipelines.replay.past import Past
from pipelines.replay.policies import Named, Never
from pipelines.scorers.scorer import compile
from pipelines.store.matrix import filled
from pipelines.training import gain, retraining

LINKED = ("lake", "snapshots", "feast", "outcomes", "predictions", "bentoml")
TOLD = ("kind", "model", "as_of", "key", "actor", "body")
"""What an entry says, whatever its place in the chain."""


class Difference(msgspec.Struct, frozen=True):
    """An entry that came out otherwise, or not at all."""

    key: str
    fields: list[str]


def again(at: Home, past: Past) -> tuple[int, list[Difference]]:
    """Relive what the ledger of a root tells of a model.

    Returns:
        How many entries there are, and those that came out otherwise.

    Raises HeadwayError when the ledger tells nothing of the model.
    """
    told = Ledger(at.ledger_url).entries(past.model.name)
    if not told:
        raise HeadwayError(f"nothing happened to {past.model.name} on this root yet: there is nothing to relive")
    past = replace(past, logged=True)
    relived = Relived(past, Frames(past, frames_of(past)), [entry.as_of for entry in told])
    for entry in told:
        relived.relive(entry)
    found = {row["key"]: row for row in relived.ledger.rows()}
    return len(told), [each for entry in told if (each := _difference(entry, found.get(entry.key)))]


def linked(at: Home, domain: str, folder: Path) -> Home:
    """A root of links to what nights read of another one, where what they write is of no consequence."""
    shutil.rmtree(folder, ignore_errors=True)
    copy = Home(folder)
    for name in LINKED:
        if (at.root / name).exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / name).symlink_to(at.root / name, target_is_directory=True)
    (copy.nights / domain).symlink_to(at.room("nights", domain), target_is_directory=True)
    return copy


class Relived(Branch):
    """A model's own past, with everything that live trainings and nights do, and nothing left out to save time."""

    def __init__(self, past: Past, frames: Frames, nights: Sequence[datetime]) -> None:
        self.served = Served(frames, past.model)
        super().__init__(past, self.served, Named("as it was", Never()), nights)
        self.served.versions, self.model = self._champions, past.model
        self.seen = Seen(self.ledger, self._nights, past.faults, past.broken, self._labelled, self._gain, self._apart)

    def relive(self, entry: Entry) -> None:
        """Find an entry anew, or take it as it was where people made it."""
        if entry.kind == "verdict":
            self._see(entry.as_of)
            self.look(entry.as_of)
        elif entry.kind == "version":
            self._make(entry)
        elif self.ledger.find(entry.key) is None:
            self.ledger.append(
                entry.kind, entry.model, as_of=entry.as_of, body=entry.body, actor=entry.actor, key=entry.key
            )
        self.reigns = reigns(self.ledger, self.model.name)

    def _see(self, as_of: datetime) -> None:
        """Build the frames of the champion's reign up to a night."""
        if reign := self.champion(as_of):
            began = datetime.fromisoformat(reign[0].as_of)
            self.common.frames.build(self.common.frames.missing(began, midnight(as_of)))

    def _make(self, entry: Entry) -> None:
        as_of, model = entry.as_of, self.model
        parts = split(model, self.common.frames.training(model, as_of), as_of)
        candidate = retraining.fit(model, parts)
        before = [each for each in self.reigns if datetime.fromisoformat(each.as_of) < as_of]
        champion = self._champions[before[-1].tag] if before else None
        theirs = retraining.unseen_answers(model, champion, parts.holdout) if champion else None
        evaluation = retraining.weigh(model, parts, candidate, theirs)
        said = self._of_its_code(retraining.describe(model, as_of, parts, evaluation), entry)
        folder = self.past.room.room("again") / entry.key.rpartition("/")[2]
        manifest = package.seal(
            folder, said, candidate.estimator, *retraining.make_reference(model, parts, candidate, evaluation)
        )
        fast = None if manifest.scorer == "pipeline" else compile(model.task, candidate.estimator, manifest.features)
        # Where it came out otherwise, what people made of it is still told under the name that it had.
        self._champions[entry.body["tag"]] = Packaged(manifest, candidate.estimator, folder, fast)
        self._champions[manifest.tag] = self._champions[entry.body["tag"]]
        asked = self.ledger.find(entry.body["verdict"]) if entry.body.get("verdict") else None
        retraining.enter(
            self.ledger, self._folder, model, as_of, manifest, evaluation, actor=entry.actor, verdict=asked
        )

    def _of_its_code(self, manifest: package.Manifest, entry: Entry) -> package.Manifest:
        """The manifest as of the commit that the version was made by: later commits may change nothing of it."""
        try:
            made = package.manifest_of(self.past.at, entry.body["tag"])
        except HeadwayError:  # it was removed since
            return manifest
        return msgspec.structs.replace(manifest, code_commit=made.code_commit, lock_hash=made.lock_hash)

    def _parity(self, day: datetime) -> Parity | None:
        """Found anew, from what the log says was served."""
        return night.check_parity(self.past.at, self.model, day + DAY)

    def _apart(self, as_of: datetime, pointer: Pointer, packaged: Packaged) -> Apart | None:
        return told_apart(partial(predictions.labelled, self.past.at, self.model), self.model, as_of, pointer, packaged)

    def _gain(self, as_of: datetime, packaged: Packaged) -> Any:
        return gain.expected(self.past.at, self.model, as_of, packaged)


class Served(Common):
    """Answers of whole versions, by what serves them."""

    versions: dict[str, Packaged]

    def key(self, tag: str) -> str:
        """A version is itself: none is shared."""
        return tag

    def _answer(self, tag: str, inputs: pd.DataFrame) -> np.ndarray:
        version = self.versions[tag]
        columns = {name: inputs[name].to_numpy() for name in inputs}
        return version.score(filled(columns, version.manifest.features)) if len(inputs) else np.empty(0)


def _difference(entry: Entry, row: dict[str, Any] | None) -> Difference | None:
    if row is None:
        return Difference(entry.key, ["all of it"])
    said = chain.content(entry.kind, entry.model, as_of=entry.as_of, key=entry.key, actor=entry.actor, body=entry.body)
    fields = [name for name in TOLD if said[name] != row[name]]
    if "body" in fields:
        fields.remove("body")
        fields += _apart(json.loads(said["body"]), json.loads(row["body"]), "body")
    return Difference(entry.key, fields) if fields else None


def _apart(one: Any, other: Any, path: str) -> list[str]:
    """Where two bodies differ, as far down as both have the same shape."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for name in one for found in _apart(one[name], other[name], f"{path}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = enumerate(zip(one, other, strict=True))
        return [found for place, pair in parts for found in _apart(*pair, f"{path}[{place}]")]
    return [path] if one != other else []
