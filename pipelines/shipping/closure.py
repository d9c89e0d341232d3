"""What code needs to run: the project's own files that it imports, and the pins of the packages that those import.

Read from the sources, imports inside functions too, and from what the installed packages say they require; so it is
found without a network, and follows the code.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from features import HeadwayError
from pipelines.home import PROJECT

FOLDERS = ("features", "expectations", "models", "pipelines", "monitoring", "services")
OURS = re.compile(rf"(?:{'|'.join(FOLDERS)})(?:\.\w+)+")
LOCK = "requirements.lock"

Extras = frozenset[str]


def reachable(modules: Iterable[str], project: Path = PROJECT) -> tuple[set[Path], set[str]]:
    """What these modules import or run by name, directly and not.

    Returns:
        The project's files, relative to it, and the names of the outside packages' top-level modules.
    """
    waiting, files, outside = list(modules), set(), set()
    while waiting:
        module = waiting.pop()
        top = module.partition(".")[0]
        if top not in FOLDERS:
            outside.add(top)
        elif (path := _file(module, project)) is not None and path not in files:
            files.add(path)
            waiting += [*_imports(project / path), *filter(None, [module.rpartition(".")[0]])]
    return files, outside - set(sys.stdlib_module_names)


def pins(modules: Iterable[str], project: Path = PROJECT) -> str:
    """The part of the project's lock that the packages of these modules need: pins with their hashes, in its order.

    Args:
        modules: names of top-level modules, such as `sklearn`; with the extras that `pyproject.toml` asks for.

    Raises:
        HeadwayError: a package is not installed, not in the lock, or not the version that the lock names.
    """
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    extras: dict[str, Extras] = {canonicalize_name(n.name): Extras(n.extras) for n in map(Requirement, declared)}
    blocks = _blocks((project / LOCK).read_text())
    needed = _required(_distributions(modules), extras)
    for name in sorted(needed):
        _agrees(name, blocks.get(name, []))
    return "".join(block for name, found in blocks.items() if name in needed for block in found)


def _file(module: str, project: Path) -> Path | None:
    path = Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if (project / file).is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.partition(".")[0] in FOLDERS:  # `from pipelines import package` imports a module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and OURS.fullmatch(node.value):
            yield node.value  # a module that is run by its name: python -m services.some_module


def _distributions(modules: Iterable[str]) -> set[str]:
    provided = metadata.packages_distributions()
    return {canonicalize_name(name) for module in modules for name in provided.get(module, [module])}


def _required(roots: Iterable[str], extras: Mapping[str, Extras]) -> set[str]:
    """The roots and all that they require here, on this Python and platform."""
    waiting = [(name, extras.get(name, Extras())) for name in roots]
    seen: set[tuple[str, Extras]] = set()
    while waiting:
        name, wanted = asked = waiting.pop()
        if asked in seen:
            continue
        seen.add(asked)
        for need in map(Requirement, _installed(name).requires or []):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (wanted or {""})):
                waiting.append((canonicalize_name(need.name), Extras(need.extras)))
    return {name for name, _ in seen}


def _installed(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise HeadwayError(
            f"serving needs the package {name}, which is not installed. Add it to the dependencies in pyproject.toml, "
            "then `make lock` and `make setup`."
        ) from None


def _agrees(name: str, blocks: list[str]) -> None:
    installed = _installed(name).version
    pinned = [need for block in blocks if (need := Requirement(block.partition("\\")[0].strip()))]
    applying = [need for need in pinned if need.marker is None or need.marker.evaluate()]
    if not applying:
        raise HeadwayError(f"{name} {installed} is not in {LOCK}. Add it to pyproject.toml, then `make lock`.")
    if not any(need.specifier.contains(installed, prereleases=True) for need in applying):
        raise HeadwayError(
            f"{name} {installed} is installed, and {LOCK} says {applying[0].specifier}: what was tried is not what "
            "would be packaged. Run `make setup`."
        )


def _blocks(lock: str) -> dict[str, list[str]]:
    """Each package's pins: `name==version ; marker \\` and its lines of hashes."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE):
        name = canonicalize_name(block.partition("==")[0])
        if "==" in block.partition("\n")[0]:
            lines = [line for line in block.splitlines() if line.strip() and not line.lstrip().startswith("#")]
            found.setdefault(name, []).append("\n".join(lines) + "\n")
    return found
