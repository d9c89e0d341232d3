"""Can its alarms be trusted? False alarms where nothing changed, and alarms where a change was planted.

    python -m benchmarks.trust                       the three streams, 1,000 draws (about an hour of CPU)
    python -m benchmarks.trust --quick               100 draws, 8 trials of each change
    python -m benchmarks.trust --markdown FILE       write the tables there too

A *draw* deals the weeks of a stream at random: twelve are what the model was made from (the last two its holdout), and
the next ones are judged. Nothing has changed then, whatever the seasons do, so each alarm is a false one. A *trial* is
a draw with a change planted in a share of the rows, from a random day of the first judged week on; it is caught when
one of the two weeks that close within 14 nights alarms. Days whose labels have not matured (the last) do not count.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

import models
from benchmarks import limits, planted, rivals
from benchmarks.streams import FLIGHTS, WEEK, Stream, flights, made_up, tangled
from monitoring import budget, drift, relation, verdict
from monitoring.drift import Drift
from monitoring.profile import PAIRED, SCORE, Bins, Profile, Reference, fit_bins, take
from monitoring.relation import Day, Relation
from monitoring.verdict import Verdict

REFERENCE, HOLDOUT = 12, 2
YEAR = 38
SETTINGS = (4.0, 12.0, 26.0)
"""False alarms a year that the owner allows."""
SET = 12.0
"""The setting at which planted changes are looked for: the demo's."""
SHARES = (0.1, 0.3, 1.0)
ROOT = Path(tempfile.gettempdir()) / "headway-trust"
WHOLE = ("share", "caught", "right cause", "at most 3", "the column known", "its kind known too")
"""Shares of few trials, told without decimals."""
SPAN = timedelta(days=WEEK)
NOW = datetime(2021, 6, 1, tzinfo=UTC)


class World:
    """A stream, profiled by day in the bins of its first weeks."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        scores = np.empty(len(stream.inputs))
        for week in range(stream.weeks):
            there = self.rows(week)
            scores[there] = stream.score(week, stream.inputs[there])
        self.scored = stream.inputs.assign(**{SCORE: scores})
        first = sorted(stream.importance, key=lambda name: -stream.importance[name])[:PAIRED]
        self.bins: Bins = fit_bins(self.scored[: self.rows(REFERENCE - 1).stop], stream.columns, first)
        days = [stream.rows(day) for day in range(stream.weeks * WEEK)]
        self.profiles = [take(self.scored[there], self.bins) for there in days]
        self.surprise = [surprise(stream.label[there], scores[there]) for there in days]

    def rows(self, week: int) -> slice:
        """The rows of a week."""
        return slice(self.stream.rows(week * WEEK).start, self.stream.rows(week * WEEK + WEEK - 1).stop)

    def reference(self, weeks: np.ndarray) -> Reference:
        """What a model made from these weeks, in this order, is packaged with."""
        days = [week * WEEK + day for week in weeks for day in range(WEEK)]
        held = days[-HOLDOUT * WEEK :]
        profiles = {iso(number): self.profiles[day] for number, day in enumerate(days)}
        labels = {iso(number): self.surprise[day] for number, day in enumerate(held)}
        return Reference(self.bins, profiles, self.stream.importance, labels)

    def window(self, week: int) -> tuple[dict[str, Profile], dict[str, Day]]:
        """A week as the nights saw it."""
        days = range(week * WEEK, week * WEEK + WEEK)
        return named([self.profiles[day] for day in days]), named([self.surprise[day] for day in days][:-1])

    def with_change(
        self, week: int, change: planted.Change, column: str, share: float, since: int, random: np.random.Generator
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Inputs and labels of a week with a change planted from its day `since` on."""
        there = self.rows(week)
        inputs, label = self.stream.inputs[there].reset_index(drop=True), self.stream.label[there]
        hit = (random.random(len(label)) < share) & (self.stream.day[there] - week * WEEK >= since)
        return change.plant(planted.Hit(inputs, label, hit, column, self.stream.inputs, random))

    def changed(
        self, week: int, change: planted.Change, column: str, share: float, since: int, random: np.random.Generator
    ) -> tuple[dict[str, Profile], dict[str, Day]]:
        """The same week as the nights saw it."""
        inputs, label = self.with_change(week, change, column, share, since, random)
        scored, day = inputs.assign(**{SCORE: self.stream.score(week, inputs)}), self.stream.day[self.rows(week)]
        score, days = scored[SCORE].to_numpy(), [day == week * WEEK + number for number in range(WEEK)]
        labels = [surprise(label[there], score[there]) for there in days[:-1]]
        return named([take(scored[there], self.bins) for there in days]), named(labels)


def surprise(label: np.ndarray, score: np.ndarray) -> Day:
    """One day's labels against the scores."""
    return relation.daily("binary", label, score, np.full(len(label), "day"))["day"]


def named(days: list) -> dict:  # type: ignore[type-arg]
    """The days of a judged window, after all those of the reference."""
    return {iso(1000 + number): day for number, day in enumerate(days)}


def iso(number: int) -> str:
    return (date(2021, 1, 4) + timedelta(days=number)).isoformat()


def judged(
    reference: Reference, profiles: dict[str, Profile], labels: dict[str, Day], level: float
) -> tuple[Drift, Relation]:
    """Both signals of a window, as the night asks for them."""
    return (
        drift.judge(reference, profiles, window=SPAN, alpha=level),
        relation.judge("binary", reference.surprise, labels, window=SPAN, alpha=level),
    )


def level(setting: float) -> float:
    """The level of each signal's test at a setting."""
    monitoring = models.load(FLIGHTS).monitoring
    return budget.alpha(replace(monitoring, false_alarms_per_year=setting))


# -- nothing has changed ---------------------------------------------------------------------------------------------


def false_alarms(world: World, draws: int, seed: int) -> Iterator[dict[str, float]]:
    """For each setting the share of quiet windows that alarm, by signal and together, and what was set."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(draws):
        weeks = random.permutation(world.stream.weeks)
        found.append(judged(world.reference(weeks[:REFERENCE]), *world.window(weeks[REFERENCE]), level(max(SETTINGS))))
        progress(f"{world.stream.name}: quiet windows", number, draws)
    for setting in SETTINGS:
        drifts = np.array([alarms(each, level(setting)) for each, _ in found])
        relations = np.array([alarms(each, level(setting)) for _, each in found])
        windows = found[0][0].windows + 1
        yield {
            "setting": setting,
            "set for each": level(setting),
            "input drift can": budget.allowed_rank(level(setting), windows) / windows,
            "input drift": drifts.mean(),
            "relation drift": relations.mean(),
            "set for both": 2 * level(setting),
            "both": (drifts | relations).mean(),
        }


def alarms(found: Drift | Relation, at: float) -> bool:
    """Whether it alarms at this level: what was judged at a higher one has the same p."""
    return found.alarm and found.p is not None and found.p <= at + 1e-9


def years(world: World, draws: int, seed: int) -> Iterator[dict[str, float]]:
    """Alarms in 38 quiet weeks after the twelve: a window that alarms retrains on the twelve before it."""
    random = np.random.default_rng(seed)
    counts: dict[float, list[int]] = {setting: [] for setting in SETTINGS}
    for number in range(draws):
        weeks = random.permutation(world.stream.weeks)
        for setting in SETTINGS:
            first, alarmed = 0, 0
            for week in range(REFERENCE, min(REFERENCE + YEAR, len(weeks))):
                reference = world.reference(weeks[first : first + REFERENCE])
                if any(each.alarm for each in judged(reference, *world.window(weeks[week]), level(setting))):
                    alarmed, first = alarmed + 1, week - REFERENCE + 1
            counts[setting].append(alarmed)
        progress(f"{world.stream.name}: quiet years", number, draws)
    for setting, alarmed_in in counts.items():
        several = np.array(alarmed_in)
        yield {
            "setting": setting,
            "expected at most": setting * YEAR * WEEK / budget.DAYS_PER_YEAR,
            "mean": several.mean(),
            "at most 3": (several <= 3).mean(),
        }


# -- something has ---------------------------------------------------------------------------------------------------


def detection(world: World, trials: int, seed: int) -> Iterator[dict[str, object]]:
    """For each change and share: how often it is caught within 14 nights, and by what name."""
    for name, change in planted.CHANGES.items():
        for share in SHARES:
            random = np.random.default_rng([seed, len(name), int(100 * share)])
            caught = [first_verdict(world, change, share, random) for _ in range(trials)]
            hits = [found for found, _ in caught if found]
            right = sum(correct(change, column, found) for found, column in caught if found)
            causes = ", ".join(f"{cause} {count}" for cause, count in Counter(v.cause for v in hits).most_common())
            print(f"{world.stream.name}: {name} in {share:.0%}: {len(hits)} of {trials} ({causes})", flush=True)
            yield {
                "change": name, "share": share, "caught": len(hits) / trials,
                "right cause": right / len(hits) if hits else None, "named": causes,
            }  # fmt: skip


def first_verdict(
    world: World, change: planted.Change, share: float, random: np.random.Generator
) -> tuple[Verdict | None, str]:
    """The first verdict that asks for something, of the two windows that close within 14 nights; and the column."""
    weeks = random.permutation(world.stream.weeks)
    column = planted.column(world.stream, change.kind, random)
    reference = world.reference(weeks[:REFERENCE])
    for week, since in ((weeks[REFERENCE], int(random.integers(WEEK))), (weeks[REFERENCE + 1], 0)):
        profiles, labels = world.changed(week, change, column, share, since, random)
        found = decided(*judged(reference, profiles, labels, level(SET)))
        if found.cause != "none":
            return found, column
    return None, column


def decided(drifted: Drift, related: Relation) -> Verdict:
    """The verdict of a night on which only these two were found."""
    return verdict.decide(
        models.load(FLIGHTS), as_of=NOW, champion_version=1, trained_as_of=NOW - timedelta(days=20), drift=drifted,
        relation=related,
    )  # fmt: skip


def correct(change: planted.Change, column: str, found: Verdict) -> bool:
    """Whether it bears a cause that the change may have, and the column, if it was in one."""
    named_columns = {each.name for each in found.inputs} | {fault.source for fault in found.evidence.faults}
    return found.cause in change.causes and (not change.names_column or column in named_columns)


# -- telling ---------------------------------------------------------------------------------------------------------


def progress(what: str, number: int, of: int) -> None:
    if (number + 1) % max(1, of // 10) == 0:
        print(f"{what}: {number + 1} of {of}", flush=True)


def table(rows: list[dict]) -> str:  # type: ignore[type-arg]
    """Rows as a Markdown table."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *[[shown(head, row[head]) for head in heads] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(head: str, value: object) -> str:
    if not isinstance(value, float | np.floating):
        return "-" if value is None else str(value)
    if head in ("setting", "mean", "expected at most"):
        return f"{value:.3g}"
    return (
        f"{value:.0%}"
        if head in ("share", "caught", "right cause", "at most 3", "the column known", "its kind known too")
        else f"{100 * value:.1f} %"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 draws, 8 trials")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--rival-draws", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2013)
    parser.add_argument("--only", choices=["flights", "made up", "tangled"])
    parser.add_argument("--root", type=Path, default=ROOT, help="where the rows are kept")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.quick:
        given.draws, given.trials, given.years, given.rival_draws = 100, 8, 4, 4
    given.root.mkdir(parents=True, exist_ok=True)
    parts = []
    for make in (flights, made_up, tangled):
        if given.only and given.only.replace(" ", "_") != make.__name__:
            continue
        world = World(make(given.root))
        for title, rows in (
            (f"quiet windows, {given.draws:,} draws", false_alarms(world, given.draws, given.seed)),
            (f"{YEAR} quiet weeks, {given.years} years", years(world, given.years, given.seed)),
            (f"planted changes, {given.trials} trials of each, setting {SET:g}",
             detection(world, given.trials, given.seed)),
            (f"quiet labels, {given.draws:,} draws", limits.quiet_labels(world, given.draws, given.seed)),
            (f"an oracle on the same changes in {limits.SHARE:.0%}, {given.trials} trials",
             limits.oracle(world, given.trials, given.seed)),
            (f"others on the same draws, {given.rival_draws} of each",
             rivals.compared(world, given.rival_draws, given.seed, given.root)),
        ):  # fmt: skip
            parts.append(f"### {world.stream.name}: {title}\n\n{table(list(rows))}\n")
            print(f"\n{parts[-1]}", flush=True)
            if given.markdown:
                given.markdown.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
