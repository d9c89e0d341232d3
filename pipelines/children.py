"""Child processes that cannot be forgotten: each in its own group, on a leash, and findable by a mark.

Three things see to it that nothing is left running. A child's whole group is signalled when it is stopped. On
Linux the kernel ends it when its parent dies, even by `kill -9`. And every process that descends from it carries
the mark of its root in its environment, so those that moved to a group of their own are found as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from pipelines.home import PROJECT

MARK = "HEADWAY_STACK"
"""The environment variable that names the root a process works for."""

# Asks the kernel for SIGTERM when the parent dies, then becomes the command. A parent that died in between is noticed.
_LEASH = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != int(parent):
        sys.exit("the supervisor is gone")
os.execv(command[0], command)
"""


class Child:
    """One supervised process.

    Start it from a thread that lives as long as it should: the kernel's leash is held by the starting thread.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the command from the project's folder, its output appended to the log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The process id, also of a process that ended; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """True from its start until it ends."""
        return self._process is not None and self._process.poll() is None

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and to all of its group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return tail(self.log, lines)


def stop(children: Sequence[Child], mark: str, grace: float = 10.0) -> None:
    """End the children and every process that carries their mark: asked first, killed after `grace` seconds."""
    for child in children:
        child.signal_group(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and any(child.running for child in children):
        time.sleep(0.05)
    for child in children:
        child.signal_group(signal.SIGKILL)
    for child in children:
        if child._process is not None:
            child._process.wait()
    sweep(mark)


def marked(mark: str) -> list[psutil.Process]:
    """The processes of this user that carry the mark, but for this one and its parents."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in mine and _mark_of(process) == mark]


def sweep(mark: str, grace: float = 5.0) -> int:
    """End every process that carries the mark; returns how many there were."""
    strays = marked(mark)
    for process in strays:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(strays, timeout=grace)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=grace)
    return len(strays)


def free_port(preferred: int = 0) -> int:
    """`preferred` if it can be bound on loopback, else one that can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file; says so where there is none."""
    if not log.exists():
        return f"(no log at {log})"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _mark_of(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None
