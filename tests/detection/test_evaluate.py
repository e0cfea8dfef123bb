"""A detector is measured in the pixels of whole images, by the names of classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from effnets.detection.annotations import open_boxes
from effnets.detection.evaluate import evaluate_detector, match_boxes
from effnets.errors import ArgumentError, DataError
from tests.support.boxed_sets import ColorDetector, coco_content, coco_files, scenes, voc_files
from tests.support.data_sets import write


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_boxes(write(tmp_path_factory.mktemp("data"), voc_files({"train": scenes(9)})), val_share=0).train


def test_a_detector_that_sees_everything(dataset):
    model = ColorDetector().train()
    shares = []
    found = evaluate_detector(model, dataset, batch_size=4, progress=shares.append)
    assert model.training
    assert model.batches == [4, 4, 1]
    assert found.count == 9
    assert found.result.mean_ap == pytest.approx(100)
    assert [one.boxes for one in found.result.classes] == dataset.box_counts().tolist()
    assert all(found.mistakes(place) == (0, 0) for place in range(9))
    assert shares == pytest.approx([4 / 9, 8 / 9, 1])
    json.dumps(found.to_dict())


def test_batches_change_nothing(dataset):
    one, many = (evaluate_detector(ColorDetector(shift=3), dataset, batch_size=size).result for size in (1, 9))
    assert one == many
    assert one.mean_ap < 100


def test_shrunk_images_answer_in_whole_pixels(tmp_path):
    listed = scenes(4)
    for scene in listed:
        scene.size = (640, 480)
        scene.objects = [(name, *(10 * edge for edge in edges)) for name, *edges in scene.objects]
    large = open_boxes(write(tmp_path, voc_files({"train": listed})), val_share=0).train
    model = ColorDetector()
    model.transform = nn.Identity()
    model.transform.fixed_size = (80, 80)
    found = evaluate_detector(model, large)
    np.testing.assert_allclose(found.detections[0].boxes, large.boxes(0), atol=4)
    kept = evaluate_detector(model, large.cached(160))
    np.testing.assert_array_equal(found.detections[0].boxes, kept.detections[0].boxes)


def test_mistakes_of_single_images(dataset):
    far = evaluate_detector(ColorDetector(shift=40), dataset)
    assert far.mistakes(0) == (2, 2)
    assert far.mistakes(2) == (0, 0)
    assert far.mistakes(0, score_threshold=0.85) == (2, 1)
    assert [box.label for box in far.truth(0)] == ["cat", "dog"]


def test_what_is_ignored_is_no_mistake(tmp_path):
    content = coco_content(scenes(4))
    content["annotations"][0]["iscrowd"] = 1
    files = coco_files({"train": scenes(4)})
    files["annotations/instances_train2017.json"] = json.dumps(content).encode()
    grouped = open_boxes(write(tmp_path, files), val_share=0).train
    found = evaluate_detector(ColorDetector(), grouped)
    assert found.mistakes(0) == (0, 0)
    assert found.result.classes[0].boxes == grouped.box_counts()[0] - 1
    assert evaluate_detector(ColorDetector(shift=40), grouped).mistakes(0) == (1, 2)


def test_classes_go_by_their_names(dataset):
    found = evaluate_detector(ColorDetector(("dog", "cat")), dataset)
    assert found.result.mean_ap == pytest.approx(100)
    model = ColorDetector(("cat",))
    with pytest.raises(ArgumentError, match="the data has the class dog, and the detector knows cat; rename"):
        evaluate_detector(model, dataset)
    assert match_boxes(("b",), ("a", "b", "c")).tolist() == [0, 0, 1, 0]


def test_scores(dataset):
    found = evaluate_detector(ColorDetector(), dataset, score_threshold=0.85)  # dogs have 0.8
    cat, dog = found.result.classes
    assert (cat.ap, dog.ap) == pytest.approx((100, 0))
    with pytest.raises(ArgumentError, match=r"score_threshold is 2; give a number from 0 to 1"):
        evaluate_detector(ColorDetector(), dataset, score_threshold=2)


def test_unreadable_images(tmp_path):
    listed = scenes(8)
    data = write(tmp_path, voc_files({"train": listed}))
    dataset = open_boxes(data, val_share=0, check="none").train
    (data / f"JPEGImages/{listed[0].name}.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"scene000\.png"):
        found = evaluate_detector(ColorDetector(), dataset)
    assert found.count == 7
    assert "scene000.png" in found.broken[0]
    assert found.result.mean_ap == pytest.approx(100)
    with (
        pytest.raises(DataError, match="1 of 8 images cannot be read, and 0 may be left out"),
        pytest.warns(UserWarning, match="left out of its batch"),
    ):
        evaluate_detector(ColorDetector(), dataset, strict=True)
    for scene in listed[1:4]:
        (data / f"JPEGImages/{scene.name}.png").write_bytes(b"")
    with (
        pytest.raises(DataError, match="4 of 8 images cannot be read, and 3 may be left out"),
        pytest.warns(UserWarning, match="left out of its batch"),
    ):
        evaluate_detector(ColorDetector(), dataset)
    with pytest.raises(DataError, match="there is no image to evaluate on"):
        evaluate_detector(ColorDetector(), dataset.subset([]))


def test_a_real_detector_is_measured(dataset):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    found = evaluate_detector(model, dataset.subset([0, 1]))
    assert 0 <= found.result.mean_ap < 50
    assert found.network_speed > 0
