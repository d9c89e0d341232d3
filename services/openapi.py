"""The OpenAPI document, made from the types that requests are checked by and answers are encoded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from services.answers import Prediction, ProbabilityPrediction
from services.refusals import ErrorBody

if TYPE_CHECKING:
    from services.champion import Served

REFERENCE = "#/components/schemas/{name}"
REFUSALS = {
    "400": "The body is not JSON, or a field is wrong: `error.path` names it",
    "401": "No valid key",
    "403": "The key is for other models",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "500": "The model gave what cannot be a prediction, or something broke",
    "503": "Overloaded, or features cannot be read, or the prediction not made durable: come back after Retry-After s",
}


def document(served: Mapping[str, Served]) -> dict[str, Any]:
    """OpenAPI 3.1 of what is served now: one path a model, with exactly the request that it takes."""
    requests = [served[model].schema.type for model in sorted(served)]
    _, schemas = msgspec.json.schema_components(
        [ErrorBody, Prediction, ProbabilityPrediction, *requests], ref_template=REFERENCE
    )
    paths: dict[str, Any] = {}
    for model in sorted(served):
        paths[f"/v1/models/{model}/predict"] = {"post": _predict(served[model])}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headway", "version": "1", "description": "Predictions of the champions served now."},
        "security": [{"bearer": []}, {"key": []}],
        "paths": {**paths, "/v1/models": {"get": _models()}, "/v1/models/{model}": {"get": _model()}},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _predict(champion: Served) -> dict[str, Any]:
    model = champion.pointer.model
    one = "ProbabilityPrediction" if champion.packaged.manifest.task == "binary" else "Prediction"
    answer = {
        "type": "object",
        "required": ["model", "version", "generation", "request_id", "predictions"],
        "properties": {
            "model": {"const": model},
            "version": {"type": "integer"},
            "generation": {"type": "integer"},
            "request_id": {"type": "string"},
            "predictions": {"type": "array", "items": {"$ref": REFERENCE.format(name=one)}},
        },
    }
    return {
        "operationId": f"predict_{model}",
        "summary": champion.description,
        "requestBody": {"required": True, "content": _content(_reference(champion.schema.type.__name__))},
        "responses": {"200": {"description": "One prediction an instance", "content": _content(answer)}, **_refusals()},
    }


def _models() -> dict[str, Any]:
    listed = {"type": "object", "properties": {"models": {"type": "array", "items": {"type": "object"}}}}
    return {
        "operationId": "list_models",
        "summary": "What is served",
        "responses": {"200": {"description": "Models", "content": _content(listed)}, **_refusals("401", "503")},
    }


def _model() -> dict[str, Any]:
    named = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "get_model",
        "summary": "One model: version, training, metrics, request schema",
        "parameters": [named],
        "responses": {
            "200": {"description": "The model", "content": _content({"type": "object"})},
            "404": {"description": "No such model is served", "content": _content(_reference("ErrorBody"))},
            **_refusals("401", "403", "503"),
        },
    }


def _refusals(*only: str) -> dict[str, Any]:
    error = _content(_reference("ErrorBody"))
    return {code: {"description": REFUSALS[code], "content": error} for code in only or REFUSALS}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=name)}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
