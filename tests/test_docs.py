"""What the pages in docs/ tell people to type is there: commands, their arguments, scripts, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipelines.commands.cli import COMMANDS, parser
from pipelines.home import PROJECT

PAGES = sorted((PROJECT / "docs").glob("*.md"))
NAMES = [command.name for command in COMMANDS]
FREE = re.compile(r"\b(?:[A-Z][A-Z_]{2,}|\.\.\.)")
"""A word in capitals stands for the reader's own: such a command is looked up, not parsed."""


def lines(page: Path) -> list[str]:
    """Every command of a page: the lines of its shell blocks, and what it quotes in passing."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    blocks = re.sub(r"'[^'\n]*\n[^']*'", "'text'", blocks)  # a quotation of several lines
    return [*re.sub(r"\$\((.*?)\)", r"\1", blocks).splitlines(), *re.findall(r"`(headway [^`]+)`", text)]


def commands(page: Path) -> list[list[str]]:
    """The words after `headway`, of each line that calls it."""
    found = []
    for line in lines(page):
        words = shlex.split(line, comments=True)
        at = next((i for i, word in enumerate(words[:-1]) if Path(word).name == "headway"), None)
        if at is not None and (words[at].endswith("bin/headway") or at == 0):
            found.append(words[at + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page: Path) -> None:
    for words in commands(page):
        assert words[0] in NAMES, f"there is no such command: headway {' '.join(words)}"
        if len(words) > 1 and not FREE.search(" ".join(words)):
            try:
                parser().parse_args(words)
            except SystemExit:
                pytest.fail(f"the command line does not take: headway {' '.join(words)}")


def test_commands_are_found_at_all() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_script_and_file_that_it_names_is_there(page: Path) -> None:
    text = page.read_text()
    scripts = [f"{name.replace('.', '/')}.py" for name in re.findall(r"-m (benchmarks\.\w+)", text)]
    linked = [(page.parent / link).resolve() for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    missing = [path for path in [*(PROJECT / name for name in scripts), *linked] if not path.exists()]
    assert missing == []
