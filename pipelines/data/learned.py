"""Rules that nobody has to write: what of a batch was never so in the source's own past.

They know no domain. Margins are wide: what an ordinary year brings, storms among it, is not to alarm; what a broken
feed brings is far outside. A critical one stops the batch, a warning quarantines its rows, info is noted.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd

from expectations import Suite
from pipelines.data.check import Broken, first_hour
from pipelines.data.usual import ENOUGH, FEW, QUANTILES, Past, is_text, numbers

SPREADS = 1.0
"""A level is off when two of three quantiles lie so many spreads outside of all windows before."""
SCALE = 4.0
"""A spread is off when it is so many times wider, or narrower, than in any window before."""
MANY = 50
"""A spread may be narrow by chance when there are fewer values than this."""
MISSING = 0.20
"""A share of missing values is off when it is at least so much above or below that of all windows before: more where
it varies, or rows are few. One that is all missing is off unless it nearly was before."""
RUN, SHORTEST = 2.0, 5
"""A value is frozen when it repeats so many times as long as ever before, and more often than this."""
ALWAYS, NEVER = 0.999, 0.5
"""Of two columns one is the larger in that share of the past, and now in less than this."""
KIN, TIED, LOOSE = 0.4, 0.9, 0.3
"""Rank correlations. An order counts only of columns that are kin; columns that were tied must not be loose."""
NEW = 0.20
"""More of the rows than this hold a category never seen: another code is in use; fewer are news."""
EXPECTED = 5
"""A category is missed when every window before had at least so many rows of it."""
SILENT = 2.0
"""A silence is too long when it is so many times the longest before, and one cadence more."""

Finder = Callable[[pd.DataFrame, Past], Iterator[Broken]]


def unusual(rows: pd.DataFrame, past: Past | None, suite: Suite, since: datetime, until: datetime) -> list[Broken]:
    """What in a batch was never so before; empty while the past is too short to say.

    Args:
        rows: the batch, numbered from 0, with the columns and types that the source has always had.
        past: what was known before it.
        suite: `unwatched` columns are left alone, `fixed` ones must not change for a key.
        since, until: the window that the batch is of.
    """
    if past is None or past.rows.empty:
        return []
    found = list(_fixed(rows, past, suite.fixed))
    if past.count < ENOUGH or rows.empty:
        return found
    needed = {*past.source.key, past.source.event_time, past.source.known_at}
    free = set(suite.unwatched) - needed
    watched = [name for name in rows if name not in free and name in past.rows]
    past = replace(past, rows=past.rows[watched])
    rows = rows[watched]
    for rule in RULES:
        found += rule(rows, past)
    return [*found, *_silent(rows, past, since, until)]


def _broken(
    rule: str, column: str, text: str, rows: pd.DataFrame, past: Past, bad: pd.Series | np.ndarray,
    severity: str = "critical",
) -> Broken:  # fmt: skip
    index = tuple(int(number) for number in np.flatnonzero(bad))
    first = first_hour(rows, past.source.event_time, index or tuple(range(len(rows))))
    return Broken(rule, severity, f"`{column}`{first}: {text}", len(index), index=index)


def _level(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """Quantiles far outside of those of all windows before: another unit, clock, scale, or column."""
    batch = numbers(rows, past.source)
    for name in batch.columns.intersection(past.numbers.columns):
        windows = past.quantiles[name].dropna()
        values = batch[name].dropna()
        if len(windows) < ENOUGH or len(values) < FEW:
            continue
        now = values.quantile(list(QUANTILES))
        low, high = windows.min(), windows.max()
        widths = windows[QUANTILES[-1]] - windows[QUANTILES[0]]
        usual, width = widths.median(), now.iloc[-1] - now.iloc[0]
        if usual == 0:  # it holds one value most of the time, so any other one would be far away
            continue
        away = np.maximum(low - now, now - high) / np.maximum(high - low, usual)
        narrow = len(values) >= MANY and width < widths.min() / SCALE
        if np.sort(away)[1] > SPREADS or width > SCALE * widths.max() or narrow:
            seen = past.numbers[name]
            beyond = (batch[name] < seen.min()) | (batch[name] > seen.max())
            text = (
                f"half of the values lie around {now.iloc[1]:.4g} (80 % in {now.iloc[0]:.4g} to {now.iloc[-1]:.4g}), "
                f"usual at these hours is {low.iloc[1]:.4g} to {high.iloc[1]:.4g} "
                f"(80 % in {low.iloc[0]:.4g} to {high.iloc[-1]:.4g}); another unit, clock or column"
            )
            yield _broken("usual level", name, text, rows, past, beyond if beyond.any() else batch[name].notna())


def _missing(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """Far more or far fewer missing values than in any window before."""
    if len(rows) < FEW:
        return
    for name in rows:
        share, low, high = rows[name].isna().mean(), past.missing[name].min(), past.missing[name].max()
        margin = max(MISSING, high - low) + len(rows) ** -0.5
        gone = share == 1 and high < 1 - MISSING
        if gone or share > high + margin or share < low - margin:
            text = f"{share:.0%} missing, usual at these hours is {low:.0%} to {high:.0%}; the feed lost or fills it"
            bad = rows[name].isna() if share > high else rows[name].notna()
            yield _broken("usual missing share", str(name), text, rows, past, bad)


def _frozen(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """A value that repeats far longer than ever before, within each entity that reports in turn."""
    source = past.source
    both = pd.concat([past.rows, rows], ignore_index=True)
    new = np.arange(len(both)) >= len(past.rows)
    entity = [name for name in source.key if name not in (source.event_time, source.known_at)]
    grouped = len(entity) > 0 and len(both.drop_duplicates(entity)) * 10 <= len(both)
    order = both.assign(_new=new).sort_values([*(entity if grouped else []), source.event_time], kind="stable").index
    both, new = both.loc[order], new[order]
    within = both.groupby(entity, sort=False).ngroup().to_numpy() if grouped else np.zeros(len(both), int)
    skipped = {*source.key, source.event_time, source.known_at}
    plain = [name for name in both if name not in skipped and not isinstance(both[name].dtype, pd.DatetimeTZDtype)]
    codes = {name: pd.factorize(both[name])[0] for name in plain}
    for name, code in codes.items():
        run = _runs(code, within)
        longest, now = run[~new].max(initial=0), run[new].max(initial=0)
        if now > max(RUN * longest, SHORTEST):
            inside = np.zeros(len(both), bool)
            end = int(np.flatnonzero(new & (run == now))[0])
            inside[end - now + 1 : end + 1] = True
            bad = np.zeros(len(rows), bool)
            bad[order[inside & new] - len(past.rows)] = True
            text = f"the same value {now} times in a row, the longest before was {longest}; it is frozen"
            yield _broken("usual run", name, text, rows, past, bad)


def _runs(code: np.ndarray, within: np.ndarray) -> np.ndarray:
    """(n,) how often the value has come in a row by then; 0 where it is missing (code -1)."""
    begins = np.ones(len(code), bool)
    begins[1:] = (code[1:] != code[:-1]) | (within[1:] != within[:-1])
    at = np.arange(len(code))
    return np.where(code < 0, 0, at - np.maximum.accumulate(np.where(begins, at, 0)) + 1)


def _pairs(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """Two columns that always stood in one order, or always went together, and no longer do."""
    batch, before = numbers(rows, past.source), past.numbers
    names = [name for name in batch.columns.intersection(before.columns) if before[name].nunique() > 1]
    ranks, now = before[names].corr("spearman"), batch[names].corr("spearman", min_periods=2 * FEW)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            rho, here = ranks.loc[one, other], now.loc[one, other]
            text = _order(before[one], before[other], batch[one], batch[other]) if abs(rho) >= KIN else None
            if text is None and abs(rho) >= TIED and here * np.sign(rho) < LOOSE:
                text = (
                    f"goes with `{other}` by a rank correlation of {here:.2f}, which was {rho:.2f}; wrong sign or rows"
                )
            if text:
                yield _broken("usual relation", one, text, rows, past, batch[one].notna())


def _order(one: pd.Series, other: pd.Series, one_now: pd.Series, other_now: pd.Series) -> str | None:
    gap, now = (one - other).dropna().to_numpy(), (one_now - other_now).dropna().to_numpy()
    if len(now) < FEW or len(gap) < ENOUGH * FEW:
        return None
    for word, past_share, share in (
        ("above", (gap >= 0).mean(), (now >= 0).mean()),
        ("below", (gap <= 0).mean(), (now <= 0).mean()),
    ):
        if past_share >= ALWAYS and share < NEVER:
            return (
                f"is not {word} `{other.name}` in {1 - share:.0%} of the rows, and was always; swapped, or another unit"
            )
    return None


def _categories(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """A category that was always there and is not, or values that never were."""
    inside = past.windows > 0
    for name in past.categories():
        seen = past.rows[name]
        codes, values = pd.factorize(seen[inside])
        width = len(values) + 1  # the last for what is missing
        cells = np.bincount(past.windows[inside] * width + codes % width, minlength=(past.windows.max() + 1) * width)
        counts = cells.reshape(-1, width)
        least = counts[counts.sum(axis=1) > 0].min(axis=0)[:-1]
        if gone := sorted(str(value) for value in set(values[least >= EXPECTED]) - set(rows[name].dropna())):
            text = f"no row with {', '.join(gone)}, which no window before was without; a part did not come"
            yield _broken("usual categories", name, text, rows, past, np.zeros(len(rows), bool))
        new = rows[name].notna() & ~rows[name].isin(seen.dropna().unique())
        if new.any():
            examples = ", ".join(map(str, rows.loc[new, name].unique()[:3]))
            text = f"{int(new.sum())} of {len(rows)} rows with a value never seen before, such as {examples}"
            yield _broken("known categories", name, text, rows, past, new, "critical" if new.mean() > NEW else "info")


def _characters(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """Text with characters that the column never held: a wrong encoding, or rubbish."""
    for name in rows.select_dtypes(object):
        if not (is_text(past.rows[name]) and is_text(rows[name])):
            continue
        known = _kinds("".join(past.rows[name].dropna().unique()))
        bad = rows[name].map(lambda text, known=known: isinstance(text, str) and not _kinds(text) <= known)
        if bad.any():
            examples = ", ".join(repr(text) for text in rows.loc[bad, name].unique()[:3])
            text = (
                f"{int(bad.sum())} of {len(rows)} rows with characters it never had, such as {examples}; wrong encoding"
            )
            yield _broken("usual characters", name, text, rows, past, bad, "warning")


def _kinds(text: str) -> frozenset[str]:
    """The characters of a text; letters and digits of ASCII stand for their kind."""
    found = set(text)
    for kind in (string.ascii_uppercase, string.ascii_lowercase, string.digits):
        if found & set(kind):
            found = (found - set(kind)) | {kind}
    return frozenset(found)


def _clock(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """Timestamps far ahead of, or behind, the instant of knowing, compared with all of the past."""
    batch = numbers(rows, past.source)
    for name in [name for name in batch if name.endswith(f" less {past.source.known_at}") and name in past.numbers]:
        seen = past.numbers[name].dropna()
        pad = max(seen.max() - seen.min(), past.source.cadence.total_seconds() / 3600)
        ahead, behind = batch[name] > seen.max() + pad, batch[name] < seen.min() - pad
        column = name.removesuffix(f" less {past.source.known_at}")
        span = f"{seen.min():.4g} to {seen.max():.4g} hours after `{past.source.known_at}` in the past"
        for bad, word, alone in ((ahead, "later", "warning"), (behind, "earlier", "info")):
            if bad.any():
                text = f"{int(bad.sum())} of {len(rows)} rows with an instant far {word} than usual, which is {span}"
                severity = "critical" if bad.mean() > NEVER else alone
                yield _broken("usual clock", column, text, rows, past, bad, severity)


def _again(rows: pd.DataFrame, past: Past) -> Iterator[Broken]:
    """Far more rows than usual whose key is there already: an old delivery under new instants."""
    key = list(past.source.key)
    if len(rows) < FEW or not set(key) <= set(rows):
        return
    inside = past.windows > 0
    usual = pd.Series(past.rows[key].duplicated()[inside]).groupby(past.windows[inside]).mean().max()
    known = _keys(rows, key).isin(_keys(past.rows, key))
    if known.mean() > usual + MISSING:
        text = f"{known.mean():.0%} of the rows are known from before, usual is at most {usual:.0%}; delivered again"
        yield _broken("usual corrections", "` and `".join(key), text, rows, past, known)


def _fixed(rows: pd.DataFrame, past: Past, fixed: tuple[str, ...]) -> Iterator[Broken]:
    """Keys that come with another value of a column that no correction changes: they name something else."""
    key = list(past.source.key)
    names = [name for name in fixed if name in rows and name in past.rows]
    if not names or not set(key) <= set(rows):
        return
    before = past.rows.loc[_keys(past.rows, key).isin(_keys(rows, key)), [*key, *names]]
    both = pd.concat([before, rows[[*key, *names]]], ignore_index=True)
    first = both.groupby(key, dropna=False)[names].transform("first")
    for name in names:
        differs = (both[name] != first[name]) & both[name].notna() & first[name].notna()
        bad = differs.to_numpy()[len(before) :]
        if bad.any():
            text = f"{int(bad.sum())} of {len(rows)} rows give a known {' and '.join(key)} another `{name}`"
            yield _broken("fixed columns", name, text, rows, past, bad, "warning")


def _keys(rows: pd.DataFrame, key: list[str]) -> pd.Index:
    return pd.Index(rows[key[0]]) if len(key) == 1 else pd.MultiIndex.from_frame(rows[key])


def _silent(rows: pd.DataFrame, past: Past, since: datetime, until: datetime) -> Iterator[Broken]:
    """Nothing for far longer than in any window before: the delivery is cut off, or has a hole."""
    known, length = past.source.known_at, (until - since).total_seconds()
    ages = _ages(rows[known], until)
    now, begin = _silence(ages[(ages >= 0) & (ages < length)], length)
    inside = past.windows > 0
    ages, windows = _ages(past.rows[known], until)[inside], past.windows[inside]
    ages = ages - windows * past.step.total_seconds()
    usual = max(_silence(ages[windows == window], length)[0] for window in np.unique(windows))
    if now > SILENT * usual + past.source.cadence.total_seconds():
        hour = pd.Timestamp(until) - pd.Timedelta(seconds=begin)
        text = (
            f"nothing for {now / 3600:.1f} hours since {hour:%Y-%m-%d %H:00}, the longest silence before was "
            f"{usual / 3600:.1f}; the delivery is cut off or has a hole"
        )
        yield Broken("usual silence", "critical", f"`{known}`: {text}", 0)


def _ages(instants: pd.Series, until: datetime) -> np.ndarray:
    return (pd.Timestamp(until) - instants).dt.total_seconds().to_numpy()


def _silence(ages: np.ndarray, length: float) -> tuple[float, float]:
    """The longest gap between instants in a window, its edges included, and the age at which it begins (seconds)."""
    edges = np.sort(np.concatenate([ages, [0.0, length]]))
    gaps = np.diff(edges)
    widest = int(gaps.argmax())
    return float(gaps[widest]), float(edges[widest + 1])


RULES: tuple[Finder, ...] = (_level, _missing, _frozen, _pairs, _categories, _characters, _clock, _again)
