"""The pictures that the demo shows to the network in the package. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from effnets.demo.animals import draw_bird, draw_deer, draw_frog, draw_horse
from effnets.demo.vehicles import draw_airplane, draw_automobile, draw_ship, draw_truck

__all__ = ["PICTURES", "write_pictures"]

# Class of CIFAR-10 that is meant → what draws it, as so many pixels square.
PICTURES: Mapping[str, Callable[[int], Image.Image]] = {
    "airplane": draw_airplane,
    "automobile": draw_automobile,
    "bird": draw_bird,
    "deer": draw_deer,
    "frog": draw_frog,
    "horse": draw_horse,
    "ship": draw_ship,
    "truck": draw_truck,
}


def write_pictures(folder: Path, *, size: int = 192) -> dict[str, Path]:
    """Draw all into `folder`, which is made; returns each file by what it is meant to show.

    Raises:
        OSError: the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.png" for name in PICTURES}
    for name, file in files.items():
        PICTURES[name](size).save(file)
    return files
