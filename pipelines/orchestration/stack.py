"""The supervised stack: Prefect's server, one process worker, and the prediction service.

    with Stack(home()) as stack:
        print(stack.prefect_url, stack.service_url)

They listen on loopback only, keep their state and logs below the root, come back when they die, and end with the
supervisor. `up` leaves such a supervisor behind, `down` ends it, `status` says what there is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Self

import msgspec
import psutil

from features import HeadwayError
from pipelines import children
from pipelines.children import Child
from pipelines.home import PROJECT, Home, environment, home, utc
from pipelines.orchestration.orchestrator import POOL, Api, answers, client_environment, python_path

PARTS = ("server", "worker", "service")

_START_SECONDS = 180.0
_SETTLED_SECONDS = 60.0


class Running(msgspec.Struct, frozen=True):
    """Where a running stack is: what the state file says."""

    supervisor: int
    since: float
    prefect_url: str
    service_url: str
    ready: bool = False
    pids: dict[str, int] = {}


class Stack:
    """The three processes, as long as it is open.

    Args:
        at: the root that holds their state. One stack at a time may run on it.
        parts: which of `PARTS` to run; the worker needs the server.
        ports: {"server": port, "service": port}: preferred ones; another is taken if one is not free.
        extra: environment for all of them, on top of `pipelines.home.environment`.
    """

    def __init__(
        self,
        at: Home,
        parts: tuple[str, ...] = PARTS,
        ports: Mapping[str, int] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        wanted = ports or {}
        self.home = at
        self.prefect_url = f"http://127.0.0.1:{children.free_port(wanted.get('server', 0))}"
        self.service_url = f"http://127.0.0.1:{children.free_port(wanted.get('service', 0))}"
        self.environment = {**client_environment(at, self.prefect_url), **(extra or {})}
        self.api = Api(self.prefect_url, self.environment)
        self.children = {part: self._child(part) for part in PARTS if part in parts}
        self._lock: Any = None
        self._stopping = threading.Event()
        self._tender: threading.Thread | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *parts: str) -> None:
        """Begin to start these parts (default: all), and return at once: `wait` tells when they are there.

        Raises HeadwayError when another stack runs on this root.
        """
        if self._lock is None:
            self._lock = _locked(self.home)
            self._end_on_sigterm()
            children.sweep(self._mark)
        self._note(ready=False)
        for part in parts or tuple(self.children):
            # The worker gives up when there is no server, so it is started by `wait`, after the server.
            if part != "worker":
                self.children[part].start()

    def wait(self, *parts: str, timeout: float = _START_SECONDS) -> None:
        """Return once these parts (default: all) answer; from then on, parts that die are started again.

        Raises HeadwayError with the end of the log of a part that ended or does not answer in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        wanted = parts or tuple(self.children)
        if "server" in wanted:
            self._await("server", lambda: answers(f"{self.prefect_url}/api/health"), deadline)
            self.api.install()
        if "worker" in wanted:
            began = datetime.now(UTC)
            self.children["worker"].start()
            self._await("worker", lambda: self._worker_polls(began), deadline)
        if "service" in wanted:
            self._await("service", lambda: answers(f"{self.service_url}/readyz"), deadline)
        self._note(ready=True)
        if self._tender is None:
            self._tender = threading.Thread(target=self._tend, name="headway-stack", daemon=True)
            self._tender.start()

    def stop(self) -> None:
        """End every part and all that descends from it. Can be called twice."""
        self._stopping.set()
        if self._tender is not None:
            self._tender.join()
        if self._lock is not None:
            # Only the holder of the lock may sweep: else it would end the stack of someone else.
            children.stop(list(self.children.values()), self._mark)
            _state_file(self.home).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    @property
    def _mark(self) -> str:
        return str(self.home.root)

    def _child(self, part: str) -> Child:
        host, port = (self.service_url if part == "service" else self.prefect_url).removeprefix("http://").split(":")
        return Child(part, command(part, host, port), self.environment, self.home.logs / f"{part}.log")

    def _worker_polls(self, since: datetime) -> bool:
        workers = self.api.post(f"/work_pools/{POOL}/workers/filter", {})
        return any(utc(worker["last_heartbeat_time"]) >= since for worker in workers)

    def _await(self, part: str, there: Callable[[], bool], deadline: float) -> None:
        child = self.children[part]
        while not there():
            late = time.monotonic() > deadline
            if late or child.exit_code is not None:
                what = "does not answer" if late else f"ended with exit code {child.exit_code}"
                raise HeadwayError(f"The {part} {what} while starting. The end of {child.log}:\n{child.tail()}")
            time.sleep(0.1)

    def _tend(self) -> None:
        pause, started = 1.0, time.monotonic()
        while not self._stopping.wait(0.5):
            for child in self.children.values():
                if child.exit_code is None:
                    continue
                # A part that dies again and again is tried less and less often.
                pause = 1.0 if time.monotonic() - started > _SETTLED_SECONDS else min(pause * 2, 60.0)
                print(f"The {child.name} ended with {child.exit_code}: starting it again in {pause:.0f} s", flush=True)
                if self._stopping.wait(pause):
                    return
                child.start()
                started = time.monotonic()
                self._note(ready=True)

    def _note(self, *, ready: bool) -> None:
        pids = {name: child.pid for name, child in self.children.items() if child.pid}
        running = Running(os.getpid(), psutil.Process().create_time(), self.prefect_url, self.service_url, ready, pids)
        half = _state_file(self.home).with_suffix(".half")
        half.write_bytes(msgspec.json.encode(running))
        half.replace(_state_file(self.home))

    def _end_on_sigterm(self) -> None:
        def leave(number: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        if threading.current_thread() is threading.main_thread():
            self._handlers = {signal.SIGTERM: signal.signal(signal.SIGTERM, leave)}


def command(part: str, host: str, port: str) -> list[str]:
    """What runs one of `PARTS`; the worker listens nowhere."""
    return {
        "server": [*_module("prefect"), "server", "start", "--host", host, "--port", port],
        "worker": [*_module("prefect"), "worker", "start", "--type", "process", "--pool", POOL, "--name", POOL],
        "service": [*_module("bentoml"), "serve", "services.bento:Headway", "--host", host, "--port", port],
    }[part]


def deploy(environ: Mapping[str, str], *names: str) -> None:
    """Deploy what `prefect.yaml` lists: all of it, or the deployments whose names or patterns (`retrain-*`) are given.

    `environ` says which server: a stack's `environment`, or `client_environment`. Raises HeadwayError with what
    Prefect said.
    """
    chosen = [word for name in names for word in ("--name", name)] or ["--all"]
    done = subprocess.run(
        [*_module("prefect"), "--no-prompt", "deploy", *chosen],
        cwd=PROJECT,
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HeadwayError(f"`prefect deploy {' '.join(chosen)}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def up(at: Home, ports: Mapping[str, int] | None = None) -> Running:
    """Start a stack that outlives this process, with its own supervisor, and return where it is.

    One that runs already is returned as it is. Raises HeadwayError when it does not come up.
    """
    if (running := status(at)) is not None and running.ready:
        return running
    log = at.logs / "supervisor.log"
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "pipelines.orchestration.stack", json.dumps(dict(ports or {}))],
            cwd=PROJECT,
            env={**environment(at), "PYTHONPATH": python_path(os.environ)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while True:
        if (running := status(at)) is not None and running.ready:
            return running
        if supervisor.poll() is not None:
            raise HeadwayError(f"The stack did not start. The end of {log}:\n{children.tail(log, 30)}")
        time.sleep(0.1)


def down(at: Home, timeout: float = 30.0) -> bool:
    """End the stack of this root and whatever is left of it. False when there was nothing to end."""
    running = status(at)
    if running is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.supervisor, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while status(at) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    if (stuck := status(at)) is not None:
        os.kill(stuck.supervisor, signal.SIGKILL)
    strays = children.sweep(str(at.root))
    _state_file(at).unlink(missing_ok=True)
    return running is not None or strays > 0


def status(at: Home) -> Running | None:
    """Where the stack of this root runs; None when its supervisor is gone."""
    try:
        running = msgspec.json.decode(_state_file(at).read_bytes(), type=Running)
        # The start time tells the supervisor from another process that was given its number later.
        alive = psutil.Process(running.supervisor).create_time() == running.since
    except (FileNotFoundError, msgspec.DecodeError, psutil.NoSuchProcess):
        return None
    return running if alive else None


def _module(name: str) -> list[str]:
    """The command of a package's console script, without relying on PATH."""
    return [sys.executable, "-m", name]


def _state_file(at: Home) -> Path:
    return at.room("stack") / "state.json"


def _locked(at: Home) -> Any:
    """The root's lock, held as long as the file stays open. Raises HeadwayError when another process holds it."""
    file = (at.room("stack") / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise HeadwayError(
            f"A stack runs on {at.root} already. See `headway status`, end it with `headway down`, "
            "or name another root in HEADWAY_HOME."
        ) from None
    return file


def main() -> None:
    """Supervise until told to stop: what `up` leaves behind."""
    ports = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    try:
        with Stack(home(), ports=ports):
            threading.Event().wait()
    except HeadwayError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
