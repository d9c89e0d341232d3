"""The artefact of a version, in BentoML's model store: the only place that writes one, and the only one that loads one.

A manifest vouches for every file by its SHA-256 and is itself named by the version's digest, so that nothing is
unpickled that was not written here. After loading, golden rows must give the answers they gave when they were stored.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import joblib
import msgspec
import numpy as np
import pandas as pd
from joblib.numpy_pickle import NumpyPickler
from msgspec import UNSET, UnsetType

from features import HeadwayError
from monitoring.profile import Reference
from pipelines.home import Home
from pipelines.scorers.agreement import LIMIT, difference
from pipelines.scorers.scorer import Columns, FastScorer, NotCompiled, compile
from pipelines.scorers.tasks import pipeline_predict
from pipelines.store.matrix import filled, matrix

ESTIMATOR, MANIFEST, REFERENCE, SAMPLE = "estimator.joblib", "manifest.json", "reference.json", "sample.parquet"


class FeatureSpec(msgspec.Struct, frozen=True):
    """A feature as the version was trained on it."""

    name: str
    dtype: str
    default: float | int | str | bool | None


class TableSpec(msgspec.Struct, frozen=True):
    """A feature table as the version was trained on it."""

    name: str
    keys: tuple[str, ...]
    ttl_seconds: float
    features: tuple[str, ...]


class Golden(msgspec.Struct, frozen=True):
    """Rows with the answers they must give, exactly."""

    columns: dict[str, list[Any]]
    predictions: list[float | list[float]]
    """One number a row, or one for each class."""


class Band(msgspec.Struct, frozen=True):
    """Where the truth lies around a predicted value: from `prediction + low` to `prediction + high`."""

    level: float
    """How often at least, as long as what comes is like the holdout."""
    low: float
    high: float


class Gate(msgspec.Struct, frozen=True):
    """One gate: its number, its limit, its verdict."""

    name: str
    passed: bool
    limit: float
    value: float | None
    """None where the number is a timing: it differs from run to run, and a version's record must not."""
    low: float | None = None
    high: float | None = None
    sentence: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known about a version, except its files' content."""

    model: str
    task: str
    classes: tuple[str, ...] | UnsetType = UNSET
    """Multiclass only: in the order of the probabilities."""
    trained_as_of: str
    trained_until: str
    """No row decided after this instant was trained on."""
    domain: str
    feature_service: str
    features: tuple[FeatureSpec, ...]
    tables: tuple[TableSpec, ...]
    keys: dict[str, str]
    inputs: dict[str, str]
    importance: dict[str, float]
    """Permutation importance of each feature on the holdout, summing to 1."""
    metrics: dict[str, float]
    gates: tuple[Gate, ...]
    data: dict[str, Any]
    """What it was trained and judged on: rows, first and last decision, digest."""
    code_commit: str
    lock_hash: str
    golden: Golden
    interval: Band | None = None
    """Regression only, and only with enough rows in the holdout."""
    scorer: str = "pipeline"
    """What serves it: `treelite` or `linear` (compiled, see `scorer`), or `pipeline`: the estimator itself."""
    scorer_note: str = ""
    """Why not a compiled one, or by how much it differs from the pipeline at most."""
    files: dict[str, str] = {}
    """SHA-256 of each file."""
    digest: str = ""
    """SHA-256 of this manifest without `digest` and `tag`: the version's name for machines."""
    tag: str = ""


@dataclass(frozen=True)
class Packaged:
    """A version, loaded and checked."""

    manifest: Manifest
    estimator: Any
    folder: Path
    fast: FastScorer | None = None
    fallback: str = ""
    """Why the pipeline serves though the manifest names a compiled scorer; empty when it is as the manifest says."""

    def score(self, columns: Columns) -> np.ndarray:
        """`predict` by what serves, for columns as `filled` makes them. Raises ValueError for what it refuses."""
        if self.fast is not None:
            return self.fast.predict(columns)
        return self.predict(matrix(columns, self.manifest.features))

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """float64 by the pipeline, for what `matrix` makes: the probability of the positive class or the value (n,), or
        the probability of each class (n, classes).

        What is computed offline uses this one: a version's answers do not hang on how they are served.
        """
        return pipeline_predict(self.manifest.task, self.estimator, frame)

    @cached_property
    def reference(self) -> Reference:
        """What monitoring compares with."""
        return msgspec.json.decode((self.folder / REFERENCE).read_bytes(), type=Reference)

    @cached_property
    def sample(self) -> pd.DataFrame:
        """A sample of the rows behind the version: features, answers as `tasks.columns` has them, and `label`."""
        return pd.read_parquet(self.folder / SAMPLE)


def store(at: Home, manifest: Manifest, estimator: Any, reference: Reference, sample: pd.DataFrame) -> Manifest:
    """Put a version into BentoML's model store; the same version twice is stored once.

    Returns:
        The manifest, complete with files, digest and tag.
    """
    import bentoml

    contents = at.room("bentoml", f"staging-{manifest.model}")
    full = seal(contents, manifest, estimator, reference, sample)
    models = _models(at)
    if full.tag not in {str(model.tag) for model in models.list()}:
        with bentoml.models.create(full.tag, labels={"task": manifest.task}, _model_store=models) as model:
            for name in full.files:
                shutil.copy2(contents / name, model.path_of(name))
            Path(model.path_of(MANIFEST)).write_bytes(msgspec.json.format(msgspec.json.encode(full)))
    shutil.rmtree(contents)
    return full


def seal(folder: Path, manifest: Manifest, estimator: Any, reference: Reference, sample: pd.DataFrame) -> Manifest:
    """Write a version's files to `folder`, in place of all that is there; the manifest that vouches for them.

    The same version gives the same bytes, and so the same digest, wherever it is written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    with (folder / ESTIMATOR).open("wb") as file:
        _Pickler(file).dump(estimator)
    (folder / REFERENCE).write_bytes(msgspec.json.encode(reference, order="deterministic"))
    sample.to_parquet(folder / SAMPLE, index=False)
    return vouch(manifest, {path.name: _sha256(path) for path in sorted(folder.iterdir())})


def vouch(manifest: Manifest, files: dict[str, str]) -> Manifest:
    """The manifest, complete with the SHA-256 of each file, its own digest, and the tag that follows from it."""
    full = msgspec.structs.replace(manifest, files=files, digest="", tag="")
    digest = _digest(full)
    return msgspec.structs.replace(full, digest=digest, tag=tag_of(manifest.model, digest))


def load(at: Home, tag: str) -> Packaged:
    """Load a version: hashes first, then the estimator, then its golden rows, by the pipeline and by what serves.

    The fast scorer is not stored but compiled anew, from the estimator that the hashes vouch for. Where it cannot be,
    or gives golden rows other answers (another treelite than when it was stored, say), the version is still the one
    that was judged, and its pipeline proves it by the same rows: so the pipeline serves, slower and right, and
    `fallback` says why. To refuse the version would be an outage for the sake of speed.

    Raises:
        HeadwayError: no such version, a file or the manifest was changed, or the golden rows give other answers.
    """
    folder = _folder(at, tag)
    manifest = read_manifest(folder)
    if manifest.tag != tag or _digest(manifest) != manifest.digest or tag.partition(":")[2] != manifest.digest[:16]:
        raise _refused(tag, f"{folder / MANIFEST} was changed: it is not the manifest that gave the version its name")
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise _refused(tag, f"{folder / name} is not the file that was stored (its SHA-256 differs)")
    estimator = joblib.load(folder / ESTIMATOR)
    packaged = Packaged(manifest, estimator, folder, *_fast(manifest, estimator))
    answers = packaged.predict(matrix(manifest.golden.columns, manifest.features))
    differ = int((answers != np.array(manifest.golden.predictions)).reshape(len(answers), -1).any(axis=1).sum())
    if differ:
        raise _refused(tag, f"{differ} of {len(answers)} golden rows give other answers than when it was stored")
    return packaged


def tag_of(model: str, digest: str) -> str:
    """What the model store calls the version of a model that has this digest."""
    return f"{model}:{digest[:16]}"


def manifest_of(at: Home, tag: str) -> Manifest:
    """The manifest of a version, unchecked: `load` checks. Raises HeadwayError when there is no such version."""
    return read_manifest(_folder(at, tag))


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a version's folder. Raises HeadwayError when there is none that can be read."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HeadwayError(f"{folder / MANIFEST}: {error}. Restore the folder, or train the model again.") from None


def golden(frame: pd.DataFrame, predictions: np.ndarray) -> Golden:
    """Golden rows from inputs (n, features) and their predictions."""
    columns = {
        str(name): [None if pd.isna(value) else value for value in column.tolist()] for name, column in frame.items()
    }
    return Golden(columns, np.asarray(predictions, dtype="float64").tolist())


class _Pickler(NumpyPickler):
    """joblib's own, made to write the same bytes whatever the process did before.

    dill, which Feast imports, puts its own functions into pickle's table; and whether equal strings are one object,
    which shows in the bytes, is chance.
    """

    dispatch: ClassVar[dict[type, Any]] = {
        **{kind: how for kind, how in NumpyPickler.dispatch.items() if how.__module__ != "dill._dill"},
        dict: NumpyPickler.save_dict,
        type: NumpyPickler.save_type,
        FunctionType: NumpyPickler.save_global,
    }

    def save(self, obj: Any) -> Any:
        known = self.__dict__.setdefault("_strings", {})
        return super().save(known.setdefault(obj, obj) if type(obj) is str else obj)


def _fast(manifest: Manifest, estimator: Any) -> tuple[FastScorer | None, str]:
    """The scorer that the manifest names, compiled and checked; None, and why, when the pipeline has to serve."""
    if manifest.scorer == "pipeline":
        return None, ""
    try:
        fast = compile(manifest.task, estimator, manifest.features)
        columns = filled(manifest.golden.columns, manifest.features)
        apart = difference(fast.predict(columns), np.array(manifest.golden.predictions))
    except (NotCompiled, ValueError) as why:
        return None, f"the scorer {manifest.scorer} cannot be had here: {why}"
    return (fast, "") if apart <= LIMIT else (None, f"the scorer {fast.kind} is off by {apart:.0e} on golden rows")


def _models(at: Home) -> Any:
    from bentoml._internal.models import ModelStore  # BentoML's own default store is bound once to one root

    return ModelStore(at.room("bentoml", "models"))


def _folder(at: Home, tag: str) -> Path:
    from bentoml.exceptions import BentoMLException

    models = _models(at)
    try:
        return Path(models.get(tag).path)
    except (BentoMLException, ValueError) as error:
        known = ", ".join(str(model.tag) for model in models.list()) or "none"
        raise HeadwayError(f"no version {tag!r} in the model store ({error}). It has: {known}.") from None


def _digest(manifest: Manifest) -> str:
    bare = msgspec.structs.replace(manifest, digest="", tag="")
    return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refused(tag: str, why: str) -> HeadwayError:
    return HeadwayError(f"version {tag} is refused: {why}. The champion stays. Train again, or restore the folder.")
