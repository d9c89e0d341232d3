"""`headway run PART`: one part of the stack in the foreground, for a supervisor such as systemd or a container's.

`headway up` supervises the three parts itself; here somebody else does, and each part is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import time

from features import HeadwayError
from pipelines.children import MARK
from pipelines.home import PROJECT, home
from pipelines.orchestration import stack
from pipelines.orchestration.orchestrator import Api, answers, client_environment

PORTS = {"server": 4200, "service": 3000, "worker": 4200}
PATIENCE = 180.0
"""Seconds that a worker waits for its server, which may be starting too."""


def run(given: argparse.Namespace) -> int:
    """Become the part; never returns. A worker first waits for its server, and brings it up to date.

    Raises HeadwayError when the server does not answer, or refuses what `prefect.yaml` says.
    """
    at, port = home(), given.port or PORTS[given.part]
    url = given.server.rstrip("/") if given.part == "worker" else f"http://{given.host}:{port}"
    # Without the mark: `headway down` ends what `headway up` started, and nothing of another supervisor's.
    environ = {name: value for name, value in client_environment(at, url).items() if name != MARK}
    if given.part == "worker":
        _await(url)
        Api(url, environ).install()
        stack.deploy(environ)
    command = stack.command(given.part, given.host, str(port))
    os.chdir(PROJECT)
    os.execve(command[0], command, environ)


def _await(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not answers(f"{url}/api/health"):
        if time.monotonic() > deadline:
            raise HeadwayError(f"no Prefect server answers at {url}. Start it: `headway run server`; or see --server.")
        time.sleep(0.5)
