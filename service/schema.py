"""What the service accepts and answers. Limits are part of the contract: they stand in the OpenAPI document."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, FailFast, Field, StrictStr

from service.bundle import MAX_CHARACTERS
from service.scorer import Explanation, Score

MAX_TEXTS = 1_000
MAX_TEXT_BYTES = 128 * 2**10  # of one text as JSON: a character takes at most 12 bytes, escaped as two surrogates
MAX_BODY_BYTES = 4 * 2**20  # of one request: 1,000 reviews of the corpora take 1.3 MB
EXAMPLE = "A quiet, moving film that I will not forget."


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Text = Annotated[
    StrictStr,
    Field(
        max_length=MAX_CHARACTERS,
        description="A review in English",
        examples=[EXAMPLE],
        json_schema_extra={"minLength": 1, "pattern": r"[^\s\x1c-\x1f\x85]"},  # what _not_blank asks for
    ),
    AfterValidator(_not_blank),
]
Texts = Annotated[
    list[Text],
    FailFast(),  # a million faults would take half a second to collect
    Field(min_length=1, max_length=MAX_TEXTS, examples=[[EXAMPLE, "A dull waste of time."]]),
]


class Prediction(BaseModel):
    label: Literal["positive", "negative"]
    positive: Annotated[float, Field(ge=0, le=1, description="probability that the review is positive")]
    model_version: str

    @classmethod
    def of(cls, score: Score, version: str) -> "Prediction":
        return cls(label=label_of(score.positive), positive=score.positive, model_version=version)


class MatchedTerm(BaseModel):
    """A word or run of words that the model knows."""

    term: str
    contribution: Annotated[float, Field(description="added to the log-odds; positive speaks for a positive review")]
    spans: Annotated[
        list[tuple[int, int]],
        Field(description="start and end of each occurrence, in characters (Unicode code points) of the text"),
    ]


class ExplainedPrediction(BaseModel):
    label: Literal["positive", "negative"]
    positive: Annotated[float, Field(ge=0, le=1, description="probability that the review is positive")]
    model_version: str
    log_odds: Annotated[float, Field(description="bias plus all contributions; positive = 1 / (1 + exp(-log_odds))")]
    bias: float
    terms: list[MatchedTerm]

    @classmethod
    def of(cls, explanation: Explanation, version: str) -> "ExplainedPrediction":
        score, log_odds, bias, terms = explanation
        return cls(
            label=label_of(score.positive),
            positive=score.positive,
            model_version=version,
            log_odds=log_odds,
            bias=bias,
            terms=[MatchedTerm(term=t.text, contribution=t.contribution, spans=t.spans) for t in terms],
        )


class ModelInfo(BaseModel):
    """Which model answers, and where it comes from."""

    model_version: str
    scorer_sha256: str
    git_sha: str
    data_digest: str
    trained_at: str


class Problem(BaseModel):
    """Why a request, or a line of a stream, was refused."""

    error: str


def label_of(positive: float) -> Literal["positive", "negative"]:
    return "positive" if positive >= 0.5 else "negative"
