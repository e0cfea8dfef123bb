"""Boxes in the pixels of upright images, with names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from effnets.detection.predict import Box, detect, detect_photos
from effnets.errors import ArgumentError, ImageError, MissingFileError
from effnets.inference.image import PhotoResult, find_photos
from tests.support.boxed_sets import ColorDetector, draw_scene

OBJECTS = [("cat", 4, 6, 24, 16), ("dog", 40, 10, 60, 30)]


@pytest.fixture
def photo(tmp_path):
    draw_scene(OBJECTS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_every_kind_of_image(photo):
    image = Image.open(photo).convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [photo, str(photo), photo.read_bytes(), image, array, tensor, tensor / 255]
    expected = [
        Box(1, "cat", pytest.approx(0.9), 4, 6, 24, 16),
        Box(2, "dog", pytest.approx(0.8), 40, 10, 60, 30),
    ]
    for kind in kinds:
        assert detect(ColorDetector(), kind) == [expected]
    with photo.open("rb") as file:
        assert detect(ColorDetector(), file) == [expected]
    assert detect(ColorDetector(), kinds, batch_size=2) == [expected] * 7
    assert detect(ColorDetector(), np.stack([array, array])) == [expected] * 2
    assert detect(ColorDetector(), []) == []


def test_scores_below_the_threshold_are_left_out(photo):
    assert [box.label for box in detect(ColorDetector(), photo, 0.85)[0]] == ["cat"]
    assert detect(ColorDetector(), photo, 1.0) == [[]]
    with pytest.raises(ArgumentError, match=r"score_threshold is 1\.5; give a number from 0 to 1"):
        detect(ColorDetector(), photo, 1.5)


def test_boxes_are_of_the_upright_whole_image(tmp_path):
    large = draw_scene([(name, *(10 * edge for edge in edges)) for name, *edges in OBJECTS], (640, 480))
    exif = Image.Exif()
    exif[0x0112] = 3
    large.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=exif)
    model = ColorDetector()
    model.transform = nn.Identity()
    model.transform.min_size, model.transform.fixed_size = (60,), None
    found = detect(model, tmp_path / "turned.png")[0]
    assert [(box.x1, box.y1, box.x2, box.y2) for box in found] == [
        pytest.approx((40, 60, 240, 160), abs=5),
        pytest.approx((400, 100, 600, 300), abs=5),
    ]


def test_modes_are_restored(photo):
    model = ColorDetector().train()
    detect(model, photo)
    assert model.training
    detect(model.eval(), photo)
    assert not model.training


def test_errors(photo, tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        detect(ColorDetector(), tmp_path / "none.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        detect(ColorDetector(), [photo, tmp_path / "bad.jpg"])
    model = ColorDetector()
    model.class_names = None
    with pytest.raises(ArgumentError, match="model has no class_names; set them, without the background"):
        detect(model, photo)


@pytest.mark.usefixtures("photo")
def test_a_stream_of_photos(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    draw_scene(OBJECTS[:1]).save(tmp_path / "z.png")
    seen = []
    stream = detect_photos(
        ColorDetector(),
        [*find_photos([str(tmp_path)], print), PhotoResult("gone.jpg")],
        batch_size=2,
        workers=2,
        use=lambda photo, image: seen.append((photo.path, image.size)),
    )
    rows = [photo.to_dict() for photo in stream]
    assert [row["path"].rpartition("/")[2] for row in rows] == ["bad.jpg", "photo.png", "z.png", "gone.jpg"]
    assert ["error" in row for row in rows] == [True, False, False, True]
    assert [box["label"] for box in rows[1]["boxes"]] == ["cat", "dog"]
    assert rows[2]["boxes"][0] | {"score": 0} == {
        "index": 1, "label": "cat", "score": 0, "x1": 4.0, "y1": 6.0, "x2": 24.0, "y2": 16.0
    }  # fmt: skip
    assert [size for _, size in seen] == [(64, 48)] * 2
