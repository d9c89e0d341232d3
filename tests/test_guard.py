"""The guard that the other tests rest on: without it, "nothing leaves loopback" would be a hope."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ELSEWHERE = "192.0.2.1"  # TEST-NET-1: reserved for documentation, nobody's address


def test_this_process_is_refused_every_way_out(nothing_leaves_loopback: Path) -> None:
    with socket.socket() as tcp, pytest.raises(OSError, match="only loopback"):
        tcp.connect((ELSEWHERE, 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="only loopback"):
        udp.sendto(b"x", (ELSEWHERE, 53))
    with pytest.raises(OSError, match="only loopback"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{ELSEWHERE}/")
    with pytest.raises(OSError, match="only loopback"):
        asyncio.run(asyncio.open_connection(ELSEWHERE, 80))
    assert len(nothing_leaves_loopback.read_text().splitlines()) == 5
    nothing_leaves_loopback.write_text("")


def test_a_child_is_refused_and_its_attempt_is_seen_even_if_it_says_nothing(nothing_leaves_loopback: Path) -> None:
    quiet = f"""
import socket
try:
    socket.create_connection(({ELSEWHERE!r}, 80), timeout=1)
except OSError:
    pass
"""
    subprocess.run([sys.executable, "-c", quiet], env=os.environ, check=True)
    assert ELSEWHERE in nothing_leaves_loopback.read_text()
    nothing_leaves_loopback.write_text("")


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
