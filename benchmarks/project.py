"""A project of its own for the benchmark of serving: the platform as it is, under other declarations.

What is declared is what lies in `features/`, `expectations/` and `models/`. So the benchmark does as any user would:
a folder with the platform's code, the contracts, and the declarations in `benchmarks/declared/`. Run in that folder,
`python -m benchmarks.project` fills the root that HEADWAY_HOME names: snapshots in Feast, one fitted estimator as the
champion of both models, an API key, and the bodies to send.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipelines.home import PROJECT, Home, environment, home, settle

YOURS, PLATFORM = ("features", "expectations", "models"), ("pipelines", "monitoring", "services", "benchmarks")
BODIES, AIRCRAFT = 64, 4000
CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
ORIGINS = ["EWR", "JFK", "LGA"]


@dataclass(frozen=True)
class Prepared:
    """What the servers are started with.

    Attributes:
        project: where to start Headway.
        root: its HEADWAY_HOME.
        estimator: the one fitted estimator that all serve.
        key: an API key.
        bodies: {"sent", "looked_up" or "records": JSON bodies, one a line}; all describe the same rows.
        answers: the pipeline's own prediction for each.
    """

    project: Path
    root: Home
    estimator: Path
    key: str
    bodies: dict[str, Path]
    answers: list[float]


def prepare(folder: Path) -> Prepared:
    """Make project and root below `folder`."""
    project, root = folder / "project", Home(folder / "root")
    root.root.mkdir(mode=0o700, parents=True)
    for name in (*YOURS, *PLATFORM):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in YOURS:
        for path in (project / name).glob("[!_]*.py"):
            path.unlink()
    shutil.copytree(PROJECT / "benchmarks" / "declared", project, dirs_exist_ok=True)
    shutil.copy2(PROJECT / "requirements.lock", project)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.project"], cwd=project, capture_output=True, text=True, check=False,
        env={**environment(root), "PYTHONPATH": str(project)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the benchmark's project could not be made:\n{done.stdout}\n{done.stderr}")
    print(*(line for line in done.stdout.splitlines() if "served by" in line), sep="\n", flush=True)
    return Prepared(
        project, root, root.root / "estimator.joblib", (root.root / "key").read_text(),
        {name: root.root / f"{name}.jsonl" for name in ("sent", "looked_up", "records")},
        msgspec.json.decode((root.root / "answers.json").read_bytes()),
    )  # fmt: skip


def fill(at: Home, now: datetime) -> None:
    """Fill the root. Runs in the benchmark's project, whose declarations it reads."""
    import joblib

    from services.keys import make

    random = np.random.default_rng(0)
    known = _snapshots(at, now, random)
    rows = [_row(random, known, now) for _ in range(20_000)]
    estimator, frame = _fitted(random, [given for _, given in rows])
    for model in ("looked_up", "sent"):
        _champion(at, model, estimator, frame.head(400), now)
    joblib.dump(estimator, at.root / "estimator.joblib")
    (at.root / "key").write_text(make(at.keys, "benchmark"))
    asked, given = zip(*rows[:BODIES], strict=True)
    for name, instances in (("looked_up", asked), ("sent", given), ("records", given)):
        outer = "dataframe_records" if name == "records" else "instances"
        lines = [msgspec.json.encode({outer: [instance]}) for instance in instances]
        (at.root / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    answers = estimator.predict_proba(frame.head(BODIES))[:, 1].tolist()
    (at.root / "answers.json").write_bytes(msgspec.json.encode(answers))


def _snapshots(at: Home, now: datetime, random: np.random.Generator) -> dict[str, dict[str, dict[str, float]]]:
    """Write a snapshot of every entity and materialize it; return {table: {key: {feature: value}}}."""
    import pyarrow as pa

    import features
    from pipelines.data import lake
    from pipelines.store import feature_store
    from pipelines.store.feature_tables import CREATED, VISIBLE

    keys = {"origin": ORIGINS, "carrier": CARRIERS, "tailnum": [f"N{number:05}" for number in range(AIRCRAFT)]}
    feature_store.apply(at)
    store, known, visible = feature_store.open_store(at), {}, now - timedelta(minutes=5)
    for table in features.load("trips").tables:
        (key,) = table.keys
        names, values = [f.name for f in table.features], random.normal(10, 5, (len(keys[key]), len(table.features)))
        columns = dict(zip(names, values.T.round(2), strict=True))
        stamp = pa.array([visible] * len(values), lake.INSTANT)
        rows = pa.table({key: pa.array(keys[key]), **columns, VISIBLE: stamp, CREATED: stamp})
        lake.write(at.room("snapshots", "trips", table.name), rows, key=table.keys, by=VISIBLE)
        store.materialize(visible - timedelta(seconds=1), visible + timedelta(seconds=1), feature_views=[table.name])
        known[table.name] = dict(zip(keys[key], rows.select(names).to_pylist(), strict=True))
    return known


def _row(random: np.random.Generator, known: dict[str, Any], now: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    """One row twice: as it is asked for where the features are looked up, and with all of its features."""
    departure = (now + timedelta(minutes=int(random.integers(10_000)))).replace(second=0, microsecond=0)
    origin, carrier = str(random.choice(ORIGINS)), str(random.choice(CARRIERS))
    tailnum, distance = f"N{random.integers(AIRCRAFT):05}", int(random.integers(90, 4983))
    asked = {"origin": origin, "carrier": carrier, "tailnum": tailnum, "distance": distance}
    given = {**known["weather"][origin], **known["airline_delays"][carrier], **known["aircraft"][tailnum]}
    hour = departure.hour + departure.minute / 60
    given |= {"departure_hour": hour, "weekday": float(departure.weekday()), "miles": float(distance)}
    return (
        asked | {"scheduled_departure": departure.isoformat()},
        given | {"airline": carrier, "airport": origin},
    )


def _fitted(random: np.random.Generator, rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    import models
    from pipelines.store.matrix import matrix

    frame = matrix({name: [row[name] for row in rows] for name in rows[0]}, _specs())
    odds = 0.2 * (frame["airline_delay"] - 10) + 0.15 * (frame["departure_hour"] - 12) + 0.1 * (frame["age"] - 10)
    late = random.random(len(frame)) < 1 / (1 + np.exp(-odds))
    return models.load("looked_up").estimator().fit(frame, late), frame


def _specs() -> tuple[Any, ...]:
    import features
    from pipelines.registry.package import FeatureSpec

    # In the one order that both services have.
    declared = features.load("trips").features_of("found")
    return tuple(FeatureSpec(f.name, f.dtype, f.default) for f in declared)


def _champion(at: Home, model: str, estimator: Any, frame: Any, now: datetime) -> None:
    import features
    import models
    from monitoring.profile import Reference, fit_bins
    from pipelines.registry import package
    from pipelines.registry.ledger import Ledger
    from pipelines.registry.promotion import promote
    from pipelines.scorers.agreement import choose

    specs, domain, service = _specs(), features.load("trips"), models.load(model).feature_service
    tables = tuple(
        package.TableSpec(t.name, t.keys, t.ttl.total_seconds(), tuple(f.name for f in t.features))
        for t in domain.tables_of(service)
    )
    answers, chosen = estimator.predict_proba(frame)[:, 1], choose("binary", estimator, frame, specs)
    manifest = package.Manifest(
        model=model, task="binary", trained_as_of=now.isoformat(), trained_until=now.isoformat(), domain="trips",
        feature_service=service, features=specs, tables=tables,
        keys={key: domain.entities[key] for key in domain.keys_of(service)}, inputs=domain.inputs_of(service),
        importance={spec.name: 1 / len(specs) for spec in specs}, metrics={}, gates=(), data={}, code_commit="none",
        lock_hash="none", golden=package.golden(frame.head(20), answers[:20]), scorer=chosen.scorer,
        scorer_note=chosen.note,
    )  # fmt: skip
    reference = Reference(fit_bins(frame, specs), {}, manifest.importance, {})
    stored = package.store(at, manifest, estimator, reference, frame.assign(prediction=answers, label=0.0).head(20))
    promote(
        Ledger(at.ledger_url), at.pointers, model=model, version=1, tag=stored.tag, digest=stored.digest, as_of=now,
        actor="benchmark", why="to be measured", key=model,
    )  # fmt: skip
    print(f"{model}: served by {chosen.scorer} ({chosen.note})", flush=True)


if __name__ == "__main__":
    settle(home())
    fill(home(), datetime.now(UTC))
