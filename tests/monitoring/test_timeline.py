"""The time line: every reign and mark of the year has its place, and is told in words, too."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.history import Champion, Mark, Occasion
from monitoring.timeline import timeline
from tests.monitoring.worlds import iso

TODAY = 1000
DAYS = st.integers(0, TODAY)
OCCASIONS: list[Occasion] = ["trained", "alarm", "veto"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(DAYS, min_size=1, max_size=30, unique=True).map(sorted),
    st.lists(st.tuples(DAYS, st.sampled_from(OCCASIONS)), max_size=60),
    st.sampled_from([340, 720]),
)
def test_reigns_follow_each_other_and_nothing_lies_outside(
    starts: list[int], happened: list[tuple[int, Occasion]], width: int
) -> None:
    champions = [Champion(n, iso(day), "a reason") for n, day in enumerate(starts, start=1)]
    found = timeline(champions, [Mark(iso(day), what, "told") for day, what in happened], iso(TODAY), None, width)
    begins = max(starts[0], TODAY - 365)
    assert len(found.reigns) == sum(end > begins for end in [*starts[1:], TODAY + 1])
    edges = [edge for reign in found.reigns for edge in (reign.x, reign.x + reign.width)]
    shown = [(day, what) for day, what in happened if day >= begins]
    assert sum(len(row.marks) for row in found.rows) == len(shown)
    assert {row.name for row in found.rows} == {what for _, what in shown}
    places = edges + [x for row in found.rows for x, _ in row.marks] + [x for x, _ in found.dates]
    assert all(found.left <= x <= width for x in places)
    assert [reign.x for reign in found.reigns] == sorted(reign.x for reign in found.reigns)
    assert found.told.startswith(f"version {len(starts)} is in charge since")


def test_a_reign_is_as_wide_as_it_is_long_and_the_calendar_lies_ahead() -> None:
    champions = [Champion(1, iso(0), "first"), Champion(2, iso(60), "`a` moved"), Champion(3, iso(80), "age")]
    found = timeline(champions, [Mark(iso(60), "alarm", "Retrain: `a` moved")], iso(100), iso(136), 720)
    first, second, live = found.reigns
    assert round(first.width / second.width) == 3
    assert [each.label for each in found.reigns] == ["version 1", "version 2", "version 3"]
    assert "`" not in second.title
    assert live.x < found.today < found.due  # type: ignore[operator]
    (alarms,) = found.rows
    assert alarms.marks == [(second.x, "5 March: Retrain: a moved")]
    assert found.told == "version 3 is in charge since 25 March; alarm: 1; the calendar retrains it on 20 May"
