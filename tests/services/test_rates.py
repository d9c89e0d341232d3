"""The limit lets through what it says: by the algorithm on a clock of our own, and by processes that take at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import HeadwayError
from pipelines.home import PROJECT
from services.keys import Key
from services.rates import SECOND, Rate, Rates, admit, parse
from services.refusals import Refused

TAKER = """
import sys, time
from pathlib import Path
from services.keys import Key
from services.rates import Rates, parse
from services.refusals import Refused

read = [0]
def clock():
    read[0] = time.monotonic_ns()
    return read[0]

key = Key("app", "0" * 64, rate=parse("500/s", 100), slot=3)
rates, refused = Rates(Path(sys.argv[1]), None, clock), 0
print("ready", flush=True)
until = int(sys.stdin.readline())
while read[0] < until:
    try:
        rates.take(*key.account)
        print(read[0], flush=True)
    except Refused:
        refused = read[0]
"""


def key(rate: Rate | None = None, slot: int = 1) -> Key:
    return Key("app", "0" * 64, rate=rate, slot=slot)


def through(rates: Rates, times: int, who: Key | None) -> int:
    count = 0
    for _ in range(times):
        try:
            rates.take(*(who.account if who else ()))
            count += 1
        except Refused as refused:
            if refused.status != 429:
                raise
    return count


rate_of = st.builds(Rate, calls=st.integers(1, 1000), seconds=st.sampled_from([1, 60]), burst=st.integers(1, 50))


@given(rate_of, st.lists(st.integers(0, 2 * SECOND), min_size=1, max_size=200), st.integers(0, 10**15))
def test_never_more_than_the_burst_and_the_rate_in_any_span_and_never_a_needless_refusal(
    rate: Rate, gaps: list[int], now: int
) -> None:
    arrival, admitted = 0, []
    for gap in gaps:
        now += gap
        arrival, wait = admit(arrival, now, rate)
        if wait:
            # It could have waited exactly so long, and not a nanosecond less.
            assert admit(arrival, now + wait, rate)[1] == 0
            assert admit(arrival, now + wait - 1, rate)[1] == 1
        else:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            span = admitted[last] - admitted[first]
            assert last - first + 1 <= rate.burst + span // rate.interval


@given(rate_of)
def test_a_caller_who_always_asks_gets_all_of_it(rate: Rate) -> None:
    now, arrival, calls = 5 * SECOND, 0, 0
    while calls < rate.burst + 20:
        arrival, wait = admit(arrival, now, rate)
        now, calls = now + wait, calls + (wait == 0)
    assert now - 5 * SECOND == 20 * rate.interval


def test_a_time_from_before_the_machine_restarted_keeps_nobody_out() -> None:
    assert admit(10**18, 1000, parse("1/min"))[1] == 0


def test_keys_are_counted_apart_and_where_there_is_no_rate_not_at_all(tmp_path: Path) -> None:
    rates = Rates(tmp_path / "rates", parse("3/min"), clock=lambda: 7)
    assert through(rates, 10, key(parse("5/min"), slot=1)) == 5
    assert through(rates, 10, key(parse("60/min", 2), slot=2)) == 2
    assert through(rates, 10, key(slot=3)) == 3
    assert through(rates, 10, None) == 3
    assert (tmp_path / "rates").stat().st_mode & 0o777 == 0o600
    assert through(Rates(tmp_path / "no", None), 10, key(slot=3)) == 10
    assert not (tmp_path / "no").exists()


def test_a_refusal_says_when_to_come_back(tmp_path: Path) -> None:
    now = [SECOND]
    rates = Rates(tmp_path / "rates", parse("30/min", 1), clock=lambda: now[0])
    rates.take()
    now[0] += SECOND // 2
    with pytest.raises(Refused) as caught:
        rates.take()
    assert caught.value.headers == {"Retry-After": "2"}
    assert "30/min" in caught.value.complaint.message
    assert "1500 ms" in caught.value.complaint.message
    now[0] += 1_500_000_000
    rates.take()


def test_what_was_counted_outlives_the_worker(tmp_path: Path) -> None:
    first = Rates(tmp_path / "rates", parse("5/min"), clock=lambda: 7)
    assert through(first, 3, None) == 3
    first.close()
    assert through(Rates(tmp_path / "rates", parse("5/min"), clock=lambda: 7), 9, None) == 2


def test_a_limit_that_cannot_be_counted_lets_nobody_through(tmp_path: Path) -> None:
    (tmp_path / "rates").mkdir()
    with pytest.raises(Refused) as caught:
        Rates(tmp_path / "rates", parse("5/s")).take()
    assert (caught.value.status, caught.value.complaint.code) == (503, "rates_unusable")


def test_a_file_cut_short_under_the_worker_starts_anew(tmp_path: Path) -> None:
    rates = Rates(tmp_path / "rates", parse("1/min"), clock=lambda: 7)
    assert through(rates, 5, key(slot=500)) == 1
    os.truncate(tmp_path / "rates", 0)
    assert through(rates, 5, key(slot=500)) == 1


def taker(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )


def test_processes_that_take_at_once_get_the_rate_and_the_burst_together_though_one_is_killed(tmp_path: Path) -> None:
    rate = parse("500/s", 100)
    takers = [taker(tmp_path / "rates") for _ in range(4)]
    for process in takers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    until = time.monotonic_ns() + SECOND
    for process in takers:
        assert process.stdin is not None
        process.stdin.write(f"{until}\n")
        process.stdin.flush()
    while time.monotonic_ns() < until - SECOND // 2:
        time.sleep(0.01)
    takers[0].kill()
    taken = sorted(int(line) for process in takers for line in process.communicate()[0].splitlines())
    assert [process.returncode for process in takers] == [-signal.SIGKILL, 0, 0, 0]
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken)):
            assert last - first + 1 <= rate.burst + (taken[last] - taken[first]) // rate.interval
    # The one that was killed may have taken one call more than it could tell, and the last may lie an interval back.
    assert len(taken) >= rate.burst + (until - taken[0]) // rate.interval - 2


@pytest.mark.parametrize("text", ["", "fast", "0/s", "5", "5/h", "-1/s", "1.5/s", "2000000/s", "5/s ", "٣/s"])
def test_what_is_not_a_rate_is_told_what_one_looks_like(text: str) -> None:
    with pytest.raises(HeadwayError, match="100/s or 600/min"):
        parse(text)


def test_a_burst_is_at_least_one_call() -> None:
    assert (str(parse("600/min")), str(parse("100/s", 7))) == ("600/min, burst 600", "100/s, burst 7")
    for burst in (0, -1, 1_000_001):
        with pytest.raises(HeadwayError, match="burst"):
            parse("5/s", burst)
