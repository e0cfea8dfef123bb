"""Pictures in memory with labels, and what a model that reads their colour makes of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from effnets.data.dataset import ImageDataset
from effnets.errors import ImageError
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250), "other": (5, 5, 5)}


class PicturesInMemory(ImageDataset):
    """PNG files that lie nowhere; None stands for one that cannot be read."""

    def __init__(
        self,
        pictures: Sequence[Image.Image | None],
        labels: Sequence[int],
        class_names: Sequence[str],
        prefix: str = "",
    ) -> None:
        self.pictures = [encoded(picture) if picture else b"" for picture in pictures]
        self.labels, self.class_names = np.array(labels, np.int64), tuple(class_names)
        self.prefix = prefix

    def name(self, index: int) -> str:
        return f"{self.prefix}{self.class_names[self.labels[index]]}/{index:04d}.png"

    def read(self, index: int) -> bytes:
        if not self.pictures[index]:
            raise ImageError(f"{self.name(index)} is empty (0 bytes); copy or download it again")
        return self.pictures[index]

    def sizes(self) -> np.ndarray:
        return np.array([len(picture) for picture in self.pictures])


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def patch(colour: str, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).integers(-5, 6, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def coloured_folder(folder: Path, counts: dict[str, int], size: tuple[int, int] = (48, 40)) -> Path:
    """`counts` pictures of each colour, by class."""
    for colour, count in counts.items():
        (folder / colour).mkdir(parents=True)
        for index in range(count):
            patch(colour, index, size).save(folder / colour / f"{index}.png")
    return folder


def noise_source(count: int, class_names: Sequence[str], seed: int = 0, size: int = 40) -> PicturesInMemory:
    """Pictures of nothing, with labels in turn."""
    generator = np.random.default_rng(seed)
    pictures = [
        Image.fromarray(
            np.kron(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8), np.ones((size // 5, size // 5, 1), np.uint8))
        )
        for _ in range(count)
    ]
    return PicturesInMemory(pictures, [index % len(class_names) for index in range(count)], class_names)


def tell_apart(model: Classifier, source: ImageDataset) -> Classifier:
    """Centre and scale the logits over `source`: a network that was never trained gives all pictures one answer."""
    transform = create_transform(model)
    with torch.no_grad():
        model.eval()
        logits = torch.cat([model(transform(source.image(index))[None]) for index in range(len(source))])
        scale = 2 / logits.std(0)
        model.classifier.weight.mul_(scale[:, None])
        model.classifier.bias.copy_((model.classifier.bias - logits.mean(0)) * scale)
    return model
