"""The model, in three kinds: what it must get right, what must not matter to it, which way a change must move it."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from service.bundle import Bundle
from service.scorer import Scorer
from training import evaluate, model
from training.candidate import Candidate
from training.data import Reviews


@pytest.fixture(scope="module")
def scorer(candidate: Candidate) -> Scorer:
    return candidate.scorer()


# Minimum functionality


@pytest.mark.parametrize(
    "text",
    [
        "A wonderful film.",
        "I loved every minute of it, the best I have seen this year.",
        "Superb acting, a moving story and a beautiful score.",
        "Not bad at all, in fact excellent!",
        "highly recommended",
        "charming , funny and wise .",
    ],
)
def test_plain_praise_is_positive(scorer: Scorer, text: str):
    assert scorer.score(text).positive > 0.5


@pytest.mark.parametrize(
    "text",
    [
        "A terrible film.",
        "I hated every minute of it, the worst I have seen this year.",
        "Wooden acting, a dull story and an awful score.",
        "What a waste of time!",
        "boring",
        "tedious , predictable and far too long .",
    ],
)
def test_plain_blame_is_negative(scorer: Scorer, text: str):
    assert scorer.score(text).positive < 0.5


def test_accuracy_and_calibration_on_the_holdout_are_what_the_readme_promises(scorer: Scorer, holdout: Reviews):
    metrics = evaluate.measure_by_source(holdout, evaluate.score(scorer, holdout))

    assert metrics["imdb"].accuracy >= 0.905
    assert metrics["rotten_tomatoes"].accuracy >= 0.79
    assert max(m.ece for m in metrics.values()) <= 0.04


def test_it_is_sure_of_nothing_it_does_not_know(scorer: Scorer):
    unknown = scorer.score("Zyxwv qqqqj")

    assert 0.3 < unknown.positive < 0.7
    assert unknown.oov_share == 1


# Invariance

REVIEW = "An honest, funny film. The ending drags, but I would see it again!"


@pytest.mark.parametrize(
    "same",
    [
        REVIEW.upper(),
        REVIEW.replace(" ", "   \n\t"),
        f"<p>{REVIEW}</p>",
        REVIEW.replace(" film", "<br /><br />film"),
        REVIEW.replace(",", " ,").replace(".", " ..."),
        REVIEW.replace("but", "&quot;but&quot;"),
    ],
)
def test_case_space_markup_and_commas_do_not_matter(scorer: Scorer, same: str):
    assert scorer.score(same).positive == scorer.score(REVIEW).positive


@pytest.mark.parametrize("name", ["Smith", "Garcia", "Nguyen", "Okafor"])
def test_a_name_barely_matters(scorer: Scorer, name: str):
    with_name = scorer.score(f"{REVIEW} Starring Anna {name}.").positive
    without = scorer.score(f"{REVIEW} Starring Anna Zyxwv.").positive

    assert abs(with_name - without) < 0.1


# Direction


@pytest.mark.parametrize("praise", ["Wonderful.", "It is excellent.", "A masterpiece, and great fun!"])
def test_praise_added_raises_the_score(scorer: Scorer, praise: str):
    assert scorer.score(f"{REVIEW} {praise}").positive > scorer.score(REVIEW).positive


@pytest.mark.parametrize("blame", ["Awful.", "It is boring.", "The worst waste of money!"])
def test_blame_added_lowers_the_score(scorer: Scorer, blame: str):
    assert scorer.score(f"{REVIEW} {blame}").positive < scorer.score(REVIEW).positive


def test_negation_turns_praise_around(scorer: Scorer):
    assert scorer.score("This is not good.").positive < scorer.score("This is good.").positive


# The pipeline


def test_the_log_count_ratio_is_its_formula():
    """Two features; the positive class holds 3 and 1 of them, the negative one 1 and 1."""
    counts = csr_matrix([[3.0, 1.0], [1.0, 1.0]])
    p, q = np.array([3.5, 1.5]) / 5, np.array([1.5, 1.5]) / 3

    ratio = model.LogCountRatio(smoothing=0.5, power=0.7).fit(counts, np.array([1, 0]))

    assert ratio.transform(counts).toarray()[1] == pytest.approx(np.abs(np.log(p / q)) ** 0.7)


# The scorer


def test_the_scorer_equals_the_pipeline_it_was_folded_from(reviews: Reviews):
    few = reviews.where(np.arange(len(reviews)) < 2_000)
    texts = [*few.texts, "", "?!", "zyxwv", "<b>&amp;</b>", "İstanbul naïve 好きな映画"]
    pipeline = model.fit(model.Params(), few.texts, few.labels)

    scorer = model.fold(pipeline, len(few))

    expected = pipeline.predict_proba([*texts[:-2], "&", texts[-1]])[:, 1]
    assert [score.positive for score in scorer.score_all(texts)] == pytest.approx(expected, abs=model.EXACTNESS, rel=0)


def test_the_scorer_is_small(candidate: Candidate):
    assert (candidate.bundle / "scorer.safetensors").stat().st_size <= 5_000_000


def test_every_ngram_length_folds(reviews: Reviews):
    few = reviews.where(np.arange(len(reviews)) < 500)
    for ngram_max in (1, 2, 3):
        pipeline = model.fit(model.Params(ngram_max=ngram_max, min_df=2), few.texts, few.labels)

        scores = [score.positive for score in model.fold(pipeline, len(few)).score_all(few.texts)]

        assert scores == pytest.approx(pipeline.predict_proba(few.texts)[:, 1], abs=model.EXACTNESS, rel=0)


def test_the_bundle_answers_its_own_selfcheck(bundle: Bundle):
    bundle.check(bundle.selfcheck)

    right = [review.label == ("positive" if review.positive >= 0.5 else "negative") for review in bundle.selfcheck]
    assert len(right) == 1_000
    assert np.mean(right) > 0.85
