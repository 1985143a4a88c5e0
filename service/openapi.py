"""The OpenAPI document: BentoML's own for the typed endpoints, completed by what this service answers beside them."""

import json
from typing import TYPE_CHECKING, Any

from service.schema import MAX_BODY_BYTES, MAX_TEXT_BYTES, ModelInfo, Problem

if TYPE_CHECKING:
    from _bentoml_sdk.service import Service

REFUSALS = {  # of any request, and of those with a body
    401: "The API key is missing or unknown",
    405: "Another method is expected",
    503: "Too many requests at once: try again",
}
BODY_REFUSALS = {
    400: "The body is not what the endpoint takes",
    408: "The body did not arrive in time",
    413: f"The body has more than {MAX_BODY_BYTES} bytes",
    415: "The content-type is not what the endpoint takes",
}
PROBES = {
    "/livez": "The process runs",
    "/readyz": "The model is loaded and answers its self-check as recorded",
    "/metrics": "Metrics in Prometheus' text format",
}
_SCHEMAS = "#/components/schemas/"


def document(service: "Service[Any]", *, secured: bool) -> bytes:
    """The document as JSON. `secured`: an API key is asked for."""
    from _bentoml_sdk.service.openapi import generate_spec

    bento = generate_spec(service).asdict()
    typed = {
        api.route: _typed(api.name, bento["paths"][api.route]["post"], secured=secured) for api in service.apis.values()
    }
    paths = {
        **{path: {"post": operation} for path, operation in typed.items()},
        "/stream": {"post": _stream(secured=secured)},
        "/model": {"get": _model(secured=secured)},
        **{path: {"get": _probe(text)} for path, text in PROBES.items()},
    }
    named = {
        name: s for name, s in bento["components"]["schemas"].items() if f'"{_SCHEMAS}{name}"' in json.dumps(typed)
    }
    components: dict[str, Any] = {
        "schemas": named | {model.__name__: model.model_json_schema() for model in (ModelInfo, Problem)}
    }
    spec: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": service.name, "version": "1", "description": service.inner.__doc__},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": components,
    }
    if secured:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        spec["security"] = [{"key": []}]
    return json.dumps(spec).encode()


def _typed(name: str, operation: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    """BentoML's operation, with our refusals instead of its own."""
    return {
        "operationId": name,
        "tags": ["predictions"],
        "summary": operation["description"],
        "requestBody": operation["requestBody"] | {"required": True},
        "responses": {"200": operation["responses"][200]} | _refusals(secured=secured, body=True),
    }


def _stream(*, secured: bool) -> dict[str, Any]:
    """OpenAPI 3.1 has no word for a schema of lines: a text says it, and any body is one."""
    lines: dict[str, Any] = {"application/x-ndjson": {"schema": {}}}
    refusals = _refusals(secured=secured, body=True)
    del refusals["400"], refusals["413"]  # of a line, not of the stream
    return {
        "operationId": "stream",
        "tags": ["predictions"],
        "description": "Newline-delimited JSON: each line a body of /predict, answered in order by a line, its answer "
        f"or a Problem. A line has at most {MAX_TEXT_BYTES} bytes; there is no limit to their number. Read while you "
        "write: the service reads on only when its answers are taken.",
        "requestBody": {"content": lines, "required": True},
        "responses": {"200": {"description": "A line for each line", "content": lines}} | refusals,
    }


def _model(*, secured: bool) -> dict[str, Any]:
    return {
        "operationId": "model",
        "tags": ["model"],
        "description": ModelInfo.__doc__,
        "responses": {"200": _answer("The model that answers", "ModelInfo")} | _refusals(secured=secured, body=False),
    }


def _probe(text: str) -> dict[str, Any]:
    responses = {"200": {"description": text, "content": {"text/plain": {}}}}
    return {"tags": ["operation"], "security": [], "responses": responses}


def _refusals(*, secured: bool, body: bool) -> dict[str, Any]:
    refusals = REFUSALS | (BODY_REFUSALS if body else {})
    return {str(code): _answer(text, "Problem") for code, text in refusals.items() if secured or code != 401}


def _answer(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": _SCHEMAS + schema}}}}
