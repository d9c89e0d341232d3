"""What NannyML and ADWIN say of the draws in a folder; run by `benchmarks.rivals` in an environment of its own.

    python verdicts.py FOLDER    each FOLDER/<draw>/ holds reference.parquet and a file for each window

Prints {judge: {window: [whether it alarmed, for each draw]}} as JSON. Defaults throughout:

* NannyML's univariate drift by week (Jensen-Shannon, alert beyond three standard deviations of the reference weeks): an
  alarm when any column alerts; and its multivariate drift (error of reconstruction by PCA), which has one alert.
* River's ADWIN on every number of the rows, one after the other; and on the model's error. An alarm when one of them
  detects a change within the window.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

Alarms = Callable[[pd.DataFrame], bool]
"""Whether a window alarms, by what was learned from a reference."""
TIME, ERROR = "time", "error"
"""Columns that are no inputs: when the row was, by week, and the model's |label - score|."""


def inputs(rows: pd.DataFrame) -> list[str]:
    return [name for name in rows if name not in (TIME, ERROR)]


def univariate(reference: pd.DataFrame) -> Alarms:
    import nannyml

    fitted = nannyml.UnivariateDriftCalculator(inputs(reference), timestamp_column_name=TIME, chunk_period="W")
    fitted.fit(reference)
    return lambda window: _alert(fitted.calculate(window))


def reconstruction(reference: pd.DataFrame) -> Alarms:
    import nannyml

    fitted = nannyml.DataReconstructionDriftCalculator(inputs(reference), timestamp_column_name=TIME, chunk_period="W")
    fitted.fit(reference)
    return lambda window: _alert(fitted.calculate(window))


def _alert(result: Any) -> bool:
    found = result.filter(period="analysis").to_df()
    return bool(found[[column for column in found if column[-1] == "alert"]].to_numpy(bool).any())


def adwin(reference: pd.DataFrame, columns: list[str]) -> Alarms:
    from river.drift import ADWIN

    fed = {column: ADWIN() for column in columns}
    for column, detector in fed.items():
        for value in reference[column].dropna():
            detector.update(value)

    def alarms(window: pd.DataFrame) -> bool:
        return any(_detects(copy.deepcopy(detector), window[column].dropna()) for column, detector in fed.items())

    return alarms


def _detects(detector: Any, values: pd.Series) -> bool:
    for value in values:
        detector.update(value)
        if detector.drift_detected:
            return True
    return False


JUDGES = {
    "NannyML, any column": univariate,
    "NannyML, reconstruction": reconstruction,
    "ADWIN on the inputs": lambda rows: adwin(rows, [name for name in inputs(rows) if rows[name].dtype != object]),
    "ADWIN on the error": lambda rows: adwin(rows, [ERROR]),
}


def main() -> None:
    """Judge every draw."""
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, list[bool]]] = {judge: defaultdict(list) for judge in JUDGES}
    for draw in sorted(Path(sys.argv[1]).iterdir()):
        reference = pd.read_parquet(draw / "reference.parquet")
        for judge, fit in JUDGES.items():
            alarms = fit(reference)
            for window in sorted(draw.glob("*.parquet")):
                if window.stem != "reference":
                    found[judge][window.stem].append(alarms(pd.read_parquet(window)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
