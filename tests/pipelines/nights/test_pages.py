"""The folder of pages: whole files, an index that misses none, and pages of other releases that do no harm."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from monitoring.render import render
from pipelines.nights import pages
from tests.monitoring.weeks import week


def test_page_json_and_index_are_written_beside_each_other(tmp_path: Path) -> None:
    path = pages.write(week(), tmp_path)
    assert path.name == f"tide-{week().until}.html"
    assert path.read_text() == render(week())
    assert pages.read(tmp_path) == [week()]
    assert f'href="{path.name}"' in (tmp_path / "index.html").read_text()
    pages.write(week("fault"), tmp_path)
    assert pages.read(tmp_path) == [week("fault")]


def test_a_file_of_another_release_is_listed_and_a_spoiled_one_is_left_out(tmp_path: Path) -> None:
    old = {
        "model": "wave", "owner": "o", "description": "d", "since": "2021-01-04", "until": "2021-01-10",
        "first_line": "Nothing to do", "kind": "calm", "unknown": [1],
    }  # fmt: skip
    (tmp_path / "wave-2021-01-10.json").write_bytes(msgspec.json.encode(old))
    (tmp_path / "wave-2021-01-17.json").write_text("{")
    (tmp_path / "replay-tide-2021-01-10.json").write_text("{}")
    pages.write(week(), tmp_path)
    assert [each.name for each in pages.listed(tmp_path)] == [week().name, "wave-2021-01-10"]
    assert pages.read(tmp_path) == [week()]
    assert "wave-2021-01-17" not in (tmp_path / "index.html").read_text()


def test_pages_that_are_written_at_once_are_all_in_the_index(tmp_path: Path) -> None:
    several = [msgspec.structs.replace(week(), model=f"tide_{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: pages.write(each, tmp_path), several))
    index = (tmp_path / "index.html").read_text()
    assert all(f"{each.name}.html" in index for each in several)
