"""What people serve such a model with, as its tutorials do it. PEER_MODEL names the model's file."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def fastapi_joblib():
    """FastAPI, a pydantic model in and out, and scikit-learn's pipeline from joblib in a plain `def`."""
    import joblib
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Review(BaseModel):
        text: str

    class Prediction(BaseModel):
        label: str
        positive: float

    app = FastAPI()
    pipeline = joblib.load(os.environ["PEER_MODEL"])

    @app.post("/predict")
    def predict(review: Review) -> Prediction:
        positive = float(pipeline.predict_proba([review.text])[0, 1])
        return Prediction(label="positive" if positive >= 0.5 else "negative", positive=positive)

    return app


def bare_starlette():
    """The limit: the scorer behind one Starlette route, without types, limits, keys or metrics."""
    from service.scorer import Scorer

    score = Scorer.read(Path(os.environ["PEER_MODEL"])).score

    async def predict(request: Request) -> JSONResponse:
        positive = score((await request.json())["text"]).positive
        return JSONResponse({"label": "positive" if positive >= 0.5 else "negative", "positive": positive})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])
