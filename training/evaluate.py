"""How good scores are: pure functions of labels and scores. Knows no model, no file and no threshold of acceptance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from service.scorer import Scorer
from training.data import Reviews

SHORT, LONG = 40, 200  # words: rotten_tomatoes' sentences are below, half of imdb's reviews above


@dataclass(frozen=True)
class Metrics:
    """Of n reviews. Accuracy with the ends of its 95 % Wilson interval, area under the ROC curve, calibration error."""

    reviews: int
    accuracy: float
    low: float
    high: float
    auc: float
    ece: float


def score(scorer: Scorer, reviews: Reviews) -> np.ndarray:
    """What the model answers to each of n reviews: probabilities (n,) of positive."""
    return np.fromiter((answer.positive for answer in scorer.score_all(reviews.texts)), float, len(reviews))


def measure(labels: np.ndarray, scores: np.ndarray) -> Metrics:
    """Metrics of scores (n,) in 0..1 against labels (n,) of 0 and 1, both classes present."""
    right = correct(labels, scores)
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Metrics(
        reviews=len(labels),
        accuracy=float(right.mean()),
        low=float(interval.low),
        high=float(interval.high),
        auc=float(roc_auc_score(labels, scores)),
        ece=expected_calibration_error(labels, scores),
    )


def measure_by_source(reviews: Reviews, scores: np.ndarray) -> dict[str, Metrics]:
    """Metrics of each source, and of all reviews together under `all`."""
    chosen = {"all": np.full(len(reviews), fill_value=True)}
    chosen |= {str(name): reviews.sources == name for name in np.unique(reviews.sources)}
    return {name: measure(reviews.labels[mask], scores[mask]) for name, mask in chosen.items()}


def correct(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which scores (n,) are on the right side of one half."""
    return (scores >= 0.5) == (labels == 1)


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, buckets: int = 10) -> float:
    """Mean distance between confidence and frequency over equal-width buckets, weighted by their reviews.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    return sum(share * abs(predicted - observed) for share, predicted, observed in reliability(labels, scores, buckets))


def reliability(labels: np.ndarray, scores: np.ndarray, buckets: int = 10) -> list[tuple[float, float, float]]:
    """Of each bucket that holds reviews: its share of them, their mean score, the share of them that is positive."""
    bucket = np.minimum((scores * buckets).astype(int), buckets - 1)
    chosen = [bucket == b for b in range(buckets) if (bucket == b).any()]
    return [(float(m.mean()), float(scores[m].mean()), float(labels[m].mean())) for m in chosen]


def slices(reviews: Reviews) -> Iterator[tuple[str, np.ndarray]]:
    """Named parts of the holdout that must each stand on their own, as boolean masks (n,); empty ones are left out."""
    words = np.array([len(text.split()) for text in reviews.texts])
    parts = {
        "all": words >= 0,
        **{f"source {name}": reviews.sources == name for name in np.unique(reviews.sources)},
        f"under {SHORT} words": words < SHORT,
        f"{SHORT} to {LONG} words": (words >= SHORT) & (words <= LONG),
        f"over {LONG} words": words > LONG,
        "positive": reviews.labels == 1,
        "negative": reviews.labels == 0,
    }
    return ((name, mask) for name, mask in parts.items() if mask.any())
