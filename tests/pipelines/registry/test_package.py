"""Versions: the same training has the same name, and nothing is unpickled that the manifest does not vouch for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
import pytest

from features import HeadwayError
from pipelines.home import PROJECT, QUIET, SINGLE_THREAD, Home, settle
from pipelines.registry import package
from pipelines.registry.package import (
    ESTIMATOR,
    MANIFEST,
    REFERENCE,
    SAMPLE,
    Manifest,
    Packaged,
    load,
    read_manifest,
    store,
)
from pipelines.scorers import scorer
from pipelines.scorers.scorer import FastScorer
from pipelines.store.matrix import filled, matrix
from tests.services import world

TRAINED = """
import sys
from dataclasses import replace
import numpy as np
import pandas as pd
import features, models
from pipelines.training import retraining
from pipelines.records.frame import Frame, Split
from pipelines.home import home, settle, utc
from pipelines.store.matrix import matrix

at = home()
settle(at)
AS_OF = utc("2013-04-01")

def frame(model, rows, seed, first):
    random = np.random.default_rng(seed)
    declared = features.load(model.domain).features_of(model.feature_service)
    texts = np.array(["EWR", "JFK", "LGA", None], dtype=object)
    values = {f.name: random.choice(texts, rows) if f.dtype == "str" else random.normal(size=rows) for f in declared}
    inputs = matrix(values, declared)
    label = inputs["temp"] + random.normal(size=rows)
    label = (label > 0).astype(float) if model.task == "binary" else label
    times = pd.date_range(utc(first), periods=rows, freq="10min").as_unit("us")
    ids = [f"{seed}-{n}" for n in range(rows)]
    return Frame(pd.DataFrame({"example_id": ids, "decision_time": times, "label": label, "origin": "EWR"}), inputs)

for model in map(models.load, sys.argv[1:]):
    parts = Split(frame(model, 600, 1, "2013-03-01"), frame(model, 300, 2, "2013-03-20"), utc("2013-03-19"))
    candidate = retraining.fit(model, parts)
    evaluation = retraining.evaluate(at, model, AS_OF, parts, candidate)
    stored = retraining.store(at, model, AS_OF, parts, candidate, evaluation)
    print(stored.digest, stored.scorer, stored.interval and (stored.interval.low < 0 < stored.interval.high))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Manifest]]:
    """A root with two versions in its store."""
    root = Home(tmp_path_factory.mktemp("built"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEADWAY_HOME", "BENTOML_HOME", "PREFECT_HOME", "PYTHONHASHSEED", *QUIET):
            patch.setenv(name, os.environ.get(name, ""))
        settle(root)
        return root.root, [world.packaged(root, seed) for seed in (1, 2)]


@pytest.fixture
def at(built: tuple[Path, list[Manifest]], home: Home) -> Home:
    shutil.copytree(built[0], home.root, dirs_exist_ok=True)
    return home


@pytest.fixture
def manifest(built: tuple[Path, list[Manifest]]) -> Manifest:
    return built[1][0]


def folder(at: Home, manifest: Manifest) -> Path:
    return Path(at.bentoml / "models" / manifest.tag.replace(":", "/"))


def stored_again(at: Home, found: Packaged, **changed: Any) -> Manifest:
    manifest = msgspec.structs.replace(found.manifest, **changed)
    return store(at, manifest, found.estimator, found.reference, found.sample)


def refused(at: Home, tag: str, why: str) -> None:
    with pytest.raises(HeadwayError, match=why):
        load(at, tag)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_version_comes_back_as_it_was_stored(at: Home, manifest: Manifest) -> None:
    found = load(at, manifest.tag)
    assert found.manifest == manifest
    assert manifest.tag == f"late_arrival:{manifest.digest[:16]}"
    assert set(manifest.files) == {ESTIMATOR, REFERENCE, SAMPLE}
    names = [feature.name for feature in manifest.features]
    golden = pd.DataFrame({name: manifest.golden.columns[name] for name in names})
    numbers = [feature.name for feature in manifest.features if feature.dtype != "str"]
    answers = found.predict(golden.astype(dict.fromkeys(numbers, "float64")))
    np.testing.assert_array_equal(answers, manifest.golden.predictions)
    assert len(found.sample) == 20 and found.reference.importance == manifest.importance


def test_the_same_version_twice_is_stored_once(at: Home, manifest: Manifest) -> None:
    before = {path: path.stat().st_mtime_ns for path in at.bentoml.rglob("*") if path.is_file()}
    assert world.packaged(at, 1) == manifest
    assert {path: path.stat().st_mtime_ns for path in at.bentoml.rglob("*") if path.is_file()} == before


def test_anything_else_is_another_version(at: Home, manifest: Manifest) -> None:
    found = load(at, manifest.tag)
    other = stored_again(at, found, trained_as_of="2013-03-02T00:00:00+00:00")
    assert other.tag != manifest.tag
    assert load(at, other.tag).manifest == other and load(at, manifest.tag).manifest == manifest


def test_the_same_training_in_two_processes_has_the_same_digest(tmp_path: Path) -> None:
    def start(number: int) -> subprocess.Popen[str]:
        # Commits may happen meanwhile: outside of a checkout there is none to be named.
        environ = {
            **os.environ,
            **SINGLE_THREAD,
            "HEADWAY_HOME": str(tmp_path / str(number)),
            "GIT_DIR": str(tmp_path / "none"),
        }
        environ |= {"PYTHONHASHSEED": str(number), "PYTHONPATH": str(PROJECT)}
        return subprocess.Popen(
            [sys.executable, "-c", TRAINED, "late_arrival", "arrival_delay"], env=environ, cwd=PROJECT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    running = [start(1), start(2)]
    (first, errors), (second, _) = (process.communicate(timeout=200) for process in running)
    trained = [line.split() for line in first.splitlines()]
    assert [len(digest) for digest, *_ in trained] == [64, 64], errors
    assert [line[1:] for line in trained] == [["treelite", "None"], ["treelite", "True"]], "a value has an interval"
    assert first == second


@pytest.mark.parametrize("name", [ESTIMATOR, REFERENCE, SAMPLE])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_changed_byte_refuses_the_version(at: Home, manifest: Manifest, name: str, place: float) -> None:
    path = folder(at, manifest) / name
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    refused(at, manifest.tag, rf"is refused: .*{name} is not the file that was stored .* The champion stays")


@pytest.mark.parametrize("name", [ESTIMATOR, REFERENCE, SAMPLE])
def test_a_missing_file_refuses_the_version(at: Home, manifest: Manifest, name: str) -> None:
    (folder(at, manifest) / name).unlink()
    refused(at, manifest.tag, rf"{name} is not the file that was stored")


def test_a_foreign_pickle_is_never_read(at: Home, manifest: Manifest, tmp_path: Path) -> None:
    mark, path = tmp_path / "went off", folder(at, manifest) / ESTIMATOR
    joblib.dump(Bomb(mark), path)
    refused(at, manifest.tag, "is not the file that was stored")
    # Someone who puts its hash into the manifest too, and a fitting digest, still has another version's name.
    files = {**manifest.files, ESTIMATOR: package._sha256(path)}
    forged = msgspec.structs.replace(manifest, files=files)
    for changed in (forged, msgspec.structs.replace(forged, digest=package._digest(forged))):
        (path.parent / MANIFEST).write_bytes(msgspec.json.encode(changed))
        refused(at, manifest.tag, "it is not the manifest that gave the version its name")
    assert not mark.exists()
    joblib.load(path)
    assert mark.exists(), "the bomb does not work, so it proves nothing"


def test_a_changed_manifest_is_refused_whichever_byte_it_is(at: Home, manifest: Manifest) -> None:
    path = folder(at, manifest) / MANIFEST
    content = path.read_bytes()
    harmless = 0
    for place in range(0, len(content), max(1, len(content) // 150)):
        for bit in (1, 0x80):
            changed = bytearray(content)
            changed[place] ^= bit
            path.write_bytes(changed)
            try:
                found = load(at, manifest.tag)
            except HeadwayError:
                continue
            # White space became other white space, or the last digit of a number the same number.
            assert found.manifest == manifest
            harmless += 1
    assert harmless < 15


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b"null", b'{"model": 1}'])
def test_a_manifest_that_is_none_is_told(at: Home, manifest: Manifest, content: bytes) -> None:
    (folder(at, manifest) / MANIFEST).write_bytes(content)
    refused(at, manifest.tag, r"manifest\.json: .* Restore the folder, or train the model again")
    (folder(at, manifest) / MANIFEST).unlink()
    with pytest.raises(HeadwayError, match="Restore the folder"):
        read_manifest(folder(at, manifest))


def test_a_version_in_anothers_place_is_refused(at: Home, built: tuple[Path, list[Manifest]]) -> None:
    first, second = built[1]
    shutil.rmtree(folder(at, first))
    shutil.copytree(folder(at, second), folder(at, first))
    refused(at, first.tag, "is refused|no version")
    assert load(at, second.tag).manifest == second


@pytest.mark.parametrize(
    "tag",
    ["late_arrival:0123456789abcdef", "late_arrival", "late_arrival:latest", "other:1", "", "a:b:c", "../x:1", "Ä"],
)
def test_a_tag_that_is_none_is_told(at: Home, manifest: Manifest, tag: str) -> None:
    refused(at, tag, "no version|is refused")


def test_an_unknown_version_is_told_with_those_there_are(at: Home, manifest: Manifest) -> None:
    refused(at, "late_arrival:0123456789abcdef", f"no version .* It has: .*{manifest.tag}")


def test_golden_rows_that_give_other_answers_refuse_the_version(at: Home, manifest: Manifest) -> None:
    found = load(at, manifest.tag)
    answers = list(manifest.golden.predictions)
    answers[3] = float(np.nextafter(answers[3], 1))
    other = stored_again(at, found, golden=msgspec.structs.replace(manifest.golden, predictions=answers))
    refused(at, other.tag, "1 of 20 golden rows give other answers than when it was stored")


def test_another_estimator_under_a_consistent_manifest_is_found_by_the_golden_rows(
    at: Home, built: tuple[Path, list[Manifest]]
) -> None:
    first, second = (load(at, manifest.tag) for manifest in built[1])
    other = stored_again(at, replace(first, estimator=second.estimator))
    refused(at, other.tag, "of 20 golden rows give other answers")


def test_the_store_is_private_and_below_the_root(at: Home, manifest: Manifest) -> None:
    assert at.bentoml.stat().st_mode & 0o077 == 0
    assert folder(at, manifest).is_dir()
    assert not (at.bentoml / "staging").exists()


def test_a_version_is_scored_by_what_its_manifest_names(at: Home, manifest: Manifest) -> None:
    found = load(at, manifest.tag)
    assert manifest.scorer == "treelite" and manifest.scorer_note.startswith("differs from the pipeline by ")
    assert found.fast is not None and found.fast.kind == "treelite" and found.fallback == ""
    columns = filled(manifest.golden.columns, manifest.features)
    np.testing.assert_allclose(found.score(columns), manifest.golden.predictions, atol=1e-9)
    np.testing.assert_allclose(found.score(columns), found.predict(matrix(columns, manifest.features)), atol=1e-9)


def test_a_version_that_names_no_fast_scorer_is_served_by_its_pipeline(at: Home, manifest: Manifest) -> None:
    other = stored_again(at, load(at, manifest.tag), scorer="pipeline", scorer_note="a test")
    found = load(at, other.tag)
    assert found.fast is None and found.fallback == ""
    columns = filled(manifest.golden.columns, manifest.features)
    np.testing.assert_array_equal(found.score(columns), manifest.golden.predictions)


def test_a_fast_scorer_that_is_off_on_golden_rows_leaves_the_pipeline_serving_and_says_so(
    at: Home, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*given: Any) -> FastScorer:
        fast = scorer.compile(*given)
        return replace(fast, answer=lambda rows: fast.answer(rows) + 1e-6)

    monkeypatch.setattr(package, "compile", off)
    found = load(at, manifest.tag)
    assert found.fast is None and found.fallback == "the scorer treelite is off by 1e-06 on golden rows"
    columns = filled(manifest.golden.columns, manifest.features)
    np.testing.assert_array_equal(found.score(columns), manifest.golden.predictions)


def test_a_fast_scorer_that_cannot_be_had_any_more_leaves_the_pipeline_serving(
    at: Home, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "treelite", None)
    found = load(at, manifest.tag)
    assert found.fast is None and found.fallback.startswith("the scorer treelite cannot be had here: it could not be")
    columns = filled(manifest.golden.columns, manifest.features)
    np.testing.assert_array_equal(found.score(columns), manifest.golden.predictions)
