"""The one root that holds all state, and the environment that every process of Headway shares."""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from features import HeadwayError

PROJECT = Path(__file__).resolve().parent.parent
"""The checkout: declarations, `prefect.yaml` and the lock file are read from here."""

QUIET = {
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""Telemetry of every dependency, off: this is the one place that says so."""

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Needed before any import: with the libraries' own thread pools, processes that share cores slow each other many
times over, serving workers above all."""

VARIABLES = (
    "HEADWAY_HOME", "HEADWAY_LEDGER_URL", "HEADWAY_API_KEY", "HEADWAY_WORKERS", "HEADWAY_CLOCK", "HEADWAY_KEYS",
    "HEADWAY_RATE", "HEADWAY_BURST", "HEADWAY_IN_FLIGHT", "HEADWAY_BODY_LIMIT", "HEADWAY_SHADOW_QUEUE",
    "HEADWAY_METRICS", "HEADWAY_ACCESS_LOG", "HEADWAY_TRACES", "HEADWAY_SENTRY_DSN", "HEADWAY_IMAGE", "HEADWAY_ALERTS",
    "HEADWAY_ALERTS_WEEKLY",
)  # fmt: skip
"""What people may set; `services.settings` and `pipelines.alerting.addresses` say what most of it is for."""
INTERNAL = ("HEADWAY_STACK", "HEADWAY_GUARD_LOG")
"""What our own processes and tests set for each other."""
SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_|$)")
"""In what Kubernetes tells every pod of a Service: of one called headway it is named like ours."""


@dataclass(frozen=True)
class Home:
    """Where everything is kept. Each room is a folder below `root`, made private (0700) on first use."""

    root: Path

    def room(self, *parts: str) -> Path:
        """The folder `root/parts...`, made if missing. Raises HeadwayError for a part that leaves the root."""
        for part in parts:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]*", part):
                raise HeadwayError(f"{part!r} cannot name a folder below {self.root}: use letters, digits, . _ - =")
        folder = self.root.joinpath(*parts)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @property
    def lake(self) -> Path:
        """Good rows: `lake/<domain>/<source>/<day>.parquet`."""
        return self.room("lake")

    @property
    def quarantine(self) -> Path:
        """Refused rows and batches, each with the rule it broke."""
        return self.room("quarantine")

    @property
    def snapshots(self) -> Path:
        """Feature tables: `snapshots/<domain>/<table>/<day>.parquet`, read by Feast."""
        return self.room("snapshots")

    @property
    def feast(self) -> Path:
        """Feast's registry and online store."""
        return self.room("feast")

    @property
    def bentoml(self) -> Path:
        """BentoML's model store (BENTOML_HOME)."""
        return self.room("bentoml")

    @property
    def ledger_url(self) -> str:
        """The ledger's database: HEADWAY_LEDGER_URL, else SQLite under the root."""
        return os.environ.get("HEADWAY_LEDGER_URL") or f"sqlite:///{self.room('registry') / 'ledger.db'}"

    @property
    def pointers(self) -> Path:
        """One pointer file a model: who is champion."""
        return self.room("registry", "champions")

    @property
    def predictions(self) -> Path:
        """What serving saw and answered: open segments, and Parquet by day once compacted."""
        return self.room("predictions")

    @property
    def nights(self) -> Path:
        """What each night found, a small JSON file a model and night: profiles, parity, quality."""
        return self.room("nights")

    @property
    def reports(self) -> Path:
        """Weekly pages: HTML and JSON."""
        return self.room("reports")

    @property
    def keys(self) -> Path:
        """API keys, hashed."""
        return self.room("keys") / "keys.json"

    @property
    def prefect(self) -> Path:
        """Prefect's home: its database, profiles and results."""
        return self.room("prefect")

    @property
    def logs(self) -> Path:
        """What the supervised processes printed."""
        return self.room("logs")


def home() -> Home:
    """The root named by HEADWAY_HOME, default `.headway` beside `pyproject.toml`.

    Raises HeadwayError when it cannot be a private folder, or the environment names what is no setting.
    """
    known(os.environ)
    root = Path(os.environ.get("HEADWAY_HOME") or PROJECT / ".headway").expanduser().absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        raise HeadwayError(f"HEADWAY_HOME={root} cannot be used ({error}). Name a folder that you own.") from None
    return Home(root)


def known(environment: Mapping[str, str]) -> None:
    """Raise HeadwayError for a name in `environment` that is meant for us and is none of ours: a typo does nothing."""
    ours = {*VARIABLES, *INTERNAL}
    for name in sorted(environment):
        if name.startswith("HEADWAY_") and name not in ours and not SERVICE_LINK.search(name):
            rest = {each.removeprefix("HEADWAY_"): each for each in VARIABLES}
            near = difflib.get_close_matches(name.removeprefix("HEADWAY_"), rest, n=1)
            raise HeadwayError(
                f"{name} is set, and is no setting. {f'Did you mean {rest[near[0]]}? ' if near else ''}"
                f"Unset it, or use one of: {', '.join(VARIABLES)}."
            )


def environment(at: Home, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with telemetry off, one thread a process, and every dependency's state below the root."""
    return {
        **base,
        **QUIET,
        **SINGLE_THREAD,
        "HEADWAY_HOME": str(at.root),
        "BENTOML_HOME": str(at.bentoml),
        "PREFECT_HOME": str(at.prefect),
        "PYTHONHASHSEED": "0",
        "TZ": "UTC",  # Feast's SQLite store reads the stamps it wrote as local time
    }


def settle(at: Home) -> None:
    """Put `environment` in force for this process. Call it before a dependency is imported."""
    os.environ.update(environment(at, {}))
    time.tzset()


def utc(text: str) -> datetime:
    """The UTC instant that an ISO date or time names; without a zone it is UTC. Raises HeadwayError."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise HeadwayError(f"{text!r} is not an instant. Write it like 2013-04-07 or 2013-04-07T06:00Z.") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
