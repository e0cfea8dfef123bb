"""Figures of labels: average precision, thresholds, and what is unknown."""

from __future__ import annotations

import numpy as np
import pytest

from effnets.errors import WeightsError
from effnets.evaluation.multilabel import (
    average_precision,
    binary_cross_entropy,
    fit_thresholds,
    measure_labels,
)
from effnets.inference.labels import choose_labels, probabilities

NAN = np.nan


def logit(share):
    return np.log(share / (1 - np.asarray(share)))


def test_average_precision_of_what_is_known():
    logits = np.array([[3, 0], [2, 0], [1, 0], [0, 0]], np.float32)
    targets = np.array([[1, 0], [0, 0], [1, NAN], [NAN, 0]], np.float32)
    found = average_precision(logits, targets)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found[1])


def test_thresholds_have_the_best_f1_and_lie_between():
    likely = np.array([[0.9], [0.8], [0.6], [0.4], [0.1]])
    targets = np.array([[1], [1], [0], [1], [0]], np.float32)
    # Accepting 2, 3, 4: F1 4/5, 4/6, 6/7.
    assert fit_thresholds(logit(likely), targets)[0] == pytest.approx(0.25)
    targets[3] = NAN
    assert fit_thresholds(logit(likely), targets)[0] == pytest.approx(0.7)


def test_equal_probabilities_are_accepted_together():
    likely = np.array([[0.9], [0.5], [0.5], [0.5], [0.2]])
    targets = np.array([[1], [1], [0], [0], [0]], np.float32)
    threshold = fit_thresholds(logit(likely), targets)[0]
    assert 0.5 < threshold < 0.9  # F1 2/3 of one accepted, 2/4 × … of four


def test_labels_without_both_kinds_of_images_keep_a_half():
    logits = np.zeros((3, 2), np.float32)
    assert fit_thresholds(logits, np.array([[0, 1], [0, 1], [NAN, 1]], np.float32)).tolist() == [0.5, 0.5]


def test_precision_recall_and_loss():
    logits = np.array([[2.0, -2], [1, 5], [-1, 5]], np.float32)
    targets = np.array([[1, 0], [0, NAN], [1, 0]], np.float32)
    found = measure_labels(
        logits, targets, np.array([0.5, 0.5]), model="m", engine="e", data="d", split="test", label_names=("a", "b")
    )
    assert (found.precision[0], found.recall[0], found.f1[0]) == (0.5, 0.5, 0.5)
    assert (found.known.tolist(), found.positives.tolist()) == ([3, 2], [2, 0])
    assert np.isnan(found.f1[1])
    assert found.mean_f1 == 50
    losses = [np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log1p(np.exp(1)), np.log1p(np.exp(-2)), np.log1p(np.exp(5))]
    assert found.loss == pytest.approx(np.mean(losses))
    assert found.to_dict()["labels"][1]["f1"] is None
    assert found.rows()[0][0] == "a"
    assert binary_cross_entropy(logits, np.full((3, 2), NAN, np.float32)) == 0


def test_labels_that_reach_their_thresholds():
    logits = logit([[0.6, 0.9, 0.2], [0.4, 0.1, 0.1]]).astype(np.float32)
    chosen = choose_labels(logits, ("a", "b", "c"), (0.5, 0.5, 0.15))
    assert [[one.label for one in row] for row in chosen] == [["b", "a", "c"], []]
    assert chosen[0][0].probability == pytest.approx(0.9, abs=1e-6)
    assert [[one.label for one in row] for row in choose_labels(logits, "abc")] == [["b", "a"], []]
    with pytest.raises(WeightsError, match="not finite"):
        probabilities(np.array([[NAN]]), "sigmoid")
