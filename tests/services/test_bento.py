"""A bento is built from a version, installed from nothing but its own lock, and serves by itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.testclient import TestClient

from features import HeadwayError
from pipelines.home import PROJECT, SINGLE_THREAD, Home
from pipelines.registry import package, promotion
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import pointer_path
from pipelines.shipping import bento, closure
from services.app import create_app
from services.seed import Brought, brought, seed
from tests.services import world
from tests.services.test_processes import free_port, until

PREDICT = f"/v1/models/{world.MODEL}/predict"
CALL = world.call(
    *(world.instance(origin=origin, dest=dest) for origin in ("EWR", "JFK", "LGA") for dest in ("ATL", "XXX"))
)
GOLDEN = """
import json, sys
from pipelines.home import home
from pipelines.store.matrix import matrix
from pipelines.registry.package import load
packaged = load(home(), sys.argv[1])
golden = packaged.manifest.golden
print(json.dumps(packaged.predict(matrix(golden.columns, packaged.manifest.features)).tolist()))
"""


@pytest.fixture
def champion(root: Home, manifests: world.Manifests) -> Brought:
    """Version 1 of `root`, champion there."""
    world.crowned(root, manifests[0], 1)
    return bento.chosen(root, world.MODEL, None)


def folder_of(at: Home) -> Any:
    return lambda tag: at.bentoml / "models" / tag.replace(":", "/")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n", " ", dockerfile).splitlines()
    told = [line.partition(" ") for line in lines if line.strip() and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in told]


def test_only_what_serving_imports_is_taken() -> None:
    files, outside = bento.contents()
    names = {path.as_posix() for path in files}
    assert {"services/swap.py", "features/feature_store.yaml", "models/late_arrival.py"} <= names
    assert {"pipelines/store/asof.py", "services/follower.py"} <= names, (
        "named in text: in a file of Feast's, and to be run"
    )
    assert not names & {
        "monitoring/page.py",
        "pipelines/orchestration/flows.py",
        "pipelines/orchestration/stack.py",
        "pipelines/training/retraining.py",
    }
    assert not outside & {"prefect", "great_expectations", "evidently", "rich", "pytest"}


def test_the_lock_is_a_part_of_the_projects_with_every_hash() -> None:
    pins = closure.pins(bento.contents()[1])
    names = re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE)
    assert {"bentoml", "feast", "ibis-framework", "scikit-learn", "sqlalchemy", "uvicorn"} <= set(names)
    assert not {"prefect", "evidently", "great-expectations", "pytest"} & set(names)
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z0-9])", pins))
    assert re.findall(r"https?:|file:|index-url|find-links|#", pins) == []
    ours = (PROJECT / closure.LOCK).read_text()
    assert all(line in ours for line in pins.splitlines())


def locked(project: Path, lock: str) -> Path:
    (project / "pyproject.toml").write_text('[project]\ndependencies = ["httpx>=0.28"]\n')
    (project / closure.LOCK).write_text(lock)
    return project


@pytest.mark.parametrize(
    ("module", "lock", "said"),
    [
        ("no_such_module", "", "no-such-module, which is not installed"),
        ("idna", "", "is not in requirements.lock"),
        ("idna", "idna==1.0 \\\n    --hash=sha256:0\n", "is installed, and requirements.lock says ==1.0"),
    ],
)
def test_an_environment_that_is_not_the_locked_one_is_refused(
    tmp_path: Path, module: str, lock: str, said: str
) -> None:
    with pytest.raises(HeadwayError, match=re.escape(said)):
        closure.pins([module], locked(tmp_path, lock))


def test_only_a_version_that_was_champion_is_packaged(root: Home, manifests: world.Manifests) -> None:
    with pytest.raises(HeadwayError, match="has no champion to package"):
        bento.chosen(root, world.MODEL, None)
    world.crowned(root, manifests[0], 1)
    world.crowned(root, manifests[1], 2)
    assert bento.chosen(root, world.MODEL, None).tag == manifests[1].tag
    assert bento.chosen(root, world.MODEL, 1).tag == manifests[0].tag
    with pytest.raises(HeadwayError, match=r"version 3 of .* was never champion.*1, 2"):
        bento.chosen(root, world.MODEL, 3)


def test_a_file_that_cannot_be_written_is_told_before_the_work(root: Home, champion: Brought, tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match="cannot be written"):
        bento.build(root, champion, tmp_path / "nowhere" / "made.bento")


def test_a_root_without_a_champion_takes_the_bentos_once(root: Home, champion: Brought, tmp_path: Path) -> None:
    empty = Home(tmp_path / "empty")
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: seed(empty, champion, folder_of(root), world.NOW), range(4)))
    assert sorted(taken) == [False, False, False, True]
    pointer = promotion.read_pointer(empty.pointers, world.MODEL)
    assert pointer is not None and (pointer.tag, pointer.version, pointer.generation) == (champion.tag, 1, 1)
    ledger = Ledger(empty.ledger_url)
    assert [(entry.kind, entry.actor) for entry in ledger.entries(world.MODEL)] == [
        ("version", "bento"), ("promotion", "bento"),
    ]  # fmt: skip
    assert ledger.verify(promotion.heads(empty.pointers)) == 2
    assert package.load(empty, champion.tag).manifest.digest == champion.digest


def test_a_root_that_had_a_champion_decides_by_itself(root: Home, champion: Brought, manifests: Any) -> None:
    second = world.crowned(root, manifests[1], 2)
    assert not seed(root, champion, folder_of(root), world.NOW)
    pointer_path(root.pointers, world.MODEL).unlink()
    assert not seed(root, champion, folder_of(root), world.NOW)
    assert promotion.read_pointer(root.pointers, world.MODEL) == second, "the ledger's champion, not the bento's"


def test_a_checkout_brings_nothing() -> None:
    assert brought() is None


def test_an_image_that_is_not_pinned_is_refused(champion: Brought) -> None:
    for image in ("python", "localhost:5000/python", "python:3\nRUN x"):
        with pytest.raises(HeadwayError, match="is not pinned"):
            bento.render(champion, image)
    assert "FROM python:3.12.1@sha256:" in bento.render(champion, f"python:3.12.1@sha256:{'0' * 64}")


def test_the_dockerfile_is_safe(champion: Brought) -> None:
    text = bento.render(champion, bento.IMAGE)
    steps = instructions(text)
    said = dict(steps)
    python = ".".join(map(str, sys.version_info[:3]))
    assert said["FROM"] == f"python:{python}-slim-bookworm"
    assert [word for word, _ in steps].count("FROM") == 1
    user, _, group = said["USER"].partition(":")
    assert int(user) > 0 and int(group) > 0
    assert [word for word, _ in steps].index("USER") > max(n for n, step in enumerate(steps) if step[0] == "RUN")
    environment = dict(pair.split("=", 1) for pair in shlex.split(said["ENV"]))
    assert {name: environment[name] for name in SINGLE_THREAD} == SINGLE_THREAD
    assert "HEADWAY_KEYS" not in environment and "ARG" not in said and "ADD" not in said
    assert not re.search(r"secret|token|password|_key\b|index-url|https://", text, re.IGNORECASE)
    install = next(json.loads(rest) for word, rest in steps if word == "RUN" and "pip" in rest)
    assert install[:2] == ["pip", "install"] and {"--require-hashes", "--only-binary"} <= set(install)
    assert json.loads(said["ENTRYPOINT"]) == ["bentoml", "serve", "/bento"]
    assert said["EXPOSE"] == environment["BENTOML_PORT"]
    assert f"127.0.0.1:{said['EXPOSE']}/v1/ready" in said["HEALTHCHECK"]
    assert environment["HEADWAY_HOME"].startswith(said["VOLUME"] + "/")


def installed(where: Path, requirements: Path) -> Path:
    """A fresh environment with these requirements and nothing else, from uv's cache alone."""
    uv = [str(Path(sys.executable).with_name("uv"))]
    subprocess.run([*uv, "venv", "--quiet", "--offline", "--python", sys.executable, str(where)], check=True)
    done = subprocess.run(
        [*uv, "pip", "install", "--offline", "--python", str(where / "bin/python"), "--require-hashes",
         "--only-binary", ":all:", "-r", str(requirements)], capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode and re.search(r"network (was|is) disabled|not found in the cache", done.stderr):
        pytest.skip(f"uv's cache does not hold the lock's wheels: run `make setup` with this cache. {done.stderr}")
    assert done.returncode == 0, done.stderr
    return where / "bin"


@contextmanager
def serving(binaries: Path, folder: Path, state: Home) -> Iterator[str]:
    """The URL of the bento, started as its Dockerfile starts it, but for paths, address and port."""
    steps = dict(instructions((folder / "env/docker/Dockerfile").read_text()))
    port, log = free_port(), state.root.with_suffix(".log")
    environ = dict(pair.split("=", 1) for pair in shlex.split(steps["ENV"])) | {
        "PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(state.root.parent), "HEADWAY_HOME": str(state.root),
        "BENTOML_HOME": str(state.root / "bentoml"), "BENTOML_PORT": str(port), "HEADWAY_KEYS": "off",
        "HEADWAY_CLOCK": "request", **{name: os.environ[name] for name in ("PYTHONPATH", "HEADWAY_GUARD_LOG")},
    }  # fmt: skip
    del environ["BENTOML_HOST"], environ["PYTHONDONTWRITEBYTECODE"]
    command = json.loads(steps["ENTRYPOINT"].replace("/bento", str(folder)))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(binaries / command[0]), *command[1:]], env=environ, cwd=state.root.parent, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or serves(url, 1), 120)
        assert process.poll() is None, log.read_text()
        check = json.loads(steps["HEALTHCHECK"].partition("CMD ")[2].replace(":3000", f":{port}"))
        assert subprocess.run([str(binaries / check[0]), *check[1:]]).returncode == 0
        yield url
    finally:
        process.terminate()
        process.wait(30)


def serves(url: str, version: int) -> bool:
    try:
        models = httpx.get(f"{url}/v1/ready").json()["models"]
    except httpx.HTTPError:
        return False
    return bool(models) and models[world.MODEL]["version"] == version


def predicted(answer: httpx.Response) -> tuple[int, list[Any]]:
    assert answer.status_code == 200, answer.text
    return answer.json()["version"], answer.json()["predictions"]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(not Path(sys.executable).with_name("uv").exists(), reason="uv, which the lock has, is not here")
def test_a_bento_serves_by_itself_in_a_fresh_environment(
    root: Home, manifests: world.Manifests, champion: Brought, tmp_path: Path
) -> None:
    built = bento.build(root, champion, tmp_path / "made.bento")
    assert bento.build(root, champion, tmp_path / "again.bento").tag == built.tag
    folder, state, here = tmp_path / "unpacked", Home(tmp_path / "state"), Home(tmp_path / "here")
    with tarfile.open(built.file) as archive:
        archive.extractall(folder, filter="data")
    held = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not [content for content in held if str(tmp_path).encode() in content or str(PROJECT).encode() in content]
    binaries = installed(tmp_path / "fresh", folder / "env/python/requirements.txt")

    with serving(binaries, folder, state) as url, httpx.Client(base_url=url) as caller:
        # The same version and the same empty root, served from here.
        seed(here, champion, folder_of(root), world.NOW)
        with TestClient(create_app(here), base_url="http://127.0.0.1:8000") as ours:
            assert predicted(caller.post(PREDICT, json=CALL)) == predicted(ours.post(PREDICT, json=CALL))
        assert caller.get(f"/v1/models/{world.MODEL}").json()["digest"] == champion.digest
        done = subprocess.run(
            [str(binaries / "python"), "-c", GOLDEN, champion.tag], cwd=folder / "src", capture_output=True, text=True,
            check=True, env={**os.environ, "HEADWAY_HOME": str(state.root), "PYTHONPATH": str(folder / "src")},
        )  # fmt: skip
        assert json.loads(done.stdout) == manifests[0].golden.predictions
        # What docs/deploy/kubernetes.yaml asks, and that nobody else can.
        assert [caller.get(path).status_code for path in ("/readyz", "/livez")] == [200, 200]
        listening = {one.laddr.ip for one in psutil.net_connections("inet") if one.laddr.port == caller.base_url.port}
        assert listening == {"127.0.0.1"}, "BentoML's own default is every address"

        # What is in the root decides from then on: another champion, and features to look up.
        world.materialized(state)
        assert world.packaged(state, 2).tag == manifests[1].tag
        world.crowned(state, manifests[1], 2)
        until(lambda: serves(url, 2), 20)
        version, answers = predicted(caller.post(PREDICT, json=world.call(world.instance())))
        assert version == 2 and answers[0]["degraded"] == []
    assert Ledger(state.ledger_url).verify(promotion.heads(state.pointers)) == 3
