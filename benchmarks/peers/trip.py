"""The request and the answer of the hand-written servers that take pydantic's models."""

from pydantic import BaseModel, ConfigDict, Field


class Trip(BaseModel):
    """One row, in the model's order."""

    model_config = ConfigDict(extra="forbid")

    temp: float
    humid: float
    wind_speed: float
    visib: float
    pressure: float
    precip: float
    airline_delay: float
    airline_late: float
    previous_delay: float
    previous_3_delay: float
    age: float
    seats: float
    departure_hour: float
    weekday: float
    miles: float
    airline: str
    airport: str


class Call(BaseModel):
    """The body."""

    instances: list[Trip] = Field(min_length=1, max_length=1000)


class Answer(BaseModel):
    """A probability for each instance."""

    predictions: list[float]
