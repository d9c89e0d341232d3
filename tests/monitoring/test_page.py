from __future__ import annotations

import html
from html.parser import HTMLParser

import msgspec
import pytest

from features import HeadwayError
from monitoring import page
from monitoring.first_line import first_line, next_step, plain
from monitoring.health import Health
from monitoring.history import Alarms, Champion, Gate, Plan, Training
from monitoring.render import render, render_index
from monitoring.verdict import Fault
from tests.monitoring.weeks import checked, iso, verdict, week

STORIES = ("calm", "fault", "approve", "drift")
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x>"


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
    text = render(weeks[story])
    read = Reader(text)
    assert read.first_line == weeks[story].first_line.replace("`", "")
    assert not [ref for ref in read.references if ":" in ref or ref.startswith("/")]
    assert not {"script", "link", "iframe", "img", "object"} & set(read.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert read.tags.count("svg") >= 2
    assert read.tags.count("desc") == text.count('role="img"') >= 4


def test_first_lines(weeks: dict[str, page.Week]) -> None:
    assert (weeks["calm"].state, weeks["calm"].kind, weeks["calm"].first_line) == (
        "quiet",
        "calm",
        "Nothing to do: the inputs are within what is usual",
    )
    assert weeks["fault"].kind == "look"
    assert weeks["fault"].first_line.startswith("Look at `wind_mast`: the wind mast has sent nothing")
    assert weeks["approve"].first_line == "Approve version 14: better by 1.8 points, interval 0.9 to 2.6"
    assert weeks["drift"].first_line.startswith("Retrain: `wind_from`, `water_level` and `wind_speed` moved")
    champion = Champion(2, iso(60 * 7 + 2), "better by 1.1 points")
    state, line = first_line(weeks["calm"].verdicts, since=iso(60 * 7), champions=[champion])
    assert state == "new version"
    assert line == "Nothing to do: version 2 is live since 2 March, better by 1.1 points"
    assert first_line([], since=iso(0)) == ("missed", "Look at the nights: none has left a verdict this week")


def test_a_standing_veto_comes_before_an_approval(weeks: dict[str, page.Week]) -> None:
    approval = page.Approval(14, 1.8, 0.9, 2.6)
    assert first_line(weeks["fault"].verdicts, since=iso(0), approval=approval)[0] == "fault"


def test_the_first_line_needs_no_statistics() -> None:
    told = "`level`: 18 of 18 rows since 2021-04-04 06:00, such as 30.3, 30.4; level outside 870 to 1085 cannot be"
    assert plain(told) == "`level`: 18 of 18 rows since 4 April 06:00; level outside 870 to 1085 cannot be"
    odd = "`a` moved, odder than in any of the 12 reference weeks (p 0.077)"
    assert plain(odd) == "`a` moved, odder than in any of the 12 reference weeks"
    both = f"{odd}; the labels no longer follow as on the holdout: surprise is up by 0.133 nats (p 0.087)"
    assert plain(both) == f"{plain(odd)}; the labels no longer follow as on the holdout"
    broken = verdict(6, faults=[Fault("gauge", told)])
    line = "Look at `level` from gauge: 18 of 18 rows since 4 April 06:00; level outside 870 to 1085 cannot be"
    assert first_line([broken], since=iso(0)) == ("fault", line.replace("gauge", "`gauge`"))
    gone = verdict(6, faults=[Fault("level", "`level` is missing in 71% of rows, usually 0%")])
    assert first_line([gone], since=iso(0))[1] == "Look at `level`: it is missing in 71% of rows, usually 0%"


def test_a_parity_breach_leads_to_what_serving_sees(weeks: dict[str, page.Week]) -> None:
    breach = verdict(6, parity=checked(equal=False))
    state, line = first_line([breach], since=iso(0))
    assert state == "parity"
    assert line.startswith("Look at what serving sees: serving and training disagree: `water_level` differs in 0.9%")
    week = msgspec.structs.replace(weeks["calm"], verdicts=[breach], state=state, first_line=line)
    assert "the first example is below" in next_step(week)


def test_a_challenger_that_failed_is_told_and_what_kept_it_out(weeks: dict[str, page.Week]) -> None:
    gates = [Gate("latency", True, "fast"), Gate("not worse than the champion", False, "0.70 against 0.75")]
    failed = Training(14, iso(60 * 7 + 6), False, "version 14: 1 of 2 gates failed", gates)
    state, line = first_line(
        weeks["drift"].verdicts, since=iso(60 * 7), champions=weeks["drift"].champions, trainings=[failed]
    )
    assert line == "Look at version 14: it was trained and failed 1 of 2 gates, first not worse than the champion"
    text = render(msgspec.structs.replace(weeks["drift"], state=state, first_line=line, trainings=[failed]))
    assert "Meanwhile version 13 keeps answering. What kept the new one out is below." in text
    assert '<li class="alert">✗ failed: not worse than the champion: 0.70 against 0.75</li>' in text


def test_nights_that_stopped_are_the_first_thing_to_look_at(weeks: dict[str, page.Week]) -> None:
    nights = [page.Night(iso(60 * 7 + i), "quiet" if i < 5 else "missed", "") for i in range(7)]
    told = first_line(weeks["calm"].verdicts[:5], since=iso(60 * 7), nights=nights)
    assert told == ("missed", "Look at the nights: none has run since 4 March")
    assert first_line(weeks["calm"].verdicts, since=iso(60 * 7), nights=nights[:6])[0] == "quiet"


def test_the_budget_of_alarms_and_the_plan_are_in_words(weeks: dict[str, page.Week]) -> None:
    text = render(weeks["calm"])
    assert "<dt>Alarms raised</dt><dd>3<small>in 42 weeks judged since" in text
    assert "<dt>By chance alone</dt><dd>1.9<small>" in text
    assert "<dt>You allowed</dt><dd>8 a year<small>it can reach 6.9, resting on 52 weeks behind the model" in text
    assert "Without an alarm the calendar retrains it on 1 April, when it is 56 days old." in text
    assert "an alarm would not retrain it: the last training was on 2 March." in text
    assert "More alarms in a year" not in text
    many = Alarms(iso(0), 50, 9, 1.9, 8.0, 6.9, 52)
    assert "More alarms in a year than you allowed" in render(msgspec.structs.replace(weeks["calm"], alarms=many))
    asked = Plan(1, 3, 56, iso(70), iso(7), "week", confirm=(2, 3), approval=True).sentences
    assert "An alarm counts when 2 of the last 3 weeks raised one." in asked
    assert asked[-1] == "A version that passes its gates waits for your `headway approve`."


def test_alerts_that_reached_nobody_are_in_sight(weeks: dict[str, page.Week]) -> None:
    assert "could not be sent" not in render(weeks["calm"])
    unsent = page.Unsent(iso(60 * 7 + 2) + "T05:00:00+00:00", "mail", "Look at `gauge`", "connection refused")
    text = render(msgspec.structs.replace(weeks["calm"], unsent=[unsent]))
    assert "Alerts that could not be sent" in text
    assert "connection refused" in text


def test_the_fault_names_the_input_that_went_missing(weeks: dict[str, page.Week]) -> None:
    text = render(weeks["fault"])
    assert "missing in 71% of rows, usually 0%" in text
    assert "Mend the source" in text
    assert "changed value: both have a value" in text


def test_a_fault_that_mended_itself_leaves_nothing_to_mend(weeks: dict[str, page.Week]) -> None:
    def told(stands: bool) -> str:
        kept = page.Quarantined("wind_mast", iso(0), page.STOPPED, 18, "gone", stands, "headway quarantine show")
        other = page.Quarantined("wind_mast", iso(0), "rows set aside", 1, "odd", True, "headway quarantine list")
        return next_step(msgspec.structs.replace(weeks["fault"], quarantine=[other, kept]))

    assert told(True) == (
        "Mend the source. Until then nothing is retrained, and version 13 keeps answering. "
        "`headway quarantine show` shows what is held."
    )
    assert told(False).startswith("The source has sent good data since: there is nothing to mend.")


def test_hostile_text_stays_text(weeks: dict[str, page.Week]) -> None:
    base = weeks["fault"]
    hostile = msgspec.structs.replace(
        base,
        owner=HOSTILE,
        description=HOSTILE,
        first_line=f"Look at `{HOSTILE}`",
        nights=[page.Night(iso(0), "fault", HOSTILE)],
        quarantine=[page.Quarantined(HOSTILE, iso(0), HOSTILE, 3, f"`{HOSTILE}`")],
        champions=[Champion(1, iso(0), HOSTILE)],
        unsent=[page.Unsent(iso(0), HOSTILE, HOSTILE, HOSTILE)],
        trainings=[Training(2, iso(0), False, HOSTILE, [Gate(HOSTILE, False, HOSTILE)])],
        held=HOSTILE,
        links=[page.Link(HOSTILE, "safe.html")],
    )
    listed = msgspec.json.decode(msgspec.json.encode(hostile), type=page.Listed)
    for text in (render(hostile), render_index([listed])):
        read = Reader(text)
        assert not {"script", "img"} & set(read.tags)
        assert html.escape("<script>") in text


@pytest.mark.parametrize("href", ["https://a.example/", "//a.example", "javascript:alert(1)", "/etc/passwd", " data:x"])
def test_links_outside_are_refused(weeks: dict[str, page.Week], href: str) -> None:
    with pytest.raises(HeadwayError, match="only to files beside it"):
        render(msgspec.structs.replace(weeks["calm"], links=[page.Link("x", href)]))


def test_an_empty_week_still_has_a_page() -> None:
    state, line = first_line([], since="2021-01-04")
    bare = page.Week("m", "o", "d?", "binary", "2021-01-04", "2021-01-10", line, state, verdicts=[])
    assert Reader(render(bare)).first_line == line


def test_a_slice_below_its_floor_is_said_at_the_top_of_a_quiet_page(weeks: dict[str, page.Week]) -> None:
    assert next_step(weeks["calm"]) == (
        "One thing to know: `spring_tide` is at 0.660 (at best 0.680), below its floor of 0.7, for 3 weeks now. "
        "It is no reason to retrain by itself."
    )
    before = msgspec.structs.replace(weeks["calm"], quality=weeks["calm"].quality[:19])
    assert next_step(before) == ""
    assert "Mend the source" in next_step(weeks["fault"])


def test_what_a_replay_says_of_the_policy_is_told(weeks: dict[str, page.Week]) -> None:
    said = page.Opinion("2021-01-04", "2021-12-27", "keep it: none of 6 is distinguishable from it")
    text = render(msgspec.structs.replace(weeks["calm"], opinion=said))
    assert "from 4 January 2021 to 27 December 2021: Keep it: none of 6 is distinguishable from it." in text


def test_errors_are_shown_as_people_say_them(weeks: dict[str, page.Week]) -> None:
    quality = page.Quality(iso(0), "neg_mean_absolute_error", -3.0, -3.5, -2.5, -9.0, 1.0, 10, 1)
    text = render(msgspec.structs.replace(weeks["calm"], quality=[quality]))
    assert "Mean absolute error by week; lower is better." in text
    assert "2.50 to 3.50" in text


def test_a_week_without_labels_shows_what_is_expected_of_it_and_how_far_to_trust_that(
    weeks: dict[str, page.Week],
) -> None:
    text = render(weeks["calm"])
    wide = text.partition('<svg class="wide"')[2].partition("</svg>")[0]
    assert wide.count('class="guess"') == len(weeks["calm"].quality) == 23
    assert wide.count("<circle") == 22
    assert "20% of the labels of the last week are in; 0.733 is expected of it if the relation still holds." in text
    assert "over the 20 weeks whose labels are in, the estimate was off by 0.0" in text
    assert "nothing is decided by it" in text
    assert '<td class="num" data-head="AUC">not yet</td>' in text


def test_a_slice_below_its_floor_is_told_in_words(weeks: dict[str, page.Week]) -> None:
    told = "<code>spring_tide</code> is at 0.660 (at best 0.680), below its floor of 0.7."
    text = render(weeks["calm"])
    assert f'<p class="alert">{told} It has been there for 3 weeks.</p>' in text
    before = msgspec.structs.replace(weeks["calm"], quality=weeks["calm"].quality[:19])
    assert 'class="alert"><code>spring_tide' not in render(before)
    assert "within its floor of 0.7" in render(before)


def test_calls_are_shown_in_words(weeks: dict[str, page.Week]) -> None:
    served = Health(
        requests=5_000, answered=4_988, refused=0, failed=12, shed=0, p50_ms=2.13, p99_ms=9.8, predictions=10_000,
        degraded=0, canary=0, swaps=1, swaps_refused=0, cpu_seconds=9.0, service_predictions=10_000,
    )  # fmt: skip
    week = msgspec.structs.replace(weeks["calm"], health=served)
    text = render(week)
    assert "<dt>Answer time</dt><dd>2.1 ms<small>half are faster; 99 of 100 take at most 9.8 ms</small>" in text
    assert "<dt>Calls that failed</dt><dd>12<small>of 5,000</small>" in text
    assert "<dt>Cost</dt><dd>0.9 s<small>of CPU time for 1,000 predictions, all models</small>" in text
    assert "Answer time" not in render(weeks["calm"])


@pytest.mark.parametrize("story", STORIES)
def test_page_and_json_say_the_same(weeks: dict[str, page.Week], story: str) -> None:
    """The page is drawn from what is in its JSON, and from nothing else; the index from part of that."""
    week = weeks[story]
    stored = msgspec.json.encode(week)
    assert render(msgspec.json.decode(stored, type=page.Week)) == render(week)
    listed = msgspec.json.decode(stored, type=page.Listed)
    assert (listed.name, listed.kind, listed.state) == (week.name, week.kind, week.state)


def test_the_index_lists_weeks_newest_first_each_with_its_state_in_a_word(weeks: dict[str, page.Week]) -> None:
    def listed(story: str, **changes: str) -> page.Listed:
        week = msgspec.structs.replace(weeks[story], **changes)
        return msgspec.json.decode(msgspec.json.encode(week), type=page.Listed)

    older = listed("fault", until=iso(60 * 7 - 1), since=iso(60 * 7 - 7))
    text = render_index([older, listed("approve", model="wave"), listed("calm")])
    until = weeks["calm"].until
    assert Reader(text).references == [f"tide-{until}.html", f"wave-{until}.html", f"tide-{older.until}.html"]
    assert [text.index(f">{word}</span>") for word in ("quiet", "approve", "fault")] == sorted(
        text.index(f">{word}</span>") for word in ("quiet", "approve", "fault")
    )
    assert '<span class="state look">fault</span>' in text
    assert "No week has been written yet" in render_index([])
