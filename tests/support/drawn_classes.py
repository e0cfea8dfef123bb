"""Small pictures of coloured shapes in folders by class, and a network of a few thousand parameters to learn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "frame", "stripes")

TABLE = """
tiny:
  stem: 8
  activation: relu6
  num_classes: 3
  input_size: 32
  crop_pct: 1.0
  head: 24
  drop_rate: 0.1
  blocks:
    - ds_r1_k3_s1_e1_c8
    - ir_r2_k3.5_s2_e2_c12_se0.5
    - ir_r1_k3_s2_e2_c16_nsw
"""

# Of one epoch, for networks that a study or a search states.
SHORT_RECIPE = """
model: unused
weights: random
epochs: 1
epoch_repeats: 1
batch_size: 6
workers: 0
precision: float32
"""


def write_table(folder: Path) -> Path:
    """The network's YAML file."""
    path = folder / "tiny.yaml"
    path.write_text(TABLE)
    return path


def draw_data(folder: Path, *, train: int = 8, val: int = 4, test: int = 4, size: int = 32) -> Path:
    """A data set with so many pictures of every class in each split; none for a split of 0."""
    generator = np.random.default_rng(7)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for name in CLASSES:
            for number in range(count):
                path = folder / split / name / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                _draw(name, size, generator).save(path)
    return folder


def spoil(source, count):
    """Damage pictures in the middle, which a look at their beginnings and ends does not find."""
    for index in range(count):
        file = Path(source.name(index))
        data = bytearray(file.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
        file.write_bytes(data)


def _draw(name: str, size: int, generator: np.random.Generator) -> Image.Image:
    image = Image.fromarray(generator.integers(0, 90, (size, size, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    color = tuple(int(value) for value in generator.integers(120, 256, 3))
    left, top = (int(value) for value in generator.integers(1, size // 4, 2))
    box = (left, top, left + size // 2, top + size // 2)
    if name == "disc":
        draw.ellipse(box, fill=color)
    elif name == "frame":
        draw.rectangle(box, outline=color, width=2)
    else:
        for offset in range(0, size // 2, 4):
            draw.line((box[0], box[1] + offset, box[2], box[1] + offset), fill=color, width=2)
    return image
