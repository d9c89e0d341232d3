"""Champion and challenger on the same logged requests: is one better, by how much, and what to do about it.

Paired where it can be: a shadow scored the very instances that the champion answered; without a shadow's records the
challenger scores the champion's logged features now. A canary answered other entities, so beside that it is compared
as a second sample, which needs many more labels to tell the same difference.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from features import HeadwayError
from models import Model
from monitoring.profile import SCORE, iso_days
from pipelines.home import Home
from pipelines.records import predictions
from pipelines.registry import package, versions
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import Pointer, Trials, read_pointer, read_trials
from pipelines.scorers.scoring import Interval, contrast, interval
from pipelines.scorers.tasks import CHANCE, TASKS, answers, columns
from pipelines.store.matrix import matrix

DIGITS = 6
OURS = "ours."
MIN_DAYS = 7
"""The interval is drawn over days: over fewer of them it is too narrow to act on."""
USUAL = timedelta(days=28)
INSTANCE = ["request_id", "instance"]

Advice = Literal["promote", "leave", "wait"]


class Gain(msgspec.Struct, frozen=True):
    """How far the challenger's metric lies above the champion's, with its interval, and what that rests on."""

    value: float | None
    low: float | None
    high: float | None
    labels: int
    """Labels of the challenger's answers (paired: of both)."""
    days: int

    @property
    def advice(self) -> Advice:
        """What it says: "wait" until the interval leaves out zero."""
        if self.days < MIN_DAYS or self.low is None or self.high is None:
            return "wait"
        return "promote" if self.low > 0 else "leave" if self.high < 0 else "wait"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, as the ledger keeps it."""

    version: int
    champion: int
    how: Literal["shadow", "rescored", "canary"]
    """Which answers of the challenger the advice rests on."""
    since: str
    until: str
    answers: int
    """Of the champion, in that time."""
    pairs: int
    """Of them with a prediction of the challenger for the same instance."""
    apart: float | None
    """Mean absolute difference of the predictions of a pair."""
    disagree: float | None
    """Classes: share of pairs that come to another one (binary: at 0.5)."""
    paired: Gain | None
    canary: Gain | None
    advice: Advice
    sentence: str


def challenger(at: Home, model: str) -> int:
    """The version to compare: the shadow, else the canary, else the newest that is not champion.

    Raises HeadwayError when there is none, or no champion.
    """
    trials, champion = read_trials(at.pointers, model), _champion(at, model)
    if trials and (trial := trials.shadow or trials.canary) and trial.version != champion.version:
        return trial.version
    return versions.challenger(Ledger(at.ledger_url), model, champion.version)


def compare(
    at: Home, model: Model, version: int, as_of: datetime, *, since: datetime | None = None, actor: str
) -> Comparison:
    """Compare a version with the champion and put what was found into the ledger.

    Args:
        since: requests decided after it count; by default when the version's trial began, else four weeks ago.

    Returns:
        The comparison; asked again for the same time, the one that is stored.

    Raises:
        HeadwayError: no such version, it is champion, or there is nothing to compare it on.
    """
    champion, ledger = _champion(at, model.name), Ledger(at.ledger_url)
    entry = versions.find(ledger, model.name, version)
    if version == champion.version:
        raise HeadwayError(f"Version {version} is the champion of {model.name}. Compare another with it.")
    began = since or _began(read_trials(at.pointers, model.name), version) or as_of - USUAL
    key = f"comparison/{model.name}/{champion.version}/{version}/{began.isoformat()}/{as_of.isoformat()}"
    if stored := ledger.find(key):
        return msgspec.convert(stored.body, Comparison)
    found = _compared(at, model, champion, package.load(at, entry.body["tag"]), version, began, as_of)
    found = msgspec.structs.replace(found, sentence=_sentence(ledger, model, found))
    ledger.append("comparison", model.name, as_of=as_of, body=msgspec.to_builtins(found), actor=actor, key=key)
    return found


def _compared(
    at: Home, model: Model, champion: Pointer, version: package.Packaged, number: int, since: datetime, until: datetime
) -> Comparison:
    theirs = package.load(at, champion.tag).manifest
    unseen = max(datetime.fromisoformat(each.trained_until) for each in (theirs, version.manifest))
    rows = predictions.predictions(at, model, max(since, unseen), until, roles=("champion", "canary", "shadow"))
    truth = predictions.labelled(at, model, max(since, unseen), until, as_of=until)[[*INSTANCE, "label"]]
    rows = rows.merge(truth, on=INSTANCE, how="left")
    base = rows[(rows["role"] == "champion") & (rows["version"] == champion.version)].reset_index(drop=True)
    shadow, tried = (rows[(rows["role"] == role) & (rows["version"] == number)] for role in ("shadow", "canary"))
    pairs = _pairs(base, shadow, version, theirs)
    paired = _paired(model, pairs) if len(pairs) else None
    ours, other = (answers(model.classes, pairs, prefix) for prefix in (OURS, ""))
    decided = TASKS[model.task].decided
    canary = _two_samples(model, tried, base) if len(tried) and len(base) else None
    basis = paired or canary
    if basis is None:
        raise HeadwayError(_nothing(model.name, number, champion, version, theirs, len(base)))
    return Comparison(
        version=number, champion=champion.version, since=since.isoformat(), until=until.isoformat(),
        how="canary" if paired is None else "rescored" if shadow.empty else "shadow",
        answers=len(base), pairs=len(pairs), paired=paired, canary=canary, advice=basis.advice, sentence="",
        apart=_rounded(np.abs(ours - other).mean()) if paired else None,
        disagree=_rounded((decided(ours) != decided(other)).mean()) if paired and decided else None,
    )  # fmt: skip


def _pairs(
    base: pd.DataFrame, shadow: pd.DataFrame, version: package.Packaged, theirs: package.Manifest
) -> pd.DataFrame:
    """The champion's answers and, prefixed by OURS, what the challenger predicted for the same instances."""
    if len(shadow):
        said = [name for name in shadow if name == SCORE or name.startswith(CHANCE)]
        return base.merge(shadow[[*INSTANCE, *said]].rename(columns={name: OURS + name for name in said}), on=INSTANCE)
    if base.empty or _lacking(version, theirs):
        return base.head(0).assign(**{OURS + SCORE: np.nan})
    given = predictions.served_features(base)
    # Where a default of the champion's stood in, the challenger's own does.
    missing = {name: base["degraded"].map(lambda names, name=name: name in names) for name in given}
    inputs = {feature.name: given[feature.name].mask(missing[feature.name]) for feature in version.manifest.features}
    ours = columns(version.manifest.classes, version.predict(matrix(inputs, version.manifest.features)))
    return base.assign(**{OURS + name: values for name, values in ours.items()})


def _paired(model: Model, pairs: pd.DataFrame) -> Gain:
    known = pairs[pairs["label"].notna()]
    if known.empty:
        return Gain(None, None, None, 0, 0)
    label, days = known["label"].to_numpy(), iso_days(known["decision_time"])
    gain = interval(model, label, answers(model.classes, known, OURS), days, than=answers(model.classes, known))
    return _gain(gain, len(known), len(np.unique(days)))


def _two_samples(model: Model, tried: pd.DataFrame, base: pd.DataFrame) -> Gain:
    ours, theirs = (rows[rows["label"].notna()] for rows in (tried, base))
    if ours.empty or theirs.empty:
        return Gain(None, None, None, len(ours), 0)
    samples = [
        (rows["label"].to_numpy(), answers(model.classes, rows), iso_days(rows["decision_time"]))
        for rows in (ours, theirs)
    ]
    return _gain(contrast(model, *samples), len(ours), len(np.intersect1d(samples[0][2], samples[1][2])))


def _gain(found: Interval, labels: int, days: int) -> Gain:
    return Gain(_rounded(found.value), _rounded(found.low), _rounded(found.high), labels, days)


def _rounded(number: Any) -> float | None:
    return round(float(number), DIGITS) if np.isfinite(number) else None


def _lacking(version: package.Packaged, theirs: package.Manifest) -> list[str]:
    return sorted({feature.name for feature in version.manifest.features} - {f.name for f in theirs.features})


def _champion(at: Home, model: str) -> Pointer:
    champion = read_pointer(at.pointers, model)
    if champion is None:
        raise HeadwayError(f"{model} has no champion to compare with. Promote one: `headway promote {model} VERSION`.")
    return champion


def _began(trials: Trials | None, version: int) -> datetime | None:
    running = (
        [trial for trial in (trials.shadow, trials.canary) if trial and trial.version == version] if trials else []
    )
    return min((datetime.fromisoformat(trial.as_of) for trial in running), default=None)


def _nothing(
    model: str, number: int, champion: Pointer, version: package.Packaged, theirs: package.Manifest, answers: int
) -> str:
    if answers == 0:
        return (
            f"the champion of {model} (version {champion.version}) answered nothing in that time that neither version "
            "was trained on. Name an earlier --since, or wait for requests."
        )
    return (
        f"version {number} reads {', '.join(_lacking(version, theirs))}, which the champion is not given: its log does "
        f"not tell what version {number} would have answered. Begin a shadow: `headway shadow {model} {number}`."
    )


def _sentence(ledger: Ledger, model: Model, found: Comparison) -> str:
    gain = found.paired or found.canary
    assert gain is not None
    rests = f"{gain.labels:,} labels of {gain.days} days"
    name = f"version {found.version}"
    if gain.low is None or gain.high is None or gain.value is None or gain.days < MIN_DAYS:
        few = f"; it takes labels of {MIN_DAYS} days" if gain.days < MIN_DAYS else ", all of one class"
        return f"{name} and the champion (version {found.champion}) cannot be told apart yet: {rests}{few}"
    # The bounds are of the difference that is told: turned round with it.
    low, high = (gain.low, gain.high) if gain.value >= 0 else (-gain.high, -gain.low)
    size = f"by {_size(model, abs(gain.value))}, interval {_bare(model, low)} to {_bare(model, high)}"
    if gain.advice == "wait":
        seems = "better" if gain.value >= 0 else "worse"
        return f"{name} and the champion (version {found.champion}) cannot be told apart yet: {seems} {size}; {rests}"
    if gain.advice == "leave":
        return f"{name} is worse {size} ({rests}): leave version {found.champion} champion"
    return f"{name} is better {size} ({rests}): {_how_to_promote(ledger, model.name, found.version)}"


def _how_to_promote(ledger: Ledger, model: str, version: int) -> str:
    if version in {entry.body["version"] for entry in versions.pending(ledger, model)}:
        return f"approve it: headway approve {model} {version}"
    entry = versions.find(ledger, model, version)
    despite = " --despite-gates --why REASON" if entry.body.get("passed") is False else " --why 'better on its trial'"
    failed = f" though it failed its gates ({', '.join(versions.failed_gates(entry))})" if "despite" in despite else ""
    return f"promote it{failed}: headway promote {model} {version}{despite}"


def _size(model: Model, amount: float) -> str:
    return f"{_bare(model, amount)} {'of ' + model.metric if model.metric.startswith('neg_') else 'points'}"


def _bare(model: Model, amount: float) -> str:
    """Points are hundredths of a metric that goes from 0 to 1; an error has units of its own."""
    return f"{amount:.3g}" if model.metric.startswith("neg_") else f"{100 * amount:.1f}"
