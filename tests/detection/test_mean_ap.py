"""Average precision against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from effnets.detection.mean_ap import MeanAP


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def detections(rows, labels, scores):
    return {"boxes": boxes(*rows), "labels": torch.tensor(labels, dtype=torch.int64), "scores": torch.tensor(scores)}


def targets(rows, labels, ignored=None):
    values = {"boxes": boxes(*rows), "labels": torch.tensor(labels, dtype=torch.int64)}
    return values if ignored is None else {**values, "ignored": torch.tensor(ignored)}


A, B, C = (0, 0, 100, 100), (200, 0, 300, 100), (0, 200, 100, 300)


def measure(names, pairs):
    metric = MeanAP(names)
    for found, truth in pairs:
        metric.update([found], [truth])
    return metric.compute()


def test_what_is_right_is_100_per_cent():
    result = measure(["cat"], [(detections([A], [1], [0.9]), targets([A], [1]))])
    assert (result.mean_ap, result.mean_ap50, result.mean_ap75, result.recall) == pytest.approx((100,) * 4)
    assert result.classes[0].boxes == 1
    assert math.isnan(result.small)
    assert result.large == pytest.approx(100)


def test_a_curve_by_hand():
    # Two objects. By score: right, wrong, right. Precision at recall 1/2 is 1, at recall 1 it is 2/3; of COCO's 101
    # recalls 0, 0.01, …, 51 are at most 1/2.
    found = detections([A, C, B], [1, 1, 1], [0.9, 0.8, 0.7])
    result = measure(["cat"], [(found, targets([A, B], [1, 1]))])
    assert result.mean_ap50 == pytest.approx(100 * (51 * 1 + 50 * 2 / 3) / 101)
    assert result.recall == pytest.approx(100)


def test_overlaps_by_hand():
    # IoU 80 / 120 = 2/3: found at 0.50, 0.55, 0.60 and 0.65, lost at the other six thresholds.
    shifted = (20, 0, 120, 100)
    result = measure(["cat"], [(detections([shifted], [1], [0.9]), targets([A], [1]))])
    assert result.mean_ap == pytest.approx(40)
    assert (result.mean_ap50, result.mean_ap75) == pytest.approx((100, 0))
    assert result.recall == pytest.approx(40)


def test_classes_of_their_own():
    pairs = [
        (detections([A, B], [1, 2], [0.9, 0.8]), targets([A, B], [1, 2])),
        (detections([A], [1], [0.7]), targets([A], [2])),
    ]
    result = measure(["cat", "dog", "cow"], pairs)
    cat, dog, cow = result.classes
    assert (cat.boxes, dog.boxes, cow.boxes) == (1, 2, 0)
    assert (cat.ap, cat.ap50, cat.recall) == pytest.approx((100, 100, 100))
    assert dog.ap == pytest.approx(100 * 51 / 101)
    assert dog.recall == pytest.approx(50)
    assert math.isnan(cow.ap)
    assert result.mean_ap == pytest.approx((cat.ap + dog.ap) / 2)
    assert result.to_dict()["classes"][2] == {
        "name": "cow",
        "boxes": 0,
        "ap": None,
        "ap50": None,
        "ap75": None,
        "recall": None,
    }


def test_ignored_boxes_are_neither_missed_nor_mistakes():
    truth = targets([A, B], [1, 1], [False, True])
    missed = measure(["cat"], [(detections([A], [1], [0.9]), truth)])
    found = measure(["cat"], [(detections([A, B], [1, 1], [0.8, 0.9]), truth)])
    assert missed.mean_ap == found.mean_ap == pytest.approx(100)
    assert found.classes[0].boxes == 1
    wrong = measure(["cat"], [(detections([A, C], [1, 1], [0.8, 0.9]), truth)])
    assert wrong.mean_ap50 == pytest.approx(50)


def test_nothing_found_and_nothing_to_find():
    nothing = detections([], [], [])
    assert measure(["cat"], [(nothing, targets([A], [1]))]).mean_ap == 0
    result = measure(["cat"], [(nothing, targets([], []))])
    assert math.isnan(result.mean_ap)
    assert result.to_dict()["mean_ap"] is None


def test_images_in_any_order_and_number():
    pairs = [
        (detections([A], [1], [0.9]), targets([A, C], [1, 1])),
        (detections([B], [1], [0.6]), targets([], [])),
        (detections([], [], []), targets([B], [1])),
    ]
    whole = MeanAP(["cat"])
    whole.update([found for found, _ in pairs], [truth for _, truth in pairs])
    assert whole.compute() == measure(["cat"], pairs) == measure(["cat"], pairs[::-1])
