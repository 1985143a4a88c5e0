"""The scorer's file: what is refused, and what scoring promises."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from service.bundle import Bundle
from service.scorer import MAX_BYTES, Scorer, ScorerError, clean, identity

TERMS = ["bad", "good", "not good", "!"]


@pytest.fixture
def scorer() -> Scorer:
    return Scorer.create(
        TERMS, np.array([-2.0, 2.0, -3.0, 0.5]), np.array([3, 4, 1, 9]), documents=10, bias=0.1, ngram_max=2
    )


def content(scorer: Scorer, tmp_path: Path) -> bytes:
    scorer.write(tmp_path / "scorer")
    return (tmp_path / "scorer").read_bytes()


def forged(original: bytes, metadata: dict[str, str] | None = None, **tensors: np.ndarray) -> bytes:
    """A file with other content whose own sha256 is right: only its meaning can give it away."""
    header = json.loads(original[8 : 8 + int.from_bytes(original[:8], "little")])
    said = json.loads(header["__metadata__"]["scorer"]) | (metadata or {})
    del said["sha256"]
    parts = load(original) | tensors
    said["sha256"] = identity(parts["weights"], parts["document_frequencies"], parts["terms"].tobytes(), said)
    return save(parts, {"scorer": json.dumps(said, sort_keys=True)})


# Scoring


def test_a_score_is_the_formula_of_the_module(scorer: Scorer):
    """Worked out by hand: `good` and `!` are known, `film` is not."""
    idf = {term: np.log(11 / (1 + df)) + 1 for term, df in {"good": 4, "!": 9}.items()}
    log_odds = (2.0 + 0.5) / np.sqrt(idf["good"] ** 2 + idf["!"] ** 2) + 0.1

    score = scorer.score("Good film! GOOD!")

    assert score.positive == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-15)
    assert score.words == 5
    assert score.oov_share == pytest.approx(1 / 3)


def test_terms_may_span_words(scorer: Scorer):
    assert scorer.score("not good").positive < scorer.score("good not").positive


@pytest.mark.parametrize("text", ["", "   ", "....", "♥♥♥"])
def test_a_text_without_words_gets_the_bias(scorer: Scorer, text: str):
    score = scorer.score(text)

    assert score.positive == pytest.approx(1 / (1 + np.exp(-0.1)))
    assert (score.words, score.oov_share) == (0, 1.0)


def test_extreme_weights_saturate_without_overflow():
    extreme = Scorer.create(["a", "b"], np.array([1e6, -1e6]), np.array([1, 1]), documents=2, bias=0, ngram_max=1)

    assert extreme.score("a").positive == 1
    assert extreme.score("b").positive == 0


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain text, 3 < 4 & 5 > 2", "plain text, 3 < 4 & 5 > 2"),
        ("a<br />b", "a      b"),
        ("Tom &amp; Jerry", "Tom &     Jerry"),
        ("caf&eacute;!", "café       !"),
        ("&unknown;", "&unknown;"),
        ("<" * 400, "<" * 400),
    ],
)
def test_cleaning_removes_markup_and_keeps_every_position(text: str, cleaned: str):
    assert clean(text) == cleaned
    assert len(clean(text)) == len(text)


def test_cleaning_takes_linear_time_on_hostile_text():
    import time

    began = time.perf_counter()
    clean("<a" * 5_000 + "&a" * 5_000)

    assert time.perf_counter() - began < 1


# The file


def test_a_scorer_survives_its_file(scorer: Scorer, tmp_path: Path):
    again = Scorer(content(scorer, tmp_path))

    assert again.sha256 == scorer.sha256
    assert again.score("not good!") == scorer.score("not good!")
    assert len(again) == 4


def test_the_order_of_the_terms_does_not_matter():
    weights, frequencies = np.array([1.0, 2.0]), np.array([1, 2])
    forward = Scorer.create(["a", "b"], weights, frequencies, documents=2, bias=0, ngram_max=1)
    backward = Scorer.create(["b", "a"], weights[::-1], frequencies[::-1], documents=2, bias=0, ngram_max=1)

    assert forward.sha256 == backward.sha256


def test_any_flipped_byte_is_noticed(scorer: Scorer, tmp_path: Path):
    whole = content(scorer, tmp_path)
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x01
        with pytest.raises(ScorerError):
            Scorer(bytes(altered))


def test_any_truncation_is_noticed(scorer: Scorer, tmp_path: Path):
    whole = content(scorer, tmp_path)
    for length in range(len(whole)):
        with pytest.raises(ScorerError):
            Scorer(whole[:length])


@pytest.mark.parametrize(
    "hostile",
    [b"", b"not a scorer", b"\xff" * 64, b"\x80\x04\x95pickle", (2**40).to_bytes(8, "little") + b"{}", b"\0" * 1024],
    ids=["empty", "text", "ones", "pickle", "huge header", "zeros"],
)
def test_what_is_no_scorer_is_refused(hostile: bytes):
    with pytest.raises(ScorerError, match="not a scorer"):
        Scorer(hostile)


def test_a_file_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(ScorerError, match="at most 67108864 are read"):
        Scorer(b"\0" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("metadata", "tensors", "reason"),
    [
        ({"format": "9"}, {}, "format '9'"),
        ({"family": "forest"}, {}, "family 'forest'"),
        ({"ngram_max": "40"}, {}, "n-grams must be 1 to 3"),
        ({"bias": "nan"}, {}, "bias and weights finite"),
        ({"bias": "x"}, {}, "unreadable metadata"),
        ({"documents": "5"}, {}, "a document frequency is outside 1 to 5"),
        ({}, {"weights": np.array([1.0, np.inf, 0, 0])}, "bias and weights finite"),
        ({}, {"weights": np.zeros(3)}, "4 terms, 3 weights"),
        ({}, {"weights": np.zeros(4, np.float32)}, "expected one-dimensional"),
        ({}, {"document_frequencies": np.zeros(4, np.uint32)}, "outside 1 to 10"),
        ({}, {"terms": np.frombuffer(b"a\na\nb\nc", np.uint8)}, "4 terms"),
        ({}, {"terms": np.frombuffer(b"\xff\na\nb\nc", np.uint8)}, "unreadable metadata or terms"),
        ({}, {"extra": np.zeros(1)}, "tensors"),
    ],
)
def test_a_forged_file_is_refused_with_the_reason(
    scorer: Scorer, tmp_path: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray], reason: str
):
    with pytest.raises(ScorerError, match=reason):
        Scorer(forged(content(scorer, tmp_path), metadata, **tensors))


def test_a_refusal_names_the_file(tmp_path: Path):
    (tmp_path / "scorer.safetensors").write_bytes(b"nothing")

    with pytest.raises(ScorerError, match=str(tmp_path / "scorer.safetensors")):
        Scorer.read(tmp_path / "scorer.safetensors")


# Explanations


def test_an_explanation_adds_up_to_the_score(bundle: Bundle):
    """bias + contributions = log-odds, whose logistic is the probability: for every review, whatever is in it."""
    for review in bundle.selfcheck:
        explanation = bundle.scorer.explain(review.text)

        assert explanation.score == bundle.scorer.score(review.text)
        assert explanation.log_odds == pytest.approx(explanation.bias + sum(t.contribution for t in explanation.terms))
        assert 1 / (1 + math.exp(-explanation.log_odds)) == pytest.approx(explanation.score.positive, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "A dull, DULL film!",
        "a<br />dull &amp; dull film",
        "İİ dull İstanbul film",
        "naïve, dull\u2028film",
        "\U0001f600 dull film",
    ],
)
def test_each_span_is_where_the_term_stands(bundle: Bundle, text: str):
    """In characters of the text as it came: markup and letters that grow in lower case move nothing."""
    terms = {term.text: term.spans for term in bundle.scorer.explain(text).terms}

    found = [text[start:end].lower() for start, end in terms["dull"]]
    film = [text[start:end].lower() for start, end in terms["film"]]

    assert found == ["dull"] * text.lower().count("dull")
    assert film == ["film"]


def test_a_pair_of_words_spans_both(bundle: Bundle):
    text = "It was a waste of time."

    (span,) = next(term.spans for term in bundle.scorer.explain(text).terms if term.text == "waste of")

    assert text[slice(*span)] == "waste of"


def test_a_text_of_unknown_words_is_explained_by_the_bias_alone(bundle: Bundle):
    explanation = bundle.scorer.explain("xyzzyq qwrtzp")

    assert explanation.terms == []
    assert explanation.log_odds == explanation.bias
