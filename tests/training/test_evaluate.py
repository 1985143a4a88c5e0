"""Measures of scores, against cases worked out by hand."""

import numpy as np
import pytest

from training import evaluate
from training.data import Reviews


def test_calibration_error_of_honest_scores_is_zero():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    scores = np.array([0.75] * 4 + [0.25] * 4)

    assert evaluate.expected_calibration_error(labels, scores) == 0


def test_calibration_error_weighs_buckets_by_their_reviews():
    labels = np.array([1, 1, 1, 1, 0, 0])
    scores = np.array([0.95, 0.95, 0.95, 0.95, 0.4, 0.4])

    assert evaluate.expected_calibration_error(labels, scores) == pytest.approx(4 / 6 * 0.05 + 2 / 6 * 0.4)


def test_the_ends_of_the_scale_have_a_bucket():
    assert evaluate.expected_calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0


def test_metrics_hold_the_wilson_interval():
    """Wilson's interval for 8 of 10 is 0.490 to 0.943."""
    labels = np.array([1, 0] * 5)
    scores = np.where(labels == 1, 0.9, 0.1)
    scores[:2] = 1 - scores[:2]

    metrics = evaluate.measure(labels, scores)

    assert metrics.accuracy == 0.8
    assert (metrics.low, metrics.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_slices_divide_the_holdout_by_source_length_and_polarity(holdout: Reviews):
    sizes = {name: int(mask.sum()) for name, mask in evaluate.slices(holdout)}

    assert sizes["all"] == len(holdout)
    assert sizes["source imdb"] + sizes["source rotten_tomatoes"] == len(holdout)
    assert sizes["positive"] + sizes["negative"] == len(holdout)
    assert sum(size for name, size in sizes.items() if name.endswith("words")) == len(holdout)
