"""The service: one bundle behind HTTP. Knows nothing of where the bundle comes from.

MODEL_BUNDLE names the bundle's folder, MODEL_VERSION the registered version that it is.
"""

import os
from functools import cache
from pathlib import Path

import bentoml
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.bundle import Bundle
from service.schema import ModelInfo, Prediction, Text


@cache
def load() -> tuple[Bundle, ModelInfo]:
    """The bundle to serve and what to say of it. Raises BundleError or ScorerError with the reason."""
    bundle = Bundle.read(Path(os.environ["MODEL_BUNDLE"]))
    lineage = bundle.gate.challenger
    return bundle, ModelInfo(
        model_version=os.environ["MODEL_VERSION"],
        scorer_sha256=lineage.scorer_sha256,
        git_sha=lineage.git_sha,
        data_digest=lineage.data_digest,
        trained_at=lineage.trained_at,
    )


async def _model(_: Request) -> JSONResponse:
    return JSONResponse(load()[1].model_dump())


class JsonOnly:
    """Answers 415 to a POST of anything but JSON: BentoML would parse forms as well, and fail on broken ones."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            content_type = Headers(scope=scope).get("content-type", "(none)")
            if content_type.partition(";")[0].strip().lower() != "application/json":
                error = {"error": f"content-type is {content_type[:100]}: expected application/json"}
                await JSONResponse(error, status_code=415)(scope, receive, send)
                return
        await self._app(scope, receive, send)


@bentoml.asgi_app(Starlette(routes=[Route("/model", _model)]))
@bentoml.service(
    name="sentiment",
    traffic={"timeout": 5},  # seconds; BentoML keeps every request's timer that long, so memory grows with it
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},  # spans are built even if none is sampled
)
class Sentiment:
    """Tells whether a film review is positive."""

    def __init__(self) -> None:
        bundle, info = load()
        self._score, self._version = bundle.scorer.score, info.model_version

    @bentoml.api
    async def predict(self, text: Text) -> Prediction:
        """The label of one review and the probability that it is positive."""
        positive = self._score(text).positive
        return Prediction(
            label="positive" if positive >= 0.5 else "negative", positive=positive, model_version=self._version
        )


Sentiment.add_asgi_middleware(JsonOnly)  # pyright: ignore[reportArgumentType] (BentoML types the class as its call)
