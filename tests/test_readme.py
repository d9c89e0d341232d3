"""Every command of the README's how-tos is run, as it stands there, in its order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.home import PROJECT

README = (PROJECT / "README.md").read_text()
ELSEWHERE = re.compile(r"^make |^HEADWAY_HOME=\.headway/demo |-m benchmarks\.(?!load)", re.MULTILINE)
"""What CI runs: `make demo`, what is done with its root, and `make test`. Benchmarks are asked for their help only."""


def blocks() -> list[str]:
    found = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [block for block in found if not ELSEWHERE.search(block)]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_how_tos_do_what_they_say(tmp_path: Path) -> None:
    script = "\n".join(["set -euo pipefail", f"export HEADWAY_HOME={tmp_path}", *blocks()])
    script = script.replace(".venv/bin/", f"{sys.prefix}/bin/").replace("$PWD/.headway", str(tmp_path))
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=400, check=False
        )
    finally:
        subprocess.run(
            [sys.executable, "-m", "pipelines.commands.cli", "down"], cwd=PROJECT, env=_env(tmp_path), check=False
        )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "late_arrival" in done.stdout
    assert '"version":1' in done.stdout.replace(" ", "")
    assert "version 1 is champion again" in done.stdout
    assert "failed 0" in done.stdout


@pytest.mark.parametrize("name", sorted(set(re.findall(r"-m (benchmarks\.\w+)", README))))
def test_a_benchmark_of_the_readme_explains_itself(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_every_file_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    paths = re.findall(r"`((?:tests|docs|models|features|benchmarks)/[\w./-]+)`", README)
    missing = [path for path in {*links, *paths} if not (PROJECT / path).exists()]
    assert not missing


def _env(root: Path) -> dict[str, str]:
    return {**os.environ, "HEADWAY_HOME": str(root)}
