"""A few hundred of the cases that `benchmarks/fuzz.py` sends by the ten thousand, and the whole of a log under them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from benchmarks.fuzz import Promise, Tally, fuzz, serving
from pipelines.home import Home, settle
from tests.services import world

CASES = 240


@pytest.mark.slow
def test_whatever_is_sent_is_answered_as_the_document_says(both: tuple[Path, str], home: Home) -> None:
    at = Home(both[0])
    settle(at)
    with serving(at) as url:
        tally = fuzz(url, both[1], CASES, first=1)
        secret = "S3CRET"
        bad = world.instance(tailnum=[secret], origin=secret, carrier=7, **{secret: secret})
        for body in (json.dumps({"instances": [bad]}), f'{{"{secret}": {secret}', f'"{secret}'):
            for model in (world.MODEL, secret):
                headers = {"Authorization": f"Bearer {both[1]}", "Content-Type": "application/json", secret: secret}
                answer = requests.post(f"{url}/v1/models/{model}/predict?{secret}", body, headers=headers, timeout=10)
                assert answer.status_code in (400, 404)
        headers = {"Authorization": f"Bearer {secret}"}
        assert requests.get(f"{url}/v1/models/{secret}", headers=headers, timeout=10).status_code == 401
        assert requests.get(f"{url}/{secret}", timeout=10).status_code == 404
    assert tally.wrong == []
    assert CASES * 0.8 <= tally.cases <= CASES * 1.2
    assert set(tally.kinds) == {"valid", "invalid", "hostile"}
    assert {int(status) // 100 for statuses in tally.kinds.values() for status in statuses} == {2, 4}
    said = (at.logs / "fuzzed.log").read_text()
    assert "refus" in said or '"status":400' in said
    assert secret not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("status", "headers", "body", "wrong"),
    [
        (200, {"X-Request-Id": "a"}, b'{"sum": 1}', ""),
        (200, {"X-Request-Id": "a"}, b'{"sum": NaN}', "not of type 'integer'"),
        (200, {"X-Request-Id": "a"}, b'{"sum": "1"}', "not of type 'integer'"),
        (200, {"X-Request-Id": "a"}, b"{", "not JSON"),
        (200, {}, b'{"sum": 1}', "without X-Request-Id"),
        (204, {}, b"", "not documented"),
    ],
)
def test_a_broken_promise_is_noticed(status: int, headers: dict[str, str], body: bytes, wrong: str) -> None:
    sums = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Sum"}}}
    told = {"200": {"headers": {"X-Request-Id": {}}, "content": content}}
    document = {"paths": {"/sum": {"get": {"responses": told}}}, "components": {"schemas": {"Sum": sums}}}
    answer = requests.Response()
    answer.status_code, answer._content = status, body
    answer.headers.update(headers)
    assert wrong in Promise(document).broken("GET", "/sum", answer)
    assert bool(wrong) == bool(Promise(document).broken("GET", "/sum", answer))


def test_a_fault_and_a_hang_are_noticed() -> None:
    tally = Tally()
    tally.add("valid", 200, 0.1, "fine")
    tally.add("valid", 500, 0.1, "broke")
    tally.add("hostile", 200, 9.0, "hung")
    assert [each.split(":")[1] for each in tally.wrong] == [" a fault of the service", " a hang"]
    assert tally.slowest[0] == (9.0, "200 hung")
