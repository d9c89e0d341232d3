"""Whatever is sent, the service answers: soon, in JSON, as its OpenAPI document says, never with a fault of its own.

    python -m benchmarks.fuzz                  10,000 cases against a service of its own, in about five minutes
    python -m benchmarks.fuzz --cases 1000 --seed 7

Three kinds of cases go over HTTP to uvicorn, one at a time, with a key:

    valid      requests that schemathesis makes from the document: they must be taken
    invalid    requests that schemathesis spoils, field by field: they must be refused
    hostile    bytes that hypothesis makes from good requests: cut, repeated, spliced, with numbers, names, nesting and
               encodings that parsers trip over; and wrong content types, keys and lengths

Each answer has to come within five seconds, below 500, with the headers and the body that the document has for its
status; answers to what schemathesis made also have to pass its own checks. What does not is printed with the bytes
that brought it about, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from pipelines.home import PROJECT, Home, environment, settle
from services import keys

SECONDS = 5.0
"""An answer that takes longer counts as a hang."""
SLOWEST, SHOWN = 5, 10
JSON = "application/json"


# -- what an answer must be --------------------------------------------------------------------------------------------


class Promise:
    """What a document promises of answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def broken(self, method: str, path: str, answer: requests.Response) -> str:
        """How an answer to a documented path breaks it; "" when it does not."""
        told = self._document["paths"][path][method.lower()]["responses"].get(str(answer.status_code))
        if told is None:
            return f"{answer.status_code} is not documented"
        if lacking := [name for name in told["headers"] if name not in answer.headers]:
            return f"{answer.status_code} without {', '.join(lacking)}"
        try:
            value = json.loads(answer.content, parse_constant=lambda name: f"{name}, which is not JSON")
        except ValueError:
            return "the answer is not JSON"
        schema = told["content"][JSON]["schema"]
        error = next(self._validator(schema["$ref"]).iter_errors(value), None)
        return f"{answer.status_code}: {error.json_path}: {error.message}" if error else ""

    def _validator(self, reference: str) -> jsonschema.Draft202012Validator:
        if reference not in self._validators:
            schema = {"$ref": reference, "components": self._document["components"]}
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            self._validators[reference] = jsonschema.Draft202012Validator(schema, format_checker=checker)
        return self._validators[reference]


@dataclass
class Tally:
    """What came back."""

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(sum(statuses.values()) for statuses in self.kinds.values())

    def add(self, kind: str, status: int | str, took: float, what: str, wrong: str = "") -> None:
        """One case: `what` tells what was sent."""
        self.kinds.setdefault(kind, Counter())[str(status)] += 1
        self.slowest = sorted([*self.slowest, (took, f"{status} {what}")], reverse=True)[:SLOWEST]
        if took > SECONDS:
            wrong = wrong or "a hang"
        if not wrong and isinstance(status, int) and status >= 500:
            wrong = "a fault of the service"
        if wrong:
            self.wrong.append(f"{kind}: {wrong}: {what}")


# -- what is sent ------------------------------------------------------------------------------------------------------


TRICKS = [
    b"NaN", b"-Infinity", b"1e999", b"-0.0", b"1e-400", b"9" * 400, b"0x10", b"01", b"+1", b"1.", b"7.0", b"5e-324",
    b"18446744073709551616", b"-9223372036854775809", b"null", b"true", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"',
    b'"\xff"', b'"\xed\xa0\x80"', b'"\xf0\x9f\x92\xa9"', b'"A\\nB"', b'"' + b"x" * 5000 + b'"',
    b'"9999-12-31T23:59:59Z"',
    b'"0001-01-01T00:00:00+23:59"', b'"2016-12-31T23:59:60Z"', b"[" * 2000, b'{"a":' * 2000, b"[" * 300 + b"]" * 300,
    b'"__proto__"', b'"$ref"', b"/*x*/1", b"'a'", b"1,", b"1 2", b"\xef\xbb\xbf1",
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {}, {}, {}, {}, {},
    {"Content-Type": "application/json; charset=utf-8"}, {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": ""},
    {"Content-Encoding": "gzip"}, {"Authorization": "Bearer "}, {"Authorization": "Basic eDp5"},
    {"Authorization": "Bearer " + "x" * 4000}, {"X-API-Key": "hw_x", "Authorization": ""},
    {"Expect": "100-continue"}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Request-Id": "mine\tand yours"},
]  # fmt: skip


@st.composite
def hostile(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """A good body with a few things done to it."""
    body = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 3))):
        body = draw(st.sampled_from(SPOILERS))(draw, body)
    return body


def _cut(draw: st.DrawFn, body: bytes) -> bytes:
    first = draw(st.integers(0, len(body)))
    return body[:first] + body[draw(st.integers(first, len(body))) :]


def _splice(draw: st.DrawFn, body: bytes) -> bytes:
    at = draw(st.integers(0, len(body)))
    return body[:at] + draw(st.sampled_from(TRICKS) | st.binary(max_size=8)) + body[at:]


def _value(draw: st.DrawFn, body: bytes) -> bytes:
    """Another value after some colon or in some list."""
    places = [at for at, byte in enumerate(body) if byte in b":["]
    if not places:
        return body
    at = draw(st.sampled_from(places)) + 1
    end = min((body.find(mark, at) for mark in (b",", b"}", b"]") if body.find(mark, at) >= 0), default=len(body))
    return body[:at] + draw(st.sampled_from(TRICKS)) + body[end:]


def _repeat(draw: st.DrawFn, body: bytes) -> bytes:
    first = draw(st.integers(0, len(body)))
    part = body[first : draw(st.integers(first, len(body)))]
    return body[:first] + part * draw(st.sampled_from([2, 3, 200])) + body[first:]


def _encode(draw: st.DrawFn, body: bytes) -> bytes:
    text = body.decode("utf-8", "replace")
    return text.encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"])), "replace")


SPOILERS: list[Callable[[st.DrawFn, bytes], bytes]] = [_cut, _splice, _value, _value, _value, _repeat, _encode]


# -- sending it --------------------------------------------------------------------------------------------------------


def fuzz(url: str, key: str, cases: int, first: int) -> Tally:
    """Send about so many cases to a service that serves some model, from the seed `first` on."""
    tally = Tally()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"
        document = session.get(f"{url}/v1/openapi.json", timeout=10).json()
        operations = [(path, method) for path, methods in document["paths"].items() for method in methods]
        bodies = [each for each in operations if "requestBody" in document["paths"][each[0]][each[1]]]
        shares = [(each, 0.6 / len(bodies)) for each in bodies]
        # What takes no body has little to get wrong.
        shares += [(each, 0.1 / len(operations)) for each in operations if each not in bodies]
        schema = schemathesis.openapi.from_dict(document)
        for (path, method), share in shares:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                send = _made(schema[path][method.upper()], mode, url, session, tally, Promise(document))
                _run(send, round(cases * share / 2), first)
        for path, method in bodies:
            send = _raw(document, path, method, url, session, tally)
            _run(send, (cases - tally.cases) // (len(bodies) - bodies.index((path, method))), first)
    return tally


def _made(operation: Any, mode: GenerationMode, url: str, session: Any, tally: Tally, promise: Promise) -> Any:
    kind = {GenerationMode.POSITIVE: "valid", GenerationMode.NEGATIVE: "invalid"}[mode]

    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        answer, wrong = case.call(base_url=url, session=session, timeout=6 * SECONDS), ""
        try:
            case.validate_response(answer)
        except (Exception, BaseExceptionGroup) as error:
            failures = getattr(error, "exceptions", [error])
            wrong = "; ".join(" ".join(str(each).split())[:300] for each in failures)
        wrong = _broken(promise, operation, answer) or wrong
        body = answer.request.body or b""
        what = f"{operation.label} {case.path_parameters or ''} {body[:300]!r} -> {answer.content[:200]!r}"
        tally.add(kind, answer.status_code, answer.elapsed, what, wrong)

    return send


def _broken(promise: Promise, operation: Any, answer: Any) -> str:
    """As `Promise.broken`, of an answer as schemathesis has it."""
    plain = requests.Response()
    plain.status_code, plain._content = answer.status_code, answer.content
    plain.headers.update({name: values[0] for name, values in answer.headers.items()})
    return promise.broken(operation.method, operation.path, plain)


def _raw(document: dict[str, Any], path: str, method: str, url: str, session: Any, tally: Tally) -> Any:
    promise = Promise(document)
    content = document["paths"][path][method]["requestBody"]["content"][JSON]
    good = [json.dumps(content["example"], indent=indent).encode() for indent in (None, 1)]

    @given(body=hostile(good), headers=st.sampled_from(HEADERS))
    def send(body: bytes, headers: dict[str, str]) -> None:
        what, began = f"{headers or ''} {len(body)} bytes {body[:300]!r}", time.perf_counter()
        target = url + path.format(model="x")
        try:
            answer = session.request(
                method, target, data=body, headers={"Content-Type": JSON, **headers}, timeout=6 * SECONDS
            )
        except requests.RequestException as error:
            tally.add("hostile", "none", time.perf_counter() - began, what, f"no answer: {type(error).__name__}")
            return
        took, wrong = time.perf_counter() - began, promise.broken(method, path, answer)
        tally.add("hostile", answer.status_code, took, f"{what} -> {answer.content[:200]!r}", wrong)

    return send


def _run(send: Callable[[], None], cases: int, first: int) -> None:
    quiet = settings(
        max_examples=max(cases, 1), database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate], derandomize=False,
    )  # fmt: skip
    seed(first)(quiet(send))()


# -- the service -------------------------------------------------------------------------------------------------------


@contextmanager
def serving(at: Home) -> Iterator[str]:
    """The service over a root, in a process of its own: its URL, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = ["-m", "uvicorn", "--factory", "services.app:create_app", "--no-access-log", "--port", port]
    with (at.logs / "fuzzed.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=PROJECT, env=environment(at), stdout=log, stderr=log)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((at.logs / "fuzzed.log").read_text())
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return bool(requests.get(f"{url}/v1/openapi.json", timeout=5).json()["paths"])
    except requests.RequestException:
        return False


def prepared(root: Path) -> tuple[Home, str]:
    """A root that serves both models, and a key."""
    from tests.services import world

    at = Home(root)
    settle(at)
    world.materialized(at)
    one = world.packaged(at, 1)
    world.crowned(at, one, 1)
    world.crowned(at, world.valued(at, one), 1, key="the other's")
    return at, keys.make(at.keys, "fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given_ = parser.parse_args()
    os.environ.update(environment(Home(Path(tempfile.gettempdir())), {}))
    with tempfile.TemporaryDirectory() as folder:
        at, key = prepared(Path(folder))
        with serving(at) as url:
            began = time.perf_counter()
            tally = fuzz(url, key, given_.cases, given_.seed)
            took = time.perf_counter() - began
        said = (at.logs / "fuzzed.log").read_text()
    for kind, statuses in tally.kinds.items():
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        print(f"{kind:8} {sum(statuses.values()):6}   {counts}")
    print(f"{'all':8} {tally.cases:6}   in {took:.0f} s, seed {given_.seed}")
    print("slowest:", *(f"{seconds * 1000:7.1f} ms  {what[:200]}" for seconds, what in tally.slowest), sep="\n")
    if "Traceback" in said:
        tally.wrong.append("the service wrote a traceback")
    print(f"wrong: {len(tally.wrong)}", *tally.wrong[:SHOWN], sep="\n")
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main())
