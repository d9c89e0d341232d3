"""Champion and challenger on logged requests of real flights: what is paired, what the interval says, what to do."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import features
import models
from features import HeadwayError
from monitoring.profile import iso_days
from pipelines.commands.cli import main
from pipelines.data import lake
from pipelines.home import Home, utc
from pipelines.records import predictions
from pipelines.registry import package, trials
from pipelines.registry.ledger import Ledger
from pipelines.registry.pointers import read_pointer, read_trials
from pipelines.scorers.scoring import contrast, interval
from pipelines.store.matrix import matrix
from pipelines.training import compare as comparing
from pipelines.training.compare import Comparison, compare
from tests.services import world
from tests.services.conftest import built, manifests, root

__all__ = ["built", "manifests", "root"]

MODEL = models.load(world.MODEL)
FLIGHTS = features.load(world.DOMAIN)
FIRST, DAY = utc("2013-03-10"), timedelta(days=1)
DAYS = 9
NOW = FIRST + (DAYS + 2) * DAY
FEATURES = FLIGHTS.features_of(MODEL.feature_service)


@pytest.fixture(scope="module")
def flights() -> tuple[dict[str, pa.Table], pd.DataFrame]:
    """The sources of some days, and 60 flights a day with when each is decided and whether it came late."""
    tables = {}
    for name in ("schedule", "arrivals"):
        rows = FLIGHTS.source(name).read(FIRST - 2 * DAY, NOW)
        tables[name] = lake.microseconds(pa.Table.from_pandas(rows, preserve_index=False))
    plans = FLIGHTS.source("schedule").read(FIRST, FIRST + DAYS * DAY)
    plans = plans.assign(decided=plans["scheduled_departure"] - timedelta(hours=2))
    plans = plans[(plans["decided"] > pd.Timestamp(FIRST)) & (plans["decided"] < pd.Timestamp(FIRST + DAYS * DAY))]
    plans = plans.groupby(plans["decided"].dt.date).head(60)
    late = FLIGHTS.source("arrivals").read(FIRST - DAY, NOW).set_index("flight_id")["arr_delay"]
    return tables, plans.assign(delay=plans["flight_id"].map(late)).reset_index(drop=True)


@pytest.fixture
def at(root: Home, manifests: world.Manifests, flights: tuple[dict[str, pa.Table], pd.DataFrame]) -> Home:
    """Three versions, the first champion and the third with a gate failed; flights in the lake; nothing asked yet."""
    for name, table in flights[0].items():
        source = FLIGHTS.source(name)
        lake.write(root.room("lake", "flights", name), table, key=source.key, by=source.known_at)
    ledger = Ledger(root.ledger_url)
    for number, manifest in enumerate(manifests, start=1):
        gates = [{"name": "calibration", "passed": number != 3}]
        body = {
            "version": number,
            "tag": manifest.tag,
            "digest": manifest.digest,
            "passed": number != 3,
            "gates": gates,
        }
        ledger.append("version", MODEL.name, as_of=FIRST, body=body, actor="test", key=f"version {number}")
    world.crowned(root, manifests[0], 1)
    return root


def asked(
    flights: Any, skill: float, *, role: str = "champion", version: int = 1, seed: int = 1
) -> list[dict[str, Any]]:
    """A record a flight; the more skill, the more of the truth is in the prediction."""
    random = np.random.default_rng(seed)
    return [
        {
            "request_id": f"r{number}", "instance": 0, "example_id": row.flight_id, "model": MODEL.name,
            "version": version, "digest": "d", "generation": 1, "decision_time": row.decided.isoformat(),
            "keys": {"origin": row.origin, "dest": row.dest, "carrier": row.carrier, "tailnum": row.tailnum},
            "inputs": {"scheduled_departure": row.scheduled_departure.isoformat(), "distance": int(row.distance)},
            "features": {f.name: "EWR" if f.dtype == "str" else float(random.integers(40)) for f in FEATURES},
            "degraded": [], "role": role,
            "prediction": float(np.clip(0.3 + skill * (row.delay > 15) + random.normal(0, 0.15), 0, 1)),
        }
        for number, row in enumerate(flights[1].itertuples())
    ]  # fmt: skip


def logged(at: Home, *records: list[dict[str, Any]]) -> None:
    path = at.room("predictions", "open") / "a.closed.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for each in records for one in each))
    predictions.compact(at, {MODEL.name: MODEL})


def compared(at: Home, version: int = 2, as_of: datetime = NOW, since: datetime | None = FIRST) -> Comparison:
    return compare(at, MODEL, version, as_of, since=since, actor="test")


def test_a_better_shadow_is_to_be_promoted(at: Home, flights: Any) -> None:
    champion, shadow = asked(flights, 0.1), asked(flights, 0.3, role="shadow", version=2, seed=2)
    logged(at, champion, shadow[:-20])
    found = compared(at)
    assert (found.how, found.champion, found.answers, found.pairs) == ("shadow", 1, len(champion), len(champion) - 20)
    # By hand: the flights with a known label, in the order of their decisions.
    rows = flights[1].assign(a=[r["prediction"] for r in champion], b=[r["prediction"] for r in shadow]).head(-20)
    known = rows[rows["delay"].notna()].sort_values("decided", kind="stable")
    label, days = (known["delay"] > 15).to_numpy(dtype=float), iso_days(known["decided"])
    by_hand = interval(MODEL, label, known["b"].to_numpy(), days, than=known["a"].to_numpy())
    assert found.paired is not None
    assert (found.paired.labels, found.paired.days) == (len(known), DAYS)
    assert found.paired.value == pytest.approx(by_hand.value, abs=1e-6)
    assert (found.paired.low, found.paired.high) == pytest.approx(by_hand[1:], abs=0.01)
    assert found.paired.low is not None
    assert found.paired.low > 0
    assert found.apart == pytest.approx((rows["a"] - rows["b"]).abs().mean(), abs=1e-6)
    assert found.disagree == pytest.approx(((rows["a"] >= 0.5) != (rows["b"] >= 0.5)).mean(), abs=1e-6)
    assert found.advice == "promote"
    assert found.sentence.startswith(f"version 2 is better by {100 * by_hand.value:.1f} points, interval ")
    assert f"({len(known):,} labels of {DAYS} days)" in found.sentence
    assert found.sentence.endswith(f": promote it: headway promote {MODEL.name} 2 --why 'better on its trial'")


def test_it_is_in_the_ledger_once(at: Home, flights: Any) -> None:
    logged(at, asked(flights, 0.1), asked(flights, 0.3, role="shadow", version=2, seed=2))
    found, again = compared(at), compared(at)
    assert found == again
    (entry,) = Ledger(at.ledger_url).entries(MODEL.name, "comparison")
    assert msgspec.convert(entry.body, Comparison) == found
    assert compared(at, as_of=NOW + DAY) != found
    assert len(Ledger(at.ledger_url).entries(MODEL.name, "comparison")) == 2
    assert Ledger(at.ledger_url).verify() == 6


def test_a_worse_one_is_to_be_left_and_one_alike_cannot_be_told_apart(at: Home, flights: Any) -> None:
    champion = asked(flights, 0.3)
    logged(at, champion, asked(flights, 0.05, role="shadow", version=2, seed=2))
    worse = compared(at)
    assert worse.advice == "leave"
    assert worse.sentence.startswith("version 2 is worse by ")
    assert worse.sentence.endswith(": leave version 1 champion")
    assert worse.paired is not None
    assert worse.paired.high is not None
    assert worse.paired.high < 0
    logged(at, asked(flights, 0.3, role="shadow", version=3, seed=3))
    alike = compared(at, version=3)
    assert alike.advice == "wait"
    assert "version 3 and the champion (version 1) cannot be told apart yet: " in alike.sentence


def test_better_though_it_failed_its_gates(at: Home, flights: Any) -> None:
    logged(at, asked(flights, 0.05), asked(flights, 0.4, role="shadow", version=3, seed=3))
    failed = "promote it though it failed its gates (calibration): "
    command = f"headway promote {MODEL.name} 3 --despite-gates --why REASON"
    assert compared(at, version=3).sentence.endswith(failed + command)


def test_the_interval_is_not_trusted_before_it_rests_on_a_week(at: Home, flights: Any) -> None:
    logged(at, asked(flights, 0.05), asked(flights, 0.4, role="shadow", version=2, seed=2))
    found = compared(at, since=FIRST + (DAYS - 3) * DAY)
    assert found.paired is not None
    assert found.paired.days == 3
    assert found.advice == "wait"
    assert "cannot be told apart yet" in found.sentence
    assert "of 3 days; it takes labels of 7 days" in found.sentence


def test_labels_count_once_they_are_known(at: Home, flights: Any) -> None:
    logged(at, asked(flights, 0.1), asked(flights, 0.3, role="shadow", version=2, seed=2))
    early, late = compared(at, as_of=FIRST + DAYS * DAY - timedelta(hours=6)), compared(at)
    assert early.paired is not None
    assert late.paired is not None
    assert early.paired.labels < late.paired.labels - 20


def test_without_a_shadow_the_log_is_scored_again(at: Home, flights: Any, manifests: world.Manifests) -> None:
    champion = asked(flights, 0.1)
    gap = next(f.name for f in FEATURES if f.dtype != "str" and f.default is None)
    for record in champion[::3]:
        record["degraded"] = [gap]  # what stood in is the champion's affair
    logged(at, champion)
    found = compared(at)
    assert (found.how, found.pairs) == ("rescored", len(champion))
    columns = {f.name: [None if f.name in r["degraded"] else r["features"][f.name] for r in champion] for f in FEATURES}
    theirs = package.load(at, manifests[1].tag).predict(matrix(columns, FEATURES))
    assert found.apart == pytest.approx(np.abs(theirs - [r["prediction"] for r in champion]).mean(), abs=1e-6)
    assert found.paired is not None
    assert found.paired.labels > 400


def test_a_canary_is_a_second_sample(at: Home, flights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    champion, canary = asked(flights, 0.1)[::2], asked(flights, 0.3, role="canary", version=2, seed=2)[1::2]
    logged(at, champion, canary)
    found = compared(at)
    assert (found.how, found.answers) == ("rescored", len(champion))
    samples = []
    for records, rows in ((canary, flights[1][1::2]), (champion, flights[1][::2])):
        known = rows.assign(p=[r["prediction"] for r in records])[rows["delay"].notna().to_numpy()]
        known = known.sort_values("decided", kind="stable")
        label = (known["delay"] > 15).to_numpy(dtype=float)
        samples.append((label, known["p"].to_numpy(), iso_days(known["decided"])))
    assert found.canary is not None
    assert found.canary.value == pytest.approx(contrast(MODEL, *samples).value, abs=1e-6)
    assert found.canary.labels == len(samples[0][0])
    assert found.canary.low is not None
    assert found.canary.low > 0
    # Where the champion's log does not hold what the canary reads, the two samples are all there is.
    monkeypatch.setattr(comparing, "_lacking", lambda version, theirs: ["new"])
    two = compared(at, as_of=NOW + DAY)
    assert (two.how, two.pairs, two.paired, two.apart) == ("canary", 0, None, None)
    assert two.advice == "promote"


def test_pairs_say_more_than_two_samples(flights: Any) -> None:
    known = flights[1][flights[1]["delay"].notna()]
    label, days = (known["delay"] > 15).to_numpy(dtype=float), iso_days(known["decided"])
    random = np.random.default_rng(1)
    theirs = 0.2 * label + random.normal(0, 0.2, len(label))
    ours = theirs + 0.03 * label
    paired = interval(MODEL, label, ours, days, than=theirs)
    half = np.arange(len(label)) % 2 == 0
    two = contrast(MODEL, (label[half], ours[half], days[half]), (label[~half], theirs[~half], days[~half]))
    assert paired.low > 0
    assert two.high - two.low > 3 * (paired.high - paired.low)
    same = contrast(MODEL, (label, theirs, days), (label, theirs, days))
    assert same == (0.0, 0.0, 0.0)


def test_what_cannot_be_compared(at: Home, flights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadwayError, match="Version 1 is the champion"):
        compared(at, version=1)
    with pytest.raises(HeadwayError, match=r"has no version 9\. It has: 1, 2, 3"):
        compared(at, version=9)
    with pytest.raises(HeadwayError, match="answered nothing in that time"):
        compared(at)
    logged(at, asked(flights, 0.1))
    with pytest.raises(HeadwayError, match="answered nothing in that time"):
        compared(at, since=NOW - timedelta(hours=1))
    monkeypatch.setattr(comparing, "_lacking", lambda version, theirs: ["new"])
    with pytest.raises(
        HeadwayError, match=f"reads new, which the champion is not given.*headway shadow {MODEL.name} 2"
    ):
        compared(at)
    assert Ledger(at.ledger_url).entries(MODEL.name, "comparison") == []


def test_rows_that_a_version_was_trained_on_do_not_count(
    at: Home, flights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(at, asked(flights, 0.1), asked(flights, 0.3, role="shadow", version=2, seed=2))
    load, until = package.load, FIRST + 4 * DAY

    def trained_later(home: Home, tag: str) -> package.Packaged:
        found = load(home, tag)
        object.__setattr__(found, "manifest", msgspec.structs.replace(found.manifest, trained_until=until.isoformat()))
        return found

    monkeypatch.setattr(package, "load", trained_later)
    found = compared(at)
    assert found.answers == int((flights[1]["decided"] > pd.Timestamp(until)).sum())


def test_the_commands(at: Home, flights: Any, capsys: pytest.CaptureFixture[str], manifests: world.Manifests) -> None:
    def said(*words: str, code: int = 0) -> str:
        assert main([*words]) == code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return printed.err if code else printed.out

    name, now = MODEL.name, ("--as-of", NOW.isoformat())
    logged(at, asked(flights, 0.05), asked(flights, 0.4, role="shadow", version=2, seed=2))
    assert "Version 3 of" in said("promote", name, "3", "--why", "x", code=2)
    assert "failed its gates (calibration)" in said("canary", name, "--share", "10%", code=2)
    assert "needs a reason" in said("canary", name, "--share", "10%", "--despite-gates", code=2)
    assert "above 0 and below 1" in said("canary", name, "2", "--share", "100%", code=2)
    assert "how much is it to answer" in said("canary", name, "2", code=2)
    assert f"{name}: version 3 scores what the champion answers" in said("shadow", name, *now)
    assert "version 2 answers 0.1 of entities" in said("canary", name, "2", "--share", "10%", *now)
    trial = read_trials(at.pointers, name)
    assert trial is not None
    assert trial.canary is not None
    assert trial.canary.share == 0.1
    said("shadow", name, "--end", *now)
    told = said("compare", name, "--since", FIRST.isoformat(), *now).splitlines()
    assert any("the shadow's records of the champion's own requests" in line for line in told)
    assert told[-1].startswith("version 2 is better by ")
    assert said("promote", name, "2", "--why", "better", *now) == f"{name}: version 2 is champion\n"
    assert "champion already" in said("promote", name, "2", "--why", "better", *now)
    assert read_trials(at.pointers, name).canary is None  # type: ignore[union-attr]
    assert "has no canary to end" in said("canary", name, "--end", code=2)
    assert said("rollback", name, "--why", "no", *now) == f"{name}: version 1 is champion again\n"
    assert said("promote", name, "3", "--why", "the gate was wrong", "--despite-gates", *now)
    pointer = read_pointer(at.pointers, name)
    assert pointer is not None
    assert pointer.version == 3
    story = said("history", name)
    for word in ("canary", "shadow", "ended", "comparison", "the gate was wrong", "version 2 is better by"):
        assert word in story
    broken = next(Path(at.bentoml).rglob(manifests[1].tag.split(":")[1])) / package.ESTIMATOR
    broken.write_bytes(b"")
    assert "is refused" in said("promote", name, "2", "--why", "x", code=2)


def test_the_version_on_trial_is_compared_by_default_since_it_began(at: Home, flights: Any) -> None:
    assert comparing.challenger(at, MODEL.name) == 3
    begun = FIRST + 2 * DAY
    for kind, version, share in (("canary", 3, 0.1), ("shadow", 2, None)):
        trials.start(
            Ledger(at.ledger_url), at.pointers, kind=kind, model=MODEL.name, version=version, share=share,  # type: ignore[arg-type]
            as_of=begun, actor="test", why="test", key=kind, despite_gates=kind == "canary",
        )  # fmt: skip
        assert comparing.challenger(at, MODEL.name) == version
    logged(at, asked(flights, 0.1), asked(flights, 0.3, role="shadow", version=2, seed=2))
    found = compared(at, since=None)
    assert found.since == begun.isoformat()
    assert found.answers == int((flights[1]["decided"] > pd.Timestamp(begun)).sum())
