"""The command line: a table of commands, each one small function in a module that is imported when it is run.

Exit codes: 0 done; 1 a check failed or a veto stands; 2 a mistake that the message says how to mend; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ABOUT = """\
Headway keeps a scikit-learn model right in production: it checks the data that arrive, serves predictions,
notices when a model is no longer right, and promotes a new one only when it is shown to be better.
"""

LEARN = """\
state is kept in .headway beside pyproject.toml, or in the folder that HEADWAY_HOME names.
`headway COMMAND --help` explains a command and shows an example.
exit codes: 0 done, 1 a check failed or a veto stands, 2 a mistake that the message says how to mend.
"""


@dataclass(frozen=True)
class Command:
    """A row of the table. `run` is `module:function`; the function takes the parsed arguments, returns the exit code."""

    name: str
    summary: str
    run: str
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = ()
    example: str = ""

    def function(self) -> Callable[[argparse.Namespace], int]:
        """The function that `run` names, its module imported now."""
        module, _, name = self.run.partition(":")
        found: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), name)
        return found


def arg(*flags: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An argument of a command, as `ArgumentParser.add_argument` takes it."""
    return flags, options


COMMANDS: tuple[Command, ...] = (
    Command(
        "up",
        "start Prefect's server, its worker and the prediction service, and leave them running",
        "pipelines.operate:up",
        (
            arg("--deploy", action="store_true", help="also deploy everything that prefect.yaml lists"),
            arg("--prefect-port", type=int, default=4200, help="preferred port of Prefect's server (default 4200)"),
            arg("--service-port", type=int, default=3000, help="preferred port of the service (default 3000)"),
        ),
        "headway up --deploy",
    ),
    Command("down", "end what `up` started, and all that descends from it", "pipelines.operate:down"),
    Command("status", "say what runs, and where (exit code 1: nothing runs)", "pipelines.operate:status"),
    Command(
        "doctor",
        "find out what is wrong: processes, planned runs, recent failures (exit code 1: something is)",
        "pipelines.operate:doctor",
    ),
    Command(
        "deployments",
        "list the schedules and triggers; keep prefect.yaml in step with the declarations",
        "pipelines.operate:deployments",
        (
            arg("--write", action="store_true", help="renew prefect.yaml from the declarations"),
            arg("--check", action="store_true", help="exit code 1 when prefect.yaml is not in step"),
        ),
        "headway deployments --write",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="headway", description=ABOUT, epilog=LEARN, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS:
        example = f"example: {command.example}" if command.example else None
        sub = commands.add_parser(command.name, help=command.summary, description=command.summary, epilog=example)
        for flags, options in command.arguments:
            sub.add_argument(*flags, **options)
        sub.set_defaults(chosen=command)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    top = parser()
    given = top.parse_args(arguments)
    if given.command is None:
        top.print_help()
        return 0
    # Imported here: the contracts bring pydantic, and `--help` should not wait for it.
    from features._contract import HeadwayError
    from pipelines.home import home, settle

    try:
        settle(home())
        return given.chosen.function()(given)
    except HeadwayError as error:
        print(f"headway {given.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
