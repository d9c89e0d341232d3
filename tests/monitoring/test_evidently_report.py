from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features import HeadwayError
from tests.monitoring.weeks import FEATURES, judged, verdict, weather

pytestmark = pytest.mark.slow


def test_the_report_has_our_verdict_and_no_banner_of_its_own(tmp_path: Path) -> None:
    os.environ["DO_NOT_TRACK"] = "1"
    from monitoring import evidently_report

    random = np.random.default_rng(0)
    reference = pd.concat([weather(random, 400) for _ in range(30)])  # more than the sample
    current = weather(random, 500, 0.6).assign(moon_age=np.nan, secret=1.0)
    week = verdict(6, drift=judged(storm=0.6))
    path = tmp_path / "report.html"
    day = date(2013, 4, 7)
    evidently_report.write(evidently_report.draw(reference.assign(secret=1.0), current, week, FEATURES, day), path)
    text = path.read_text(encoding="utf-8")
    assert "Retrain: `wind_from`, `water_level`" in text
    assert "default-src 'none'" in text.partition("<style")[0]
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)
    data = text.partition("additionalGraphs")[2]
    assert "wind_from" in data
    assert "moon_age" not in data  # all null
    assert "secret" not in data  # not listed
    assert "Dataset Drift" not in data
    with pytest.raises(HeadwayError, match="nothing to draw"):
        evidently_report.draw(reference[:0], current, week, FEATURES, day)
