"""Refuses every socket that leaves this machine. Python imports it first in a child, by PYTHONPATH.

Dependencies swallow the errors of their telemetry, so each attempt is also written to the file that
HEADWAY_GUARD_LOG names; the tests fail on a line in it.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path


class LeavesLoopbackError(OSError):
    """Something tried to talk to another machine."""


def local(host: object) -> bool:
    """Whether a host or address means this machine."""
    text = host.decode() if isinstance(host, bytes) else host
    if text in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(host: object) -> None:
    """Raise LeavesLoopbackError unless the host is this machine; leave a line in the log."""
    if local(host):
        return
    path = os.environ.get("HEADWAY_GUARD_LOG")
    if path:
        with Path(path).open("a") as log:
            log.write(f"{os.getpid()} {sys.argv[:4]} -> {host}\n")
    raise LeavesLoopbackError(f"only loopback is allowed here, not {host!r}")


def install() -> None:
    """Put the guard in front of connecting, sending and looking up names, in this process."""
    # uvloop speaks to the kernel itself and would go round the guard; asyncio's own loop does not.
    sys.modules["uvloop"] = None

    def guarded(name):
        plain = getattr(socket.socket, name)

        def method(self, *args):
            # The address comes last in each of these calls. Unix sockets have a path for one.
            if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(args[-1], tuple):
                refuse(args[-1][0])
            return plain(self, *args)

        return method

    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, guarded(name))

    look_up = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        refuse(host)
        return look_up(host, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


install()
