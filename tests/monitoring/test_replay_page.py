"""The page of a replay: it says what to choose, draws each policy, and escapes what it was given."""

from __future__ import annotations

import math
import re
from datetime import date, timedelta

import msgspec
import pytest

from monitoring import replay_page
from monitoring.replayed import Advice, Interval, Outcome, Replayed, Staleness

WEEKS = [(date(2013, 4, 1) + timedelta(days=7 * number)).isoformat() for number in range(12)]


def outcome(policy: str, level: float, trained: int = 0, **more: object) -> Outcome:
    series = [level + 0.02 * math.sin(place) for place in range(len(WEEKS))]
    return Outcome(
        policy=policy, quality=Interval(level, level - 0.01, level + 0.01), retrainings=trained, promotions=trained,
        refused=0, vetoes=0, seconds=12.0, series=series, trained=WEEKS[1 : trained + 1], **more,
    )  # type: ignore[arg-type]  # fmt: skip


REPLAYED = Replayed(
    model="taxi", owner="desk@example.org", metric="roc_auc", since="2013-04-01", until="2013-06-24", windows=WEEKS,
    word="week", current="current", always="weekly", choice="drift or age > 8w",
    sentence="Choose `drift or age > 8w`: it keeps 88% of the gain of `weekly` with 3 retrainings in place of 11",
    notes=["`quality` is not shown to beat as many retrainings (1) at random nights"],
    outcomes=[
        outcome("weekly", 0.70, 11, gain_kept=1.0, against_current=Interval(0.001, -0.002, 0.004)),
        outcome("drift or age > 8w", 0.698, 3, alarms=3, false_alarms=1, alarmed=WEEKS[1:4], gain_kept=0.88),
        outcome("current", 0.699, 4, alarms=3, false_alarms=0, alarmed=WEEKS[2:5]),
        outcome("never", 0.66, 0, gain_kept=0.0, days_degraded=42),
        outcome("random 3 seed 0", 0.69, 3, dummy=True),
        outcome("random 3 seed 1", 0.68, 3, dummy=True),
        outcome("fixed 3", 0.695, 3, dummy=True),
    ],
    advice=Advice(
        policy="drift or age > 8w", staleness=[Staleness(4, Interval(0.011, 0.004, 0.02), 8)], windows_needed=8,
        windows_behind=12, false_alarms_per_year=1.5, allowed_per_year=4.0, sentences=["Verdicts need 8 weeks"],
    ),
)  # fmt: skip


def test_the_first_line_is_the_sentence_and_the_table_has_every_policy() -> None:
    page = replay_page.render(REPLAYED)
    assert re.search(r'<h1 id="first-line">Choose <code>drift or age &gt; 8w</code>: it keeps 88%', page)
    for each in REPLAYED.outcomes[:4]:
        assert f"<span>{each.policy.replace('>', '&gt;')}</span>" in page
    assert "3 at random, mean of 2 draws" in page
    assert "0.6850" in page  # of the two draws
    assert "3 alarms (1 false)" in page
    assert "<td>4 weeks</td>" in page


def test_it_is_self_contained() -> None:
    page = replay_page.render(REPLAYED)
    assert not re.search(r'(?:src|href)="(?!index\.html|replay-taxi-2013-06-24\.json)', page)
    assert "<script" not in page


def test_a_name_is_escaped() -> None:
    hostile = msgspec.structs.replace(REPLAYED, owner="<img src=x onerror=alert(1)>")
    assert "<img" not in replay_page.render(hostile)


def test_each_line_is_drawn_within_its_picture_and_the_chosen_one_on_top() -> None:
    found = replay_page.lines(REPLAYED, REPLAYED.outcomes[:4], 720, 250)
    assert [line.kind for line in found.lines] == ["other", "never", "current", "chosen"]
    for line in found.lines:
        points = [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d.]+ [\d.]+)", line.path)]
        assert len(points) == len(WEEKS)
        assert all(46 <= x <= 720 and 0 <= y <= 250 for x, y in points)


def test_marks_stand_where_the_nights_were() -> None:
    picture = replay_page.course(REPLAYED, REPLAYED.outcomes[1], REPLAYED.outcomes[3], 430)
    places = [x for x, _ in picture.trained]
    step = (430 - 8) / len(WEEKS)
    assert places == pytest.approx([4 + step * number for number in (1, 2, 3)], abs=0.1)
    assert picture.trained[0][1] == "8 Apr"


def test_an_error_is_shown_with_its_sign_turned() -> None:
    worse = msgspec.structs.replace(REPLAYED, metric="neg_mean_absolute_error")
    assert worse.shown(-18.25) == "18.2500"
    assert "lower is better" in replay_page.render(worse)


def test_its_json_is_read_again() -> None:
    assert msgspec.json.decode(msgspec.json.encode(REPLAYED), type=Replayed) == REPLAYED
