"""A version's bundle: one folder, four files, written by training and read by everything else. Data, never code.

This module owns the names, shapes and limits of the files. It knows nothing of MLflow and nothing of training.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.scorer import Scorer

SCORER, SELFCHECK, PROFILE, GATE = "scorer.safetensors", "selfcheck.jsonl", "profile.json", "gate.json"
MAX_CHARACTERS = 10_000  # of one text, here and over HTTP; the longest review of the corpora has 13,704
SELFCHECK_MINIMUM = 500  # reviews: an accuracy of 0.9 on them has a standard error of 1.3 points
TOLERANCE = 1e-6  # between a registered score and an answer: far above rounding, far below another model
_MAX_BYTES = 32 * 2**20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
_Model = TypeVar("_Model", bound=BaseModel)


class BundleError(ValueError):
    """A bundle that must not be served or judged, with the file and the reason."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SelfCheck(_Record):
    """One labelled holdout review and what this version answers to it."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    label: Literal["positive", "negative"]
    source: str
    positive: Probability


class Edges(_Record):
    """Inner edges of the buckets of each distribution: n edges make n + 1 buckets, each open below, closed above."""

    score: tuple[float, ...]
    words: tuple[float, ...]
    oov_share: tuple[float, ...]

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        for name, edges in self:
            if not edges or any(a >= b for a, b in pairwise(edges)):
                raise ValueError(f"the edges of {name} must increase")
        return self


class Distribution(_Record):
    """How the reviews of one population fall into the buckets, and how many of them are labelled positive."""

    reviews: Annotated[int, Field(ge=1)]
    labelled_positive: Annotated[int, Field(ge=0)]
    score: tuple[int, ...]
    words: tuple[int, ...]
    oov_share: tuple[int, ...]


class Profile(_Record):
    """Distributions of the holdout, as the version sees it: the baseline of drift."""

    edges: Edges
    overall: Distribution
    sources: dict[str, Distribution]

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        for name, distribution in {"overall": self.overall, **self.sources}.items():
            for signal, edges in self.edges:
                counts = getattr(distribution, signal)
                if len(counts) != len(edges) + 1 or sum(counts) != distribution.reviews or min(counts) < 0:
                    expected = f"{len(edges) + 1} counts of {distribution.reviews} reviews"
                    raise ValueError(f"{name}.{signal} must be {expected}, is {counts}")
        return self


class Lineage(_Record):
    """Where a scorer comes from."""

    scorer_sha256: Sha256
    data_digest: Sha256
    git_sha: str
    git_dirty: bool
    trained_at: str  # ISO 8601, UTC


class Slice(_Record):
    """Challenger against champion on one part of the holdout. Accuracies and differences are fractions."""

    name: str
    reviews: int
    challenger: Probability
    champion: Probability | None = None
    low: float | None = None  # ends of the 95 % interval of challenger minus champion
    high: float | None = None
    floor: Probability | None = None
    reason: str = ""  # why this slice rejects the model; empty if it does not


class Calibration(_Record):
    """Ranking and honesty of the probabilities on one source, or on all of them."""

    name: str
    auc: Probability
    ece: Probability


class GateRecord(_Record):
    """The gate's report: for people, the card and the history. Display, never permission."""

    verdict: Literal["passed", "rejected"]
    reasons: tuple[str, ...]
    challenger: Lineage
    champion_version: int | None
    champion_sha256: Sha256 | None
    holdout_digest: Sha256  # of the reviews that judged
    slices: tuple[Slice, ...]
    calibration: tuple[Calibration, ...]
    mcnemar_p: Probability | None
    settings: dict[str, float | dict[str, float]]


@dataclass(frozen=True)
class Bundle:
    """A version, read and found consistent."""

    scorer: Scorer
    selfcheck: list[SelfCheck]
    profile: Profile
    gate: GateRecord

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """Read all four files. Raises BundleError or ScorerError with the file and the reason."""
        missing = [name for name in (SCORER, SELFCHECK, PROFILE, GATE) if not (folder / name).is_file()]
        if missing:
            raise BundleError(f"{folder}: no {', '.join(missing)}: not a bundle")

        bundle = cls(
            scorer=Scorer.read(folder / SCORER),
            selfcheck=list(read_selfcheck(folder / SELFCHECK)),
            profile=read_json(folder / PROFILE, Profile),
            gate=read_json(folder / GATE, GateRecord),
        )
        if bundle.gate.challenger.scorer_sha256 != bundle.scorer.sha256:
            judged = bundle.gate.challenger.scorer_sha256
            raise BundleError(f"{folder}: {GATE} judged scorer {judged}, {SCORER} is {bundle.scorer.sha256}")
        bundle.check(bundle.selfcheck[:8])
        return bundle

    def check(self, reviews: Iterable[SelfCheck]) -> None:
        """Raise BundleError if the scorer does not answer as recorded."""
        for number, review in enumerate(reviews, 1):
            answer = self.scorer.score(review.text).positive
            if not abs(answer - review.positive) <= TOLERANCE:  # which NaN is not either
                raise BundleError(f"{SELFCHECK} line {number} records {review.positive}, the scorer answers {answer}")


def read_selfcheck(path: Path) -> Iterator[SelfCheck]:
    lines = _text(path).removesuffix("\n").split("\n")  # not splitlines: a review may hold U+2028
    if len(lines) < SELFCHECK_MINIMUM:
        raise BundleError(f"{path}: {len(lines)} reviews: at least {SELFCHECK_MINIMUM} are needed")

    for number, line in enumerate(lines, 1):
        try:
            yield SelfCheck.model_validate_json(line)
        except ValidationError as error:
            raise BundleError(f"{path} line {number}: {first_fault(error)}") from error


def write_selfcheck(path: Path, reviews: Iterable[SelfCheck]) -> None:
    path.write_text("".join(review.model_dump_json() + "\n" for review in reviews), encoding="utf-8")


def read_json(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(_text(path))
    except ValidationError as error:
        raise BundleError(f"{path}: {first_fault(error)}") from error


def write_json(path: Path, record: BaseModel) -> None:
    path.write_text(json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise BundleError(f"{path}: {size} bytes: at most {_MAX_BYTES} are read")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: not UTF-8: {error}") from error


def first_fault(error: ValidationError) -> str:
    """The first fault on one line, without the rejected input: it may be a review."""
    fault = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg'].removeprefix('Value error, ')}"
