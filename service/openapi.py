"""The OpenAPI document: BentoML's own for the typed endpoints, completed by what this service answers beside them."""

import json
from typing import TYPE_CHECKING, Any

from service.schema import MAX_BODY_BYTES, MAX_TEXT_BYTES, ModelInfo, Problem

if TYPE_CHECKING:
    from _bentoml_sdk.service import Service

REFUSALS = {
    400: "The body is not what the endpoint takes",
    405: "Another method is expected",
    408: "The body did not arrive in time",
    413: f"More than {MAX_BODY_BYTES} bytes",
    415: "The content-type is not what the endpoint takes",
    503: "Too many requests at once: try again",
}
_SCHEMAS = "#/components/schemas/"


def document(service: "Service[Any]", *, secured: bool) -> bytes:
    """The document as JSON. `secured`: an API key is asked for."""
    from _bentoml_sdk.service.openapi import generate_spec

    spec = generate_spec(service, openapi_version="3.1.0").asdict()
    refusals = REFUSALS | ({401: "The API key is missing or unknown"} if secured else {})
    typed = {api.route: spec["paths"][api.route] for api in service.apis.values()}
    for api in service.apis.values():
        operation = typed[api.route]["post"]
        operation["operationId"] = api.name
        operation["requestBody"]["required"] = True
        operation["responses"] = {"200": operation["responses"][200]}
    operations = {
        **{path: item["post"] for path, item in typed.items()},
        "/stream": _stream(),
        "/model": {
            "operationId": "model",
            "description": ModelInfo.__doc__,
            "responses": {"200": _answer("The model that answers", "ModelInfo")},
        },
    }
    for path, operation in operations.items():
        codes = refusals if "requestBody" in operation else {c: t for c, t in refusals.items() if c in {401, 405, 503}}
        operation["responses"] |= {str(code): _answer(text, "Problem") for code, text in codes.items()}
        operation["tags"] = ["model" if path == "/model" else "predictions"]

    schemas = {
        name: schema
        for name, schema in spec["components"]["schemas"].items()
        if f'"{_SCHEMAS}{name}"' in json.dumps(operations)
    }
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": service.name, "version": "1", "description": service.inner.__doc__},
            "servers": [{"url": "."}],
            "paths": {
                path: {"post" if "requestBody" in operation else "get": operation}
                for path, operation in operations.items()
            }
            | {path: {"get": _probe(text)} for path, text in _PROBES.items()},
            "components": {
                "schemas": schemas | {model.__name__: model.model_json_schema() for model in (ModelInfo, Problem)},
                **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if secured else {}),
            },
            **({"security": [{"key": []}]} if secured else {}),
        }
    ).encode()


_PROBES = {
    "/livez": "The process runs",
    "/readyz": "The model is loaded and answers its self-check as recorded",
    "/metrics": "Metrics in Prometheus' text format",
}


def _probe(text: str) -> dict[str, Any]:
    return {
        "tags": ["operation"],
        "security": [],
        "responses": {"200": {"description": text, "content": {"text/plain": {}}}},
    }


def _answer(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": _SCHEMAS + schema}}}}


def _stream() -> dict[str, Any]:
    """OpenAPI 3.1 has no word for a schema of lines: a text says it, and any body is one."""
    lines: dict[str, Any] = {"application/x-ndjson": {"schema": {}}}
    return {
        "operationId": "stream",
        "description": "Newline-delimited JSON: each line a body of /predict, answered in order by a line, its answer "
        f"or a Problem. A line has at most {MAX_TEXT_BYTES} bytes; there is no limit to their number. Read while you "
        "write: the service reads on only when its answers are taken.",
        "requestBody": {"content": lines, "required": True},
        "responses": {"200": {"description": "A line for each line", "content": lines}},
    }
