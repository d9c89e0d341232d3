"""FastAPI and the pickled pipeline, as tutorials have it: uvicorn fastapi_pipeline:app."""

import os

import joblib
import pandas as pd
from fastapi import FastAPI
from trip import Answer, Call

app = FastAPI()
pipeline = joblib.load(os.environ["MODEL"])


@app.post("/predict")
async def predict(call: Call) -> Answer:
    """On the event loop: in FastAPI's threads (a plain `def`) it is slower, since Python computes one at a time."""
    frame = pd.DataFrame([trip.model_dump() for trip in call.instances])
    return Answer(predictions=pipeline.predict_proba(frame)[:, 1].tolist())
