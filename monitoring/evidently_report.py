"""Evidently's room: its full report of a week, our verdict first, as one self-contained HTML file.

It draws; it does not judge. Its dataset-level banner is left out, and so are its column tests: both rest on rows of
one week as if they were independent, and could contradict the verdict, which rests on windows. Importing this module
takes seconds, so callers import it where they need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.metric_types import SingleValue, SingleValueCalculation, SingleValueMetric
from evidently.core.report import Context, Snapshot
from evidently.legacy.renderers.html_widgets import text_widget
from evidently.presets import ValueStats
from markupsafe import escape

from features import HeadwayError
from monitoring.verdict import Verdict

SAMPLE = 10_000
"""Rows drawn of each side, at most: more only makes the page heavier."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)


class FeatureLike(Protocol):
    """What the report needs of a feature."""

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def dtype(self) -> Any:
        """`str`, or a kind of number."""
        ...


class HeadwayVerdict(SingleValueMetric):
    """Our verdict as one of Evidently's metrics: 1 when it asks for something to be done, else 0."""

    sentence: str
    action: str
    cause: str


class HeadwayVerdictCalculation(SingleValueCalculation[HeadwayVerdict]):
    """Passes the verdict on; nothing is computed from the rows."""

    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> tuple[SingleValue, None]:
        """The verdict's value and its sentence as a widget."""
        result = self.result(float(self.metric.action != "nothing"))
        result.widget = [text_widget(title="Headway's verdict", text=str(escape(self.metric.sentence)))]
        return result, None

    def display_name(self) -> str:
        """What the metric is called in the report."""
        return f"Headway's verdict: {self.metric.action} (cause: {self.metric.cause})"


def draw(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    verdict: Verdict,
    features: Sequence[FeatureLike],
    day: date,
    *,
    seed: int = 0,
) -> Snapshot:
    """Evidently's report of the listed columns.

    Args:
        reference: rows that the champion was trained on, a column each feature.
        current: rows that serving saw in the week, a column each feature.
        verdict: of the week; it comes first in the report.
        features: the columns to draw; one with no value at all on either side is left out (it would abort the report).
        day: the last of the week.
        seed: of the sample of at most 10,000 rows of each side.

    Raises:
        HeadwayError: no rows on one side, or no column with values on both.
    """
    drawn = [each for each in features if reference[each.name].notna().any() and current[each.name].notna().any()]
    if not drawn:
        raise HeadwayError(
            f"Evidently has nothing to draw: {len(reference)} reference and {len(current)} current rows."
        )
    numbers = [each.name for each in drawn if each.dtype != "str"]
    texts = [each.name for each in drawn if each.dtype == "str"]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    sides = [Dataset.from_pandas(_sample(rows, [*numbers, *texts], seed), definition) for rows in (current, reference)]
    verdict_first = HeadwayVerdict(sentence=verdict.sentence, action=verdict.action, cause=verdict.cause)
    report = Report([verdict_first, *(ValueStats(column=each.name) for each in drawn)])
    return report.run(*sides, timestamp=datetime.combine(day, time(), UTC), name=f"week to {day}")


def write(report: Snapshot, path: Path) -> None:
    """Write a report to `path` as one HTML file that asks nothing of any host."""
    path.write_text(_closed(report.get_html_str(as_iframe=False)), encoding="utf-8")


def _closed(html: str) -> str:
    """The same page, forbidden by itself to ask anything of any host."""
    return html.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1)


def _sample(rows: pd.DataFrame, columns: list[str], seed: int) -> pd.DataFrame:
    kept = rows[columns]
    return kept.sample(SAMPLE, random_state=seed) if len(kept) > SAMPLE else kept
