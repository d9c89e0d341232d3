import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipelines.home import QUIET, SINGLE_THREAD, Home, settle
from services import keys
from services.app import create_app
from tests.services import world

# Read when numpy is first imported; here it only has to be so.
os.environ.update(SINGLE_THREAD)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, world.Manifests]:
    """A root with features materialized and three versions packaged, none of them champion: made once, then copied."""
    root = Home(tmp_path_factory.mktemp("built"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEADWAY_HOME", "BENTOML_HOME", "PREFECT_HOME", "PYTHONHASHSEED", *QUIET):
            patch.setenv(name, os.environ.get(name, ""))
        settle(root)
        world.materialized(root)
        return root.root, [world.packaged(root, seed) for seed in (1, 2, 3)]


@pytest.fixture
def manifests(built: tuple[Path, world.Manifests]) -> world.Manifests:
    """The versions in `root`."""
    return built[1]


@pytest.fixture
def root(built: tuple[Path, world.Manifests], home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of `built`; no keys needed on loopback, and the request's clock."""
    shutil.copytree(built[0], home.root, dirs_exist_ok=True)
    monkeypatch.setenv("HEADWAY_CLOCK", "request")
    monkeypatch.setenv("HEADWAY_KEYS", "off")
    return home


@pytest.fixture
def client(root: Home, manifests: world.Manifests) -> Iterator[TestClient]:
    """The app in this process, with version 1 as champion."""
    world.crowned(root, manifests[0], 1)
    with TestClient(create_app(root), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture(scope="session")
def both(built: tuple[Path, world.Manifests], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root of its own with both models served, and a key to them: for tests that only ask."""
    root = Home(tmp_path_factory.mktemp("both"))
    shutil.copytree(built[0], root.root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEADWAY_HOME", "BENTOML_HOME", "PREFECT_HOME", "PYTHONHASHSEED", *QUIET):
            patch.setenv(name, os.environ.get(name, ""))
        settle(root)
        world.crowned(root, built[1][0], 1)
        world.crowned(root, world.valued(root, built[1][0]), 1, key="the other's")
    return root.root, keys.make(root.keys, "tester")
