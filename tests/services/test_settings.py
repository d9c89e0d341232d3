import pytest

from features import HeadwayError
from services.rates import parse
from services.settings import Settings, workers


def test_the_defaults_are_the_documented_ones() -> None:
    assert Settings.read({}) == Settings()
    assert Settings.read({"HEADWAY_KEYS": "", "HEADWAY_RATE": "", "HEADWAY_IN_FLIGHT": ""}) == Settings()
    assert Settings().keys
    documented = Settings.__doc__ or ""
    assert f"HEADWAY_IN_FLIGHT ({Settings().in_flight})" in documented
    assert f"HEADWAY_BODY_LIMIT ({Settings().body_limit})" in documented


def test_a_rate_for_all() -> None:
    assert Settings.read({"HEADWAY_RATE": "600/min"}).rate == parse("600/min")
    assert Settings.read({"HEADWAY_RATE": "100/s", "HEADWAY_BURST": "7"}).rate == parse("100/s", 7)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HEADWAY_KEYS", "no", "on, off"),
        ("HEADWAY_KEYS", "OFF", "on, off"),
        ("HEADWAY_CLOCK", "mine", "server, request"),
        ("HEADWAY_METRICS", "yes", "off, on"),
        ("HEADWAY_ACCESS_LOG", "1", "off, on"),
        ("HEADWAY_IN_FLIGHT", "0", "at least 1"),
        ("HEADWAY_IN_FLIGHT", "many", "at least 1"),
        ("HEADWAY_BODY_LIMIT", "-5", "at least 1"),
        ("HEADWAY_BODY_LIMIT", "1e6", "at least 1"),
        ("HEADWAY_SHADOW_QUEUE", "1.5", "at least 1"),
        ("HEADWAY_RATE", "often", "100/s or 600/min"),
        ("HEADWAY_BURST", "5", "HEADWAY_RATE=100/s"),
        ("HEADWAY_TRACES", "somewhere", "http://"),
        ("HEADWAY_SENTRY_DSN", "key", "http://"),
    ],
)
def test_a_value_that_is_not_valid_is_named_with_the_valid_ones(name: str, value: str, says: str) -> None:
    with pytest.raises(HeadwayError, match=name) as caught:
        Settings.read({name: value})
    assert says in str(caught.value)


def test_a_burst_that_is_none_and_workers_that_are_none() -> None:
    with pytest.raises(HeadwayError, match="HEADWAY_BURST"):
        Settings.read({"HEADWAY_RATE": "100/s", "HEADWAY_BURST": "none"})
    with pytest.raises(HeadwayError, match="HEADWAY_WORKERS"):
        workers({"HEADWAY_WORKERS": "auto"})
    assert workers({}) == 1
