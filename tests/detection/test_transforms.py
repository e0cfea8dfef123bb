"""After any change of an image its boxes are still around the objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from effnets.data.detection_augmentation import DetectionAugmentation
from effnets.detection.transforms import DetectionTransform
from effnets.errors import ArgumentError
from tests.support.boxed_sets import CLASSES, colored_box, draw_scene

STILL = DetectionAugmentation.none()
OBJECTS = [("cat", 20, 30, 80, 90), ("dog", 120, 40, 180, 120)]
SIZE = (200, 150)

KINDS = {
    "none": STILL,
    "flips": replace(STILL, horizontal_flip=0.5, vertical_flip=0.5),
    "crop": replace(STILL, crop=1.0, crop_scale=(0.3, 1.0)),
    "zoom out": replace(STILL, zoom_out=1.0, zoom_out_scale=4.0),
    "default": replace(DetectionAugmentation(), distortion=0.0),
}


def sample(transform, key=(1, 0, 0, 0), objects=OBJECTS):
    boxes = np.array([item[1:] for item in objects], np.float32).reshape(-1, 4)
    labels = np.array([CLASSES.index(item[0]) + 1 for item in objects], np.int64)
    return transform(draw_scene(objects, SIZE), boxes, labels, key)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fit", ["stretch", "shorter"])
def test_boxes_stay_around_the_colors(kind, fit):
    transform = DetectionTransform(96, fit=fit, augmentation=KINDS[kind])
    seen = 0
    for index in range(60):
        image, boxes, labels = sample(transform, (1, 0, 0, index))
        assert image.dtype == torch.uint8
        if fit == "stretch":
            assert image.shape[1:] == (96, 96)
        else:
            assert min(image.shape[1:]) == 96 or max(image.shape[1:]) == transform.max_size
        pixels = image.permute(1, 2, 0).numpy()
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            found = colored_box(pixels, CLASSES[label - 1])
            assert found is not None
            assert np.abs(np.array(found) - box).max() <= 2.0, (index, found, box)
            seen += 1
    assert seen >= 60


def test_an_object_whose_middle_is_cut_off_is_left_out():
    transform = DetectionTransform(96, augmentation=replace(STILL, crop=1.0, crop_scale=(0.3, 0.6)))
    counts = [len(sample(transform, (1, 0, 0, index)).boxes) for index in range(60)]
    assert set(counts) >= {1, 2}
    assert 0 not in counts, "a crop keeps one"


def test_images_without_boxes():
    for augmentation in KINDS.values():
        image, boxes, labels = sample(DetectionTransform(64, augmentation=augmentation), objects=[])
        assert image.shape == (3, 64, 64)
        assert (boxes.shape, labels.shape) == ((0, 4), (0,))
        assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_tiny_images():
    transform = DetectionTransform(32, augmentation=replace(DetectionAugmentation(), crop=1.0))
    for index in range(10):
        boxes = np.array([[0, 0, 3, 1]], np.float32)
        found = transform(draw_scene([], (3, 1)), boxes, np.array([1]), (1, 0, 0, index))
        assert found.image.shape == (3, 32, 32)


def test_draws_are_a_function_of_the_key():
    transform = DetectionTransform(64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(transform, (1, 5, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = sample(transform, (1, 5, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = sample(transform, (1, 5, 2, 4))
    assert not torch.equal(first.image, other.image)


def test_colors_change_and_channels_stay_in_order():
    transform = DetectionTransform(64, augmentation=replace(STILL, distortion=1.0))
    for index in range(20):
        image, boxes, labels = sample(transform, (1, 0, 0, index))
        for box, label in zip(boxes.round().int().tolist(), labels.tolist(), strict=True):
            inside = image[:, box[1] + 2 : box[3] - 2, box[0] + 2 : box[2] - 2].float().mean(dim=(1, 2))
            assert int(inside.argmax()) == {1: 0, 2: 2}[label]


def test_the_resize_is_that_of_torchvisions_detectors():
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    pixels = torch.from_numpy(noise).permute(2, 0, 1) / 255
    for transform, theirs in (
        (
            DetectionTransform(96, augmentation=STILL),
            GeneralizedRCNNTransform(96, 96, [0.0] * 3, [1.0] * 3, 1, fixed_size=(96, 96)),
        ),
        (
            DetectionTransform(96, fit="shorter", augmentation=STILL),
            GeneralizedRCNNTransform(96, 160, [0.0] * 3, [1.0] * 3, 1),
        ),
    ):
        ours = transform(Image.fromarray(noise), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (1,))
        expected = theirs.eval()([pixels])[0].tensors[0]
        assert ours.image.shape == expected.shape
        assert (ours.image / 255 - expected).abs().max() <= 1.01 / 255
        assert (ours.image / 255 - expected).mean().abs() <= 0.05 / 255


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"fit is 'letterbox'; choose one of stretch, shorter"):
        DetectionTransform(64, fit="letterbox")
    with pytest.raises(ArgumentError, match=r"size is \(64, 32\); the shorter side is one number"):
        DetectionTransform((64, 32), fit="shorter")
    with pytest.raises(ArgumentError, match=r"crop is 2; it must lie in 0\.\.1"):
        DetectionAugmentation(crop=2)
    with pytest.raises(ArgumentError, match=r"crop_scale is \(1\.0, 0\.5\); give two parts of the sides"):
        DetectionAugmentation(crop_scale=(1.0, 0.5))


def test_in_words():
    assert repr(DetectionTransform(64)) == "DetectionTransform(64×64, default augmentation)"
    assert "shorter side 64, longer up to 107, zoom_out=0.0" in repr(
        DetectionTransform(64, fit="shorter", augmentation=STILL)
    )
