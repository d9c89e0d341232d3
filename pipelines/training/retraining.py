"""Retraining, as a list of steps: assemble, fit, evaluate, package, and promote what passes its gates."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from msgspec import UNSET
from sklearn.inspection import permutation_importance

import features
from models import Model
from monitoring import profile, relation
from pipelines.home import PROJECT, Home
from pipelines.records.frame import Frame, Split, span, split, training_frame
from pipelines.registry import package, promotion
from pipelines.registry.ledger import Entry, Ledger
from pipelines.registry.package import Band, FeatureSpec, Gate, Manifest, TableSpec
from pipelines.scorers.agreement import choose
from pipelines.scorers.scoring import COVERAGE, conformal, predict, score
from pipelines.scorers.tasks import columns, finite
from pipelines.training.judge import DIGITS, judge
from pipelines.training.learnable import learnable

GOLDEN_ROWS, SAMPLE_ROWS, IMPORTANCE_ROWS, SEED = 20, 5000, 4000, 11
HOLDOUT = "holdout"
"""Column of the sample: whether the version was not trained on the row."""
DECIDED = "decision_day"
"""Column of the sample: the ISO day of the row's decision."""


@dataclass(frozen=True)
class Candidate:
    """A challenger in the making."""

    estimator: Any
    twin: Any
    """Fitted a second time on the same rows: it must give the same answers."""


@dataclass(frozen=True)
class Evaluation:
    """What the holdout says of a candidate."""

    gates: list[Gate]
    metrics: dict[str, float]
    importance: dict[str, float]
    predictions: np.ndarray
    """For the holdout rows."""
    scorer: str
    """What is to serve it: see `Manifest.scorer`."""
    scorer_note: str

    @property
    def passed(self) -> bool:
        """All gates."""
        return all(gate.passed for gate in self.gates)


class Outcome(msgspec.Struct, frozen=True):
    """How a retraining ended."""

    version: int
    tag: str
    promoted: bool
    waiting: bool
    """Passed its gates, and waits for approval."""
    sentence: str
    metrics: dict[str, float]


def standing_verdict(at: Home, model: Model, as_of: datetime) -> Entry | None:
    """The stored verdict that asks for retraining and was not acted on yet; None when there is none.

    Only the ledger is believed: a forged or repeated event finds nothing to do. A verdict stands no more once another
    version was trained or made champion after it: it speaks of what is gone.
    """
    ledger = Ledger(at.ledger_url)
    verdict = ledger.last(model.name, "verdict", as_of)
    if verdict is None or verdict.body["action"] != "retrain":
        return None
    acted = any(entry.body.get("verdict") == verdict.key for entry in ledger.entries(model.name, "version"))
    later = [entry for entry in ledger.entries(model.name, until=as_of) if entry.as_of > verdict.as_of]
    overtaken = any(entry.kind in ("version", "promotion", "rollback") for entry in later)
    return None if acted or overtaken else verdict


def retrain(at: Home, model: Model, as_of: datetime, *, actor: str, verdict: Entry | None = None) -> Outcome:
    """Train a challenger as of an instant, put it through its gates, and promote it if it passes.

    Run again for the same instant it finds its own version, and doubles nothing.
    """
    parts = assemble(at, model, as_of)
    candidate = fit(model, parts)
    evaluation = evaluate(at, model, as_of, parts, candidate)
    manifest = store(at, model, as_of, parts, candidate, evaluation)
    return settle(at, model, as_of, manifest, evaluation, actor=actor, verdict=verdict)


def assemble(at: Home, model: Model, as_of: datetime) -> Split:
    """The training frame as of an instant, split by time."""
    return split(model, training_frame(at, model, as_of), as_of)


def fit(model: Model, parts: Split) -> Candidate:
    """Fit the declared estimator on the training rows, twice. Raises HeadwayError where nothing could be learned."""
    learnable(model, parts)
    label = parts.train.rows["label"].to_numpy()
    return Candidate(*(model.estimator().fit(parts.train.inputs, label) for _ in range(2)))


def evaluate(at: Home, model: Model, as_of: datetime, parts: Split, candidate: Candidate) -> Evaluation:
    """Judge a candidate on the holdout, against the baselines and the champion of that instant."""
    return weigh(model, parts, candidate, _champion(at, model, parts.holdout, as_of))


def weigh(model: Model, parts: Split, candidate: Candidate, champion: np.ndarray | None) -> Evaluation:
    """`evaluate`, given what the champion of that instant answers: see `unseen_answers`."""
    holdout, label = parts.holdout, parts.holdout.rows["label"].to_numpy()
    ours = predict(model, candidate.estimator, holdout.inputs)
    declared = features.load(model.domain).features_of(model.feature_service)
    # The holdout comes first, and golden rows first of all: those are compared as they are.
    sample = pd.concat([holdout.inputs, parts.train.inputs], ignore_index=True)
    chosen = choose(model.task, candidate.estimator, sample, declared)
    gates = judge(model, candidate.estimator, parts, champion, candidate.twin, chosen.fast)
    metrics = {"holdout": score(model, label, ours), "train": _on_train(model, candidate, parts)}
    if champion is not None and finite(champion).all():
        metrics["champion"] = score(model, label, champion)
    rounded = {name: round(value, DIGITS) for name, value in metrics.items() if np.isfinite(value)}
    return Evaluation(gates, rounded, importances(model, candidate, holdout), ours, chosen.scorer, chosen.note)


def store(
    at: Home, model: Model, as_of: datetime, parts: Split, candidate: Candidate, evaluation: Evaluation
) -> Manifest:
    """Package the candidate with all that is known about it, and the reference that monitoring compares with."""
    reference, sample = make_reference(model, parts, candidate, evaluation)
    return package.store(at, describe(model, as_of, parts, evaluation), candidate.estimator, reference, sample)


def describe(model: Model, as_of: datetime, parts: Split, evaluation: Evaluation) -> Manifest:
    """All that is known about a candidate, but for the files that hold it."""
    domain = features.load(model.domain)
    service = model.feature_service
    golden = parts.holdout.inputs.head(GOLDEN_ROWS)
    return Manifest(
        model=model.name, task=model.task, classes=model.classes or UNSET, domain=model.domain, feature_service=service,
        trained_as_of=as_of.isoformat(), trained_until=parts.trained_until.isoformat(),
        features=tuple(FeatureSpec(f.name, f.dtype, f.default) for f in domain.features_of(service)),
        tables=tuple(
            TableSpec(t.name, t.keys, t.ttl.total_seconds(), tuple(f.name for f in t.features))
            for t in domain.tables_of(service)
        ),
        keys={name: domain.entities[name] for name in domain.keys_of(service)}, inputs=domain.inputs_of(service),
        importance=evaluation.importance, metrics=evaluation.metrics, gates=tuple(evaluation.gates),
        data={"train": span(parts.train), "holdout": span(parts.holdout), "digest": _fingerprint(parts)},
        code_commit=_commit(), lock_hash=hashlib.sha256((PROJECT / "requirements.lock").read_bytes()).hexdigest(),
        golden=package.golden(golden, evaluation.predictions[: len(golden)]), interval=_band(model, parts, evaluation),
        scorer=evaluation.scorer, scorer_note=evaluation.scorer_note,
    )  # fmt: skip


def settle(
    at: Home, model: Model, as_of: datetime, manifest: Manifest, evaluation: Evaluation, *, actor: str,
    verdict: Entry | None,
) -> Outcome:  # fmt: skip
    """Write the version to the ledger, then promote it, let it wait for approval, or refuse it."""
    return enter(Ledger(at.ledger_url), at.pointers, model, as_of, manifest, evaluation, actor=actor, verdict=verdict)


def enter(
    ledger: Ledger, pointers: Path, model: Model, as_of: datetime, manifest: Manifest, evaluation: Evaluation, *,
    actor: str, verdict: Entry | None,
) -> Outcome:  # fmt: skip
    """`settle` in a ledger, with the folder of its pointer files, that are at hand."""
    instant = as_of.isoformat()
    key = f"version/{model.name}/{instant}/{manifest.digest[:16]}"
    version = _number(ledger, model, key)
    failed = [gate for gate in evaluation.gates if not gate.passed]
    waiting = model.approval and not failed
    why = f"because {verdict.body['sentence'].removeprefix('Retrain: ')}" if verdict else "trained on request"
    body = {
        "version": version, "tag": manifest.tag, "digest": manifest.digest, "metrics": evaluation.metrics,
        "gates": [msgspec.to_builtins(gate) for gate in evaluation.gates], "passed": not failed,
        "awaiting_approval": waiting, "verdict": verdict.key if verdict else None, "data": manifest.data,
        "sentence": _version_sentence(model, version, evaluation, failed, waiting),
    }  # fmt: skip
    ledger.append("version", model.name, as_of=as_of, body=body, actor=actor, key=key)
    if failed:
        refusal = {"version": version, "sentence": f"version {version} refused: {failed[0].name}: {failed[0].sentence}"}
        ledger.append("refusal", model.name, as_of=as_of, body=refusal, actor=actor, key=f"refusal/{key}")
    elif not waiting:
        promotion.promote(
            ledger, pointers, model=model.name, version=version, tag=manifest.tag, digest=manifest.digest,
            as_of=as_of, actor=actor, why=why, key=f"promotion/{key}",
        )  # fmt: skip
    return Outcome(
        version, manifest.tag, not failed and not waiting, waiting, str(body["sentence"]), evaluation.metrics
    )


def champion(
    at: Home, model: Model, as_of: datetime | None = None
) -> tuple[promotion.Pointer, package.Packaged] | None:
    """A champion, loaded and checked: the live one, or by the ledger the one of an instant; None while there is none.

    What was promoted at `as_of` itself follows from what was decided then, so the one before it counts, if there is
    one: a night that is run again after its own retraining finds the champion that it found.
    """
    if as_of is None:
        pointer = promotion.read_pointer(at.pointers, model.name)
    else:
        pointer = reigning(promotion.reigns(Ledger(at.ledger_url), model.name, as_of), as_of)
    return (pointer, package.load(at, pointer.tag)) if pointer else None


def reigning(reigns: Sequence[promotion.Pointer], instant: datetime) -> promotion.Pointer | None:
    """The last of `reigns` (oldest first) that began before an instant; the first of all if none did."""
    before = [reign for reign in reigns if datetime.fromisoformat(reign.as_of) < instant]
    return next(iter([*before[-1:], *reigns[:1]]), None)


def _champion(at: Home, model: Model, holdout: Frame, as_of: datetime) -> np.ndarray | None:
    """What the champion of that instant answers, NaN for rows it was trained on; None when there was none.

    One promoted at `as_of` itself does not count: it is this very training, done before.
    """
    reigns = promotion.reigns(Ledger(at.ledger_url), model.name, as_of)
    before = [reign for reign in reigns if datetime.fromisoformat(reign.as_of) < as_of]
    if not before:
        return None
    return unseen_answers(model, package.load(at, before[-1].tag), holdout)


def unseen_answers(model: Model, packaged: package.Packaged, holdout: Frame) -> np.ndarray:
    """What a version answers to rows, NaN for those that it was trained on."""
    trained = holdout.rows["decision_time"] <= pd.Timestamp(packaged.manifest.trained_until)
    answers = _answers(model, packaged, holdout)
    answers[trained.to_numpy()] = np.nan
    return answers


def _answers(model: Model, packaged: package.Packaged, holdout: Frame) -> np.ndarray:
    known = [feature.name for feature in packaged.manifest.features]
    lacks = bool(set(known) - set(holdout.inputs)) or (packaged.manifest.classes or ()) != model.classes
    return np.full(len(holdout), np.nan) if lacks else packaged.predict(holdout.inputs[known])


def _on_train(model: Model, candidate: Candidate, parts: Split) -> float:
    return score(model, parts.train.rows["label"].to_numpy(), predict(model, candidate.estimator, parts.train.inputs))


def importances(model: Model, candidate: Candidate, holdout: Frame) -> dict[str, float]:
    """Permutation importance of each feature on the holdout, summing to 1."""
    rows = holdout.inputs.sample(min(IMPORTANCE_ROWS, len(holdout)), random_state=SEED)
    label = holdout.rows["label"].loc[rows.index].to_numpy()

    def scoring(fitted: Any, inputs: pd.DataFrame, truth: np.ndarray) -> float:
        return score(model, truth, predict(model, fitted, inputs))

    found = permutation_importance(candidate.estimator, rows, label, scoring=scoring, n_repeats=3, random_state=SEED)
    weights = np.clip(found.importances_mean, 0, None)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))
    return {name: round(float(weight), DIGITS) for name, weight in zip(rows.columns, weights, strict=True)}


def make_reference(
    model: Model, parts: Split, candidate: Candidate, evaluation: Evaluation
) -> tuple[profile.Reference, pd.DataFrame]:
    """What monitoring compares with, and a sample of the rows behind the candidate."""
    trained = predict(model, candidate.estimator, parts.train.inputs)
    inputs = pd.concat([parts.train.inputs, parts.holdout.inputs], ignore_index=True)
    scored = inputs.assign(**columns(model.classes, np.concatenate([trained, evaluation.predictions])))
    rows = pd.concat([parts.train.rows, parts.holdout.rows], ignore_index=True)
    label, held = parts.holdout.rows["label"].to_numpy(), parts.holdout.rows["decision_time"]
    sd = relation.residual_sd(label, evaluation.predictions) if model.task == "regression" else None
    reference = profile.build_reference(
        scored,
        rows["decision_time"],
        features.load(model.domain).features_of(model.feature_service),
        evaluation.importance,
        surprise=relation.daily(model.task, label, evaluation.predictions, profile.iso_days(held), sd),
        trained=np.arange(len(rows)) < len(trained),
        residual_sd=sd,
    )
    known = {"label": rows["label"], DECIDED: profile.iso_days(rows["decision_time"])}
    kept = scored.assign(**known, **{HOLDOUT: np.arange(len(rows)) >= len(trained)})
    sample = kept.sample(min(SAMPLE_ROWS, len(rows)), random_state=SEED)
    return reference, sample.sort_index()


def _band(model: Model, parts: Split, evaluation: Evaluation) -> Band | None:
    label = parts.holdout.rows["label"].to_numpy(dtype="float64")
    found = conformal(label, evaluation.predictions) if model.task == "regression" else None
    return Band(COVERAGE, *found) if found else None


def _fingerprint(parts: Split) -> str:
    digest = hashlib.sha256()
    for frame in (parts.train, parts.holdout):
        for part in (frame.rows[["example_id", "decision_time", "label"]], frame.inputs):
            digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _commit() -> str:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a container has no git
        return "not a checkout"
    return found.stdout.strip() or "not a checkout"


def _number(ledger: Ledger, model: Model, key: str) -> int:
    versions = ledger.entries(model.name, "version")
    known = [entry.body["version"] for entry in versions if entry.key == key]
    return int(known[0]) if known else 1 + max((int(entry.body["version"]) for entry in versions), default=0)


def _version_sentence(model: Model, version: int, evaluation: Evaluation, failed: list[Gate], waiting: bool) -> str:
    text = f"version {version}: {model.metric} {evaluation.metrics.get('holdout', float('nan')):.3f} on the holdout"
    if "champion" in evaluation.metrics:
        text += f", the champion {evaluation.metrics['champion']:.3f}"
    if failed:
        return f"{text}; {len(failed)} of {len(evaluation.gates)} gates failed"
    return f"{text}; all {len(evaluation.gates)} gates passed" + (", waits for approval" if waiting else "")
