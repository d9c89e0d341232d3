"""The command line: a table of commands, each one small function in a module that is imported when it is run.

Exit codes: 0 done; 1 a check failed or a veto stands; 2 a mistake that the message says how to mend; 130 interrupted.
"""

from __future__ import annotations

import argparse
import getpass
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
    """A row of the table. `run` is `module:function`, which takes the parsed arguments and returns the exit code."""

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


def percentage(text: str) -> float:
    """The share that `10%` or `0.1` is. Raises ValueError."""
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


AS_OF = arg("--as-of", metavar="INSTANT", help="the instant to speak for, such as 2013-04-07 (default: now)")
MODEL = arg("model", help="a model's name: `headway models` lists them")
ACTOR = arg("--actor", default=getpass.getuser(), help="who does it, for the ledger (default: you)")
CHALLENGER = arg("version", type=int, nargs="?", help="default: the newest version that is not champion")
DESPITE = arg("--despite-gates", action="store_true", help="though it failed its gates; the ledger keeps that")
UNSAID = "asked for at the command line"
WHY = arg("--why", default=UNSAID, help="the reason, for the ledger")
ACT = (AS_OF, ACTOR, WHY)
"""As of when, by whom and why: what the ledger keeps of an act."""

COMMANDS: tuple[Command, ...] = (
    Command(
        "demo",
        "live through some nights of real data with all the real parts, in about four minutes",
        "pipelines.commands.lifecycle:demo",
        (arg("--keep", action="store_true", help="leave the stack running at the end, and print its addresses"),),
        "headway demo --keep",
    ),
    Command("models", "list the declared models and their champions", "pipelines.commands.lifecycle:show_models"),
    Command(
        "ingest",
        "take in what arrived for a domain, and bring its features to serving (exit code 1: a batch was stopped)",
        "pipelines.commands.lifecycle:ingest",
        (
            arg("domain", help="a domain's name: a file in features/"),
            AS_OF,
            arg("--history", metavar="SINCE", help="first use: also compute the feature tables from this instant on"),
        ),
        "headway ingest DOMAIN --history 2013-01-01 --as-of 2013-04-01",
    ),
    Command(
        "quarantine",
        "list what was refused, show a delivery's rows and rules, or replay it when rule or data are mended",
        "pipelines.commands.quarantine_commands:run",
        (
            arg("action", choices=("list", "show", "replay")),
            arg("domain", nargs="?", help="a domain's name: a file in features/"),
            arg("source", nargs="?", help="one of its sources"),
            arg("stamp", nargs="?", help="the delivery, as `list` names it"),
            arg("--rows", type=int, default=10, help="show: how many rows (default 10)"),
            arg("--file", metavar="FILE", help="replay: mended rows (.parquet or .csv) in place of those stored"),
            arg("--accept", action="store_true", help="replay: the world has changed; leave out what the past taught"),
            *ACT,
        ),
        "headway quarantine replay DOMAIN SOURCE 20130404T120000Z --why 'hPa again'",
    ),
    Command(
        "train",
        "train a challenger, judge it, promote it if it passes its gates (exit code 1: it did not)",
        "pipelines.commands.lifecycle:train",
        (MODEL, AS_OF, ACTOR),
        "headway train MODEL --as-of 2013-04-01",
    ),
    Command(
        "night",
        "run a model's night: refresh, compact, check, profile, judge (exit code 1: a veto)",
        "pipelines.commands.lifecycle:night",
        (MODEL, AS_OF),
        "headway night MODEL --as-of 2013-04-02T00:30Z",
    ),
    Command(
        "report",
        "write the weekly page of a model",
        "pipelines.commands.lifecycle:report",
        (MODEL, AS_OF, arg("--quick", action="store_true", help="leave out Evidently's report (saves ten seconds)")),
        "headway report MODEL --as-of 2013-04-08",
    ),
    Command(
        "archive",
        "show Evidently's full reports of all weeks in a browser, on loopback, behind a password",
        "pipelines.nights.archive:run",
        (arg("--port", type=int, default=8000, help="preferred port (default 8000)"),),
        "headway archive --port 8000",
    ),
    Command(
        "alerts",
        "try the addresses that alerts go to, list what was sent, retry what was not (exit code 1: some are not)",
        "pipelines.alerting.alerts:run",
        (
            arg("action", choices=("test", "list", "retry")),
            arg("model", nargs="?", help="only this model's (default: all)"),
        ),
        "headway alerts test",
    ),
    Command(
        "history", "tell what happened to a model, from the ledger", "pipelines.commands.lifecycle:history", (MODEL,)
    ),
    Command(
        "verify",
        "check the ledger's chain and every champion's files (exit code 1: edited)",
        "pipelines.commands.lifecycle:verify",
    ),
    Command(
        "approve",
        "approve a version that waits for it, and promote it",
        "pipelines.commands.serving_commands:approve",
        (MODEL, arg("version", type=int, help="the version's number"), *ACT),
        "headway approve MODEL 14 --why 'better on all slices'",
    ),
    Command(
        "promote",
        "make a stored version champion by hand",
        "pipelines.commands.serving_commands:promote",
        (
            MODEL,
            arg("version", type=int, help="the version's number: `headway history MODEL` tells"),
            arg("--why", required=True, help="the reason, for the ledger"),
            DESPITE,
            AS_OF,
            ACTOR,
        ),
        "headway promote MODEL 14 --why 'better on its trial'",
    ),
    Command(
        "rollback",
        "make the version before the champion champion again",
        "pipelines.commands.serving_commands:rollback",
        (MODEL, *ACT),
        "headway rollback MODEL --why 'complaints from the desk'",
    ),
    Command(
        "package",
        "build a bento of a version: its files, the code that serves it, and a lock of its own",
        "pipelines.shipping.bento:main",
        (
            MODEL,
            arg("--version", type=int, metavar="N", help="a version that was champion (default: the champion)"),
            arg("--out", metavar="FILE", help="where to write it (default: MODEL-vN.bento here)"),
            arg("--image", help="base image, by tag or digest (default: this Python on slim Debian)"),
        ),
        "headway package MODEL --out MODEL.bento",
    ),
    Command(
        "canary",
        "let a version answer a share of entities in the champion's place, or end that",
        "pipelines.commands.serving_commands:canary",
        (
            MODEL,
            CHALLENGER,
            arg("--share", type=percentage, metavar="SHARE", help="of entities: 10%% or 0.1"),
            arg("--end", action="store_true", help="end the trial that runs"),
            DESPITE,
            *ACT,
        ),
        "headway canary MODEL 14 --share 10%",
    ),
    Command(
        "shadow",
        "let a version score what the champion answers, with no caller given any of it, or end that",
        "pipelines.commands.serving_commands:shadow",
        (MODEL, CHALLENGER, arg("--end", action="store_true", help="end the trial that runs"), *ACT),
        "headway shadow MODEL 14",
    ),
    Command(
        "compare",
        "compare a version with the champion on the same logged requests, and say what to do",
        "pipelines.commands.serving_commands:compare",
        (
            MODEL,
            arg("--version", type=int, help="default: the one on trial, else the newest that is not champion"),
            arg("--since", metavar="INSTANT", help="default: when its trial began, else four weeks ago"),
            AS_OF,
            ACTOR,
        ),
        "headway compare MODEL --version 14 --as-of 2013-05-01",
    ),
    Command(
        "repair",
        "write a model's pointer and trials again from the ledger",
        "pipelines.commands.serving_commands:repair",
        (MODEL,),
    ),
    Command(
        "keys",
        "make, list or revoke API keys",
        "pipelines.commands.lifecycle:api_keys",
        (
            arg("action", choices=("make", "list", "revoke")),
            arg("name", nargs="?", help="whom the key is for"),
            arg("--model", action="append", metavar="MODEL", help="only for this model (repeat for several)"),
            arg("--rate", help="how often it may be used: 100/s or 600/min (default: as HEADWAY_RATE says)"),
            arg("--burst", type=int, help="calls at once after a silence (default: as many as --rate names)"),
        ),
        "headway keys make dashboard --model MODEL --rate 100/s --burst 200",
    ),
    Command(
        "predict",
        "ask the running service; the key comes from HEADWAY_API_KEY",
        "pipelines.commands.lifecycle:predict",
        (
            MODEL,
            arg("body", help='JSON: {"instances": [...]}'),
            arg("--url", default="http://127.0.0.1:3000", help="where the service is"),
        ),
        "headway predict MODEL '{\"instances\": [...]}'",
    ),
    Command(
        "replay",
        "walk a model's past under several retraining policies, and say which to choose",
        "pipelines.replay.command:run",
        (
            MODEL,
            arg("--from", dest="since", metavar="INSTANT", help="the first night, such as 2013-04-01"),
            arg("--to", dest="until", metavar="INSTANT", help="the last night"),
            arg("--policies", metavar="LIST", help="separated by commas: weekly, 'drift or age > 8w', dummy, ..."),
            arg("--cores", type=int, metavar="N", help="processes that fit (default: as many as there are cores)"),
            arg("--dask", metavar="ADDRESS", help="fit on the Dask cluster whose scheduler is there"),
            arg("--relive", action="store_true", help="instead relive what was really run (exit code 1: it differs)"),
        ),
        "headway replay MODEL --from 2013-04-01 --to 2013-12-31 --policies 'weekly,4-weekly,drift or age > 8w,dummy'",
    ),
    Command(
        "up",
        "start Prefect's server, its worker and the prediction service, and leave them running",
        "pipelines.commands.operate:up",
        (
            arg("--deploy", action="store_true", help="also deploy everything that prefect.yaml lists"),
            arg("--prefect-port", type=int, default=4200, help="preferred port of Prefect's server (default 4200)"),
            arg("--service-port", type=int, default=3000, help="preferred port of the service (default 3000)"),
        ),
        "headway up --deploy",
    ),
    Command(
        "run",
        "become one part of the stack, in the foreground: for systemd and containers (see docs/deploy.md)",
        "pipelines.commands.foreground:run",
        (
            arg("part", choices=("server", "worker", "service")),
            arg("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)"),
            arg("--port", type=int, help="the port to listen on (default: server 4200, service 3000)"),
            arg("--server", default="http://127.0.0.1:4200", metavar="URL", help="where the worker finds the server"),
        ),
        "headway run service --port 3000",
    ),
    Command("down", "end what `up` started, and all that descends from it", "pipelines.commands.operate:down"),
    Command("status", "say what runs, and where (exit code 1: nothing runs)", "pipelines.commands.operate:status"),
    Command(
        "doctor",
        "find out what is wrong: processes, planned runs, recent failures (exit code 1: something is)",
        "pipelines.commands.operate:doctor",
    ),
    Command(
        "deployments",
        "list the schedules and triggers; keep prefect.yaml in step with the declarations",
        "pipelines.commands.operate:deployments",
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
    from features import HeadwayError
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
