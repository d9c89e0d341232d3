import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from features import HeadwayError
from services.keys import KeyRing, list_keys, loopback, make, revoke, unasked
from services.rates import parse


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = make(path, "app")
    assert len(secret) >= 46
    assert secret.encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [key.name for key in list_keys(path)] == ["app"]


def test_a_worker_sees_new_and_revoked_keys_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(path)
    assert ring.find("") is None
    secret, other = make(path, "app"), make(path, "other", models=["late"])
    assert ring.find(secret).name == "app"  # type: ignore[union-attr]
    scoped = ring.find(other)
    assert scoped is not None
    assert scoped.opens("late")
    assert not scoped.opens("early")
    assert ring.find(secret + "x") is None
    assert ring.find("ключ") is None
    revoke(path, "app")
    assert ring.find(secret) is None
    assert ring.find(other) == scoped


def test_no_change_is_missed_however_fast_they_follow(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path, "stays")
    ring = KeyRing(path)
    for _ in range(50):
        secret = make(path, "other")
        assert ring.find(secret)
        revoke(path, "other")
        again = make(path, "other")  # a file of the same size, likely in the same tick of the clock
        assert ring.find(secret) is None
        assert ring.find(again)
        revoke(path, "other")
        assert ring.find(again) is None


def test_each_key_has_a_place_of_its_own_to_be_counted_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for name in ("a", "b", "c"):
        make(path, name, rate=parse("100/s", 200))
    revoke(path, "b")
    make(path, "d")
    assert {key.name: key.slot for key in list_keys(path)} == {"a": 1, "c": 3, "d": 2}
    assert {key.name: str(key.rate) for key in list_keys(path)}["a"] == "100/s, burst 200"


def test_a_file_from_before_there_were_rates_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(f'[{{"name": "old", "sha256": "{"0" * 64}", "models": ["late"]}}]')
    assert [(key.name, key.rate, key.slot) for key in list_keys(path)] == [("old", None, 0)]


def test_mistakes_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path, "app")
    with pytest.raises(HeadwayError, match="already"):
        make(path, "app")
    with pytest.raises(HeadwayError, match="There are: app"):
        revoke(path, "nobody")
    with pytest.raises(HeadwayError, match="cannot name"):
        make(path, "Not A Name")


@pytest.mark.parametrize(
    "damaged",
    [
        b'[{"name": "app"',
        b"",
        b"{}",
        b"\xff\xfe",
        b'[{"name": "app", "sha256": "\xc3\xa9"}]',
        b'[{"name": "app", "sha256": "no hash"}]',
        b'[{"name": "app", "sha256": "' + b"0" * 64 + b'", "admin": true}]',
        b'[{"name": "app", "sha256": "' + b"0" * 64 + b'", "slot": -1}]',
    ],
)
def test_a_damaged_file_lets_nobody_in(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "keys.json"
    secret = make(path, "app")
    ring, good = KeyRing(path), path.read_bytes()
    assert ring.find(secret)
    path.write_bytes(damaged)
    with pytest.raises(HeadwayError, match="not a key file"):
        ring.find(secret)
    with pytest.raises(HeadwayError, match="not a key file"):
        make(path, "second")
    path.unlink()
    path.mkdir()
    with pytest.raises(HeadwayError, match="not a key file"):
        ring.find(secret)
    path.rmdir()
    assert ring.find(secret) is None
    path.write_bytes(good)
    assert ring.find(secret)


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=make, args=(path, f"app{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_keys(path)) == 8


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("10.0.0.1", False), ("/run/x.sock", False), ("", False), (None, False)],
)  # fmt: skip
def test_loopback(host: str | None, local: bool) -> None:
    assert loopback(host) is local


@pytest.mark.parametrize(
    ("server", "headers", "may"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:3000"}, True),
        ("::1", {"host": "[::1]:3000"}, True),
        ("127.0.0.1", {"host": "localhost"}, True),
        ("127.0.0.1", {}, True),
        ("127.0.0.1", {"host": "headway.example"}, False),
        ("127.0.0.1", {"host": "127.0.0.1.example"}, False),
        ("127.0.0.1", {"host": "10.0.0.1:3000"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "forwarded": "for=127.0.0.1"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "via": "1.1 proxy"}, False),
        ("0.0.0.0", {"host": "127.0.0.1"}, False),
        ("10.0.0.1", {"host": "127.0.0.1"}, False),
        ("/run/headway.sock", {"host": "127.0.0.1"}, False),
        (None, {"host": "127.0.0.1"}, False),
    ],
)
def test_who_may_do_without_a_key_where_keys_are_off(server: str | None, headers: dict[str, str], may: bool) -> None:
    assert unasked(server, {name.encode(): value.encode() for name, value in headers.items()}) is may


def test_on_all_addresses_the_kernel_says_where_a_connection_came_to_and_no_header_does() -> None:
    """uvicorn with its defaults, which believe a proxy on this machine."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        said = f"{scope['server'][0]} {unasked(scope['server'][0], dict(scope['headers']))}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})

    server = uvicorn.Server(uvicorn.Config(app, host="0.0.0.0", port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        spoofed = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http"}
        assert httpx.get(url).text == "127.0.0.1 True"
        assert httpx.get(url, headers=spoofed).text == "127.0.0.1 False"
        assert httpx.get(url, headers={"Host": "headway.example"}).text == "127.0.0.1 False"
    finally:
        server.should_exit = True
        thread.join()
