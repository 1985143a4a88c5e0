"""Who may become champion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import GateRecord, Lineage
from training import evaluate, gate, model
from training.candidate import Candidate
from training.data import Reviews
from training.gate import Champion, Settings

LINEAGE = Lineage(scorer_sha256="a" * 64, data_digest="b" * 64, git_sha="c", git_dirty=False, trained_at="2026-11-22")
NO_FLOORS = Settings(floors={}, default_floor=0, max_ece=1)


@pytest.fixture(scope="module")
def scores(candidate: Candidate, holdout: Reviews) -> np.ndarray:
    return evaluate.score(candidate.scorer(), holdout)


def judge(
    holdout: Reviews, challenger: np.ndarray, champion: np.ndarray | None, settings: Settings = NO_FLOORS
) -> GateRecord:
    beaten = Champion(1, "d" * 64, champion) if champion is not None else None
    return gate.judge(holdout, challenger, lineage=LINEAGE, champion=beaten, settings=settings)


def worse(scores: np.ndarray, chosen: np.ndarray, share: float) -> np.ndarray:
    """The scores with that share of the chosen reviews turned around, evenly spread."""
    turned = scores.copy()
    index = np.flatnonzero(chosen)
    index = index[np.linspace(0, len(index) - 1, round(share * len(index))).astype(int)]
    turned[index] = 1 - turned[index]
    return turned


def slice_of(record: GateRecord, name: str):
    return next(part for part in record.slices if part.name == name)


# Against a champion


def test_an_equal_challenger_passes(holdout: Reviews, scores: np.ndarray):
    """Data or code may have changed: not worse is good enough."""
    record = judge(holdout, scores, scores)

    assert record.verdict == "passed"
    assert record.mcnemar_p == 1
    assert (slice_of(record, "all").low, slice_of(record, "all").high) == (0, 0)


def test_a_better_challenger_passes_and_a_worse_one_does_not(reviews: Reviews, holdout: Reviews, scores: np.ndarray):
    """Real models: one trained on a tenth of the data against one trained on all of it, both ways round."""
    training = reviews.split()[0]
    tenth = training.where(np.arange(len(training)) % 10 == 0)
    weak = model.fold(model.fit(model.Params(), tenth.texts, tenth.labels), len(tenth))
    weak_scores = evaluate.score(weak, holdout)

    better, not_better = judge(holdout, scores, weak_scores), judge(holdout, weak_scores, scores)

    assert better.verdict == "passed"
    assert not_better.verdict == "rejected"
    assert any(reason.startswith("all: the interval -0.0") for reason in not_better.reasons)


def test_a_model_trained_on_flipped_labels_is_rejected(reviews: Reviews, holdout: Reviews):
    training = reviews.split()[0]
    few = training.where(np.arange(len(training)) % 10 == 0)
    flipped = model.fold(model.fit(model.Params(), few.texts, 1 - few.labels), len(few))

    record = judge(holdout, evaluate.score(flipped, holdout), None, Settings())

    assert record.verdict == "rejected"


def test_a_slice_fails_only_when_its_whole_interval_is_below_the_margin(holdout: Reviews, scores: np.ndarray):
    """A loss on one source can hide in the average; a loss within chance must not reject."""
    tomatoes = holdout.sources == "rotten_tomatoes"
    settings = replace(NO_FLOORS, margin=1)

    slight = judge(holdout, worse(scores, tomatoes, 0.03), scores, settings)
    grave = judge(holdout, worse(scores, tomatoes, 0.10), scores, settings)

    part = slice_of(slight, "source rotten_tomatoes")
    assert part.low < -0.02 < part.high
    assert slight.verdict == "passed"
    assert slice_of(grave, "source rotten_tomatoes").high < -0.02
    assert any(reason.startswith("source rotten_tomatoes: the whole interval") for reason in grave.reasons)
    assert slice_of(grave, "source imdb").reason == ""


def test_a_loss_on_all_reviews_is_rejected_as_soon_as_it_may_exceed_the_margin(holdout: Reviews, scores: np.ndarray):
    """Non-inferiority: the burden of proof is the challenger's, so the interval's lower end counts."""
    everything = np.full(len(holdout), fill_value=True)

    within = judge(holdout, worse(scores, everything, 0.004), scores)
    perhaps_beyond = judge(holdout, worse(scores, everything, 0.012), scores)

    assert within.verdict == "passed"
    part = slice_of(perhaps_beyond, "all")
    assert part.low < -0.01 < part.high
    assert perhaps_beyond.verdict == "rejected"


def test_a_small_slice_cannot_reject(holdout: Reviews, scores: np.ndarray):
    few = holdout.where((np.arange(len(holdout)) < 300) | (holdout.sources == "imdb"))
    few_scores = scores[(np.arange(len(holdout)) < 300) | (holdout.sources == "imdb")]
    tomatoes = few.sources == "rotten_tomatoes"
    assert 50 < tomatoes.sum() < gate.SMALLEST_SLICE

    record = judge(few, worse(few_scores, tomatoes, 1), few_scores, replace(NO_FLOORS, margin=1))

    assert slice_of(record, "source rotten_tomatoes").reason == ""


# Floors and calibration


def test_floors_are_the_whole_gate_of_the_first_model(holdout: Reviews, scores: np.ndarray):
    assert judge(holdout, scores, None, Settings()).verdict == "passed"

    record = judge(holdout, scores, None, Settings(floors={"imdb": 0.95}))

    assert record.verdict == "rejected"
    assert [part.name for part in record.slices if part.reason] == ["source imdb"]
    assert record.reasons == ("source imdb: accuracy 0.9161 is below its floor of 0.95",)


def test_not_worse_cannot_ratchet_below_the_floor(holdout: Reviews, scores: np.ndarray):
    """Each step is within the margin of the champion before it; the floor ends the descent."""
    everything = np.full(len(holdout), fill_value=True)
    champion, steps = scores, 0
    while steps < 50:
        challenger = worse(champion, everything & ((champion >= 0.5) == (holdout.labels == 1)), 0.003)
        record = judge(holdout, challenger, champion, Settings(max_ece=1))
        if record.verdict == "rejected":
            break
        champion, steps = challenger, steps + 1

    assert 3 < steps < 50
    assert "below its floor" in record.reasons[0]


def test_a_source_without_a_floor_of_its_own_has_the_default_one(holdout: Reviews, scores: np.ndarray):
    record = judge(holdout, scores, None, Settings(floors={}, default_floor=0.85))

    assert record.reasons == ("source rotten_tomatoes: accuracy 0.8013 is below its floor of 0.85",)


def test_a_model_that_says_positive_to_everything_is_rejected(holdout: Reviews):
    """Where four of five labels are positive, it is right four times of five."""
    mostly_positive = holdout.where((holdout.labels == 1) | (np.arange(len(holdout)) % 4 == 0))

    record = judge(mostly_positive, np.full(len(mostly_positive), 0.8), None, Settings())

    assert record.reasons[-1].startswith("rotten_tomatoes: area under the ROC curve 0.500 is below 0.7")


def test_calibration_of_a_small_source_is_not_held_against_a_model(holdout: Reviews, scores: np.ndarray):
    few = (np.arange(len(holdout)) < 600) | (holdout.sources == "imdb")
    record = judge(holdout.where(few), scores[few], None, Settings(max_ece=0.02, floors={}))

    assert max(c.ece for c in record.calibration if c.name == "rotten_tomatoes") > 0.02
    assert not any(reason.startswith("rotten_tomatoes") for reason in record.reasons)


def test_an_equal_model_passes_on_a_small_holdout_too(holdout: Reviews, scores: np.ndarray):
    """Of 600 reviews each model gets 15 right that the other gets wrong: no interval that wide shows the margin."""
    few = holdout.where(np.arange(len(holdout)) < 600)
    right = np.flatnonzero((scores[:600] >= 0.5) == (few.labels == 1))
    challenger, champion = scores[:600].copy(), scores[:600].copy()
    challenger[right[:15]] = 1 - challenger[right[:15]]
    champion[right[-15:]] = 1 - champion[right[-15:]]

    record = judge(few, challenger, champion)

    assert slice_of(record, "all").low < -0.01
    assert record.verdict == "passed"


def test_dishonest_probabilities_are_rejected(holdout: Reviews, scores: np.ndarray):
    """Right as often as before, but far surer of it than it may be."""
    overconfident = np.where(scores >= 0.5, 0.999, 0.001)

    record = judge(holdout, overconfident, scores, Settings())

    assert record.verdict == "rejected"
    assert all("expected calibration error" in reason for reason in record.reasons)


# The statistics


def test_the_bootstrap_interval_agrees_with_theory():
    """Of n pairs with discordant shares b and c, the difference has the variance (b + c - (b - c)^2) / n."""
    n, b, c = 10_000, 0.06, 0.04
    right = np.arange(n) < n * b
    champion_right = (np.arange(n) >= n * b) & (np.arange(n) < n * (b + c))

    low, high = gate.difference_interval(right, champion_right)

    half = 1.96 * np.sqrt((b + c - (b - c) ** 2) / n)
    assert (low, high) == pytest.approx((b - c - half, b - c + half), abs=3e-4)


def test_mcnemar_agrees_with_the_binomial_by_hand():
    """5 reviews only the champion gets right, 1 only the challenger: p = 2 * (C(6,0) + C(6,1)) / 2^6."""
    right = np.array([True] + [False] * 5 + [True] * 10)
    champion_right = np.array([False] + [True] * 5 + [True] * 10)

    assert gate.mcnemar(right, champion_right) == pytest.approx(14 / 64)


# The report


def test_the_report_and_its_picture_are_left_with_the_candidate(candidate: Candidate, holdout: Reviews, tmp_path: Path):
    import shutil

    from service.bundle import read_json

    copy = Candidate(shutil.copytree(candidate.folder, tmp_path / "candidate"), candidate.record)
    (copy.bundle / "gate.json").unlink()
    copy.report.unlink()

    record = gate.compare(copy, holdout, (7, candidate.scorer()), Settings())

    assert record.champion_version == 7
    assert record.champion_sha256 == record.challenger.scorer_sha256
    assert read_json(copy.bundle / "gate.json", GateRecord) == record
    assert copy.report.read_bytes().startswith(b"\x89PNG")
    assert copy.report.stat().st_size > 20_000
