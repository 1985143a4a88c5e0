"""A model in its runtime form: terms and folded weights. Knows nothing of training, the registry or the server.

The model is linear in its features, so all that happens to a term between its count and the log-odds (inverse document
frequency, log-count ratio, coefficient) folds into one weight. A text is scored by one dictionary look-up per term:

    log-odds = sum(weight[t]) / sqrt(sum(idf[t]^2)) + bias        over the distinct known terms t of the text
"""

import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

TOKEN_PATTERN = r"\w+|[!?]"  # noqa: S105 (no password)
MAX_BYTES = 64 * 2**20  # far above any scorer of ours, far below what would hurt a pod
_FORMAT = "1"
_FAMILY = "binary tf-idf, log-count ratio, logistic regression"
_TENSORS = {"terms": np.uint8, "weights": np.float64, "document_frequencies": np.uint32}

_words = re.compile(TOKEN_PATTERN).findall
_markup = re.compile(r"</?[a-zA-Z][^<>]{0,300}>|&#?\w{1,32};")


class ScorerError(ValueError):
    """A scorer file that must not be served, with the reason."""


class Score(NamedTuple):
    positive: float  # probability, 0 to 1
    words: int  # tokens in the text
    oov_share: float  # share of the text's distinct words that the vocabulary lacks, 0 to 1


class Term(NamedTuple):
    """What one known term of a text adds to its log-odds, and where it stands."""

    text: str
    contribution: float  # the same however often the term occurs: the model asks only whether it does
    spans: list[tuple[int, int]]  # [start, end) of each occurrence, in characters (code points) of the text


class Explanation(NamedTuple):
    score: Score
    log_odds: float  # bias plus the sum of all contributions
    bias: float
    terms: list[Term]  # in the order of their first occurrence


def clean(text: str) -> str:
    """The text without HTML tags and entities, as long as before: every other character keeps its position."""
    if "<" not in text and "&" not in text:
        return text

    return _markup.sub(lambda m: (" " if m[0][0] == "<" else html.unescape(m[0])).ljust(len(m[0])), text)


def identity(weights: np.ndarray, document_frequencies: np.ndarray, terms: bytes, metadata: dict[str, str]) -> str:
    """sha256 of what a scorer computes with, whatever the file around it: the scorer's name in every record."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for part in (terms, weights.tobytes(), document_frequencies.tobytes()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class Scorer:
    """Scores texts. Build with `Scorer.create` (training) or `Scorer.read` (everyone else)."""

    def __init__(self, content: bytes) -> None:
        """Read a scorer file's content. Raises ScorerError on anything that `create` would not have written."""
        if len(content) > MAX_BYTES:
            raise ScorerError(f"{len(content)} bytes: at most {MAX_BYTES} are read")

        metadata, tensors = _parse(content)
        self.sha256 = metadata.pop("sha256", "")
        weights, frequencies = tensors["weights"], tensors["document_frequencies"]
        if identity(weights, frequencies, tensors["terms"].tobytes(), metadata) != self.sha256:
            raise ScorerError("the content does not match its own sha256: the file was cut, altered or mixed up")

        try:
            self.ngram_max = int(metadata["ngram_max"])
            self._bias = float(metadata["bias"])
            documents = int(metadata["documents"])
            terms = tensors["terms"].tobytes().decode().split("\n")
        except (KeyError, ValueError, OverflowError) as error:
            raise ScorerError(f"unreadable metadata or terms: {error}") from error
        if not (1 <= self.ngram_max <= 3 and math.isfinite(self._bias) and np.isfinite(weights).all()):
            raise ScorerError("n-grams must be 1 to 3, bias and weights finite")
        if not len(terms) == len(set(terms)) == len(weights) == len(frequencies):
            raise ScorerError(f"{len(terms)} terms, {len(weights)} weights, {len(frequencies)} document frequencies")
        if len(terms) and not 1 <= frequencies.min() <= frequencies.max() <= documents:
            raise ScorerError(f"a document frequency is outside 1 to {documents}")

        self._content = content
        # scikit-learn's smoothed idf, TfidfTransformer(smooth_idf=True)
        idf = np.log((1 + documents) / (1 + frequencies.astype(np.float64))) + 1
        # One object per term, added in C: the weight is its real part, the squared idf its imaginary part.
        self._terms: dict[str, complex] = dict(zip(terms, (weights + 1j * idf**2).tolist(), strict=True))

    @classmethod
    def create(
        cls,
        terms: list[str],
        weights: np.ndarray,
        document_frequencies: np.ndarray,
        *,
        documents: int,
        bias: float,
        ngram_max: int,
    ) -> "Scorer":
        """Fold a trained model: for each of n terms its weight and the number of training documents that hold it."""
        order = np.argsort(np.asarray(terms, dtype=object))
        tensors = {
            "terms": np.frombuffer("\n".join(terms[i] for i in order).encode(), dtype=np.uint8),
            "weights": np.ascontiguousarray(weights[order], dtype=np.float64),
            "document_frequencies": np.ascontiguousarray(document_frequencies[order], dtype=np.uint32),
        }
        metadata = {
            "format": _FORMAT,
            "family": _FAMILY,
            "ngram_max": str(ngram_max),
            "documents": str(documents),
            "bias": repr(float(bias)),
        }
        metadata["sha256"] = identity(
            tensors["weights"], tensors["document_frequencies"], tensors["terms"].tobytes(), metadata
        )
        # One key: safetensors writes several in an order of its own, and equal scorers should be equal files.
        return cls(save(tensors, {"scorer": json.dumps(metadata, sort_keys=True)}))

    @classmethod
    def read(cls, path: Path) -> "Scorer":
        try:
            with path.open("rb") as stream:
                return cls(stream.read(MAX_BYTES + 1))
        except ScorerError as error:
            raise ScorerError(f"{path}: {error}") from error

    def write(self, path: Path) -> None:
        path.write_bytes(self._content)

    def __len__(self) -> int:
        return len(self._terms)

    def score(self, text: str) -> Score:
        words = _words(clean(text).lower())
        get = self._terms.get
        distinct = dict.fromkeys(words)  # not a set: its order, and so the sum's last bit, is the same in every process
        known = [weight for weight in map(get, distinct) if weight is not None]
        total = sum(known, 0j)
        for n in range(2, self.ngram_max + 1):
            ngrams = dict.fromkeys(map(" ".join, zip(*(words[i:] for i in range(n)), strict=False)))
            total += sum(filter(None, map(get, ngrams)), 0j)

        log_odds = self._bias + (total.real / math.sqrt(total.imag) if total.imag else 0.0)
        oov_share = 1 - len(known) / len(distinct) if distinct else 1.0
        return Score(_logistic(log_odds), len(words), oov_share)

    def explain(self, text: str) -> Explanation:
        """The score with the share of each known term in it."""
        lower, position = _lowered(clean(text))
        words = list(re.finditer(TOKEN_PATTERN, lower))
        spans: dict[str, list[tuple[int, int]]] = {}
        for n in range(1, self.ngram_max + 1):
            for ngram in zip(*(words[i:] for i in range(n)), strict=False):
                term = " ".join(word[0] for word in ngram)
                if term in self._terms:
                    spans.setdefault(term, []).append((position(ngram[0].start()), position(ngram[-1].end() - 1) + 1))

        norm = math.sqrt(sum(self._terms[term].imag for term in spans)) or 1.0
        terms = [Term(term, self._terms[term].real / norm, at) for term, at in spans.items()]
        log_odds = self._bias + math.fsum(term.contribution for term in terms)
        return Explanation(self.score(text), log_odds, self._bias, sorted(terms, key=lambda term: term.spans[0]))

    def score_all(self, texts: list[str]) -> Iterator[Score]:
        return map(self.score, texts)


def _lowered(text: str) -> tuple[str, Callable[[int], int]]:
    """The text in lower case, and where each of its positions was before: a few letters become longer."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower, lambda position: position
    before = [at for at, letter in enumerate(text) for _ in letter.lower()]
    return lower, before.__getitem__


def _logistic(x: float) -> float:
    """1 / (1 + e^-x) without overflow for large negative x."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return (e := math.exp(x)) / (1 + e)


def _parse(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of the file, of the format, types and shapes that `create` writes."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = json.loads(header["__metadata__"]["scorer"])
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ScorerError(f"not a scorer: {error}") from error

    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ScorerError("not a scorer: its metadata must be an object of strings")
    if (metadata.get("format"), metadata.get("family")) != (_FORMAT, _FAMILY):
        found = f"format {metadata.get('format')!r}, family {metadata.get('family')!r}"
        raise ScorerError(f"{found}: this code reads {_FORMAT!r}, {_FAMILY!r}")
    if {name: (t.dtype, t.ndim) for name, t in tensors.items()} != {n: (np.dtype(d), 1) for n, d in _TENSORS.items()}:
        raise ScorerError(f"tensors {sorted(tensors)}: expected one-dimensional {sorted(_TENSORS)}")

    return metadata, tensors
