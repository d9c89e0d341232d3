"""Locks of other environments: every file by hash, no address, and the project's versions where both have a package."""

import re
from pathlib import Path

import pytest

from benchmarks.peers.environment import LOCK, NEEDS, PROJECT_LOCK, SHARED, pins
from benchmarks.rivals import JUDGES_LOCK


@pytest.mark.parametrize("lock", [LOCK, JUDGES_LOCK], ids=lambda lock: lock.stem)
def test_every_pin_has_a_hash_and_there_is_no_address(lock: Path) -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", lock.read_text())
    bare = [block.splitlines()[0] for block in blocks[1:] if "--hash=sha256:" not in block]
    assert len(blocks) > 50
    assert bare == []
    assert re.findall(r"https?:|file:|--(?:extra-)?index-url|--find-links", lock.read_text()) == []


def test_it_has_what_the_project_has_so_that_all_serve_the_same_model() -> None:
    versions = {pin.split(";")[0].strip() for pin in pins(PROJECT_LOCK)}
    assert {pin.split(";")[0].strip() for pin in pins(LOCK)} == versions, "run: python -m benchmarks.peers.environment"
    assert {version.split("==")[0] for version in versions} == set(SHARED)


def test_the_judges_lock_has_the_projects_versions_of_what_both_have() -> None:
    versions = {pin.split(";")[0].strip() for pin in pins(PROJECT_LOCK)}
    assert {pin.split(";")[0].strip() for pin in pins(JUDGES_LOCK)} <= versions, (
        "run: python -m benchmarks.peers.environment judges"
    )


@pytest.mark.parametrize("file", [NEEDS, JUDGES_LOCK.with_suffix(".in")], ids=lambda file: file.stem)
def test_every_need_has_a_floor(file: Path) -> None:
    needs = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert needs
    assert [need for need in needs if ">=" not in need] == []
