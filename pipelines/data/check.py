"""Great Expectations' room: one batch against one suite, and what severity makes of the outcome."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from expectations import Rule, Suite

COLUMNS = ("column", "column_A", "column_B")
"""The arguments by which Great Expectations names columns one by one."""
MOST, ENOUGH = 0.5, 10
"""More bad rows than this share of a batch of at least ten, and the feed is broken, not the rows."""


@dataclass(frozen=True)
class Broken:
    """A rule that did not hold."""

    rule: str
    severity: str
    sentence: str
    """For people: the column, what was expected, what was found, what it means."""
    rows: int
    """How many rows break it; 0 for a rule about the batch."""
    is_error: bool = False
    """The check itself failed (a missing column, an exception in the rule); says nothing about values."""
    why: str = ""
    """For the person who reads a quarantined row; empty: the sentence."""
    index: tuple[int, ...] = ()
    """Which rows break it, counted from 0; those of a warning are quarantined."""


@dataclass(frozen=True)
class Checked:
    """A batch, divided."""

    kept: pd.DataFrame
    quarantined: pd.DataFrame
    """The refused rows, with `_rule` and `_why`; a row that breaks several rules is here once, with the first."""
    broken: tuple[Broken, ...]

    @property
    def stops(self) -> tuple[Broken, ...]:
        """What stops the batch: critical rules, and checks that could not be made."""
        return tuple(b for b in self.broken if b.severity == "critical" or b.is_error)


def check(
    rows: pd.DataFrame, suite: Suite, parameters: Mapping[str, Any], *, learned: Sequence[Broken] = (), clock: str = ""
) -> Checked:
    """Check a batch against its suite.

    Args:
        rows: the batch, any index.
        suite: the declared rules.
        parameters: values for `{"$PARAMETER": name}` in the rules' arguments.
        learned: rules of the source's own past that the batch breaks: see `pipelines.data.learned`.
        clock: the column that says when a row happened, for the first bad hour in sentences.
    """
    rows = rows.reset_index(drop=True)
    results = zip(suite.rules, _validate(rows, suite, dict(parameters)), strict=True)
    broken = [_broken(rule, result, rows, clock) for rule, result in results if not result["success"]]
    broken += learned
    refused: dict[int, Broken] = {}
    for found in broken:
        if found.severity == "warning":
            for index in found.index:
                refused.setdefault(index, found)
    if len(rows) >= ENOUGH and len(refused) > MOST * len(rows):
        broken.append(_most(refused, len(rows)))
    bad = rows.loc[sorted(refused)]
    bad = bad.assign(
        _rule=[refused[index].rule for index in bad.index],
        _why=[refused[index].why or refused[index].sentence for index in bad.index],
    )
    return Checked(kept=rows.drop(index=bad.index), quarantined=bad, broken=tuple(broken))


def first_hour(rows: pd.DataFrame, clock: str, index: Sequence[int]) -> str:
    """` since <hour>` of the earliest of the rows numbered so; empty where no time is known."""
    times = pd.to_datetime(rows[clock].iloc[list(index)], utc=True, errors="coerce") if clock in rows else None
    return "" if times is None or times.isna().all() else f" since {times.min():%Y-%m-%d %H:00}"


def _most(refused: Mapping[int, Broken], rows: int) -> Broken:
    """When most rows are bad, the feed is: what is left of it is not to be trusted either."""
    (rule, count), *_ = Counter(found.rule for found in refused.values()).most_common(1)
    text = (
        f"the batch: {len(refused)} of {rows} rows would be quarantined, {count} of them by {rule}; the feed is broken"
    )
    return Broken("most rows are good", "critical", text, len(refused))


def _validate(rows: pd.DataFrame, suite: Suite, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """One result for each rule, in the rules' order."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # set to INFO on import
    # A context of its own for each call: one that threads share validates the wrong frame, in silence.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("batches").add_dataframe_asset(suite.source)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows})
    configured = [
        ExpectationConfiguration(
            type=rule.expect, kwargs=dict(rule.args), severity=FailureSeverity(rule.severity), meta={"rule": number}
        ).to_domain_obj()
        for number, rule in enumerate(suite.rules)
    ]
    outcome = batch.validate(
        gx.ExpectationSuite(name=suite.source, expectations=configured),
        result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
        expectation_parameters=parameters,
    )
    results = [result.to_json_dict() for result in outcome.results]
    return sorted(results, key=lambda result: result["expectation_config"]["meta"]["rule"])


def _broken(rule: Rule, result: dict[str, Any], rows: pd.DataFrame, clock: str) -> Broken:
    errors = [e for e in _exceptions(result.get("exception_info") or {}) if e]
    named = rule.args.get("column_list") or [rule.args[key] for key in COLUMNS if key in rule.args] or ["the batch"]
    about = " and ".join(f"`{name}`" for name in named)
    found = result["result"]
    count = int(found.get("unexpected_count") or 0)
    index = () if errors else tuple(found.get("unexpected_index_list") or ())
    if errors:
        text = f"{about}: the check could not be made ({errors[0]})"
    elif count:
        examples = ", ".join(_short(value) for value in (found.get("partial_unexpected_list") or ())[:3])
        since = first_hour(rows, clock, index)
        text = f"{about}: {count} of {len(rows)} rows{since}, such as {examples}; {rule.why}"
    else:
        text = f"{about}: found {_observed(found)}; {rule.why}"
    return Broken(rule.expect, rule.severity, text, 0 if errors else count, bool(errors), rule.why, index)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _exceptions(info: Mapping[str, Any]) -> list[str]:
    """GX nests one record for each failed metric, or gives the record itself."""
    records = [info] if "raised_exception" in info else [value for value in info.values() if isinstance(value, dict)]
    return [str(record.get("exception_message")) for record in records if record.get("raised_exception")]


def _observed(found: Mapping[str, Any]) -> str:
    details = (found.get("details") or {}).get("mismatched")
    if details:
        return "; ".join(f"{kind} column {', '.join(map(str, names))}" for kind, names in sorted(details.items()))
    return str(found.get("observed_value"))
