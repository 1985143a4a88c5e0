"""The model: a plain scikit-learn pipeline, and how it folds into a scorer. Knows no files and no registry."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from service.scorer import TOKEN_PATTERN, Scorer

EXACTNESS = 1e-9  # largest difference between a scorer and the pipeline it was folded from


@dataclass(frozen=True, kw_only=True)
class Params:
    """Chosen by four-fold cross-validation on the training side alone, never on the holdout."""

    ngram_max: int = 2  # trigrams add 300,000 terms and no accuracy
    min_df: int = 4  # reviews a term must be in; 3 is as accurate, and a third larger
    smoothing: float = 0.5  # added to each class's counts
    power: float = 0.7  # of the log-count ratio: 1 is NB-SVM, less trusts rare counts less
    C: float = 30.0


class LogCountRatio(TransformerMixin, BaseEstimator):
    """Scale each feature by how differently the classes use it: |log(p / q)|^power, p and q their smoothed shares.

    Wang and Manning, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", 2012 (NB-SVM).
    """

    def __init__(self, smoothing: float = 1.0, power: float = 1.0) -> None:
        self.smoothing = smoothing
        self.power = power

    def fit(self, X: csr_matrix, y: np.ndarray) -> Self:  # noqa: N803 (scikit-learn's name)
        counts = [np.asarray(X[y == label].sum(axis=0)).ravel() + self.smoothing for label in (1, 0)]
        p, q = (count / count.sum() for count in counts)
        self.ratio_ = np.abs(np.log(p / q)) ** self.power
        return self

    def transform(self, X: csr_matrix) -> csr_matrix:  # noqa: N803
        return X @ diags(self.ratio_)


def build_pipeline(params: Params) -> Pipeline:
    return Pipeline(
        [
            (
                "tfidf",
                TfidfVectorizer(
                    token_pattern=TOKEN_PATTERN,
                    ngram_range=(1, params.ngram_max),
                    min_df=params.min_df,
                    binary=True,
                ),
            ),
            ("ratio", LogCountRatio(smoothing=params.smoothing, power=params.power)),
            ("classifier", LogisticRegression(C=params.C, max_iter=1000)),
        ]
    )


def fit(params: Params, texts: list[str], labels: np.ndarray) -> Pipeline:
    """Train on n texts and n labels, 1 for positive. Same input and lock, same bits, on the same kind of processor."""
    with threadpool_limits(1):  # several BLAS threads sum in an order that depends on the machine's cores
        return build_pipeline(params).fit(texts, labels)


def fold(pipeline: Pipeline, documents: int) -> Scorer:
    """The pipeline trained on that many documents as a scorer, equal to its predict_proba within EXACTNESS."""
    tfidf, ratio, classifier = (step for _, step in pipeline.steps)
    idf = tfidf.idf_
    return Scorer.create(
        list(tfidf.get_feature_names_out()),
        weights=idf * ratio.ratio_ * classifier.coef_[0],
        document_frequencies=np.rint((1 + documents) / np.exp(idf - 1) - 1).astype(np.uint32),
        documents=documents,
        bias=float(classifier.intercept_[0]),
        ngram_max=tfidf.ngram_range[1],
    )
