"""How fast it serves, beside what people write by hand: same machine, model and rows, in one go.

    python -m benchmarks.serving                       three rounds of 1, 16, 64 and 500 clients: about 15 minutes
    python -m benchmarks.serving --quick               one round, two seconds each
    python -m benchmarks.serving --markdown FILE       also write the tables to a file

One fitted estimator (100 trees behind an encoder of two categories, 17 features) is served by all, with two workers
each and one thread for the numeric libraries: Headway under `bentoml serve`, with API keys and the durable log on, its
features sent with the request or looked up in three views of Feast's online store; servers written by hand
(`benchmarks/peers/`, in an environment of their own, made from `benchmarks/peers.lock`); BentoML's own API and MLflow's
server. Before anything is measured each one has to answer 64 rows as the pipeline does, to 1e-9.

All are up while one is measured, idle but for housekeeping. The load client (`benchmarks.load`) shares the cores with
them. A round measures every server at every number of clients, in an order that moves on from round to round; shown
are medians over rounds, and of ratios too. CPU and memory are of all processes of a server. A 503 with Retry-After is
told apart from a failure; the exit code is 1 when something failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import psutil

from benchmarks import tables
from benchmarks.peers import environment as peers
from benchmarks.project import Prepared, prepare
from benchmarks.tables import Measured
from pipelines.home import PROJECT, environment

CLIENTS = (1, 16, 64, 500)
WORKERS = 2
HERE = Path(__file__).resolve().parent / "peers"
STARTS_WITHIN = 300.0


@dataclass(frozen=True)
class Server:
    """How a server is started and asked.

    `command` follows `python -m`, with {port}, {workers} and {mlflow} filled in; `theirs`: in the peers' environment.
    `bodies` names what it is sent: all say the same, and `records` is `sent` with the outer name that MLflow knows.
    """

    name: str
    command: str
    path: str = "/predict"
    bodies: str = "sent"
    theirs: bool = True
    headway: bool = False


BENTO = "bentoml serve services.bento:Headway --host 127.0.0.1 --port {port}"
ASGI = "uvicorn --factory services.app:create_app --workers {workers} --port {port} --no-access-log"
UVICORN = "uvicorn {app} --workers {{workers}} --port {{port}} --no-access-log"
SERVERS = (
    Server(tables.SENT, BENTO, "/v1/models/sent/predict", theirs=False, headway=True),
    Server(tables.LOOKED_UP, BENTO, "/v1/models/looked_up/predict", "looked_up", theirs=False, headway=True),
    Server(tables.UNDER_UVICORN, ASGI, "/v1/models/sent/predict", theirs=False, headway=True),
    Server(tables.PIPELINE, UVICORN.format(app="fastapi_pipeline:app")),
    Server(tables.TREELITE, UVICORN.format(app="fastapi_treelite:app")),
    Server(tables.SYNCED, UVICORN.format(app="fastapi_synced:app")),
    Server(
        "Litestar + granian + treelite",
        "granian --interface asgi --loop uvloop --no-ws --workers {workers} --port {port} litestar_treelite:app",
    ),
    Server(
        "BentoML @bentoml.api + treelite",
        "bentoml serve bentoml_api:Peer --host 127.0.0.1 --port {port}",
        theirs=False,
    ),
    Server(
        "MLflow models serve",
        "mlflow models serve -m {mlflow} --env-manager local --host 127.0.0.1 --workers {workers} --port {port}",
        "/invocations",
        "records",
    ),
)


@dataclass
class Running:
    """A server that answers as the pipeline does."""

    server: Server
    process: psutil.Popen
    url: str
    prepared: Prepared
    found: dict[int, list[Measured]] = field(default_factory=dict)

    def measure(self, clients: int, seconds: float) -> Measured:
        """Put load on it, once it has warmed up."""
        self._load(clients, 0.5)
        before, busy, began = self._cpu(), _busy(), time.monotonic()
        summary = self._load(clients, seconds)
        cpu, busy, took = self._cpu() - before, _busy() - busy, time.monotonic() - began
        memory = sum(member.memory_full_info().pss for member in self._family()) / 1e6
        return Measured(
            rate=summary["rate"], p50=summary["p50"], p99=summary["p99"], refused=summary["refused"],
            failed=summary["failed"], failures=summary["failures"], cpu=cpu / WORKERS / summary["whole"],
            cpu_ms=1000 * cpu / max(1, summary["answered"]), memory=memory / WORKERS, client=summary["client_cpu"],
            others=max(0.0, (busy - cpu - summary["client_cpu"] * summary["seconds"]) / took),
        )  # fmt: skip

    def _load(self, clients: int, seconds: float) -> dict:
        command = [sys.executable, "-m", "benchmarks.load", self.url, "--clients", str(clients), "--json"]
        command += ["--body", str(self.prepared.bodies[self.server.bodies]), "--seconds", str(seconds)]
        command += ["--key", self.prepared.key]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise SystemExit(f"the load client failed:\n{done.stderr}")
        return msgspec.json.decode(done.stdout)

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def _cpu(self) -> float:
        return sum(times.user + times.system for times in (member.cpu_times() for member in self._family()))


@contextmanager
def running(server: Server, prepared: Prepared, python: Path, folder: Path) -> Iterator[Running]:
    """The server, once it answers rightly; all of its processes are killed at the end."""
    port = _free_port()
    filled = server.command.format(port=port, workers=WORKERS, mlflow=folder / "mlflow")
    log = folder / f"{port}.log"
    more = {"PYTHONPATH": str(prepared.project), "HEADWAY_WORKERS": str(WORKERS), "HEADWAY_CLOCK": "server"}
    more |= {"MODEL": str(prepared.estimator), "LOG": str(folder), "WORKERS": str(WORKERS)}
    more |= {"PYTHONDONTWRITEBYTECODE": "1"}
    env = {**environment(prepared.root), **more}
    if not server.headway:
        env |= {"PYTHONPATH": str(HERE), "BENTOML_HOME": str(folder / "bentoml"), "PATH": _path(python)}
    with log.open("wb") as told:
        process = psutil.Popen(
            [str(python if server.theirs else sys.executable), "-m", *filled.split()], env=env,
            stdout=told, stderr=told, cwd=prepared.project if server.headway else HERE,
        )  # fmt: skip
    try:
        made = Running(server, process, f"http://127.0.0.1:{port}{server.path}", prepared)
        _answers_rightly(made, log)
        yield made
    finally:
        for member in [*process.children(recursive=True), process]:
            member.kill()
        process.wait()


def _busy() -> float:
    """Seconds of CPU that all processes of the machine took so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _answers_rightly(made: Running, log: Path) -> None:
    bodies = made.prepared.bodies[made.server.bodies].read_bytes().splitlines()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {made.prepared.key}"}
    with httpx.Client(headers=headers, timeout=60.0) as client:
        deadline = time.monotonic() + STARTS_WITHIN
        while not _ready(client, made.url, bodies[0]):
            if made.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{made.server.name} does not answer:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        for body, truth in zip(bodies, made.prepared.answers, strict=True):
            (shown,) = client.post(made.url, content=body).json()["predictions"]
            answer = tables.probability(shown)
            if abs(answer - truth) > 1e-9:
                raise SystemExit(f"{made.server.name} answers {answer}, the pipeline {truth}")


def _ready(client: httpx.Client, url: str, body: bytes) -> bool:
    try:
        answer = client.post(url, content=body)
    except httpx.HTTPError:
        return False
    if answer.status_code in (400, 401, 415, 422):
        raise SystemExit(f"{url} refuses what it is sent: {answer.text[:1000]}")
    return answer.status_code == 200


def _path(python: Path) -> str:
    # MLflow starts `uvicorn` by name.
    return os.pathsep.join([str(python.parent), os.environ["PATH"]])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rounds(servers: list[Running], clients: tuple[int, ...], seconds: float, repeats: int) -> None:
    """Measure all, round by round, into each one's `found`."""
    for number in range(repeats):
        for level in clients:
            for place in range(len(servers)):
                one = servers[(place + number) % len(servers)]
                measured = one.measure(level, seconds)
                one.found.setdefault(level, []).append(measured)
                print(f"round {number + 1}, {level:3} clients, {one.server.name:32} {measured.told()}", flush=True)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, two seconds each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--only", default="", help="servers whose name holds this, and those that ratios are to")
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    parser.add_argument("--environments", type=Path, help="where the peers' environment is kept; a temporary folder")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    repeats, seconds = (1, 2.0) if given.quick else (given.rounds, given.seconds)
    with tempfile.TemporaryDirectory(prefix="headway-serving-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        python = peers.made((given.environments or folder).absolute())
        prepared = prepare(folder)
        saving = [str(python), str(HERE / "mlflow_model.py"), str(folder / "mlflow")]
        subprocess.run(
            saving, env={**os.environ, "MODEL": str(prepared.estimator)}, check=True, capture_output=True
        )  # fmt: skip
        wanted = [one for one in SERVERS if given.only in one.name or one.name in tables.RATIOS_TO]
        servers = []
        for one in wanted:
            servers.append(stack.enter_context(running(one, prepared, python, folder)))
            print(f"{one.name} answers as the pipeline does", flush=True)
        rounds(servers, tuple(given.clients), seconds, repeats)
        found = {one.server.name: one.found for one in servers}
        print(tables.text(found))
        print(tables.quiet(found))
        if given.markdown:
            given.markdown.write_text(tables.markdown(found, folder, repeats, seconds))
    return 1 if any(one.failed for levels in found.values() for turns in levels.values() for one in turns) else 0


if __name__ == "__main__":
    raise SystemExit(main())
