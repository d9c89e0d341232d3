"""Examples: what there is to predict, and the labels known by an instant."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd

import features
from features import HeadwayError
from models import Model
from pipelines.data import lake
from pipelines.data.ingest import horizon
from pipelines.home import Home
from pipelines.records import outcomes
from pipelines.scorers.tasks import places

FIXED = ("example_id", "decision_time", "label", "label_known_at")


def examples(at: Home, model: Model, since: datetime, until: datetime, *, as_of: datetime) -> pd.DataFrame:
    """The model's examples decided in (since, until], as they were known by `as_of`, sources as `horizon` says.

    Returns:
        DataFrame sorted by decision time and id: example_id, decision_time (UTC), label (float64, of a class its
        place; NaN where not known by `as_of`, or never), label_known_at (UTC), and the other columns of the declared
        query. A label that the query does not know is the outcome that callers told, if they did: see `outcomes.fill`.

    Raises:
        HeadwayError: nothing was ingested yet, or the query returns no such column, doubles an id, or a label is no
            class.
    """
    domain = features.load(model.domain)
    first = since - model.examples.known_before
    with lake.connect() as connection:
        for name in model.examples.sources:
            folder, known_at = at.room("lake", domain.name, name), domain.source(name).known_at
            until_then = horizon(at, domain, name, as_of)
            lake.relation(connection, name, folder, by=known_at, since=first, until=until_then)
        connection.execute(
            f"CREATE TEMPORARY VIEW span AS SELECT TIMESTAMPTZ '{since.isoformat()}' AS since, "
            f"TIMESTAMPTZ '{until.isoformat()}' AS until"
        )
        found = lake.microseconds(connection.sql(model.examples.sql).to_arrow_table()).to_pandas()
    return outcomes.fill(at, model, _checked(model, found), first, as_of=as_of)


def labelled(at: Home, model: Model, *, as_of: datetime, window: timedelta) -> pd.DataFrame:
    """The examples with a label of the last `window` whose labels have matured by `as_of`."""
    until = model.examples.matured(as_of)
    found = examples(at, model, until - window, until, as_of=as_of)
    return found[found["label"].notna()].reset_index(drop=True)


def _checked(model: Model, found: pd.DataFrame) -> pd.DataFrame:
    domain = features.load(model.domain)
    needed = [*FIXED, *domain.keys_of(model.feature_service), *domain.inputs_of(model.feature_service)]
    if missing := [name for name in needed if name not in found]:
        raise HeadwayError(f"the examples query of models/{model.name}.py returns no {', '.join(missing)}")
    if doubled := found.loc[found["example_id"].duplicated(), "example_id"].tolist():
        raise HeadwayError(f"the examples query of models/{model.name}.py returns {doubled[0]!r} twice")
    found["label"] = places(model, found["label"])
    return found.sort_values(["decision_time", "example_id"], ignore_index=True)
