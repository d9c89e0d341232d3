"""Every command of a model's life, on real flights: what it says, what it leaves, and how it refuses."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

import models
from pipelines import children
from pipelines.commands.cli import COMMANDS, main
from pipelines.data import lake
from pipelines.home import Home
from pipelines.registry import promotion
from pipelines.registry.ledger import Ledger
from tests.history import DOMAIN, MODEL, START, copy, headway, history, in_force, root

__all__ = ["history", "root"]

pytestmark = pytest.mark.e2e

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shared(history: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A copy for the commands that change nothing."""
    at = Home(tmp_path_factory.mktemp("shared"))
    with in_force(at):
        return copy(history, at)


@pytest.fixture
def reading(shared: Home, home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HEADWAY_HOME", str(shared.root))
    return shared


def refused(capsys: Capture, *words: str) -> str:
    """What a command that is a user's mistake says: exit code 2, on standard error, with no traceback."""
    assert main(list(words)) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert printed.err.startswith(f"headway {words[0]}: ")
    return printed.err


def test_models_lists_each_with_its_champion(reading: Home, capsys: Capture) -> None:
    assert main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == list(models.names())
    assert "version 1 since 2013-04-01" in lines[MODEL]
    assert all("no champion yet" in line for name, line in lines.items() if name != MODEL)


def test_history_is_a_story(reading: Home, capsys: Capture) -> None:
    assert main(["history", MODEL]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("2013-04-01  version    version 1: roc_auc 0.7")
    assert first.endswith("gates passed")
    assert second == "2013-04-01  promotion  version 1: trained on request (by history)"
    other = next(name for name in models.names() if name != MODEL)
    assert main(["history", other]) == 0
    assert capsys.readouterr().out == f"{other}: nothing yet. Train it: headway train {other}\n"


def test_verify_says_that_all_holds(reading: Home, capsys: Capture) -> None:
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ledger: 2 entries, the chain holds",
        f"{MODEL}: version 1, files and golden rows hold",
    ]


def test_verify_names_the_entry_that_was_edited(root: Home, capsys: Capture) -> None:
    with contextlib.closing(sqlite3.connect(root.room("registry") / "ledger.db")) as database, database:
        database.execute("DROP TRIGGER ledger_no_update")
        database.execute("UPDATE ledger SET body = replace(body, 'roc_auc 0.7', 'roc_auc 0.9') WHERE seq = 1")
    assert main(["verify"]) == 1
    assert "Ledger entry 1 does not hold" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["estimator.joblib", "reference.json", "manifest.json"])
def test_verify_names_the_file_that_was_tampered_with(root: Home, capsys: Capture, name: str) -> None:
    (path,) = root.bentoml.rglob(name)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert main(["verify"]) == 1
    told = capsys.readouterr().out
    assert "the chain holds" in told
    assert name in told
    assert "Traceback" not in told


def test_verify_tells_a_ledger_whose_end_was_cut_off(root: Home, capsys: Capture) -> None:
    with contextlib.closing(sqlite3.connect(root.room("registry") / "ledger.db")) as database, database:
        database.execute("DROP TRIGGER ledger_no_delete")
        database.execute("DELETE FROM ledger WHERE seq = 2")
    assert main(["verify"]) == 1
    assert "entries were cut off its end" in capsys.readouterr().out


def test_repair_writes_a_lost_pointer_again(root: Home, capsys: Capture) -> None:
    before = promotion.read_pointer(root.pointers, MODEL)
    for path in root.pointers.glob("*.json"):
        path.unlink()
    assert main(["repair", MODEL]) == 0
    assert capsys.readouterr().out == f"{MODEL}: version 1 is champion\n"
    assert promotion.read_pointer(root.pointers, MODEL) == before


def test_ingest_takes_in_what_is_new_and_again_changes_nothing(root: Home, capsys: Capture) -> None:
    words = ["ingest", DOMAIN, "--as-of", "2013-04-01T06:00Z"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "schedule" in said
    table = lake.read(root.room("lake", DOMAIN, "schedule"))
    assert main(words) == 0
    assert capsys.readouterr().out == said
    assert lake.read(root.room("lake", DOMAIN, "schedule")) == table
    before = refused(capsys, "ingest", DOMAIN, "--as-of", "2013-03-01")
    assert "ingested up to" in before
    assert "Go on from there" in before


def test_report_writes_a_page_that_says_what_to_do(root: Home, capsys: Capture) -> None:
    assert main(["night", MODEL, "--as-of", "2013-04-02T00:30Z"]) == 0
    assert main(["report", MODEL, "--as-of", "2013-04-02T00:30Z", "--quick"]) == 0
    *_, verdict, path = capsys.readouterr().out.splitlines()
    assert verdict.startswith("Nothing to do")
    page = Path(path).read_text()
    assert "Nothing to do" in page
    assert Path(path).parent == root.reports
    assert Path(path).with_suffix(".json").exists()


def test_keys_are_made_once_listed_without_their_secret_and_revoked(root: Home, capsys: Capture) -> None:
    assert main(["keys", "make", "dashboard", "--model", MODEL]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("hw_")
    assert secret not in root.keys.read_text()
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().out.split() == ["dashboard", MODEL, "no", "rate", "of", "its", "own"]
    assert main(["keys", "make", "fast", "--rate", "100/s", "--burst", "200"]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    assert "100/s, burst 200" in capsys.readouterr().out
    assert "100/s or 600/min" in refused(capsys, "keys", "make", "slow", "--rate", "often")
    assert "--rate" in refused(capsys, "keys", "make", "slow", "--burst", "9")
    assert MODEL in refused(capsys, "keys", "make", "slow", "--model", "nonesuch")
    assert "already" in refused(capsys, "keys", "make", "dashboard")
    assert main(["keys", "revoke", "dashboard"]) == 0
    assert capsys.readouterr().out == "revoked dashboard\n"
    assert "dashboard" in refused(capsys, "keys", "revoke", "dashboard")
    assert "headway keys make NAME" in refused(capsys, "keys", "make")


def test_nothing_to_roll_back_to_and_nothing_to_approve(reading: Home, capsys: Capture) -> None:
    entries = Ledger(reading.ledger_url).entries()
    told = refused(capsys, "rollback", MODEL)
    assert "version 1 is its first champion. Promote another version instead" in told
    assert "does not wait for approval. Waiting: none" in refused(capsys, "approve", MODEL, "1")
    assert f"{MODEL} has no version 14. It has: 1." in refused(capsys, "approve", MODEL, "14")
    assert Ledger(reading.ledger_url).entries() == entries


@pytest.mark.parametrize(
    "words",
    [["train"], ["night"], ["report"], ["history"], ["rollback"], ["repair"], ["approve", "1"], ["predict", "{}"]],
    ids=lambda words: words[0],
)
def test_an_unknown_model_is_answered_with_the_valid_names(reading: Home, capsys: Capture, words: list[str]) -> None:
    told = refused(capsys, words[0], "late_arivals", *words[1:])
    assert "late_arivals" in told
    assert all(name in told for name in models.names())


def test_an_unknown_domain_is_answered_with_the_valid_names(reading: Home, capsys: Capture) -> None:
    assert DOMAIN in refused(capsys, "ingest", "trains")


@pytest.mark.parametrize("words", [["train", MODEL], ["night", MODEL], ["report", MODEL], ["ingest", DOMAIN]])
def test_what_is_no_instant_is_refused_with_an_example(reading: Home, capsys: Capture, words: list[str]) -> None:
    assert "'yesterday' is not an instant. Write it like 2013-04-07" in refused(capsys, *words, "--as-of", "yesterday")


def test_predict_without_a_service_says_how_to_start_one(reading: Home, capsys: Capture) -> None:
    url = f"http://127.0.0.1:{children.free_port()}"
    told = refused(capsys, "predict", MODEL, '{"instances": []}', "--url", url)
    assert url in told
    assert "headway up" in told


def test_a_mistake_in_a_process_of_its_own_ends_with_2_and_no_traceback(reading: Home) -> None:
    done = headway(reading, "history", "late_arivals")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert all(name in done.stderr for name in models.names())


def waits(ledger: Ledger) -> None:
    """A second version that waits for its owner; the files are those of the first."""
    told = ledger.entries(MODEL, "version")[0].body
    waiting = {**told, "version": 2, "awaiting_approval": True, "sentence": "version 2 waits for approval"}
    ledger.append("version", MODEL, as_of=START, body=waiting, actor="test", key="version/waits")


@pytest.mark.parametrize("act", ["approve", "promote"])
def test_a_version_whose_files_were_changed_is_not_made_champion(root: Home, capsys: Capture, act: str) -> None:
    ledger = Ledger(root.ledger_url)
    waits(ledger)
    before = ledger.entries()
    (path,) = root.bentoml.rglob("estimator.joblib")
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert "estimator.joblib" in refused(capsys, act, MODEL, "2", "--why", "better")
    assert ledger.entries() == before


@pytest.mark.slow
def test_a_version_that_waits_is_approved_and_rolled_back(root: Home, capsys: Capture) -> None:
    ledger = Ledger(root.ledger_url)
    waits(ledger)
    assert main(["approve", MODEL, "2", "--as-of", "2013-04-02", "--why", "better"]) == 0
    assert capsys.readouterr().out == f"{MODEL}: version 2 is champion\n"
    assert main(["rollback", MODEL, "--as-of", "2013-04-03", "--why", "worse"]) == 0
    assert capsys.readouterr().out == f"{MODEL}: version 1 is champion again\n"
    after = promotion.read_pointer(root.pointers, MODEL)
    assert after is not None
    assert (after.version, after.generation) == (1, 3)
    assert main(["verify"]) == 0


def test_every_command_has_a_summary_and_its_function() -> None:
    for command in COMMANDS:
        assert command.summary
        assert callable(command.function())
