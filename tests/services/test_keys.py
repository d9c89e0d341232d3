import threading
from pathlib import Path

import pytest

from features import HeadwayError
from services.keys import KeyRing, list_keys, loopback, make, revoke


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


def test_mistakes_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path, "app")
    with pytest.raises(HeadwayError, match="already"):
        make(path, "app")
    with pytest.raises(HeadwayError, match="There are: app"):
        revoke(path, "nobody")
    with pytest.raises(HeadwayError, match="cannot name"):
        make(path, "Not A Name")


def test_a_damaged_file_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = make(path, "app")
    ring = KeyRing(path)
    path.write_text('[{"name": "app"')
    with pytest.raises(HeadwayError, match="not a key file"):
        ring.find(secret)
    with pytest.raises(HeadwayError, match="not a key file"):
        make(path, "second")


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
