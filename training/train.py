"""Training: from reviews to a candidate on disk. Knows no registry, so a registry that is away loses nothing."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.bundle import (
    MAX_CHARACTERS,
    PROFILE,
    SCORER,
    SELFCHECK,
    Distribution,
    Edges,
    Lineage,
    Profile,
    SelfCheck,
    write_json,
    write_selfcheck,
)
from service.scorer import Score
from training import model
from training.candidate import FILES, Candidate, TrainingRecord
from training.data import Reviews

SELFCHECK_REVIEWS = 1_000

# Chosen once, here: the service's histograms and the drift check read them from the profile.
EDGES = Edges(
    score=tuple(round(0.05 * i, 2) for i in range(1, 20)),
    words=(5, 10, 20, 40, 80, 160, 320, 640, 1280),
    oov_share=(0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5),
)


class TrainingError(RuntimeError):
    """A training run whose result must not be used."""


def train(reviews: Reviews, sources: Sequence[str], params: model.Params, folder: Path) -> Candidate:
    """Fit on the training side, fold, prove the scorer exact on the holdout, and write the candidate in one move."""
    folder = folder.resolve()
    if folder.exists() and (others := {path.name for path in folder.iterdir()} - FILES):
        raise TrainingError(
            f"{folder} holds something else than a candidate, {min(others)}: name a new or empty folder"
        )

    started = time.perf_counter()
    training, holdout = reviews.split()
    pipeline = model.fit(params, training.texts, training.labels)
    scorer = model.fold(pipeline, len(training))
    scores = list(scorer.score_all(holdout.texts))
    _check_exact(pipeline, scores, holdout)

    git_sha, git_dirty = _git_state()
    lineage = Lineage(
        scorer_sha256=scorer.sha256,
        data_digest=reviews.digest,
        git_sha=git_sha,
        git_dirty=git_dirty,
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    record = TrainingRecord(
        sources=tuple(sources),
        params=asdict(params),
        lineage=lineage,
        training_reviews=len(training),
        holdout_reviews=len(holdout),
        seconds=round(time.perf_counter() - started, 2),
    )

    # Written beside and moved into place: an interrupted run leaves the candidate of the run before.
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    bundle = unfinished / "bundle"
    bundle.mkdir(parents=True)
    scorer.write(bundle / SCORER)
    write_selfcheck(bundle / SELFCHECK, selfcheck(holdout, scores))
    write_json(bundle / PROFILE, profile(holdout, scores))
    write_json(unfinished / "record.json", record)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return Candidate(folder, record)


def _check_exact(pipeline: model.Pipeline, scores: list[Score], holdout: Reviews) -> None:
    expected = pipeline.predict_proba(holdout.texts)[:, 1]
    difference = np.abs(expected - [score.positive for score in scores])
    worst = int(difference.argmax())  # argmax of a NaN is the NaN
    if not difference[worst] <= model.EXACTNESS:
        raise TrainingError(
            f"the scorer answers {scores[worst].positive} where the pipeline answers {expected[worst]}, "
            f"on the holdout review with key {holdout.keys[worst].hex()}: at most {model.EXACTNESS} apart is allowed"
        )


def selfcheck(holdout: Reviews, scores: list[Score]) -> list[SelfCheck]:
    """The first reviews of the holdout by key, which is a random and stable choice, that the service accepts."""
    servable = [i for i, text in enumerate(holdout.texts) if len(text) <= MAX_CHARACTERS]
    return [
        SelfCheck(
            text=holdout.texts[i],
            label="positive" if holdout.labels[i] else "negative",
            source=str(holdout.sources[i]),
            positive=scores[i].positive,
        )
        for i in servable[:SELFCHECK_REVIEWS]
    ]


def profile(holdout: Reviews, scores: list[Score]) -> Profile:
    """How the holdout's scores, lengths and unknown words are distributed, overall and per source."""
    values = dict(zip(Score._fields, np.array(scores).T, strict=True))
    signals = {"score": values["positive"], "words": values["words"], "oov_share": values["oov_share"]}

    def distribution(chosen: np.ndarray) -> Distribution:
        counts = {
            signal: np.bincount(np.searchsorted(edges, signals[signal][chosen]), minlength=len(edges) + 1).tolist()
            for signal, edges in EDGES
        }
        return Distribution(reviews=int(chosen.sum()), labelled_positive=int(holdout.labels[chosen].sum()), **counts)

    everything = np.full(len(holdout), fill_value=True)
    return Profile(
        edges=EDGES,
        overall=distribution(everything),
        sources={str(name): distribution(holdout.sources == name) for name in np.unique(holdout.sources)},
    )


def _git_state() -> tuple[str, bool]:
    """Commit of the project's code, and whether it was changed since; ("unknown", True) outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", Path(__file__).parent, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
