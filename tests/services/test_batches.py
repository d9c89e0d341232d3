"""Calls that wait together are answered together, and none of them can tell."""

import asyncio
import copy
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from pipelines.home import Home
from services.asked import Answered, Asked
from services.batches import MOST_INSTANCES, Batches
from services.champion import QUICK_INSTANCES, Served
from services.refusals import Refused
from tests.services import world
from tests.services.test_app import PREDICT, service


class Watched:
    """A version that notes how many calls it was asked for at once."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.sizes: list[int] = []

    def answer(self, asked: list[Asked]) -> list[Answered]:
        self.sizes.append(len(asked))
        return self._served.answer(asked)


def champion(client: TestClient) -> Served:
    return service(client).endpoint.champions.served[world.MODEL]


def asked(served: Served, number: int, *instances: dict[str, Any]) -> Asked:
    call = served.schema.parse(msgspec.json.encode(world.call(*instances)))
    return Asked(call, f"{number:032x}", world.NOW)


def together(*calls: tuple[Any, Asked]) -> list[Any]:
    async def all_at_once() -> list[Any]:
        batches = Batches()
        return await asyncio.gather(*(batches.answer(*call) for call in calls), return_exceptions=True)

    return asyncio.run(all_at_once())


def test_a_batch_answers_what_each_call_alone_would_get(client: TestClient) -> None:
    served = champion(client)
    calls = [
        asked(served, 0, world.instance()),
        asked(served, 1, world.instance(tailnum=None), world.instance(origin="JFK", example_id="mine")),
        asked(served, 2, world.instance(dest="ORD", distance=2000)),
        asked(served, 3, world.instance(tailnum="nobody")),
    ]
    watched = Watched(served)
    assert together(*((watched, call) for call in calls)) == [served.answer([call])[0] for call in calls]
    assert watched.sizes == [4]


def test_one_bad_call_fails_alone(client: TestClient) -> None:
    served = champion(client)
    good = [asked(served, number, world.instance(distance=100 + number)) for number in range(3)]
    bad = asked(served, 9, world.instance())
    bad.call.columns["scheduled_departure"][0] = "no instant"  # as if the schema had let it through
    first, refused, second, third = together(*((served, call) for call in (good[0], bad, *good[1:])))
    assert isinstance(refused, Refused) and refused.complaint.code == "not_computable"
    assert [first, second, third] == [served.answer([call])[0] for call in good]


def test_a_batch_is_bounded_and_of_one_version(client: TestClient) -> None:
    one, other = Watched(champion(client)), Watched(champion(client))
    call = asked(champion(client), 1, *[world.instance()] * 10)
    assert MOST_INSTANCES // 10 == 3
    answers = together(*((version, call) for version in (one, other, one, one, one, other)))
    assert answers == champion(client).answer([call]) * 6
    assert (one.sizes, other.sizes) == ([3, 1], [2])


@pytest.mark.parametrize("callers", [1, 40])
def test_who_goes_away_takes_nobody_along(client: TestClient, root: Home, callers: int) -> None:
    served = champion(client)

    async def some_leave() -> list[Any]:
        batches = Batches()
        tasks = [
            asyncio.create_task(batches.answer(served, asked(served, number, world.instance())))
            for number in range(callers)
        ]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    gone, *answers = asyncio.run(some_leave())
    assert isinstance(gone, asyncio.CancelledError)
    assert all(isinstance(answer, Answered) for answer in answers)


@dataclasses.dataclass
class Slow:
    """An estimator that holds its thread until it is told to go on."""

    go_on: threading.Event
    begun: threading.Event

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        self.begun.set()
        assert self.go_on.wait(20)
        return np.full((len(frame), 2), 0.5)


def test_a_slow_version_keeps_nobody_waiting(client: TestClient) -> None:
    champions, quick = service(client).endpoint.champions, champion(client)
    estimator = Slow(threading.Event(), threading.Event())
    slow = dataclasses.replace(quick, packaged=dataclasses.replace(quick.packaged, fast=None, estimator=estimator))
    champions.served = {world.MODEL: slow}
    with ThreadPoolExecutor(1) as callers:
        waits = callers.submit(client.post, PREDICT, json=world.call())
        assert estimator.begun.wait(20)
        champions.served = {world.MODEL: quick}
        assert client.post(PREDICT, json=world.call()).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert not waits.done()
        estimator.go_on.set()
        assert waits.result().json()["predictions"][0]["prediction"] == 0.5


def test_what_may_be_slow_is_left_to_a_thread(client: TestClient) -> None:
    served = champion(client)
    few, many = (asked(served, 1, *[world.instance()] * size).call for size in (QUICK_INSTANCES, QUICK_INSTANCES + 1))
    assert served.quick(few)
    assert not served.quick(many)
    assert not dataclasses.replace(served, packaged=dataclasses.replace(served.packaged, fast=None)).quick(few)
    elsewhere = copy.copy(served.lookup)
    elsewhere.waits = True
    assert not dataclasses.replace(served, lookup=elsewhere).quick(few)
