"""The service, as BentoML sees it: one bundle and its typed endpoints. Knows nothing of where the bundle comes from.

MODEL_BUNDLE names the bundle's folder, MODEL_VERSION the registered version that it is.
"""

import asyncio
import os
from functools import cache
from pathlib import Path

import bentoml

from service.bundle import Bundle
from service.metrics import Metrics
from service.schema import ExplainedPrediction, ModelInfo, Prediction, Text, Texts
from service.scorer import Score

TURN_CHARACTERS = 20_000  # scored before other requests get their turn: 2 to 3 ms


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


@bentoml.service(
    name="sentiment",
    traffic={"timeout": 5},  # seconds; BentoML keeps every request's timer that long, so memory grows with it
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # service.metrics has them: BentoML's make a series of every unknown path
    tracing={"excluded_urls": ".*"},  # spans are built even if none is sampled
)
class Sentiment:
    """Tells whether a film review is positive."""

    def __init__(self) -> None:
        bundle, self.info = load()
        self.metrics = Metrics(bundle.profile.edges, self.info)
        self._scorer = bundle.scorer

    def score(self, text: str) -> Score:
        """Score a text that somebody asked for: monitoring sees it."""
        score = self._scorer.score(text)
        self.metrics.scored(score)
        return score

    @bentoml.api
    async def predict(self, text: Text) -> Prediction:
        """The label of one review and the probability that it is positive."""
        return Prediction.of(self.score(text), self.info.model_version)

    @bentoml.api
    async def predict_batch(self, texts: Texts) -> list[Prediction]:
        """The same for up to 1,000 reviews, in their order."""
        answers, characters = [], 0
        for text in texts:
            answers.append(Prediction.of(self.score(text), self.info.model_version))
            characters += len(text)
            if characters > TURN_CHARACTERS:
                characters = 0
                await asyncio.sleep(0)
        return answers

    @bentoml.api
    async def explain(self, text: Text) -> ExplainedPrediction:
        """The prediction with each matched term's share in it, and where the term stands."""
        explanation = self._scorer.explain(text)
        self.metrics.scored(explanation.score)
        return ExplainedPrediction.of(explanation, self.info.model_version)
