"""Litestar, msgspec and treelite: granian --interface asgi litestar_treelite:app."""

from typing import Annotated

import msgspec
from litestar import Litestar, post
from scoring import scorer

TEXTS = ("airline", "airport")
NUMBERS = (
    "temp", "humid", "wind_speed", "visib", "pressure", "precip", "airline_delay", "airline_late", "previous_delay",
    "previous_3_delay", "age", "seats", "departure_hour", "weekday", "miles",
)  # fmt: skip
Trip = msgspec.defstruct(
    "Trip", [*((name, float) for name in NUMBERS), *((name, str) for name in TEXTS)], forbid_unknown_fields=True
)


class Call(msgspec.Struct):
    """The body."""

    instances: Annotated[list[Trip], msgspec.Meta(min_length=1, max_length=1000)]  # type: ignore[valid-type]


class Answer(msgspec.Struct):
    """A probability for each instance."""

    predictions: list[float]


score = scorer()


@post("/predict", status_code=200)
async def predict(data: Call) -> Answer:
    """A row takes 50 us: less than handing it to a thread."""
    return Answer(score(data.instances))


app = Litestar([predict], openapi_config=None)
