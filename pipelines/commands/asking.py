"""A caller of the prediction endpoint: asks for a model's examples as an application would, at their decision times."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Self

import httpx
import pandas as pd

import features
from features import HeadwayError
from models import Model
from pipelines.home import Home
from pipelines.records.examples import examples

CALLERS = 4


class Caller:
    """Several connections to one service, with one key. Use it as a context manager."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self._pool = ThreadPoolExecutor(CALLERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._client.close()

    def ask(self, at: Home, model: Model, since: datetime, until: datetime, *, known_by: datetime) -> int:
        """Ask for every example decided in (since, until], one request for each instant; returns how many.

        The service must take its clock from the request (HEADWAY_CLOCK=request). Raises HeadwayError when a request
        is refused.
        """
        rows = examples(at, model, since, until, as_of=known_by)
        domain = features.load(model.domain)
        fields = ["example_id", *domain.keys_of(model.feature_service), *domain.inputs_of(model.feature_service)]
        bodies = [
            {"as_of": moment.isoformat(), "instances": [_plain(row) for row in group[fields].to_dict("records")]}
            for moment, group in rows.groupby("decision_time")
        ]
        list(self._pool.map(lambda body: self._post(model, body), bodies))
        return len(rows)

    def generation(self, model: str) -> int:
        """Which generation of a model's champion the service serves."""
        answer = self._client.get(f"/v1/models/{model}")
        return int(answer.json()["generation"]) if answer.is_success else -1

    def _post(self, model: Model, body: dict[str, Any]) -> None:
        answer = self._client.post(f"/v1/models/{model.name}/predict", json=body)
        if not answer.is_success:
            raise HeadwayError(f"the service refused a request for {model.name}: {answer.status_code} {answer.text}")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _json(value) for name, value in row.items()}


def _json(value: Any) -> Any:
    if value is None or pd.isna(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value
