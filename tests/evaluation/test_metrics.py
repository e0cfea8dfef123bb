"""Intervals, scores and calibration against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnets.evaluation.metrics import BINS, CalibrationAccumulator, mcnemar, precision_recall, wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "expected"),
    # Brown, Cai and DasGupta's formula worked by hand, and the limits.
    [(0, 10, (0.0, 0.27753)), (10, 10, (0.72247, 1.0)), (8, 10, (0.49016, 0.94332)), (500, 1000, (0.46907, 0.53093))],
)
def test_wilson(right, count, expected):
    assert wilson_interval(right, count) == pytest.approx(expected, abs=1e-5)


@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_holds_what_was_seen_and_is_symmetrical(case):
    right, count = case
    low, high = wilson_interval(right, count)
    assert 0 <= low <= right / count <= high <= 1
    assert wilson_interval(count - right, count) == pytest.approx((1 - high, 1 - low))


def test_wilson_of_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mcnemar():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(22 / 1024)
    # Both ways of computing it agree where one takes over from the other.
    assert mcnemar(530, 470) == pytest.approx(mcnemar(531, 470), rel=0.1)
    assert mcnemar(0, 5000) < 1e-100


def test_precision_recall():
    labels, answers = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, 0, 2])
    scores = precision_recall(labels, answers, 5)
    assert scores.support.tolist() == [3, 2, 0, 1, 0]
    assert scores.answered.tolist() == [3, 2, 1, 0, 0]
    np.testing.assert_allclose(scores.precision, [2 / 3, 1 / 2, 0, math.nan, math.nan])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1 / 2, math.nan, 0, math.nan])
    np.testing.assert_allclose(scores.f1, [2 / 3, 1 / 2, 0, 0, math.nan])


def logits_of(count: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated at temperature `sharpness`: labels are drawn from their softmax."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([generator.choice(classes, p=row) for row in probabilities])
    return (sharpness * logits).astype(np.float32), labels


def mean_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    highest = scaled.max(1)
    total = np.log(np.exp(scaled - highest[:, None]).sum(1)) + highest
    return float((total - scaled[np.arange(len(labels)), labels]).mean())


def expected_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """The definition, image by image."""
    weights = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    probabilities = weights / weights.sum(1, keepdims=True)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        bins.setdefault(min(int(row.max() * BINS), BINS - 1), []).append((row.max(), row.argmax() == label))
    gaps = (abs(sum(p for p, _ in seen) - sum(right for _, right in seen)) for seen in bins.values())
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_calibration_against_its_definition(sharpness):
    logits, labels = logits_of(3000, 7, sharpness)
    accumulator = CalibrationAccumulator()
    for part in (slice(0, 1), slice(1, 999), slice(999, None)):
        accumulator.add(logits[part], labels[part])
    found = accumulator.finish()
    assert found.loss == pytest.approx(mean_loss(logits, labels, 1.0), rel=1e-6)
    assert found.error == pytest.approx(expected_error(logits, labels), abs=1e-6)
    assert found.counts.sum() == found.scaled_counts.sum() == 3000
    best = min(np.linspace(0.8 * sharpness, 1.2 * sharpness, 2001), key=lambda t: mean_loss(logits, labels, t))
    assert found.temperature == pytest.approx(best, rel=2e-3)
    assert found.temperature == pytest.approx(sharpness, rel=0.1)
    assert found.scaled_error < 0.03
    if sharpness != 1.0:
        assert found.error > 0.1
        assert found.scaled_loss < found.loss


def test_a_temperature_from_elsewhere_is_judged_as_it_is():
    logits, labels = logits_of(2000, 5, 2.0)
    accumulator = CalibrationAccumulator(1.3)
    accumulator.add(logits, labels)
    found = accumulator.finish()
    assert (found.temperature, found.fitted_here) == (1.3, False)
    assert found.loss == pytest.approx(mean_loss(logits, labels, 1.0), rel=1e-6)
    assert found.scaled_loss == pytest.approx(mean_loss(logits, labels, 1.3), rel=1e-6)
    assert found.scaled_error == pytest.approx(expected_error(logits / np.float32(1.3), labels), abs=1e-4)
    alone = CalibrationAccumulator()
    alone.add(logits, labels)
    assert alone.finish().fitted_here
    assert alone.finish().scaled_loss < found.scaled_loss


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 60))
def test_batches_do_not_matter(seed, classes, batch):
    logits, labels = logits_of(60, classes, 2.0, seed)
    whole, parts = CalibrationAccumulator(), CalibrationAccumulator()
    whole.add(logits, labels)
    for start in range(0, 60, batch):
        parts.add(logits[start : start + batch], labels[start : start + batch])
    one, other = whole.finish(), parts.finish()
    assert other.error == pytest.approx(one.error, abs=1e-9)
    assert other.loss == pytest.approx(one.loss)
    assert other.temperature == pytest.approx(one.temperature)
    np.testing.assert_array_equal(one.counts, other.counts)


def test_there_is_no_best_temperature_where_every_answer_is_right():
    accumulator = CalibrationAccumulator()
    accumulator.add(np.array([[4, 0], [0, 9]], np.float32), np.array([0, 1]))
    found = accumulator.finish()
    assert found.temperature is None
    assert (found.error, found.loss) == (found.scaled_error, found.scaled_loss)


def test_huge_logits():
    accumulator = CalibrationAccumulator()
    accumulator.add(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), np.array([0, 0]))
    found = accumulator.finish()
    assert found.loss == pytest.approx(1e4)
    assert found.error == pytest.approx(0.5)
