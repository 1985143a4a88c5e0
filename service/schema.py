"""What the service accepts and answers."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, StrictStr

from service.bundle import MAX_CHARACTERS


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Text = Annotated[
    StrictStr,
    Field(max_length=MAX_CHARACTERS, description="A review in English", examples=["A quiet, moving film."]),
    AfterValidator(_not_blank),
]


class Prediction(BaseModel):
    label: Literal["positive", "negative"]
    positive: Annotated[float, Field(ge=0, le=1, description="probability that the review is positive")]
    model_version: str


class ModelInfo(BaseModel):
    """Which model answers, and where it comes from."""

    model_version: str
    scorer_sha256: str
    git_sha: str
    data_digest: str
    trained_at: str
