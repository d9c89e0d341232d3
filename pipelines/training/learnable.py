"""Whether anything can be learned from a training frame and judged by it: told before an estimator stumbles over it."""

from __future__ import annotations

import features
from features import Domain, FeatureTable, HeadwayError, RequestFeatures
from models import Model
from pipelines.records.frame import Split


def learnable(model: Model, parts: Split) -> None:
    """Raise HeadwayError for labels that are all the same, or a feature that is missing in every training row."""
    for name, part, use in (("training", parts.train, "learned from"), ("holdout", parts.holdout, "judged by")):
        if part.rows["label"].nunique() < 2:
            label = part.rows["label"].iloc[0]
            known = model.classes[int(label)] if model.classes else f"{label:g}"
            raise HeadwayError(
                f"{model.name}: all {len(part)} {name} rows have the label {known}, so nothing can be {use} them. Look "
                f"at `label` in the examples query of models/{model.name}.py, ingest more history (`headway ingest "
                f"{model.domain}`), or train as of a later day."
            )
    missing = parts.train.inputs.columns[parts.train.inputs.isna().all()]
    if len(missing):
        raise HeadwayError(f"{model.name}: {_missing(model, features.load(model.domain), set(missing))}")


def _missing(model: Model, domain: Domain, missing: set[str]) -> str:
    """Each feature view with its missing features, and what to do about it."""
    views: tuple[FeatureTable | RequestFeatures, ...]
    views = (*domain.tables_of(model.feature_service), *domain.request_features_of(model.feature_service))
    found = {view.name: ", ".join(f"`{f.name}`" for f in view.features if f.name in missing) for view in views}
    named = "; ".join(f"{names} of the feature view {view}" for view, names in found.items() if names)
    return (
        f"missing in every training row: {named}. Compute what is missing for the training window (`headway ingest "
        f"{domain.name} --history SINCE`), mend the feature view in features/{domain.name}.py (its query or function, "
        f"its ttl, a default), or take it out of the feature service {model.feature_service}."
    )
