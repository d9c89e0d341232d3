"""The OpenAPI document, made from the types that requests are checked by and answers are encoded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from features import NAME
from services.answers import Answer
from services.catalogue import ModelDetails, ModelList
from services.outcomes import Accepted, OutcomeSchema, of_version
from services.refusals import ErrorBody
from services.schema import MAX_INSTANCES

if TYPE_CHECKING:
    from services.champion import Served

ABOUT = """\
Predictions of the champions that are served now. Make a key with `headway keys make NAME` and send it as
`Authorization: Bearer KEY` or `X-API-Key: KEY`. Bodies are JSON, and read strictly: a field that is unknown, missing,
given twice or of another type is refused by its path.
"""
SCHEMA, HEADER = "#/components/schemas/{name}", "#/components/headers/{name}"
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Request-Id": (
        "Names this call in its answer, in the log and in the record of its predictions",
        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    ),
    "X-Model-Version": ("The version that answered", {"type": "integer", "minimum": 1}),
    "X-Model-Generation": ("How often the champion had changed", {"type": "integer", "minimum": 1}),
    "Retry-After": ("Come back after so many seconds", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": ("How to send a key", {"type": "string"}),
}
REFUSALS: dict[int, tuple[str, tuple[str, ...]]] = {
    400: ("The body is not JSON, or a field is wrong: `error.path` names it", ()),
    401: ("No valid key", ("WWW-Authenticate",)),
    403: ("The key is for other models", ()),
    404: ("No such model is served: the message names those that are", ()),
    408: ("The body came too slowly", ()),
    413: ("The body is too large: send fewer instances a call", ()),
    415: ("The body is not application/json", ()),
    429: ("The key was used more often than its rate allows", ("Retry-After",)),
    500: ("The model gave what cannot be a prediction, or something broke; the log tells under the request id", ()),
    503: ("Overloaded, or features cannot be read, or the prediction not made durable", ("Retry-After",)),
}
Schema = dict[str, Any]


def document(served: Mapping[str, Served]) -> dict[str, Any]:
    """OpenAPI 3.1 of what is served now: one path a model, with exactly the request that it takes."""
    models = [served[model] for model in sorted(served)]
    answers = {champion.pointer.model: _answer(champion) for champion in models}
    outcomes = {champion.pointer.model: _told(champion) for champion in models}
    types = [ErrorBody, ModelList, ModelDetails, *(champion.schema.type for champion in models), *answers.values()]
    types += [Accepted, *(kind for told in outcomes.values() for kind in told.types)]
    _, schemas = msgspec.json.schema_components(types, ref_template=SCHEMA)
    schemas |= {told.title: told.document(SCHEMA) for told in outcomes.values()}
    paths: dict[str, Any] = {
        f"/v1/models/{champion.pointer.model}/predict": {"post": _predict(champion, answers[champion.pointer.model])}
        for champion in models
    }
    paths |= {f"/v1/models/{model}/outcomes": {"post": _outcomes(told)} for model, told in outcomes.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headway", "version": "1", "description": ABOUT},
        "security": [{"bearer": []}, {"key": []}],
        "paths": {**paths, "/v1/models": {"get": _models()}, "/v1/models/{model}": {"get": _model(sorted(served))}},
        "components": {
            "schemas": schemas,
            "headers": {name: {"description": text, "schema": kind} for name, (text, kind) in HEADERS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _answer(champion: Served) -> type[msgspec.Struct]:
    """The type of a model's answers: `Answer` with its name and its kind of prediction."""
    title = champion.schema.type.__name__.removesuffix("Request")
    one = champion.kind.documented(title)
    exact: dict[str, Any] = {
        "model": Literal[champion.pointer.model],
        "predictions": Annotated[list[one], Meta(min_length=1, max_length=MAX_INSTANCES)],  # type: ignore[valid-type]
    }
    fields = [(field.name, exact.get(field.name, field.type)) for field in msgspec.structs.fields(Answer)]
    return msgspec.defstruct(f"{title}Answer", fields, frozen=True, namespace={"__doc__": Answer.__doc__})


def _predict(champion: Served, answer: type[msgspec.Struct]) -> dict[str, Any]:
    request: Schema = {"schema": _reference(champion.schema.type)}
    if champion.schema.example is not None:
        request["example"] = champion.schema.example
    return {
        "operationId": f"predict_{champion.pointer.model}",
        "tags": ["predictions"],
        "summary": champion.description,
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": {
            "200": _response("One prediction an instance", answer, "X-Model-Version", "X-Model-Generation"),
            **_refusals(*REFUSALS),
        },
    }


def _told(champion: Served) -> OutcomeSchema:
    timed = any(field.encode_name == "as_of" for field in msgspec.structs.fields(champion.schema.type))
    return of_version(champion.packaged.manifest, clock=timed)


def _outcomes(told: OutcomeSchema) -> dict[str, Any]:
    shown = {"outcomes": [{"request_id": "0" * 32, "instance": 0, "label": 1}]}
    return {
        "operationId": f"tell_outcomes_{told.model}",
        "tags": ["outcomes"],
        "summary": f"Tell what became of predictions of {told.model}: by request, by example, or by entity and time",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": SCHEMA.format(name=told.title)}, "example": shown}},
        },
        "responses": {
            "202": _response("On disk: training and monitoring hear of them the next night", Accepted),
            **_refusals(*REFUSALS),
        },
    }


def _models() -> dict[str, Any]:
    return {
        "operationId": "list_models",
        "tags": ["models"],
        "summary": "What is served",
        "responses": {"200": _response("The models that the key opens", ModelList), **_refusals(401, 429, 500, 503)},
    }


def _model(names: list[str]) -> dict[str, Any]:
    named = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "examples": {name: {"value": name} for name in names},
    }
    return {
        "operationId": "get_model",
        "tags": ["models"],
        "summary": "One model: version, training, metrics, the request it takes",
        "parameters": [named],
        "responses": {
            "200": _response("The model", ModelDetails),
            **_refusals(401, 403, 404, 429, 500, 503),
        },
    }


def _refusals(*codes: int) -> dict[str, Any]:
    return {str(code): _response(REFUSALS[code][0], ErrorBody, *REFUSALS[code][1]) for code in codes}


def _response(description: str, body: type[msgspec.Struct], *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {name: {"$ref": HEADER.format(name=name)} for name in ("X-Request-Id", *headers)},
        "content": {"application/json": {"schema": _reference(body)}},
    }


def _reference(body: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": SCHEMA.format(name=body.__name__)}
