"""The rules of the house: three folders are the user's, three the platform's, and imports run one way."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import expectations
import features
import models
from pipelines.home import PROJECT

YOURS = ("features", "expectations", "models")
PLATFORM = ("pipelines", "monitoring", "services")
CONTRACTS = {"features", "features._contract", "expectations", "models"}

ROOMS = {
    "great_expectations": {"pipelines/data/check.py"},
    "feast": {"pipelines/store/feature_store.py", "pipelines/store/asof.py", "services/online.py"},
    "bentoml": {"pipelines/registry/package.py", "services/bento.py"},
    "evidently": {"monitoring/evidently_report.py", "monitoring/archive.py"},
    "apprise": {"pipelines/alerting/courier.py"},
    "prefect": {"pipelines/orchestration/flows.py"},
    "treelite": {"pipelines/scorers/scorer.py"},
    "jinja2": {"monitoring/render.py"},
    "prometheus_client": {"services/metrics.py"},
    "opentelemetry": {"services/tracing.py"},
    "sentry_sdk": {"services/alarms.py"},
    "sqlalchemy": {"pipelines/registry/ledger.py"},
}
"""Where each outside package that has an API of its own may be imported: when it breaks, these files change."""

SLOW = ("great_expectations", "feast", "bentoml", "evidently", "prefect")
"""These take two to five seconds to import: never as a side effect of asking for help."""

# A name that is also an ordinary word of the platform cannot be told from it, and is not looked for.
ORDINARY = {"origin", "distance", "dest", "schedule", "plan", "weekday", "built"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PROJECT / folder).rglob("*.py"))


def declarations() -> list[Path]:
    return [path for path in sources(*YOURS) if not path.stem.startswith("_")]


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, at its top or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in (*YOURS, *PLATFORM)}
    return frozenset(found)


def words_of_declarations() -> Iterator[str]:
    """Names that only a declaration may say: models, domains, tables, sources, columns."""
    for name in models.names():
        model = models.load(name)
        yield from (name, model.feature_service, *(part.name for part in model.slices))
    for name in features.names():
        domain = features.load(name)
        yield name
        yield from domain.entities
        for source in domain.sources:
            yield from (source.name, *source.key, source.event_time, source.known_at)
        for part in (*domain.tables, *domain.request_features):
            yield from (part.name, *(feature.name for feature in part.features))
        for request in domain.request_features:
            yield from request.inputs
    for name in expectations.names():
        for suite in expectations.load(name).suites:
            yield from (str(rule.args["column"]) for rule in suite.rules if "column" in rule.args)


def test_platform_code_names_nothing_that_is_declared() -> None:
    generic = {"known_at", "event_time"}
    words = {word for word in words_of_declarations() if word not in ORDINARY | generic}
    assert len(words) > 10, "the declarations name nothing, so this test could not fail"
    pattern = re.compile(rf"\b({'|'.join(sorted(map(re.escape, words)))})\b", re.IGNORECASE)
    named = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in sources(*PLATFORM)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not named, "\n".join(named)


def test_nothing_imports_a_declaration_by_name() -> None:
    modules = {f"{path.parent.name}.{path.stem}" for path in declarations()}
    assert modules
    for path in sources(*YOURS, *PLATFORM):
        shared = modules & imports(path)
        # Two models may share what one declaration file defines; the platform may not.
        assert not shared or path.parent.name == "models", f"{path.relative_to(PROJECT)} imports {shared}"


def test_contracts_import_no_platform_code() -> None:
    for path in sources(*YOURS):
        if path.name == "_feast.py":
            continue  # nothing imports it: it is where `feast -c features` looks
        platform = {name for name in imports(path) if name.split(".")[0] in PLATFORM}
        assert not platform, f"{path.relative_to(PROJECT)} imports {platform}"


def test_declarations_import_only_contracts_and_what_a_data_scientist_has() -> None:
    allowed = {*sys.stdlib_module_names, *YOURS, "numpy", "pandas", "sklearn"}
    for path in declarations():
        foreign = {name for name in imports(path) if name.split(".")[0] not in allowed}
        assert not foreign, f"{path.relative_to(PROJECT)} imports {foreign}"


def test_monitoring_is_pure() -> None:
    for path in sources("monitoring"):
        below = {name for name in imports(path) if name.split(".")[0] in ("pipelines", "services")}
        assert not below, f"{path.relative_to(PROJECT)} imports {below}"


@pytest.mark.parametrize("package", ROOMS)
def test_each_outside_package_has_one_room(package: str) -> None:
    users = {
        path.relative_to(PROJECT).as_posix()
        for path in sources(*YOURS, *PLATFORM)
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert users <= ROOMS[package]


def test_files_stay_readable() -> None:
    long = {
        path.relative_to(PROJECT).as_posix(): lines
        for path in sources(*YOURS, *PLATFORM)
        if (lines := len(path.read_text().splitlines())) > 350
    }
    assert long == {}


def test_help_is_there_in_under_half_a_second() -> None:
    def once() -> float:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.commands.cli", "--help"], capture_output=True, cwd=PROJECT
        )
        assert done.returncode == 0
        assert b"exit codes" in done.stdout
        return time.perf_counter() - began

    # 0.06 s on an idle machine. The median of five, since one start can wait for a busy disk.
    assert statistics.median(once() for _ in range(5)) < 0.5


def test_the_command_line_and_the_supervisor_import_no_slow_package() -> None:
    code = f"""
import sys
import pipelines.commands.cli, pipelines.commands.operate
print(*[name for name in {SLOW!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == ""


def test_nothing_committed_names_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=PROJECT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    path = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users)/\w")
    for name in filter(None, listed.stdout.split("\0")):
        file = PROJECT / name
        if file.suffix in {".png", ".parquet"} or not file.exists():
            continue
        assert not path.search(file.read_text(errors="replace")), f"{name} holds a path of some machine"
