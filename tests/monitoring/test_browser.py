"""The pages in a real browser: no other host is asked, nothing overflows a phone, the first line is in sight."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from monitoring.page import Listed
from monitoring.render import render, render_index
from tests.monitoring.weeks import week

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STORIES = ("calm", "fault", "drift", "approve")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found")]

PHONE = """<!doctype html><title>phone</title>FRAMES<p id="out"></p><script>
const told = {};
const measure = (frame) => {
  const page = frame.contentDocument, line = page.getElementById("first-line");
  if (!line) return;  // not loaded yet
  told[frame.id] = {
    width: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > 360.5)
      .map(e => e.outerHTML.slice(0, 80)),
    line: line.textContent,
    bottom: line.getBoundingClientRect().bottom,
  };
  document.getElementById("out").textContent = JSON.stringify(told);
};
for (const frame of document.querySelectorAll("iframe")) {
  if (frame.contentDocument.readyState === "complete") measure(frame);
  frame.addEventListener("load", () => measure(frame));
}
</script>"""
"""Pages in frames as wide as a small phone, and what a browser measures in them."""


class Measured(msgspec.Struct):
    width: int
    wide: list[str]
    line: str
    bottom: float


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    weeks = {story: week(story) for story in STORIES}
    listed = [msgspec.json.decode(msgspec.json.encode(each), type=Listed) for each in weeks.values()]
    return {**{story: render(each) for story, each in weeks.items()}, "index": render_index(listed)}


def test_pages_are_whole_on_a_phone_quiet_and_say_at_once_what_to_do(pages: dict[str, str], tmp_path: Path) -> None:
    told, noise = look(pages, tmp_path)
    assert noise == []
    assert set(told) == set(pages)
    for name, found in told.items():
        assert (found.width, found.wide) == (360, []), name
        assert 0 < found.bottom < 640, name
    assert told["fault"].line == week("fault").first_line.replace("`", "")


def test_a_page_that_asks_another_host_or_is_too_wide_is_noticed(pages: dict[str, str], tmp_path: Path) -> None:
    """Else the test above could not fail."""
    asks = pages["calm"].replace("<main>", '<main><img src="http://a.example/x.png">')
    wide = pages["calm"].replace("<main>", '<main><p style="width:400px">x</p>')
    told, noise = look({"asks": asks, "wide": wide}, tmp_path)
    assert any("Content Security Policy" in line for line in noise)
    assert told["wide"].width > 360
    assert len(told["wide"].wide) == 1


def look(pages: dict[str, str], folder: Path) -> tuple[dict[str, Measured], list[str]]:
    """What was measured in each page, and what the console said; all hosts are behind a proxy that is not there."""
    frames = "".join(
        f'<iframe id="{name}" style="width:360px;height:640px;border:0" srcdoc="{html.escape(text)}"></iframe>'
        for name, text in pages.items()
    )
    path = folder / "phone.html"
    path.write_text(PHONE.replace("FRAMES", frames), encoding="utf-8")
    command = [
        *(CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
        *("--proxy-server=127.0.0.1:9", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
        *("--virtual-time-budget=3000", "--dump-dom", path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    said = re.search(r'<p id="out">(.*?)</p>', done.stdout, re.DOTALL)
    assert said, done.stderr
    told = msgspec.json.decode(html.unescape(said[1]), type=dict[str, Measured])
    return told, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
