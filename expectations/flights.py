"""What the flights' data must look like. Severity: critical stops the batch, warning quarantines rows, info notes."""

from typing import Any

from expectations import Expectations, Rule, Suite

NYC = ["EWR", "JFK", "LGA"]


def _columns(*names: str) -> Rule:
    return Rule(
        expect="expect_table_columns_to_match_set",
        severity="critical",
        args={"column_set": list(names), "exact_match": True},
        why="the delivery has other columns than it was agreed to have",
    )


def _volume() -> Rule:
    return Rule(
        expect="expect_table_row_count_to_be_between",
        severity="critical",
        args={"min_value": {"$PARAMETER": "rows_low"}, "max_value": {"$PARAMETER": "rows_high"}},
        why="far fewer or more rows than this source's own last weeks: truncated or doubled",
    )


def _present(column: str, why: str) -> Rule:
    return Rule(expect="expect_column_values_to_not_be_null", severity="warning", args={"column": column}, why=why)


def _mostly_present(column: str, share: float) -> Rule:
    return Rule(
        expect="expect_column_values_to_not_be_null",
        severity="critical",
        args={"column": column, "mostly": share},
        why=f"less than {share:.0%} of {column} is filled: the feed lost the column",
    )


def _between(column: str, low: float, high: float, severity: Any = "warning", **more: Any) -> Rule:
    return Rule(
        expect="expect_column_values_to_be_between",
        severity=severity,
        args={"column": column, "min_value": low, "max_value": high, **more},
        why=f"{column} outside {low} to {high} cannot be, or is in another unit",
    )


def _unique(*columns: str) -> Rule:
    return Rule(
        expect="expect_compound_columns_to_be_unique" if len(columns) > 1 else "expect_column_values_to_be_unique",
        severity="warning",
        args={"column_list": list(columns)} if len(columns) > 1 else {"column": columns[0]},
        why="the same row was delivered twice, with different content",
    )


def _flown() -> tuple[Rule, ...]:
    return (
        _volume(),
        _unique("flight_id"),
        _present("flight_id", "a flight without an id cannot be joined to anything"),
        _present("carrier", "a flight without a carrier"),
        Rule(
            expect="expect_column_values_to_be_in_set",
            severity="warning",
            args={"column": "origin", "value_set": NYC},
            why="not one of New York City's airports",
        ),
        Rule(
            expect="expect_column_values_to_match_regex",
            severity="warning",
            args={"column": "dest", "regex": "^[A-Z]{3}$"},
            why="not an airport code",
        ),
    )


SAME_FLIGHT = ("carrier", "origin", "dest")
FLOWN = ("flight_id", "carrier", "tailnum", "origin", "dest", "scheduled_departure")

FLIGHTS = Expectations(
    domain="flights",
    suites=(
        Suite(
            source="schedule",
            fixed=SAME_FLIGHT,
            rules=(
                _columns(*FLOWN, "scheduled_arrival", "distance", "planned_at"),
                *_flown(),
                _between("distance", 10, 6000),
            ),
        ),
        Suite(
            source="departures",
            fixed=SAME_FLIGHT,
            rules=(
                _columns(*FLOWN, "departed_at", "dep_delay"),
                *_flown(),
                _between("dep_delay", -120, 2880),
            ),
        ),
        Suite(
            source="arrivals",
            fixed=SAME_FLIGHT,
            rules=(
                _columns(*FLOWN, "arrived_at", "arr_delay"),
                *_flown(),
                _between("arr_delay", -180, 2880),
            ),
        ),
        Suite(
            source="weather",
            rules=(
                _columns(
                    *("origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"),
                    *("precip", "pressure", "visib", "observed_at", "known_at"),
                ),
                _volume(),
                _unique("origin", "observed_at"),
                _mostly_present("temp", 0.5),
                _between("pressure", 870, 1085, severity="critical", mostly=0.5),
                _between("pressure", 870, 1085),
                _between("temp", -40, 120),
                _between("humid", 0, 101),
                _between("wind_speed", 0, 150),
                _between("visib", 0, 11),
            ),
        ),
        Suite(
            source="planes",
            fixed=("built",),
            rules=(
                _unique("tailnum"),
                _between("built", 1930, 2014),
                _between("seats", 1, 900, severity="info"),
            ),
        ),
    ),
)
