"""The lock is what both commands install: every artefact by hash, from wherever the reader's index is."""

from __future__ import annotations

import re
import tomllib

from pipelines.home import PROJECT

LOCK = (PROJECT / "requirements.lock").read_text()
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())
DIRECT = [
    *PROJECT_TABLE["project"]["dependencies"],
    *(need for extra in PROJECT_TABLE["project"]["optional-dependencies"].values() for need in extra),
]
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)
NEED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?([<>=!~].*)?$")


def pins() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, version in PIN.findall(LOCK):
        found.setdefault(name, []).append(version)
    return found


def test_every_pin_has_a_hash() -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK)
    bare = [block.splitlines()[0] for block in blocks if PIN.match(block) and "--hash=sha256:" not in block]
    assert len(pins()) > 150
    assert bare == []


def test_it_holds_no_address_and_no_path() -> None:
    assert re.findall(r"https?:|file:|--(?:extra-)?index-url|--find-links|(?<![\w.])/\w+/", LOCK) == []


def test_every_dependency_has_a_floor() -> None:
    assert [need for need in DIRECT if ">=" not in need] == []


def test_the_ceilings_that_keep_prefect_and_evidently_alive_are_there() -> None:
    needs = {NEED.match(need).group(1): need for need in DIRECT}  # type: ignore[union-attr]
    for name, ceiling in {"fastapi": "<0.151", "sqlalchemy": "<2.1", "prefect": "<3.9", "pandas": "<3"}.items():
        assert needs[name].endswith(ceiling)


def test_every_dependency_is_locked_at_its_floor_or_above() -> None:
    from packaging.requirements import Requirement

    locked = pins()
    for need in map(Requirement, DIRECT):
        name = need.name.lower().replace("_", "-")
        assert locked.get(name), f"{name} is not in the lock: run `make lock`"
        assert all(need.specifier.contains(version) for version in locked[name]), f"{need} against {locked[name]}"
