"""The registered model as MLflow loads it: code that lies with the version, over the scorer. Run by MLflow alone."""

from pathlib import Path

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class SentimentModel(PythonModel):
    """One column `text` in; `label` and `positive` (the probability) out, a row each."""

    def load_context(self, context: PythonModelContext) -> None:
        from service.scorer import Scorer  # from the version's own code folder

        self._scorer = Scorer.read(Path(context.artifacts["bundle"]) / "scorer.safetensors")

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] (its hint says None)
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        positive = [score.positive for score in self._scorer.score_all(list(model_input["text"]))]
        labels = ["positive" if p >= 0.5 else "negative" for p in positive]
        return pd.DataFrame({"label": labels, "positive": positive})


set_model(SentimentModel())
