"""FastAPI and treelite with Headway's duty, as one writes it by hand: a record is on disk before it is answered."""

import os
from pathlib import Path

import msgspec
from fastapi import FastAPI
from scoring import scorer
from trip import Answer, Call

app = FastAPI()
score = scorer()
log = os.open(Path(os.environ["LOG"]) / f"{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@app.post("/predict")
async def predict(call: Call) -> Answer:
    """On the event loop: what waits for the disk is short, and a thread would have to be waited for too."""
    answer = Answer(predictions=score(call.instances))
    os.write(log, msgspec.json.encode({**call.model_dump(), **answer.model_dump()}) + b"\n")
    os.fdatasync(log)
    return answer
