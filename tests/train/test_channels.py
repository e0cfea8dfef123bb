"""Trainings on images of other than three channels, whose classes differ in a channel that RGB does not have."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.data.augmentation import Augmentation
from effnets.data.dataset import CachedDataset, ImageDataset
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.errors import ArgumentError
from effnets.spec.specs import PreprocessSpec
from effnets.train.callbacks import Callback
from tests.support.drawn_classes import write_table

COLORS = Augmentation(
    scale=(0.7, 1.0), rotation=10, brightness=0.2, saturation=0.2, hue=0.1, grayscale=0.2, random_erasing=0.3
)


def sample(channels: int, label: int, generator: np.random.Generator) -> bytes:
    """Noise in every channel but the last, which is dark for one class and light for the other."""
    pixels = generator.integers(0, 256, (24, 30, channels)).astype(np.uint8)
    pixels[..., -1] = np.clip(generator.normal(60 + 130 * label, 20, (24, 30)), 0, 255)
    file = io.BytesIO()
    match channels:
        case 1 | 4:
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
        case 2:
            pages = [Image.fromarray(np.ascontiguousarray(pixels[..., page])) for page in range(2)]
            pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
        case _:
            np.save(file, pixels.transpose(2, 0, 1))
    return file.getvalue()


def write_data(folder, channels: int):
    generator = np.random.default_rng(channels)
    suffix = {1: "png", 2: "tif", 4: "png"}.get(channels, "npy")
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                path = folder / split / name / f"{number}.{suffix}"
                path.write_bytes(sample(channels, label, generator))
    return folder


class Heard(Callback):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_training_learns_from_the_last_channel(tmp_path, channels):
    data = write_data(tmp_path / "data", channels)
    recipe = effnets.Recipe(
        model=str(write_table(tmp_path)),
        weights="random",
        in_chans=channels,
        mean=(0.5,),
        std=(0.25,),
        epochs=6,
        batch_size=8,
        learning_rate=5e-3,
        layer_decay=1.0,
        workers=0,
        precision="float32",
        augmentation=COLORS,
    )
    heard = Heard()
    run = effnets.finetune(recipe, data, tmp_path / "run", check="full", callbacks=[heard])
    assert run.test_top1 == 100
    messages = " ".join(heard.messages)
    unused = {2: "brightness, saturation, hue, grayscale", 6: "brightness, saturation, hue, grayscale"}.get(channels)
    assert (f"without effect on images of {channels} channels: {unused}" in messages) == (unused is not None)
    network = run.load()
    assert (network.in_chans, len(network.spec.preprocess.mean)) == (channels, 3 if channels == 1 else channels)
    measured = effnets.evaluate(network, data)
    assert measured.top1 == 100
    [found] = effnets.predict(network, next((data / "test" / "light").iterdir()))
    assert found[0].label == "light"
    # A further training keeps the channels of the weights.
    again = effnets.finetune(
        replace(
            recipe, model=str(tmp_path / "run"), weights="pretrained", in_chans=None, mean=None, std=None, epochs=1
        ),
        data,
        tmp_path / "again",
    )
    assert again.load().in_chans == channels
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_means_of_other_channels_must_be_stated(tmp_path):
    data = write_data(tmp_path / "data", 6)
    recipe = effnets.Recipe(model=str(write_table(tmp_path)), weights="random", in_chans=6, workers=0)
    with pytest.raises(ArgumentError, match=r"mean has 3 numbers for 6 input channels; .* or mean and std of a recipe"):
        effnets.finetune(recipe, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class InMemory(ImageDataset):
    """Files of some channels."""

    def __init__(self, channels: int) -> None:
        generator = np.random.default_rng(0)
        self.files = [sample(channels, label, generator) for label in (0, 1) * 4]
        self.labels, self.class_names, self.channels = np.array([0, 1] * 4), ("dark", "light"), channels

    def name(self, index):
        return f"image {index}"

    def read(self, index):
        return self.files[index]


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("crop", ["resized", "padded", "center"])
def test_samples_are_normalized_in_every_channel(channels, crop):
    source = InMemory(channels)
    preprocess = PreprocessSpec(input_size=16, mean=(0.5,), std=(0.25,))
    mixing = replace(COLORS, crop=crop, mixup=0.2, cutmix=0.2, horizontal_flip=1.0)
    for dataset in (source, CachedDataset(source, 20), CachedDataset(source, 20, 0)):
        loader = EpochLoader(
            dataset, TrainTransform(preprocess, 16, mixing, channels), batch_size=8, channels_last=True
        )
        [batch] = loader.batches(0)
        assert batch.images.shape == (8, channels, 16, 16)
        assert batch.images.dtype == torch.float32
        assert batch.images.abs().max() <= 2.5


@pytest.mark.parametrize("channels", [2, 4])
def test_a_center_crop_is_the_image(channels):
    source = InMemory(channels)
    preprocess = PreprocessSpec(input_size=24, mean=(0.5,), std=(0.25,), crop_pct=1.0)
    still = TrainTransform(preprocess, 24, Augmentation.none(), channels)
    [batch] = EpochLoader(source, still, batch_size=8, order="sequential").batches(0)
    for image, index in zip(batch.images, batch.indices, strict=True):
        expected = np.asarray(source.image(int(index)), np.float32)[:, 3:27].transpose(2, 0, 1)
        expected = expected / 255 if channels == 4 else expected
        assert np.allclose(image.numpy(), (expected - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment", "trivialaugment"])
def test_policies_work_in_gray_and_are_left_out_elsewhere(policy):
    preprocess = PreprocessSpec(input_size=16, mean=(0.5,), std=(0.25,))
    augmentation = Augmentation(policy=policy)
    for key in range(40):
        tensor = TrainTransform(preprocess, 16, augmentation, 1)(InMemory(1).lazy_image(0), (key,))
        assert tensor.shape == (1, 16, 16)
    assert augmentation.for_channels(3) == (augmentation, ())
    assert augmentation.for_channels(4) == (Augmentation(), ("policy",))
