"""From reviews to a candidate on disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.bundle import BundleError
from training import model, train
from training.candidate import Candidate
from training.data import Reviews


@pytest.fixture(scope="module")
def few(reviews: Reviews) -> Reviews:
    """Enough for the self-check, little enough to train in a second."""
    return reviews.where(np.arange(len(reviews)) % 5 == 0)


def test_the_same_data_give_a_bit_identical_scorer(few: Reviews, tmp_path: Path):
    """Trained twice, the second time in another process, with another hash seed and another number of threads."""
    first = train.train(few, ["x"], model.Params(), tmp_path / "first")
    code = (
        "import pathlib, numpy as np; from training import data, model, train;"
        "r = data.load(['imdb', 'rotten_tomatoes']); few = r.where(np.arange(len(r)) % 5 == 0);"
        f"train.train(few, ['x'], model.Params(), pathlib.Path({str(tmp_path / 'second')!r}))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    second = Candidate.read(tmp_path / "second")

    assert second.record.lineage.scorer_sha256 == first.record.lineage.scorer_sha256
    for name in ("scorer.safetensors", "selfcheck.jsonl", "profile.json"):
        assert (second.bundle / name).read_bytes() == (first.bundle / name).read_bytes()


def test_the_record_says_what_it_was_made_of(candidate: Candidate, reviews: Reviews):
    record = candidate.record

    assert record.sources == ("imdb", "rotten_tomatoes")
    assert record.lineage.data_digest == reviews.digest
    assert record.training_reviews + record.holdout_reviews == len(reviews)
    assert record.params == {"ngram_max": 2, "min_df": 4, "smoothing": 0.5, "power": 0.7, "C": 30}


def test_an_inexact_scorer_fails_the_training(few: Reviews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A fold that forgets the smoothing of one weight must not leave a candidate."""
    exact = model.fold

    def inexact(pipeline: model.Pipeline, documents: int):
        pipeline.steps[-1][1].intercept_ += 1e-6
        folded = exact(pipeline, documents)
        pipeline.steps[-1][1].intercept_ -= 1e-6
        return folded

    monkeypatch.setattr(model, "fold", inexact)

    with pytest.raises(train.TrainingError, match="at most 1e-09 apart is allowed"):
        train.train(few, ["x"], model.Params(), tmp_path / "candidate")

    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_keeps_the_candidate_before_it(
    candidate: Candidate, few: Reviews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "candidate"
    shutil.copytree(candidate.folder, folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_selfcheck", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.train(few, ["x"], model.Params(), folder)

    assert Candidate.read(folder).record == candidate.record

    retrained = train.train(few, ["x"], model.Params(), folder)

    assert Candidate.read(folder).record == retrained.record
    assert [path.name for path in tmp_path.iterdir()] == ["candidate"]


def test_the_profile_counts_every_holdout_review_once(candidate: Candidate, holdout: Reviews):
    from service.bundle import Profile, read_json

    profile = read_json(candidate.bundle / "profile.json", Profile)

    assert profile.overall.reviews == len(holdout)
    assert profile.overall.labelled_positive == holdout.labels.sum()
    assert sum(part.reviews for part in profile.sources.values()) == len(holdout)
    short = profile.sources["rotten_tomatoes"].words
    assert sum(short[:5]) / sum(short) > 0.95, "its sentences have at most 80 words"


def test_a_folder_of_something_else_is_left_alone(few: Reviews, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(train.TrainingError, match="holds something else than a candidate"):
        train.train(few, ["x"], model.Params(), tmp_path)

    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_without_a_candidate_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(BundleError, match=r"no trained model here: run `sentiment train` first"):
        Candidate.read(tmp_path)


def test_a_candidate_whose_scorer_was_exchanged_is_refused(candidate: Candidate, few: Reviews, tmp_path: Path):
    other = train.train(few, ["x"], model.Params(), tmp_path / "other")
    shutil.copy(candidate.bundle / "scorer.safetensors", other.bundle)

    with pytest.raises(BundleError, match="are of different models"):
        other.scorer()
