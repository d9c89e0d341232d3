"""The benchmark's model, its features looked up in three tables."""

from datetime import timedelta
from typing import Any

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from models import Examples, Gates, Model, Monitoring, Retraining


def estimator() -> Any:
    """100 trees of 15 leaves behind an encoder of the two categories."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    columns = make_column_transformer(
        (codes, make_column_selector(dtype_include=object)), remainder="passthrough", verbose_feature_names_out=False
    )
    trees = HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=15, early_stopping=False, random_state=0)
    return make_pipeline(columns, trees)


def declared(name: str, service: str) -> Model:
    """The model over a feature service."""
    return Model(
        name=name, owner="benchmarks", description="Arrives late", task="binary", domain="trips",
        feature_service=service, estimator=estimator, metric="roc_auc",
        examples=Examples(
            sources=("made_up",), sql="SELECT 1", known_before=timedelta(days=1), label_matures=timedelta(days=1)
        ),
        training_window=timedelta(weeks=8), holdout=timedelta(days=7),
        baselines={"always_the_same": lambda: DummyClassifier(strategy="prior")},
        gates=Gates(gain_over_baseline=0.0, loss_to_champion=0.01, calibration=0.1),
        retraining=Retraining(max_age=timedelta(days=60), cooldown=timedelta(days=7)),
        monitoring=Monitoring(false_alarms_per_year=12.0), schedule="0 1 * * *",
    )  # fmt: skip


MODEL = declared("looked_up", "found")
