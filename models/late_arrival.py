"""Will the flight arrive more than 15 minutes late? Decided two hours before its planned departure.

Cancelled and diverted flights never arrive, so they have no label: they are predicted like any other flight
(nobody knows yet), but neither trained on nor scored. The question is "late, given that it arrives".
"""

from datetime import timedelta

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from sklearn.tree import DecisionTreeClassifier

from models import Examples, Gates, Model, Monitoring, Retraining, Slice

SEED = 2013


def estimator() -> Pipeline:
    """Ordinal codes for the categories, trees for the rest; missing values are taken as they are."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    columns = make_column_transformer(
        (codes, make_column_selector(dtype_include=object)), remainder="passthrough", verbose_feature_names_out=False
    )
    trees = HistGradientBoostingClassifier(
        learning_rate=0.08, max_iter=100, max_leaf_nodes=15, min_samples_leaf=100, l2_regularization=5.0,
        early_stopping=False, random_state=SEED,
    )  # fmt: skip
    return make_pipeline(columns, trees)


def hour_of_day() -> Pipeline:
    """What everyone knows: delays build up over the day. The planned hour, and nothing else."""
    column = make_column_transformer(("passthrough", ["departure_hour"]))
    return make_pipeline(column, DecisionTreeClassifier(max_leaf_nodes=12, min_samples_leaf=200, random_state=SEED))


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
            CASE WHEN arr_delay > 15 THEN 1.0 WHEN arr_delay IS NOT NULL THEN 0.0 END AS label,
            arrived_at AS label_known_at,
            plan.origin, plan.dest, plan.carrier, plan.tailnum, plan.scheduled_departure, plan.distance
        FROM span, plan LEFT JOIN landed USING (flight_id)
        WHERE plan.scheduled_departure - INTERVAL 2 HOURS > span.since
            AND plan.scheduled_departure - INTERVAL 2 HOURS <= span.until
    """,
)

LATE_ARRIVAL = Model(
    name="late_arrival",
    owner="operations@example.org",
    description="Arrives more than 15 minutes late",
    task="binary",
    domain="flights",
    feature_service="flight_plan",
    examples=EXAMPLES,
    estimator=estimator,
    training_window=timedelta(weeks=12),
    holdout=timedelta(days=14),
    metric="roc_auc",
    baselines={"always_the_same": lambda: DummyClassifier(strategy="prior"), "hour_of_day": hour_of_day},
    slices=(
        Slice(name="from_newark", column="origin", value="EWR", floor=0.55),
        Slice(name="from_kennedy", column="origin", value="JFK", floor=0.55),
        Slice(name="from_laguardia", column="origin", value="LGA", floor=0.55),
    ),
    # A holdout of 14 days tells AUCs apart to about 0.015: a tighter limit would refuse equals.
    gates=Gates(gain_over_baseline=0.0, loss_to_champion=0.02, calibration=0.12),
    retraining=Retraining(max_age=timedelta(days=56), cooldown=timedelta(days=7)),
    monitoring=Monitoring(false_alarms_per_year=12.0),
    schedule="30 0 * * *",
)
