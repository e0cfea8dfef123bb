"""Copies are found by their pixels; photos that merely look alike are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import effnets
from effnets.deploy.export.verify import probe_images
from effnets.embeddings.crops import find_crop, thumbnail
from effnets.embeddings.duplicates import Photo, find_duplicates, read_photos
from effnets.errors import ArgumentError
from effnets.inference.image import PhotoResult
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import create_predictor
from tests.support import SHARED, needs_shared

PHOTOS = [Image.fromarray(image) for image in probe_images(3, 240, 320, 3, seed=3)]


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


COPIES = {
    "the same": lambda image: image,
    "quality 30": lambda image: saved_again(image, 30),
    "a third": lambda image: image.resize((107, 80)),
    "twice": lambda image: image.resize((640, 480)),
    "center": lambda image: cropped(image, 0.05, 0.05, 0.95, 0.95),
    "corner": lambda image: cropped(image, 0, 0.15, 0.85, 1),
    "narrower": lambda image: cropped(image, 0.25, 0, 1, 1),
}


def compare(one: Image.Image, other: Image.Image):
    return find_crop(thumbnail(one), thumbnail(other), (other.width / other.height) / (one.width / one.height))


@pytest.mark.parametrize("copy", COPIES)
def test_copies_agree(copy):
    for photo in PHOTOS:
        made = COPIES[copy](photo)
        found = compare(photo, made)
        assert found.agreement > 0.85
        if made.width < 320 and copy != "a third":
            assert found.kept == pytest.approx(made.width * made.height / (320 * 240), abs=0.05)


def test_others_do_not():
    for one in PHOTOS:
        for other in PHOTOS:
            if one is not other:
                assert compare(one, other).agreement < 0.7


def test_plain_pictures_agree_with_nothing():
    plain = Image.new("RGB", (64, 64), "red")
    assert compare(plain, plain).agreement <= 0
    assert compare(PHOTOS[0], plain).agreement < 0.5


def test_of_another_aspect_ratio_there_is_no_crop():
    assert compare(PHOTOS[0], PHOTOS[0].resize((320, 60))).agreement == -1


@pytest.fixture(scope="module")
def pipeline():
    network = effnets.create_model("mixnet_xs_32px.cifar10", pretrained=True)
    return Pipeline(create_predictor(network, decode="fast", classify=False), workers=1)


def find(pipeline, paths, **options):
    results = list(read_photos(pipeline, map(PhotoResult, map(str, paths)), stage=-2))
    assert all(isinstance(result, Photo) for result in results)
    return find_duplicates(results, **options)


def test_groups_keep_the_largest(pipeline, tmp_path):
    PHOTOS[0].save(tmp_path / "a.png")
    PHOTOS[0].resize((160, 120)).save(tmp_path / "b.png")
    PHOTOS[0].save(tmp_path / "c.jpg", quality=40)
    cropped(PHOTOS[0], 0.05, 0.05, 0.95, 0.95).save(tmp_path / "d.png")
    PHOTOS[1].save(tmp_path / "e.png")
    (tmp_path / "f.png").symlink_to(tmp_path / "e.png")
    (group,) = find(pipeline, sorted(tmp_path.iterdir()))
    assert group.keep.path == str(tmp_path / "a.png")
    assert {copy.photo.path[-5:]: copy.kind for copy in group.copies} == {
        "b.png": "resized",
        "c.jpg": "saved again",
        "d.png": "cropped",
    }
    assert (group.keep.width, group.keep.height, group.keep.bytes) == (320, 240, (tmp_path / "a.png").stat().st_size)
    assert next(copy.kept for copy in group.copies if copy.kind == "cropped") == pytest.approx(0.81, abs=0.04)


def test_none_of_none():
    assert find_duplicates([]) == []


def test_what_cannot_be_read_passes_with_its_error(pipeline, tmp_path):
    (tmp_path / "x.jpg").write_text("not a picture")
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), np.uint8))
    broken, array = read_photos(pipeline, map(PhotoResult, map(str, (tmp_path / "x.jpg", tmp_path / "a.npy"))))
    assert "x.jpg is not an image" in broken.error
    assert isinstance(array, Photo)


def test_networks_for_other_than_photographs():
    network = effnets.create_model("mobilenetv1_025", in_chans=5, mean=(0,) * 5, std=(1,) * 5)
    pipeline = Pipeline(create_predictor(network))
    with pytest.raises(ArgumentError, match="mobilenetv1_025 takes 5 channels; name one for photographs"):
        list(read_photos(pipeline, []))


@needs_shared
def test_real_photographs(pipeline):
    """All are different but for one, which is there twice, once squeezed."""
    paths = sorted(path for path in (SHARED / "data" / "photos").iterdir() if path.suffix)
    (group,) = find(pipeline, paths)
    assert group.keep.path.endswith("cat_720p.jpg")
    assert [copy.photo.path.rsplit("/", 1)[1] for copy in group.copies] == ["cat.bmp"]
