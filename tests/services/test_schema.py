import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations import Rule
from features import HeadwayError
from services.refusals import Refused
from services.rules import compiles, constrain
from services.schema import MAX_INSTANCES, RequestSchema

BETWEEN, IN_SET, MATCH, NOT_NULL = (
    f"expect_column_values_to_{kind}" for kind in ("be_between", "be_in_set", "match_regex", "not_be_null")
)


def rule(expect: str, **args: Any) -> Rule:
    return Rule(expect=expect, severity="warning", why="because", args={"column": "x", **args})


RULES = (
    rule(IN_SET, column="shop", value_set=["north", "south"]),
    rule(MATCH, column="code", regex="^[A-Z]{3}$"),
    rule(NOT_NULL, column="shop"),
    rule(BETWEEN, column="amount", min_value=0, max_value=100, strict_max=True),
)
SCHEMA = RequestSchema(
    "some_model",
    {"shop": "str", "code": "str", "number": "int"},
    {"amount": "float", "at": "timestamp", "class": "bool"},
    rules=RULES,
    required=("number",),
    clock=True,
)
GOOD = {"shop": "north", "code": "ABC", "number": 7, "amount": 1.5, "at": "2020-01-01T01:00:00+01:00", "class": True}


def body(*changes: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"instances": [GOOD | change for change in changes or [{}]], **more}).encode()


def refused(raw: bytes) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        SCHEMA.parse(raw)
    assert caught.value.status == 400
    return caught.value.complaint.path, caught.value.complaint.message


def test_a_good_body_comes_out_by_column_with_instants_in_utc() -> None:
    call = SCHEMA.parse(body({"example_id": "a"}, {"code": None, "amount": 2}, as_of="2020-01-02T00:00:00Z"))
    assert len(call) == 2
    assert call.example_ids == ["a", None]
    assert call.columns["code"] == ["ABC", None]
    assert call.columns["at"] == [datetime(2020, 1, 1, tzinfo=UTC)] * 2
    assert call.columns["class"] == [True, True]
    assert call.columns["amount"] == [1.5, 2.0]
    assert call.as_of == datetime(2020, 1, 2, tzinfo=UTC)
    assert call.as_of.tzinfo is UTC


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"number": "7"}, "instances[1].number", "Expected `int`, got `str`"),
        ({"number": 7.5}, "instances[1].number", "Expected `int`, got `float`"),
        ({"number": True}, "instances[1].number", "Expected `int`, got `bool`"),
        ({"number": 2**63}, "instances[1].number", "Expected `int` <="),
        ({"number": None}, "instances[1].number", "Expected `int`, got `null`"),
        ({"shop": None}, "instances[1].shop", "null"),
        ({"shop": "east"}, "instances[1].shop", "Expected one of north, south (because)"),
        ({"code": "abc"}, "instances[1].code", "(because)"),
        ({"code": "ABCD"}, "instances[1].code", "(because)"),
        ({"amount": 100}, "instances[1].amount", "Expected `float` < 100"),
        ({"amount": -0.001}, "instances[1].amount", "Expected `float` >= 0"),
        ({"amount": float("nan")}, "instances[1].amount", "NaN and Infinity"),
        ({"amount": float("-inf")}, "instances[1].amount", "NaN and Infinity"),
        ({"at": "2020-01-01T01:00:00"}, "instances[1].at", "timezone"),
        ({"at": "1820-01-01T01:00:00Z"}, "instances[1].at", "Expected a year"),
        ({"at": "0001-01-01T00:00:00+23:00"}, "instances[1].at", "Expected a year"),
        ({"at": "2200-01-01T00:00:00Z"}, "instances[1].at", "Expected a year"),
        ({"at": "2016-12-31T23:59:60Z"}, "instances[1].at", "RFC3339"),
        ({"number": 10**400}, "instances[1].number", "Expected `int` <="),
        ({"number": -(2**63) - 1}, "instances[1].number", "Expected `int` >="),
        ({"amount": 10**400}, "instances[1].amount", "out of range"),
        ({"amount": [[[[1]]]]}, "instances[1].amount", "Expected `float`, got `array`"),
        ({"shop": "x' - at `$.zzz"}, "instances[1].shop", "Expected one of"),
        ({"a` - at `$.b": 1}, "instances[1].a` - at `$.b", "unknown field"),
        ({"u" * 5000: 1}, ("instances[1]." + "u" * 200)[:200], "unknown field"),
        ({"at": 5}, "instances[1].at", "Expected `datetime`"),
        ({"class": 1}, "instances[1].class", "Expected `bool`"),
        ({"more": 1}, "instances[1].more", "unknown field"),
        ({"example_id": 1}, "instances[1].example_id", "Expected `str | null`"),
        ({"example_id": "x" * 201}, "instances[1].example_id", "length <= 200"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(change: dict[str, Any], path: str, says: str) -> None:
    where, message = refused(body({}, change))
    assert where == path
    assert says in message


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b"\xff", "$"),
        (b"NaN", "$"),
        (b"[]", "$"),
        (b"null", "$"),
        (b"[" * 100_000, "$"),
        (b'{"instances": ' + b"[" * 100_000, "instances[0]"),
        (body().replace(b"7", b"9" * 5000), "instances[0].number"),
        (body().replace(b"7", b"[" * 100_000 + b"]" * 100_000), "instances[0].number"),
        (body().replace(b"7", b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "instances[0].number"),
        (b'{"u": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "u"),
        (body()[:-1] + b', "instances": []}', "instances"),
        (body().replace(b"1.5", b"1e999"), "instances[0].amount"),
        (b'{"instances": []}', "instances"),
        (b"{}", "instances"),
        (body(as_of="yesterday"), "as_of"),
        (body(more=1), "more"),
        (body(*[{}] * (MAX_INSTANCES + 1)), "instances"),
        (b'{"instances": [{}]}', "instances[0].shop"),
    ],
)
def test_a_wrong_body_is_refused(raw: bytes, path: str) -> None:
    assert refused(raw)[0] == path


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (b'"number": 7', b'"number": 8, "number": 7', "instances[1].number"),
        (b'"number": 7', b'"number": 7, "number": 7', "instances[1].number"),
        (b'"number": 7', b'"number": 7, "numb\\u0065r": 7', "instances[1].number"),
        (b'"number": 7', b'"number": 7, "example_id": "a", "example_id": null', "instances[1].example_id"),
        (b'"number": 7', b'"number": 7, "example_id": "number", "number": 7', "instances[1].number"),
        (b'"as_of"', b'"as_of": "2020-01-01T00:00:00Z", "as_of"', "as_of"),
        (b'"as_of"', b'"instances": [], "as_of"', "instances"),
    ],
)
def test_a_name_that_comes_twice_is_refused_by_its_path(old: bytes, new: bytes, path: str) -> None:
    good = body({"number": 6}, {}, as_of="2020-01-02T00:00:00Z")
    assert len(SCHEMA.parse(good)) == 2
    where, message = refused(good.replace(old, new))
    # The decoder sees the last of two lists first, and that it is empty.
    assert where == path
    assert "twice" in message or path == "instances"


@given(st.lists(st.sampled_from([*GOOD, "example_id", "as_of", "instances", 'a"b', "é"]), min_size=1, max_size=4))
def test_values_that_read_like_names_are_no_names(ids: list[str]) -> None:
    assert SCHEMA.parse(body(*({"example_id": one} for one in ids))).example_ids == ids


@pytest.mark.parametrize("written", ["7.0", "70e-1", "0.7E1", "7.000"])
def test_a_whole_number_is_an_integer_however_it_is_written(written: str) -> None:
    call = SCHEMA.parse(body({"amount": 2.0}, {}).replace(b'"number": 7', f'"number": {written}'.encode()))
    assert call.columns["number"] == [7, 7]
    assert [type(number) for number in call.columns["number"]] == [int, int]
    assert call.columns["amount"] == [2.0, 1.5]
    assert call.columns["at"][0] == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("7.5", "got `float`"),
        ("1e300", "Expected `int` <="),
        ("1e19", "Expected `int` <="),
        ("1e999", "out of range"),
        ('7.0, "number": 7.0', "twice"),
    ],
)
def test_a_number_that_is_not_whole_or_too_large_is_no_integer(written: str, says: str) -> None:
    path, message = refused(body().replace(b"7", written.encode()))
    assert path == "instances[0].number"
    assert says in message


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        (b"1.5", b"NaN", "instances[0].amount", "NaN"),
        (b"1.5", b"1e999", "instances[0].amount", "null"),
        (b"true", b"1.0", "instances[0].class", "Expected `bool`, got"),
        (b"north", b"nor\xffth", "$", "not UTF-8"),
        (b'"code": "ABC"', b'"code": null, "example_id": "\\ud800"', "$", "surrogate"),
        (b'"code": "ABC"', b'"code": null, "example_id": "\xed\xa0\x80"', "$", "not UTF-8"),
        (b'"code": "ABC"', b'"code": "AB\nC"', "$", "character"),
        (b"7.0", b"7.0" + b"[" * 100_000, "$", "JSON"),
    ],
)
def test_help_with_whole_numbers_lets_nothing_else_through(old: bytes, new: bytes, path: str, says: str) -> None:
    first = json.dumps({"instances": [{"number": 7.0} | {name: GOOD[name] for name in GOOD if name != "number"}]})
    for one in (body({"number": 7.0}), first.encode()):
        assert SCHEMA.parse(one).columns["number"] == [7]
        where, message = refused(one.replace(old, new))
        assert (where, says in message) == (path, True), message


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\xef\xbb\xbf" + body(), "byte order mark"),
        (body().decode().encode("utf-16"), "byte order mark"),
        (body().replace(b"north", b"nor\xffth"), "not UTF-8 (byte 28)"),
        (body().replace(b"ABC", b"\\ud800"), "surrogate"),
        (body() + b" x", "trailing"),
        (b"", "truncated"),
    ],
)
def test_what_is_not_json_says_why(raw: bytes, says: str) -> None:
    assert refused(raw)[0] == "$"
    assert says in refused(raw)[1]


def test_as_of_is_an_unknown_field_unless_the_clock_is_the_requests() -> None:
    live = RequestSchema("some_model", {"number": "int"}, {})
    with pytest.raises(Refused) as caught:
        live.parse(b'{"instances": [{"number": 1}], "as_of": "2020-01-01T00:00:00Z"}')
    assert caught.value.complaint.path == "as_of"


def test_a_body_at_the_limit_is_taken() -> None:
    assert len(SCHEMA.parse(body(*[{}] * MAX_INSTANCES))) == MAX_INSTANCES


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
nearly = st.fixed_dictionaries({name: st.just(value) | anything for name, value in GOOD.items()})


@settings(deadline=None, max_examples=300)
@given(st.one_of(anything, st.fixed_dictionaries({"instances": st.lists(nearly, max_size=3)})))
def test_whatever_json_comes_it_is_a_call_or_refused(value: Any) -> None:
    raw = json.dumps(value).encode()
    try:
        call = SCHEMA.parse(raw)
    except Refused:
        assert refused(raw)[0]
        return
    assert 1 <= len(call) <= 3
    assert set(call.columns["shop"]) <= {"north", "south"}
    assert all(0 <= amount < 100 for amount in call.columns["amount"])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_refused(raw: bytes) -> None:
    assert refused(raw)


def test_rules_that_are_about_batches_or_cannot_be_checked_are_left_to_the_night() -> None:
    assert compiles(rule(BETWEEN, min_value=1), "x")
    assert not compiles(rule(BETWEEN, min_value=1), "y")
    assert not compiles(rule(BETWEEN, min_value=1, mostly=0.9), "x")
    assert not compiles(rule(BETWEEN, min_value={"$PARAMETER": "low"}), "x")
    assert not compiles(rule("expect_column_values_to_be_unique"), "x")
    assert not compiles(Rule(expect=BETWEEN, severity="info", why="w", args={"column": "x", "min_value": 1}), "x")


def test_the_tightest_of_several_limits_holds() -> None:
    import msgspec

    kind = constrain("int", [rule(BETWEEN, min_value=1.5, max_value=9, strict_max=True), rule(BETWEEN, min_value=3)])
    taken = []
    for value in range(12):
        try:
            taken.append(msgspec.json.decode(str(value), type=kind))
        except msgspec.ValidationError:
            continue
    assert taken == [3, 4, 5, 6, 7, 8]
    both = constrain("str", [rule(MATCH, regex="^a"), rule(MATCH, regex="b$")])
    assert msgspec.json.decode('"a b"', type=both) == "a b"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode('"a c"', type=both)


def test_declarations_that_no_request_could_pass_are_refused_by_name() -> None:
    with pytest.raises(HeadwayError, match=r"shop.*no value passes"):
        RequestSchema("m", {"shop": "str"}, {}, rules=[rule(IN_SET, column="shop", value_set=[]), *RULES[:1]])
    with pytest.raises(HeadwayError, match="example_id"):
        RequestSchema("m", {"example_id": "str"}, {})
