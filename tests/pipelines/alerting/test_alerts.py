"""Alerts: a real HTTP server and a real SMTP server take them, refuse them, or never answer."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apprise
import msgspec
import pytest

import models
from features import HeadwayError
from monitoring.first_line import first_line
from monitoring.verdict import Fault, Verdict
from pipelines.alerting import addresses, alerts, courier, outbox
from pipelines.commands.cli import main
from pipelines.home import PROJECT, Home
from pipelines.nights import weekly
from pipelines.orchestration.stack import Stack
from pipelines.registry.ledger import Ledger
from tests.history import history, root
from tests.monitoring import weeks

__all__ = ["history", "root"]

MODEL, OTHER = "late_arrival", "arrival_delay"
SECRET = "hunter2-t0ken"
AS_OF = datetime(2013, 4, 5, 0, 30, tzinfo=UTC)
DAY = timedelta(days=1)


class Hook(ThreadingHTTPServer):
    """A webhook that keeps what it is sent, and answers with `status`; with none, it never answers."""

    def __init__(self) -> None:
        self.got: list[dict[str, str]] = []
        self.status: int | None = 200
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"json://me:{SECRET}@127.0.0.1:{self.server_port}/{SECRET}"


class Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status is None:
            self.server.over.wait(60)
            return
        if self.server.status == 200:
            self.server.got.append(body)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Postbox(socketserver.ThreadingTCPServer):
    """The least of SMTP that takes a letter (RFC 5321, section 4.5.1), and keeps it."""

    allow_reuse_address = True

    def __init__(self) -> None:
        self.got: list[str] = []
        super().__init__(("127.0.0.1", 0), Letters)

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.server_address[1]}/?from=headway@example.org&to=owner@example.org"


class Letters(socketserver.StreamRequestHandler):
    server: Postbox

    def handle(self) -> None:
        self.say("220 postbox")
        for line in self.rfile:
            word = line[:4].upper().strip()
            if word == b"DATA":
                self.say("354 go on")
                letter = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.got.append(letter.decode())
            self.say("221 bye" if word == b"QUIT" else "250 ok")
            if word == b"QUIT":
                return

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def hook() -> Iterator[Hook]:
    yield from running(Hook())


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    yield from running(Postbox())


def running(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    if isinstance(server, Hook):
        server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def write(at: Home, *lines: str) -> Path:
    """The addresses of this root."""
    file = addresses.path(at)
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    return file


def vetoed(model: str = MODEL, as_of: datetime = AS_OF) -> Verdict:
    fault = Fault("wind_mast", "the wind mast has sent nothing since Tuesday")
    return msgspec.structs.replace(weeks.verdict(3, faults=[fault]), model=model, as_of=as_of.isoformat())


def alert(model: str = MODEL, as_of: datetime = AS_OF) -> outbox.Alert:
    found = alerts.of_verdict(vetoed(model, as_of))
    assert found is not None
    return found


def told_of(verdict: Verdict) -> str:
    """The first line of the weekly page after such a night."""
    return first_line([verdict], since=verdict.as_of[:10])[1]


def everything_kept(at: Home) -> str:
    return "".join(path.read_text() for path in at.room("alerts").rglob("*.json"))


def test_webhook_and_mail_carry_the_first_line_once(home: Home, hook: Hook, postbox: Postbox) -> None:
    write(home, "# the desk", hook.url, "", postbox.url)
    for _ in range(2):  # the night is run again
        outbox.tell(home, alert())
    (posted,), (mailed,) = hook.got, postbox.got
    letter = message_from_string(mailed, policy=policy.default)
    line = told_of(vetoed())
    assert line == "Look at `wind_mast`: the wind mast has sent nothing since Tuesday"
    assert posted["title"] == letter["Subject"] == f"{MODEL}: {line}"
    assert letter["To"] == "owner@example.org"
    assert f"headway report {MODEL}" in posted["message"]
    (told,) = outbox.told(home, [MODEL], AS_OF - DAY, AS_OF)
    assert (told.line, told.sent, told.unsent) == (line, ["json #1", "mailto #2"], {})
    assert SECRET not in everything_kept(home)


def test_what_cannot_be_sent_is_kept_without_its_secret_and_sent_on_the_next_night(
    home: Home, hook: Hook, postbox: Postbox, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(home, hook.url, postbox.url)
    hook.status = 500
    outbox.tell(home, alert())
    (failed,) = alerts.unsent(home, models.load(MODEL), AS_OF - DAY, AS_OF)
    assert list(failed.unsent) == ["json #1"]
    assert "error=500" in failed.unsent["json #1"]
    assert "json #1: " in "".join(alerts.checkup(home, AS_OF))
    assert main(["alerts", "list"]) == 0  # of the last year
    assert main(["alerts", "test"]) == 1
    told = "".join(capsys.readouterr()) + caplog.text + "".join(alerts.checkup(home, AS_OF)) + everything_kept(home)
    assert "FAILED json #1" in told
    assert SECRET not in told
    assert alerts.unsent(home, models.load(MODEL), AS_OF, AS_OF + DAY) == []  # of another week
    hook.status = 200
    outbox.retry(home, MODEL, AS_OF + DAY)
    assert alerts.unsent(home, models.load(MODEL), AS_OF - DAY, AS_OF) == []
    assert [each["title"] for each in hook.got] == [f"{MODEL}: {failed.line}"]
    assert sum(failed.line in letter.replace("=\n", "") for letter in postbox.got) == 1  # who had it is not told again


def test_one_that_never_answers_blocks_no_night(home: Home, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "SECONDS", 2.0)
    hook.status = None
    write(home, hook.url)
    outbox.tell(home, alert())
    (failed,) = outbox.failures(home, [MODEL], AS_OF - DAY, AS_OF)
    assert failed.unsent == {"json #1": "no answer within 2 seconds"}


def test_what_is_too_old_is_tried_no_more_and_forgotten_after_a_year(home: Home, hook: Hook) -> None:
    write(home, hook.url)
    hook.status = 500
    outbox.tell(home, alert())
    hook.status = 200
    assert outbox.retry(home, MODEL, AS_OF + outbox.PATIENCE) == []
    assert len(outbox.failures(home, [MODEL], AS_OF - DAY, AS_OF)) == 1
    outbox.retry(home, MODEL, AS_OF + outbox.KEPT + DAY)
    assert outbox.told(home, [MODEL], AS_OF - DAY, AS_OF) == []
    assert hook.got == []


def test_an_address_can_be_of_one_model(home: Home, hook: Hook) -> None:
    write(home, f"{OTHER}={hook.url}")
    outbox.tell(home, alert())
    assert outbox.told(home, [MODEL], AS_OF - DAY, AS_OF) == []  # nobody is to know: nothing is kept
    outbox.tell(home, alert(OTHER))
    domain = models.load(OTHER).domain
    outbox.tell(home, alerts.of_failure("ingest", domain, "no feed", AS_OF))
    assert [each["title"].partition(":")[0] for each in hook.got] == [OTHER, domain]


def test_addresses_are_refused_with_what_is_valid_and_quote_nothing(
    home: Home, hook: Hook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["alerts", "test"]) == 2
    assert "mailtos://USER:PASSWORD@HOST" in capsys.readouterr().err
    file = write(home, hook.url, f"me:{SECRET}@example.org")
    with pytest.raises(HeadwayError, match=r"entry 2 is no address.*jsons://HOST/PATH") as error:
        addresses.addresses(home)
    assert SECRET not in str(error.value)
    write(home, f"tides={hook.url}")
    with pytest.raises(HeadwayError, match=f"'tides', which is no model. Declared: {OTHER}, {MODEL}"):
        addresses.addresses(home)
    outbox.tell(home, alert())  # no night stops for it, and it is kept
    assert "tides" in str(outbox.failures(home, [MODEL], AS_OF - DAY, AS_OF)[0].unsent)
    write(home, f"carrier-pigeon://{SECRET}").chmod(0o640)
    with pytest.raises(HeadwayError, match=f"chmod 600 {file}"):
        addresses.addresses(home)
    file.chmod(0o600)
    assert main(["alerts", "test", MODEL]) == 1
    told = capsys.readouterr().out
    assert "FAILED carrier-pigeon #1 (all models): apprise knows no such kind of address. Mail: mailtos://" in told
    assert SECRET not in told
    monkeypatch.setenv("HEADWAY_ALERTS", hook.url)  # goes before the file
    assert main(["alerts", "test"]) == 0
    assert hook.got[-1]["title"] == "Headway: a test"
    assert SECRET not in repr(addresses.addresses(home))
    with pytest.raises(HeadwayError, match="HEADWAY_ALERTS_WEEKLY='yes'"):
        addresses.weekly({"HEADWAY_ALERTS_WEEKLY": "yes"})


@pytest.mark.parametrize("kind", ["slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "mailtos://a:b@example.org"])
def test_the_kinds_that_are_named_are_kinds(kind: str) -> None:
    assert apprise.Apprise.instantiate(kind) is not None


def test_parts_of_an_address_are_taken_out_of_what_a_library_says() -> None:
    url = f"slack://T0K/{SECRET}/a%20b%2Fcd?key={SECRET}x#room"
    said = courier.scrubbed(f"slack at T0K {SECRET}x {SECRET} 'a b/cd' a%20b%2Fcd room: timed out", url)
    assert said == "slack at *** *** *** '***' *** ***: timed out"


def test_a_night_that_is_late_is_told_once(home: Home) -> None:
    model = models.load(MODEL)
    assert alerts.of_late(home, model, AS_OF) is None  # no champion, no nights
    body = msgspec.to_builtins(vetoed())
    Ledger(home.ledger_url).append("verdict", MODEL, as_of=AS_OF, body=body, actor="night", key="v")
    assert alerts.of_late(home, model, AS_OF + DAY) is None
    late, later = (alerts.of_late(home, model, AS_OF + hours * timedelta(hours=1)) for hours in (36, 60))
    assert late is not None
    assert late == later
    assert late.line == "Look at the nights: none has run since 5 April"
    assert f"late   {MODEL}: {late.line}" in alerts.checkup(home, AS_OF + 2 * DAY)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flows_tell_and_do_not_fail_for_what_they_cannot_tell(root: Home, hook: Hook) -> None:
    """Under a real Prefect server: a night with a veto while the webhook is broken, then one that fails."""
    write(root, hook.url)
    hook.status = 500
    body = msgspec.to_builtins(vetoed())
    key = f"verdict/{MODEL}/{AS_OF.isoformat()}"
    Ledger(root.ledger_url).append("verdict", MODEL, as_of=AS_OF, body=body, actor="night", key=key)
    run = f"from pipelines.orchestration.flows import check_flow\ncheck_flow({{!r}}, as_of={AS_OF.isoformat()!r})"
    with Stack(root, parts=("server",)) as up:
        night, failed = (flow(run.format(name), hook, up) for name in (MODEL, OTHER))
    assert night.returncode == 0, night.stderr
    (unsent,) = weekly.gather(root, models.load(MODEL), AS_OF).unsent
    assert (unsent.to, unsent.line) == ("json #1", told_of(vetoed()))
    assert failed.returncode
    (told,) = hook.got
    assert told["title"].startswith(f"{OTHER}: Look at the check flow: it failed: {OTHER} has no champion to judge")


def flow(code: str, hook: Hook, up: Stack) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, env=up.environment, capture_output=True, text=True, timeout=240)
    hook.status = 200
    assert SECRET not in done.stdout + done.stderr
    return done
