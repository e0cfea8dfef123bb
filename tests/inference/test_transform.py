from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effnets.errors import ArgumentError, MissingFileError
from effnets.inference.transform import Transform, create_transform
from effnets.spec.specs import IMAGENET_MEAN, IMAGENET_STD, BlockSpec, ModelSpec, PreprocessSpec

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "odd": ((0.1, -0.7, 1 / 3), (1 / 255, 0.017, 2.3)),
}


def timm_transform(preprocess: PreprocessSpec, size):
    data = pytest.importorskip("timm.data", reason="timm, the reference, is not installed")
    return data.create_transform(
        size,
        is_training=False,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        crop_pct=preprocess.crop_pct,
    )


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def assert_equals_timm(image: Image.Image, preprocess: PreprocessSpec, size) -> None:
    actual = Transform(preprocess=preprocess, size=size)(image)
    expected = timm_transform(preprocess, size)(image)
    assert actual.dtype == expected.dtype == torch.float32
    assert actual.shape == expected.shape
    assert actual.is_contiguous()
    assert torch.equal(actual, expected)


SIZES = [224, 193, (192, 256), (256, 192), (224, 224), (97, 96)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "shape",
    [(640, 427), (427, 640), (224, 224), (256, 256), (256, 192), (100, 80), (31, 173), (257, 301), (1, 1), (1000, 3)],
    ids=lambda shape: f"{shape[0]}x{shape[1]}",
)
def test_random_images_equal_timms(shape, interpolation, crop_pct, size):
    assert_equals_timm(random_image(*shape), PreprocessSpec(interpolation=interpolation, crop_pct=crop_pct), size)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_every_value_is_normalised_as_by_timm(normalisation):
    mean, std = NORMALISATIONS[normalisation]
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert_equals_timm(Image.fromarray(values), PreprocessSpec(mean=mean, std=std, crop_pct=1.0), 16)


@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.integers(1, 120) | st.tuples(st.integers(1, 120), st.integers(1, 120)),
    crop_pct=st.sampled_from([0.875, 0.9, 0.965, 1.0]) | st.floats(0.3, 1.0),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    normalisation=st.sampled_from(sorted(NORMALISATIONS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_image_equals_timms(width, height, size, crop_pct, interpolation, normalisation, seed):
    mean, std = NORMALISATIONS[normalisation]
    preprocess = PreprocessSpec(crop_pct=crop_pct, interpolation=interpolation, mean=mean, std=std)
    assert_equals_timm(random_image(width, height, seed), preprocess, size)


@pytest.mark.parametrize("size", [224, 193, (192, 256)], ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_photographs_equal_timms(interpolation, size):
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/photos is absent")
    paths = sorted(path for path in PHOTOS.iterdir() if path.suffix in (".jpg", ".bmp"))
    assert len(paths) == 10
    for path in paths:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        for normalisation, crop_pct in zip(NORMALISATIONS, (0.875, 0.95, 1.0, 0.875), strict=True):
            mean, std = NORMALISATIONS[normalisation]
            preprocess = PreprocessSpec(interpolation=interpolation, crop_pct=crop_pct, mean=mean, std=std)
            assert_equals_timm(rgb, preprocess, size)
            from_path = Transform(preprocess=preprocess, size=size)(path)
            assert torch.equal(from_path, timm_transform(preprocess, size)(rgb)), path


def test_grey_equals_timms():
    image = random_image(300, 200).convert("L")
    actual = Transform(preprocess=PreprocessSpec(mean=(0.5,), std=(0.25,)), size=96, channels=1)(image)
    expected = timm_transform(PreprocessSpec(mean=(0.5,), std=(0.25,)), 96)(image)
    assert actual.shape == (1, 96, 96)
    assert torch.equal(actual, expected)


# create_transform

WEIGHTS = PreprocessSpec(input_size=192, crop_pct=0.9, test_input_size=256, test_crop_pct=1.0)


def model_spec(preprocess: PreprocessSpec = WEIGHTS) -> ModelSpec:
    return ModelSpec(
        name="tiny", family="tiny", stem=8, blocks=(BlockSpec(type="ds", channels=8),), preprocess=preprocess
    )


def model(preprocess: PreprocessSpec = WEIGHTS, in_chans: int = 3) -> SimpleNamespace:
    return SimpleNamespace(spec=model_spec(preprocess), in_chans=in_chans)


def test_the_weights_preprocessing_is_the_default():
    transform = create_transform(model())
    assert transform == Transform(preprocess=WEIGHTS, size=192, channels=3)
    assert transform == create_transform(model_spec())
    assert transform(Image.new("RGB", (300, 200))).shape == (3, 192, 192)


def test_paths_images_and_arrays_give_the_same(tmp_path):
    image = random_image(50, 40)
    image.save(tmp_path / "photo.png")
    transform = create_transform(model(), input_size=(32, 24))
    expected = transform(image)
    assert expected.shape == (3, 32, 24)
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), np.asarray(image)):
        assert torch.equal(transform(source), expected)
    with pytest.raises(MissingFileError, match="does not exist"):
        transform(tmp_path / "none.png")
    with pytest.raises(ArgumentError, match=r"must be in 0\.\.1; they look normalized already"):
        transform(expected)


def test_the_tensor_can_be_written_to():
    tensor = create_transform(model())(Image.new("RGB", (9, 9)))
    tensor.zero_()
    assert tensor.sum() == 0


def test_test_size():
    assert create_transform(model(), use_test_size=True).size == 256
    assert create_transform(model(), use_test_size=True).preprocess.crop_pct == 1.0
    explicit = create_transform(model(), use_test_size=True, input_size=96, crop_pct=0.8)
    assert (explicit.size, explicit.preprocess.crop_pct) == (96, 0.8)
    without = create_transform(model(PreprocessSpec(input_size=160)), use_test_size=True)
    assert (without.size, without.preprocess.crop_pct) == (160, 0.875)


def test_overrides():
    transform = create_transform(
        model(), input_size=(64, 48), crop_pct=1, interpolation="bilinear", mean=0.5, std=[0.1, 0.2, 0.3]
    )
    assert transform.size == (64, 48)
    assert transform.preprocess.crop_pct == 1
    assert transform.preprocess.interpolation == "bilinear"
    assert transform.preprocess.mean == (0.5, 0.5, 0.5)
    assert transform.preprocess.std == (0.1, 0.2, 0.3)
    image = random_image(80, 90)
    assert torch.equal(transform(image), timm_transform(transform.preprocess, (64, 48))(image))
    assert create_transform(model(), mean=np.array([0.1, 0.2, 0.3])).preprocess.mean == (0.1, 0.2, 0.3)


def test_grey_models():
    transform = create_transform(model(in_chans=1), input_size=32, mean=0.5, std=0.5)
    image = random_image(80, 90)
    assert torch.equal(
        transform(image), timm_transform(PreprocessSpec(mean=(0.5,), std=(0.5,), crop_pct=0.9), 32)(image.convert("L"))
    )


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("input_size", 0),
        ("input_size", (3, 224, 224)),
        ("input_size", "224"),
        ("crop_pct", 0),
        ("crop_pct", 1.2),
        ("crop_pct", float("nan")),
        ("crop_pct", "0.9"),
        ("interpolation", "lanczos"),
        ("interpolation", ""),
        ("mean", (0.5, 0.5)),
        ("mean", "abc"),
        ("mean", [0.5, None, 0.5]),
        ("mean", float("inf")),
        ("std", 0),
        ("std", ()),
        ("std", (0.5, 0.5, -1.0)),
        ("std", object()),
    ],
)
def test_impossible_arguments_are_named(argument, value):
    with pytest.raises(ArgumentError, match=f"^{argument} is "):
        create_transform(model(), **{argument: value})


def test_models_that_are_none():
    with pytest.raises(ArgumentError, match=r"model is of type str; pass a model from effnets\.create_model"):
        create_transform("mixnet_m")
    message = r"mean has 3 numbers for 2 input channels; give one for each, .*create_model\(…, mean=…, std=…\), or mean"
    with pytest.raises(ArgumentError, match=message):
        create_transform(model(in_chans=2))


def test_transform_is_a_frozen_value_with_a_readable_repr():
    transform = create_transform(model(), input_size=(64, 48))
    assert repr(transform) == (
        "Transform(RGB 64×48, crop_pct=0.9, bicubic, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    )
    assert pickle.loads(pickle.dumps(transform)) == transform
    with pytest.raises(FrozenInstanceError):
        transform.size = 3


def test_neither_torchvision_nor_timm_is_imported():
    code = """
import sys
from PIL import Image
from effnets.inference.transform import Transform
from effnets.spec.specs import PreprocessSpec
Transform(preprocess=PreprocessSpec(), size=32)(Image.new("RGB", (40, 30)))
print(*sys.modules)
"""
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in modules
    assert not {"torchvision", "timm"} & set(modules)
