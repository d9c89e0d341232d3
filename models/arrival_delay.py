"""How many minutes late will the flight arrive? Decided two hours before its planned departure.

The same features and the same flights as `late_arrival`; the label is the delay itself, in minutes, capped at
three hours either way so that a handful of very late flights do not decide which model is better.
"""

from datetime import timedelta

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from models import Examples, Gates, Model, Monitoring, Retraining, Slice

SEED = 2013


def estimator() -> Pipeline:
    """Ordinal codes for the categories, trees for the rest; missing values are taken as they are."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    columns = make_column_transformer(
        (codes, make_column_selector(dtype_include=object)), remainder="passthrough", verbose_feature_names_out=False
    )
    trees = HistGradientBoostingRegressor(
        loss="absolute_error", learning_rate=0.1, max_iter=80, max_leaf_nodes=15, min_samples_leaf=100,
        early_stopping=False, random_state=SEED,
    )  # fmt: skip
    return make_pipeline(columns, trees)


EXAMPLES = Examples(
    sources=("schedule", "arrivals"),
    known_before=timedelta(hours=26),
    label_matures=timedelta(hours=24),
    sql="""
        WITH plan AS (  -- as it stood at the decision: a later correction must not reach an older example
            SELECT * FROM schedule WHERE planned_at <= scheduled_departure - INTERVAL 2 HOURS
            QUALIFY row_number() OVER (PARTITION BY flight_id ORDER BY planned_at DESC) = 1
        ), landed AS (
            SELECT * FROM arrivals
            QUALIFY row_number() OVER (PARTITION BY flight_id ORDER BY arrived_at DESC) = 1
        )
        SELECT plan.flight_id AS example_id,
            plan.scheduled_departure - INTERVAL 2 HOURS AS decision_time,
            greatest(-180.0, least(180.0, arr_delay)) + 0 * arr_delay AS label,
            arrived_at AS label_known_at,
            plan.origin, plan.dest, plan.carrier, plan.tailnum, plan.scheduled_departure, plan.distance
        FROM span, plan LEFT JOIN landed USING (flight_id)
        WHERE plan.scheduled_departure - INTERVAL 2 HOURS > span.since
            AND plan.scheduled_departure - INTERVAL 2 HOURS <= span.until
    """,
)

ARRIVAL_DELAY = Model(
    name="arrival_delay",
    owner="operations@example.org",
    description="Minutes late at arrival",
    task="regression",
    domain="flights",
    feature_service="flight_plan",
    examples=EXAMPLES,
    estimator=estimator,
    training_window=timedelta(weeks=12),
    holdout=timedelta(days=14),
    metric="neg_mean_absolute_error",
    baselines={"always_the_same": lambda: DummyRegressor(strategy="median")},
    slices=(Slice(name="from_newark", column="origin", value="EWR", floor=-60.0),),
    gates=Gates(gain_over_baseline=0.0, loss_to_champion=1.0, calibration=0.5),
    retraining=Retraining(max_age=timedelta(days=56), cooldown=timedelta(days=7)),
    monitoring=Monitoring(false_alarms_per_year=4.0),
    schedule="45 0 * * *",
)
