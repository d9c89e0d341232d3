"""Which inputs, taken together, tell a window apart from the reference windows? It explains; it never alarms.

A classifier is taught to tell the window's rows from the reference's, and scored on rows that it did not see. Any two
weeks can be told apart somewhat, so the score is ranked among those of the reference windows, each told apart from all
the others by the same means. Unlike the profiles it sees inputs that are each as usual, but no longer go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import numpy as np
import pandas as pd

from monitoring import budget
from monitoring.profile import FeatureLike, to_float

ROWS = 1_000
"""Rows drawn of each side: more would find differences too small to matter."""
CODES = 200
"""Categories that are told apart, the commonest first; the rest are one."""
NAMED = 3
MATTERS = 0.01
"""An input whose values, when shuffled, cost less AUC than this is not named."""


class Apart(msgspec.Struct, frozen=True):
    """How well a window can be told from the reference windows, and by what."""

    sentence: str
    windows: int
    """Reference windows that it is ranked among."""
    auc: float | None = None
    """On unseen rows: 0.5 is no difference at all, 1 a complete one."""
    usual: tuple[float, float] | None = None
    """Lowest and highest AUC of a reference window told apart from the others."""
    beaten: int = 0
    """How many reference windows are harder to tell apart."""
    names: list[str] = []
    """The inputs that tell it apart, the strongest first; empty when it is no easier to tell than the others."""


def windows(rows: pd.DataFrame, days: Sequence[str], window: timedelta) -> list[pd.DataFrame]:
    """The rows as disjoint windows, oldest first, counted back from the last day.

    Args:
        days: ISO day of each row (n,).
    """
    age = pd.to_datetime(max(days)) - pd.to_datetime(pd.Series(days))
    return [rows[(age // window == number).to_numpy()] for number in range(int(age.max() // window), -1, -1)]


def tell_apart(
    reference: Sequence[pd.DataFrame], window: pd.DataFrame, features: Sequence[FeatureLike], seed: int = 0
) -> Apart:
    """Tell a window's rows from those of the reference windows.

    Args:
        reference: rows of each reference window, a column each feature.
        window: rows of the window, likewise.
        features: name and dtype; `str` is a category, all else a number.
        seed: of the rows drawn and of the classifier.
    """
    windows = [part for part in reference if len(part)]
    if len(windows) < budget.MIN_WINDOWS or window.empty:
        return Apart(f"{len(windows)} reference windows, at least {budget.MIN_WINDOWS} are needed", len(windows))
    coded = _coded([*windows, window], features, np.random.default_rng(seed))
    aucs = [_told(coded, number, seed)[0] for number in range(len(windows))]
    auc, names = _told(coded, len(windows), seed, [feature.name for feature in features])
    beaten, usual = sum(each < auc for each in aucs), (min(aucs), max(aucs))
    stands_out = beaten == len(windows)
    return Apart(_say(auc, usual, names) if stands_out else _as_usual(auc, usual), len(windows), auc, usual, beaten,
                 names if stands_out else [])  # fmt: skip


def _coded(
    windows: Sequence[pd.DataFrame], features: Sequence[FeatureLike], random: np.random.Generator
) -> list[np.ndarray]:
    """At most ROWS rows of each window as numbers, categories by how common they are: float (rows, features)."""
    drawn = [part.iloc[random.permutation(len(part))[:ROWS]] for part in windows]
    whole = pd.concat(drawn, ignore_index=True)
    columns = [_codes(whole[each.name]) if each.dtype == "str" else to_float(whole[each.name]) for each in features]
    return np.split(np.column_stack(columns), np.cumsum([len(part) for part in drawn])[:-1])


def _codes(column: pd.Series) -> np.ndarray:
    ranked = column.value_counts().index[:CODES]
    codes = pd.Index(ranked).get_indexer(column).astype(float)
    return np.where(column.isna(), np.nan, np.where(codes < 0, CODES, codes))


def _told(coded: Sequence[np.ndarray], number: int, seed: int, names: Sequence[str] = ()) -> tuple[float, list[str]]:
    """AUC of telling one window from the reference windows, itself left out; and what by, if names are given.

    The window that is judged is the last: it is in no other window's comparison.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    rest = np.concatenate([part for other, part in enumerate(coded[:-1]) if other != number])
    rest = rest[random.permutation(len(rest))[: len(coded[number])]]
    rows = np.concatenate([coded[number], rest])
    here = np.arange(len(rows)) < len(coded[number])
    held = random.random(len(rows)) < 0.5
    trees = HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=8, min_samples_leaf=20, early_stopping=False, random_state=seed
    ).fit(rows[~held], here[~held])
    auc = float(roc_auc_score(here[held], trees.predict_proba(rows[held])[:, 1]))
    if not names:
        return auc, []
    found = permutation_importance(trees, rows[held], here[held], scoring="roc_auc", n_repeats=3, random_state=seed)
    order = np.argsort(-found.importances_mean, kind="stable")[:NAMED]
    return auc, [names[j] for j in order if found.importances_mean[j] >= MATTERS]


def _as_usual(auc: float, usual: tuple[float, float]) -> str:
    return f"no easier to tell apart than other windows are (AUC {auc:.2f}, usually {usual[0]:.2f} to {usual[1]:.2f})"


def _say(auc: float, usual: tuple[float, float], names: Sequence[str]) -> str:
    by = " and ".join(filter(None, [", ".join(f"`{name}`" for name in names[:-1]), *(f"`{n}`" for n in names[-1:])]))
    told = f"by {by} together" if len(names) > 1 else f"by {by}" if names else "by many inputs, each a little"
    return f"can be told from the reference windows {told} (AUC {auc:.2f}, usually {usual[0]:.2f} to {usual[1]:.2f})"
