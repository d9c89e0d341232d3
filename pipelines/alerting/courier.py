"""The room of apprise: takes one message to one address, in a process of its own.

The process is what bounds it: a server that never answers, a library that logs the address or leaves a thread behind
is gone with it. The address comes by standard input, where no list of processes shows it.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

SECONDS = 60.0
"""How long one address may take, the start of its process included."""

SOCKET_SECONDS = 15.0
"""How long a server may take to accept, and to answer."""

UNKNOWN = (
    "apprise knows no such kind of address. Mail: mailtos://USER:PASSWORD@HOST/?to=WHOM. Slack: the https:// address "
    "of its webhook. A webhook of your own: jsons://HOST/PATH. `.venv/bin/apprise --details` lists the others."
)


class Message(msgspec.Struct, frozen=True):
    """What goes where. It holds a secret: show none of it."""

    url: str
    title: str
    body: str


def send(messages: Sequence[Message]) -> list[str]:
    """Send messages, eight at a time; for each, why it could not be sent, or nothing."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(_send, messages))


def _send(message: Message) -> str:
    from pipelines.home import PROJECT  # here, since the courier itself starts sooner without it

    command = [sys.executable, "-m", "pipelines.alerting.courier"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(message), capture_output=True, cwd=PROJECT, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS:.0f} seconds"
    # What it printed besides may quote the address, so a failure of its own is told by its number only.
    return done.stdout.decode() if done.returncode == 0 else f"the courier ended with exit code {done.returncode}"


def deliver(message: Message) -> str:
    """Send one message here and now; why it could not be sent, or nothing."""
    import apprise

    server = apprise.Apprise.instantiate(message.url, suppress_exceptions=True)
    if server is None:
        return UNKNOWN
    server.socket_connect_timeout = server.socket_read_timeout = SOCKET_SECONDS
    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as said:
        everyone = apprise.Apprise()
        everyone.add(server)
        sent = everyone.notify(title=message.title, body=message.body, body_format=apprise.NotifyFormat.TEXT)
        why = " ".join(said.getvalue().split())
    return "" if sent else scrubbed(why or "it was refused", message.url)


def scrubbed(text: str, url: str) -> str:
    """`text` without any part of an address but its kind: host, user, password, path and query are taken out."""
    found = urlsplit(url)
    values = [value for pair in parse_qsl(found.query) for value in pair]
    parts = [*re.split(r"[@:]", found.netloc), *found.path.split("/"), *values, *found.fragment.split("/")]
    secrets = {form for part in parts for form in (part, unquote(part)) if len(form) > 2}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text[:300]


if __name__ == "__main__":
    sys.stdout.write(deliver(msgspec.json.decode(sys.stdin.buffer.read(), type=Message)))
