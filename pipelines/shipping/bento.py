"""`headway package`: a version, the code that serves it, and what both need, as a bento that runs by itself.

BentoML builds it, in a process of its own, from a folder that holds nothing but what was found to be needed. Two files
that BentoML generates are then replaced: the requirements, to which it adds a line without a hash, and the Dockerfile,
which installs a compiler and an unpinned installer. The bento's name tells its content, so packaging the same twice
gives the same bento.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import expectations
import features
import models
from features import HeadwayError
from pipelines.files import write_bytes, write_json
from pipelines.home import PROJECT, QUIET, SINGLE_THREAD, Home, environment, home
from pipelines.progress import step
from pipelines.registry import package, promotion
from pipelines.registry.ledger import Ledger
from pipelines.shipping import closure
from services.seed import BROUGHT, Brought

SERVICE = "services.bento:Headway"
CONTAINER = {
    **QUIET,
    **SINGLE_THREAD,
    "HEADWAY_HOME": "/state/headway",  # below the mounted volume, so that the service owns it
    "BENTOML_HOME": "/state/headway/bentoml",
    "BENTOML_HOST": "0.0.0.0",
    "BENTOML_PORT": "3000",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    "TZ": "UTC",
}
"""The environment in the container."""

STORE_CONFIG = Path("features", "feature_store.yaml")
DOCKERFILE = Path(__file__).parent / "templates" / "bento.Dockerfile"
IMAGE = f"python:{platform.python_version()}-slim-bookworm"
"""The Python that the version was made with: its estimator is a pickle."""


@dataclass(frozen=True)
class Built:
    """A bento: its tag in the store below the root, and the file that it was exported to."""

    tag: str
    file: Path
    files: int
    pins: int


def main(given: argparse.Namespace) -> int:
    """Package a version, and say what it is and how to run it."""
    at, model = home(), models.load(given.model)
    with step(f"{model.name}: checking the version, its files and golden rows"):
        version = chosen(at, model.name, given.version)
        package.load(at, version.tag)
    out = Path(given.out or f"{model.name}-v{version.version}.bento").absolute()
    with step("building the bento"):
        built = build(at, version, out, given.image or IMAGE)
    print(
        f"{model.name} version {version.version} ({version.tag}) as bento {built.tag}\n"
        f"  {built.file}: {built.file.stat().st_size / 1e6:.1f} MB, {built.files} files of code, "
        f"{built.pins} packages pinned by hash\n"
        f"Next: mkdir bento && tar -xf {built.file.name} -C bento && docker build -f bento/env/docker/Dockerfile "
        f"-t {model.name}:{version.version} bento\n"
        "docs/deploy.md goes on from there, and tells how to run it without Docker."
    )
    return 0


def chosen(at: Home, model: str, number: int | None) -> Brought:
    """The version to package: the champion, or version `number`.

    Raises HeadwayError for one that was never champion: where there is no other, a bento's version serves at once.
    """
    ledger = Ledger(at.ledger_url)
    reigns = promotion.reigns(ledger, model)
    if not reigns:
        raise HeadwayError(f"{model} has no champion to package. Train one: `headway train {model}`.")
    found = [reign for reign in reigns if number is None or reign.version == number]
    if not found:
        were = ", ".join(map(str, sorted({reign.version for reign in reigns})))
        raise HeadwayError(
            f"version {number} of {model} was never champion, so it cannot be packaged: promote it first. "
            f"These were champion: {were}."
        )
    reign = found[-1]
    said: list[dict[str, Any]] = [
        entry.body for entry in ledger.entries(model, "version") if entry.body["version"] == reign.version
    ]
    body = said[-1] if said else {name: getattr(reign, name) for name in ("version", "tag", "digest")}
    return Brought(model, reign.version, reign.tag, reign.digest, body)


def build(at: Home, version: Brought, out: Path, image: str = IMAGE) -> Built:
    """Build the bento of a version, and export it to `out` with the version's files in it.

    Raises:
        HeadwayError: the environment is not the locked one, the file cannot be written, or BentoML refused.
    """
    if not os.access(out.parent, os.W_OK):
        raise HeadwayError(f"{out} cannot be written. Make its folder, or name another file with --out.")
    files, outside = contents()
    lock, dockerfile = closure.pins(outside), render(version, image)
    with TemporaryDirectory(dir=at.bentoml, prefix="staging-") as name:
        stage = Path(name)
        for path in sorted(files):
            (stage / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / path, stage / path)
        write_json(stage / BROUGHT, version)
        tag = f"{version.model}:v{version.version}-{_digest(stage, lock, dockerfile)}"
        (stage / "bentofile.yaml").write_text(yaml.safe_dump(_bentofile(version, tag)))
        folder = at.bentoml / "bentos" / tag.replace(":", "/")
        if not (folder / "bento.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _bentoml(at, stage, "build", "--version", tag.partition(":")[2], ".")
    write_bytes(folder / "env/python/requirements.txt", lock.encode())
    write_bytes(folder / "env/docker/Dockerfile", dockerfile.encode())
    for generated in ("python/requirements.in", "docker/entrypoint.sh"):
        (folder / "env" / generated).unlink(missing_ok=True)
    half = out.with_name(f".{out.stem}-half.bento")
    _bentoml(at, folder, "export", tag, str(half))
    half.replace(out)
    return Built(tag, out, len(files), len(re.findall("==", lock)))


def contents() -> tuple[set[Path], set[str]]:
    """The files of the project that serving needs, relative to it, and the outside modules that they import."""
    declared = {"features": features.names(), "expectations": expectations.names(), "models": models.names()}
    roots = [SERVICE.partition(":")[0], *re.findall(r"\bpipelines(?:\.\w+)+(?=\.\w)", _store_config())]
    roots += [f"{folder}.{name}" for folder, names in declared.items() for name in names]
    files, outside = closure.reachable(roots)
    data = {path.relative_to(PROJECT) for path in (PROJECT / "services").rglob("*") if path.is_file()}
    return files | {STORE_CONFIG} | {path for path in data if path.suffix not in (".py", ".pyc")}, outside


def render(version: Brought, image: str) -> str:
    """The Dockerfile, with the environment that every process of Headway has. Raises HeadwayError."""
    if not re.fullmatch(r"[a-z0-9./:_-]+(@sha256:[0-9a-f]{64})?", image) or ":" not in image.rpartition("/")[2]:
        raise HeadwayError(f"{image!r} is not pinned. Name it with its tag, or better by digest: NAME@sha256:...")
    lines = " \\\n    ".join(f"{name}={value}" for name, value in CONTAINER.items())
    return Template(DOCKERFILE.read_text()).substitute(
        image=image, environment=lines, model=version.model, version=version.version, tag=version.tag
    )


def _store_config() -> str:
    return (PROJECT / STORE_CONFIG).read_text()


def _bentofile(version: Brought, tag: str) -> dict[str, Any]:
    return {
        "service": SERVICE,
        "name": version.model,
        "description": f"{version.model} version {version.version}, packaged by Headway as {tag}.",
        "labels": {"model": version.model, "version": str(version.version), "digest": version.digest[:16]},
        "include": ["*"],
        "exclude": ["bentofile.yaml"],
        "models": [version.tag],
        "python": {"lock_packages": False},  # ours is locked already, and takes the place of BentoML's
        "envs": [{"name": name, "value": value} for name, value in SINGLE_THREAD.items()],
    }


def _digest(stage: Path, *texts: str) -> str:
    """16 hex digits that tell the content of a folder and these texts."""
    digest = hashlib.sha256("\0".join(texts).encode())
    for path in sorted(stage.rglob("*")):
        if path.is_file():
            digest.update(f"\0{path.relative_to(stage)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _bentoml(at: Home, folder: Path, *arguments: str) -> None:
    """Run BentoML's command in a folder, whose code it finds before the project's."""
    base = {name: value for name, value in os.environ.items() if name != "HEADWAY_CLOCK"}
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", *arguments], cwd=folder, env=environment(at, base),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise HeadwayError(f"`bentoml {arguments[0]}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
