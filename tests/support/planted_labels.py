"""Small pictures with a red square, a bright stripe, both or neither, listed in a table of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ("Square", "stripe")


def plant_labels(folder: Path, *, train: int = 64, val: int = 24, test: int = 24, size: int = 32) -> Path:
    """Draw so many pictures of each split; return the table with a column of 0 and 1 for each label."""
    generator = np.random.default_rng(11)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines = [f"path,split,{','.join(LABELS)}"]
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            has = number % 4 in (1, 3), number % 4 in (2, 3)
            name = f"pictures/{split}{number}.png"
            _draw(has, size, generator).save(folder / name)
            lines.append(f"{name},{split},{int(has[0])},{int(has[1])}")
    table = folder / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def _draw(has: tuple[bool, bool], size: int, generator: np.random.Generator) -> Image.Image:
    pixels = generator.integers(0, 90, (size, size, 3), dtype=np.uint8)
    if has[0]:
        top, left = generator.integers(2, size // 2, 2)
        pixels[top : top + size // 3, left : left + size // 3] = (230, 20, 20)
    if has[1]:
        row = int(generator.integers(4, size - 6))
        pixels[row : row + 3] = (90, 230, 250)
    return Image.fromarray(pixels)
