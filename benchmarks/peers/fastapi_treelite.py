"""FastAPI and treelite, as a careful developer writes it: uvicorn fastapi_treelite:app."""

from fastapi import FastAPI
from scoring import scorer
from trip import Answer, Call

app = FastAPI()
score = scorer()


@app.post("/predict")
async def predict(call: Call) -> Answer:
    """A row takes 50 us: less than handing it to a thread."""
    return Answer(predictions=score(call.instances))
