"""How a worker serves, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from features import HeadwayError
from pipelines.home import SINGLE_THREAD
from services.rates import Rate, parse


@dataclass(frozen=True)
class Settings:
    """Environment variable and default of each:

    HEADWAY_CLOCK (server): `request` lets a call carry `as_of`, as the replay does; else it is an unknown field.
    HEADWAY_KEYS (on): `off` asks for no API key on connections to a loopback address.
    HEADWAY_RATE (none): `100/s` or `600/min` for each key that carries no rate; with HEADWAY_BURST calls at once.
    HEADWAY_IN_FLIGHT (256): requests at work at once in a worker; more are asked to come back.
    HEADWAY_BODY_LIMIT (1048576): bytes of a request's body.
    HEADWAY_SHADOW_QUEUE (10000): logged instances of a model that may wait for its shadow; the oldest are dropped.
    HEADWAY_METRICS (off): `on` shows /metrics and the health routes to other machines too.
    HEADWAY_ACCESS_LOG (off): `on` writes a line for every call of the API.
    HEADWAY_TRACES (none): where an OTLP/HTTP receiver for traces listens, like http://127.0.0.1:4318.
    HEADWAY_SENTRY_DSN (none): where unexpected errors are told.
    """

    request_clock: bool = False
    keys: bool = True
    rate: Rate | None = None
    in_flight: int = 256
    body_limit: int = 2**20
    shadow_queue: int = 10_000
    metrics: bool = False
    access_log: bool = False
    traces: str = ""
    sentry_dsn: str = field(default="", repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """The settings in `environment`. Raises HeadwayError for a value that is none of the valid ones."""
        return cls(
            request_clock=_choice(environment, "HEADWAY_CLOCK", ("server", "request")) == "request",
            keys=_choice(environment, "HEADWAY_KEYS", ("on", "off")) == "on",
            rate=_rate(environment),
            in_flight=_count(environment, "HEADWAY_IN_FLIGHT", cls.in_flight),
            body_limit=_count(environment, "HEADWAY_BODY_LIMIT", cls.body_limit),
            shadow_queue=_count(environment, "HEADWAY_SHADOW_QUEUE", cls.shadow_queue),
            metrics=_choice(environment, "HEADWAY_METRICS", ("off", "on")) == "on",
            access_log=_choice(environment, "HEADWAY_ACCESS_LOG", ("off", "on")) == "on",
            traces=_observed(environment, "HEADWAY_TRACES", "opentelemetry.exporter.otlp.proto.http"),
            sentry_dsn=_observed(environment, "HEADWAY_SENTRY_DSN", "sentry_sdk"),
        )

    def shown(self) -> dict[str, Any]:
        """The settings in force, for the log: of secrets only that they are there."""
        return {**asdict(self), "rate": str(self.rate or "none"), "sentry_dsn": bool(self.sentry_dsn)}


def single_threaded(environment: Mapping[str, str]) -> None:
    """Raise HeadwayError unless the numeric libraries were told to use one thread.

    Left to themselves, their thread pools in several workers fight over the cores: measured, 260 requests/s became 3.
    """
    if lacking := [f"{name}={value}" for name, value in SINGLE_THREAD.items() if environment.get(name) != value]:
        raise HeadwayError(
            f"the service needs {' '.join(lacking)} in its environment from the start. Use `headway up`, which sets "
            f"them, or: {' '.join(lacking)} bentoml serve services.bento:Headway"
        )


def workers(environment: Mapping[str, str]) -> int:
    """How many workers serve: HEADWAY_WORKERS, default 1. Raises HeadwayError."""
    return _count(environment, "HEADWAY_WORKERS", 1)


def _rate(environment: Mapping[str, str]) -> Rate | None:
    rate, burst = environment.get("HEADWAY_RATE"), environment.get("HEADWAY_BURST")
    if not rate:
        if burst:
            raise HeadwayError(f"HEADWAY_BURST={burst!r} goes with HEADWAY_RATE, such as HEADWAY_RATE=100/s.")
        return None
    try:
        return parse(rate, _count(environment, "HEADWAY_BURST", 0) if burst else None)
    except HeadwayError as error:
        raise HeadwayError(f"HEADWAY_RATE: {error}") from None


def _observed(environment: Mapping[str, str], name: str, package: str) -> str:
    """An address that something is told to by a package of the extra `observe`."""
    value = environment.get(name) or ""
    if value and not value.startswith(("http://", "https://")):
        raise HeadwayError(f"{name} is not an address: it begins with http:// or https://.")
    if value and not _installed(package):
        raise HeadwayError(f"{name} needs {package}: `uv pip install -e '.[observe]'` brings it. Or unset {name}.")
    return value


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def _choice(environment: Mapping[str, str], name: str, valid: tuple[str, ...]) -> str:
    value = environment.get(name) or valid[0]
    if value not in valid:
        raise HeadwayError(f"{name}={value!r} is not valid. Use one of: {', '.join(valid)}.")
    return value


def _count(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise HeadwayError(f"{name}={value!r} is not a number of at least 1.")
    return int(value)
