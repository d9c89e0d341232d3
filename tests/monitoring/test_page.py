from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from features import HeadwayError
from monitoring import page
from monitoring.health import Health
from tests.monitoring.weeks import iso, week

STORIES = ("calm", "fault", "approve", "drift")
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PHONE = """<iframe id="f" style="width:390px;height:800px;border:0" srcdoc="FRAME"></iframe><p id="out"></p><script>
document.getElementById("f").onload = (event) => {
  const page = event.target.contentDocument;
  const wide = [...page.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > 390.5).length;
  const line = page.getElementById("first-line").textContent;
  document.getElementById("out").textContent = `width=${page.documentElement.scrollWidth} wide=${wide} line=${line}`;
};</script>"""
"""A page in a frame as wide as a phone, and what a browser measures in it."""


class Reader(HTMLParser):
    """Collects tags, references and the text of the first line."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.first_line = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self._inside |= ("id", "first-line") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "h1"

    def handle_data(self, data: str) -> None:
        self.first_line += data if self._inside else ""


@pytest.fixture(scope="module")
def weeks() -> dict[str, page.Week]:
    return {story: week(story) for story in STORIES}


@pytest.mark.parametrize("story", STORIES)
def test_the_page_leads_with_what_to_do_and_asks_no_other_host(weeks: dict[str, page.Week], story: str) -> None:
    text = page.render(weeks[story])
    read = Reader(text)
    assert read.first_line == weeks[story].first_line.replace("`", "")
    assert not [ref for ref in read.references if ":" in ref or ref.startswith("/")]
    assert not {"script", "link", "iframe", "img", "object"} & set(read.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert read.tags.count("svg") >= 2


def test_first_lines(weeks: dict[str, page.Week]) -> None:
    assert (weeks["calm"].kind, weeks["calm"].first_line) == (
        "calm",
        "Nothing to do: the inputs are within what is usual",
    )
    assert weeks["fault"].kind == "look"
    assert weeks["fault"].first_line.startswith("Look at `wind_mast`: the wind mast has sent nothing")
    assert weeks["approve"].first_line == "Approve version 14: better by 1.8 points, interval 0.9 to 2.6"
    assert weeks["drift"].first_line.startswith("Retrain: `wind_from`, `water_level` and `wind_speed` moved")
    champion = page.Champion(2, iso(60 * 7 + 2), "better by 1.1 points")
    kind, line = page.first_line(weeks["calm"].verdicts, since=iso(60 * 7), champions=[champion])
    assert kind == "calm"
    assert line == "Nothing to do: version 2 is live since 2 March, better by 1.1 points"
    assert page.first_line([], since=iso(0))[0] == "look"


def test_a_standing_veto_comes_before_an_approval(weeks: dict[str, page.Week]) -> None:
    approval = page.Approval(14, 1.8, 0.9, 2.6)
    assert page.first_line(weeks["fault"].verdicts, since=iso(0), approval=approval)[0] == "look"


def test_the_fault_names_the_input_that_went_missing(weeks: dict[str, page.Week]) -> None:
    text = page.render(weeks["fault"])
    assert "missing in 71% of rows, usually 0%" in text
    assert "Mend the source" in text
    assert "changed value: both have a value" in text


def test_hostile_text_stays_text(weeks: dict[str, page.Week]) -> None:
    base = weeks["fault"]
    hostile = msgspec.structs.replace(
        base,
        owner=HOSTILE,
        description=HOSTILE,
        first_line=f"Look at `{HOSTILE}`",
        nights=[page.Night(iso(0), "fault", HOSTILE)],
        quarantine=[page.Quarantined(HOSTILE, iso(0), HOSTILE, 3, f"`{HOSTILE}`")],
        champions=[page.Champion(1, iso(0), HOSTILE)],
        links=[page.Link(HOSTILE, "safe.html")],
    )
    for text in (page.render(hostile), page.render_index([hostile])):
        read = Reader(text)
        assert not {"script", "img"} & set(read.tags)
        assert html.escape("<script>") in text


@pytest.mark.parametrize("href", ["https://a.example/", "//a.example", "javascript:alert(1)", "/etc/passwd", " data:x"])
def test_links_outside_are_refused(weeks: dict[str, page.Week], href: str) -> None:
    with pytest.raises(HeadwayError, match="only to files beside it"):
        page.render(msgspec.structs.replace(weeks["calm"], links=[page.Link("x", href)]))


def test_an_empty_week_still_has_a_page() -> None:
    kind, line = page.first_line([], since="2021-01-04")
    bare = page.Week("m", "o", "d?", "binary", "2021-01-04", "2021-01-10", line, kind, verdicts=[])
    assert Reader(page.render(bare)).first_line == line


def test_errors_are_shown_as_people_say_them(weeks: dict[str, page.Week]) -> None:
    quality = page.Quality(iso(0), "neg_mean_absolute_error", -3.0, -3.5, -2.5, -9.0, 1.0, 10, 1)
    text = page.render(msgspec.structs.replace(weeks["calm"], quality=[quality]))
    assert "Mean absolute error by week; lower is better." in text
    assert "2.50 to 3.50" in text


def test_a_week_without_labels_shows_what_is_expected_of_it_and_how_far_to_trust_that(
    weeks: dict[str, page.Week],
) -> None:
    text = page.render(weeks["calm"])
    wide = text.partition('<svg class="wide"')[2].partition("</svg>")[0]
    assert wide.count('class="guess"') == len(weeks["calm"].quality) == 23
    assert wide.count("<circle") == 22
    assert "20% of the labels of the last week are in; 0.733 is expected of it if the relation still holds." in text
    assert "over the 20 weeks whose labels are in, the estimate was off by 0.0" in text
    assert "nothing is decided by it" in text
    assert '<td class="num" data-head="AUC">not yet</td>' in text


def test_a_slice_below_its_floor_is_told_in_words(weeks: dict[str, page.Week]) -> None:
    told = "<code>spring_tide</code> is at 0.660 (at best 0.680), below its floor of 0.7."
    text = page.render(weeks["calm"])
    assert f'<p class="alert">{told} It has been there for 3 weeks.</p>' in text
    before = msgspec.structs.replace(weeks["calm"], quality=weeks["calm"].quality[:19])
    assert 'class="alert"><code>spring_tide' not in page.render(before)
    assert "within its floor of 0.7" in page.render(before)


def test_calls_are_shown_in_words_and_kept_as_figures(weeks: dict[str, page.Week], tmp_path: Path) -> None:
    served = Health(
        requests=5_000, answered=4_988, refused=0, failed=12, shed=0, p50_ms=2.13, p99_ms=9.8, predictions=10_000,
        degraded=0, canary=0, swaps=1, swaps_refused=0, cpu_seconds=9.0, service_predictions=10_000,
    )  # fmt: skip
    week = msgspec.structs.replace(weeks["calm"], health=served)
    text = page.render(week)
    assert "<dt>Answer time</dt><dd>2.1 ms<small>half are faster; 99 of 100 take at most 9.8 ms</small>" in text
    assert "<dt>Calls that failed</dt><dd>12<small>of 5,000</small>" in text
    assert "<dt>Cost</dt><dd>0.9 s<small>of CPU time for 1,000 predictions, all models</small>" in text
    assert "Answer time" not in page.render(weeks["calm"])
    page.write(week, tmp_path)
    assert page.read(tmp_path)[0].health == served


def test_page_json_and_index_are_written_beside_each_other(weeks: dict[str, page.Week], tmp_path: Path) -> None:
    path = page.write(weeks["calm"], tmp_path)
    assert path.name == f"tide-{weeks['calm'].until}.html"
    assert page.read(tmp_path) == [weeks["calm"]]
    index = Reader((tmp_path / "index.html").read_text())
    assert index.references == [path.name]
    assert "No week has been written yet" in page.render_index([])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found")
@pytest.mark.parametrize("story", ["fault", "drift"])
def test_a_real_browser_draws_it_offline_and_nothing_overflows_a_phone(
    weeks: dict[str, page.Week], story: str, tmp_path: Path
) -> None:
    frame = html.escape(page.render(weeks[story]))
    (tmp_path / "phone.html").write_text(PHONE.replace("FRAME", frame), encoding="utf-8")
    said = re.search(r'<p id="out">(.*?)</p>', _dump(tmp_path / "phone.html", tmp_path / "profile"), re.DOTALL)
    assert said
    line = html.escape(weeks[story].first_line.replace("`", ""), quote=False)
    assert said[1] == f"width=390 wide=0 line={line}"


def _dump(path: Path, profile: Path) -> str:
    """The page's DOM after it was drawn, with a proxy that refuses everything."""
    command = [
        *(CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
        *("--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}", "--virtual-time-budget=5000"),
        *("--dump-dom", path.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
