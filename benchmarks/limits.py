"""What could be had at best: an oracle that knows what changed, and tests of labels that know less than `relation`.

The oracle is told which column a change was planted in, and looks at nothing else; told what kind of change it was too,
it looks at the one number that shows it best. Both rank the window among the same twelve at the same rate as the
verdict does. What they miss is to be had by a higher rate or by more windows only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import planted
from monitoring import drift, relation
from monitoring.oddness import oddness, rank_of_last
from monitoring.profile import Profile, add
from monitoring.relation import Day

if TYPE_CHECKING:
    from benchmarks.trust import World

SHARE = 0.3
LEVELS = (0.01, 0.04, 0.12, 0.25)
RESAMPLED = 2_000
SHOWS: dict[str, Callable[[Profile, str], float]] = {
    "mean shift": lambda window, column: window.moments[column].mean or 0.0,
    "scale": lambda window, column: window.moments[column].sd or 0.0,
    "missingness": lambda window, column: window.counts[column][-2] / window.rows,
}
"""The number that shows a change best."""


def oracle(world: World, trials: int, seed: int) -> Iterator[dict[str, object]]:
    """For each change of one column: in how many trials an oracle would have caught it; and which columns hide it."""
    for name, change in planted.CHANGES.items():
        if change.kind == "any":
            continue
        random = np.random.default_rng([seed, len(name), int(100 * SHARE)])
        column, kind, by = [], [], defaultdict(list)
        for _ in range(trials):
            where, found = _oddest(world, name, change, random)
            column.append(found[0])
            kind.append(found[1])
            by[where].append(found[0])
        yield {
            "change": name,
            "the column known": float(np.mean(column)),
            "its kind known too": float(np.mean(kind)) if name in SHOWS else None,
            "by column": ", ".join(f"{where} {np.mean(by[where]):.0%}" for where in sorted(by)),
        }


def _oddest(
    world: World, name: str, change: planted.Change, random: np.random.Generator
) -> tuple[str, tuple[bool, bool]]:
    """The column, and whether each oracle finds one of the two windows the oddest of thirteen."""
    from benchmarks.trust import REFERENCE, SPAN

    weeks, column = random.permutation(world.stream.weeks), planted.column(world.stream, change.kind, random)
    behind = drift.blocks(world.reference(weeks[:REFERENCE]).days, SPAN)
    found = np.zeros((2, 2), bool)
    for place, since in enumerate((int(random.integers(7)), 0)):
        profiles, _ = world.changed(weeks[REFERENCE + place], change, column, SHARE, since, random)
        windows = [*behind, add(profiles.values())]
        z = oddness(world.bins, windows).z[:, list(world.bins.columns).index(column)]
        shown = np.array([SHOWS[name](window, column) for window in windows]) if name in SHOWS else np.zeros(len(z))
        found[place] = rank_of_last(z) == 1, rank_of_last(np.sign(shown[-1] - shown.mean()) * shown) == 1
    return column, (bool(found[:, 0].any()), bool(found[:, 1].any()))


def quiet_labels(world: World, draws: int, seed: int) -> Iterator[dict[str, float]]:
    """How often the labels of a quiet week alarm at a level: by `relation`, by others that know less."""
    from benchmarks.trust import REFERENCE

    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(draws):
        weeks = random.permutation(world.stream.weeks)
        days = world.reference(weeks[:REFERENCE]).surprise, world.window(weeks[REFERENCE])[1]
        there, here = ([part[day] for day in sorted(part)] for part in days)
        found["surprise"].append(relation.permutation_p(here, there)[0])
        found["day AUC"].append(relation.permutation_p(_by_auc(here), _by_auc(there))[0])
        found["surprise, plain bootstrap of days"].append(_bootstrap_p(here, there, random))
    for level in LEVELS:
        yield {"set": level, **{how: float(np.mean(np.array(p) <= level)) for how, p in found.items()}}


def _by_auc(days: list[Day]) -> list[Day]:
    return [Day(day.labels, -(day.auc or 0.5), day.auc) for day in days]


def _bootstrap_p(here: list[Day], there: list[Day], random: np.random.Generator) -> float:
    now, known = (np.array([day.surprise for day in part]) for part in (here, there))
    drawn = random.choice(known, (RESAMPLED, len(now))).mean(axis=1)
    return float((1 + (drawn >= now.mean()).sum()) / (1 + RESAMPLED))
