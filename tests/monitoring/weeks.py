"""Weeks to draw: a calm one, one with a broken feed, one that waits for approval, one that drifted."""

from __future__ import annotations

import copy
import math
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from monitoring import budget, drift, page, parity, relation
from monitoring.estimate import trust
from monitoring.first_line import first_line
from monitoring.history import Alarms, Champion, Gate, Mark, Plan, Training
from monitoring.profile import Reference, fit_bins, take
from monitoring.quality import part
from monitoring.verdict import Fault, Verdict, decide
from tests.monitoring.worlds import Column, iso, model, steady_days

MODEL = model(description="Will the tide gate need closing within six hours?")
WEEK = timedelta(days=7)
FEATURES = (
    Column("water_level", default=0.0),
    Column("wind_speed"),
    Column("wind_from", "str"),
    Column("pressure"),
    Column("hour"),
    Column("moon_age"),
    Column("rain_24h"),
    Column("gauge_age"),
)
IMPORTANCE = dict(zip([f.name for f in FEATURES], [0.38, 0.21, 0.14, 0.11, 0.08, 0.05, 0.02, 0.01], strict=True))
LAST = 60 * 7
PAGE_SINCE = date.fromisoformat(iso(LAST))


def weather(random: np.random.Generator, n: int, storm: float = 0.0) -> pd.DataFrame:
    mood = random.normal(0, 0.4)
    return pd.DataFrame(
        {
            "water_level": random.normal(2.1 + 0.2 * mood + 0.5 * storm, 0.6, n),
            "wind_speed": random.gamma(3, 2 + 0.3 * mood + storm, n),
            "wind_from": random.choice(
                ["W", "SW", "N", "E"],
                n,
                p=[0.45 + 0.3 * (storm > 0), 0.25, 0.2 - 0.2 * (storm > 0), 0.1 - 0.1 * (storm > 0)],
            ).astype(object),
            "pressure": random.normal(1013 + 3 * mood - 6 * storm, 6, n),
            "hour": random.integers(0, 24, n).astype(float),
            "moon_age": random.uniform(0, 29.5, n),
            "rain_24h": np.where(random.random(n) < 0.6, 0.0, random.exponential(5, n)),
            "gauge_age": random.exponential(10, n),
            "prediction": random.beta(2, 5 - storm, n),
        }
    )


def history() -> tuple[Reference, np.random.Generator]:
    reference, random = _history()
    return reference, copy.deepcopy(random)


@cache
def _history() -> tuple[Reference, np.random.Generator]:
    random = np.random.default_rng(11)
    days = {iso(i): weather(random, 120) for i in range(52 * 7)}
    bins = fit_bins(pd.concat(days.values()), FEATURES)
    return Reference(bins, {day: take(rows, bins) for day, rows in days.items()}, IMPORTANCE, steady_days(28)), random


def judged(storm: float = 0.0, broken: bool = False) -> drift.Drift:
    reference, random = history()
    frames = [weather(random, 120, storm) for _ in range(7)]
    for frame in frames[2:] if broken else []:
        frame["wind_speed"] = np.nan
    days = {iso(LAST + i): take(frame, reference.bins) for i, frame in enumerate(frames)}
    return drift.judge(reference, days, window=WEEK, alpha=budget.alpha(MODEL.monitoring))


def labels() -> relation.Relation:
    window = {iso(1000 + i): day for i, day in enumerate(steady_days(7, 0.0, 5).values())}
    return relation.judge("binary", steady_days(28), window, window=WEEK, alpha=budget.alpha(MODEL.monitoring))


def checked(equal: bool = True) -> parity.Parity:
    served = pd.DataFrame({f.name: np.arange(2000.0) for f in FEATURES}, index=[f"r{i}" for i in range(2000)])
    other = served.copy()
    if not equal:
        other.iloc[3:20, 0] += 0.25
    return parity.compare(served, other, FEATURES)


def verdict(night: int, **evidence: Any) -> Verdict:
    as_of = datetime.fromisoformat(iso(LAST + night)).replace(tzinfo=UTC) + timedelta(hours=5)
    trained = datetime.fromisoformat(iso(LAST - 24)).replace(tzinfo=UTC)
    return decide(MODEL, as_of=as_of, champion_version=13, trained_as_of=trained, **evidence)


def quality() -> list[page.Quality]:
    random = np.random.default_rng(3)
    found = []
    for i in range(22):
        value = 0.741 + 0.012 * math.sin(i / 3) + float(random.normal(0, 0.006))
        maturity = {21: 0.62, 20: 0.94}.get(i, 1.0)
        wide = 0.014 / math.sqrt(maturity)
        low = 0.72 if i < 19 else 0.66
        found.append(
            page.Quality(
                iso(LAST - 7 * (22 - i)),
                "roc_auc",
                value,
                value - wide,
                value + wide,
                0.655,
                maturity,
                840,
                11 + (i > 8) + (i > 18),
                estimate=value + float(random.normal(0, 0.012)),
                parts=[part("roc_auc", "spring_tide", 0.7, (low, low - 0.02, low + 0.02), 90)],
            )
        )
    open_week = page.Quality(iso(LAST), "roc_auc", None, None, None, None, 0.2, 168, 13, estimate=0.733)
    return [*found, open_week]


def trainings(story: str) -> list[Training]:
    if story != "approve":
        return []
    gates = [Gate("better than dumb", True, "0.751 against 0.655"), Gate("latency", True, "one prediction within 2 ms")]
    return [Training(14, iso(LAST + 5), True, "version 14: roc_auc 0.769 on the holdout, the champion 0.751", gates)]


def marks() -> list[Mark]:
    return [
        Mark(iso(LAST - 154), "trained", "version 11: all gates passed"),
        Mark(iso(LAST - 100), "veto", "Do not retrain, look at the data: `wind_mast` sent nothing"),
        Mark(iso(LAST - 91), "alarm", "Retrain: `pressure` moved"),
        Mark(iso(LAST - 91), "trained", "version 12: all gates passed"),
        Mark(iso(LAST - 24), "trained", "version 13: all gates passed"),
    ]


@cache
def week(story: str = "calm") -> page.Week:
    fault = Fault("wind_mast", "the wind mast has sent nothing since Tuesday 14:00, so `wind_speed` is missing")
    drifted = judged(storm=0.6 if story == "drift" else 0.0, broken=story == "fault")
    verdicts = [verdict(i, days_in=i + 1) for i in range(6)]
    verdicts.append(
        verdict(6, drift=drifted, relation=labels(), parity=checked(), faults=[fault] if story == "fault" else [])
    )
    approval = page.Approval(14, 1.8, 0.9, 2.6) if story == "approve" else None
    champions = [
        Champion(11, iso(LAST - 154), "the calendar asked for it", 0.738),
        Champion(12, iso(LAST - 91), "`pressure` had moved", 0.744),
        Champion(13, iso(LAST - 24), "the calendar asked for it", 0.751),
    ]
    scored = quality()
    since = iso(LAST)
    state, line = first_line(verdicts, since=since, champions=champions, approval=approval)
    nights = [page.Night(iso(LAST + i), "quiet", f"{840 + i} rows came in, all good") for i in range(7)]
    if story == "fault":
        nights[2:] = [
            page.Night(
                iso(LAST + i), "fault", "`wind_mast` sent nothing; retraining is vetoed, version 13 keeps serving"
            )
            for i in range(2, 7)
        ]
    if story == "drift":
        nights[6] = page.Night(
            iso(LAST + 6), "retrained", "trained version 14: better by 1.1 points, waits for its gates"
        )
    kept_out = [
        page.Quarantined(
            "water_gauge",
            iso(LAST + 1),
            "water_level between -1 and 6",
            14,
            "`water_level` was 99.9, the gauge's error code",
        ),
        page.Quarantined("wind_mast", iso(LAST + 2), "fresh within 3 hours", 0, "nothing since Tuesday 14:00"),
    ]
    return page.Week(
        model="tide",
        owner=MODEL.owner,
        description=MODEL.description,
        task="binary",
        since=since,
        until=iso(LAST + 6),
        first_line=line,
        state=state,
        verdicts=verdicts,
        quality=scored,
        trust=trust([(each.estimate, each.value) for each in scored[:-3]]),  # type: ignore[misc]
        champions=champions,
        nights=nights,
        quarantine=kept_out if story == "fault" else [],
        parity=checked(story != "fault"),
        serving=page.Serving(5_880, 0.0004 if story != "fault" else 0.71),
        approval=approval,
        trainings=trainings(story),
        marks=marks(),
        alarms=Alarms(iso(LAST - 300), 42, 3, 1.9, 8.0, 6.9, 52),
        plan=Plan(
            13, 31, 56, iso(LAST + 32), iso(LAST + 11), "week", iso(LAST + 12), "the last training was on 2 March"
        ),
        links=[page.Link("Evidently's full report", "tide-evidently.html")],
    )
