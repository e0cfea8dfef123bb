"""What the tests of data share: drawn images, and data sets of them in every form."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: int = 16, kind: str = "JPEG") -> bytes:
    """The file of an image that differs for every seed: a color with noise."""
    generator = np.random.default_rng(seed)
    color = generator.integers(0, 256, 3)
    pixels = np.clip(color + generator.integers(-20, 20, (size, size, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    """Files below `root` by their paths."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def by_class(
    count: int, classes: tuple[str, ...] = ("cat", "dog"), folder: str = "", seed: int = 0
) -> dict[str, bytes]:
    """`count` different images of every class, as the files of a folder by class."""
    return {
        f"{folder}{name}/{number}.jpg": picture(seed + 1000 * position + number)
        for position, name in enumerate(classes)
        for number in range(count)
    }


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of files."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def truncated(content: bytes) -> bytes:
    """The first half of a file, as an interrupted copy leaves it."""
    return content[: len(content) // 2]


def kept(folder: Path) -> list[Path]:
    """What a folder of fetched files holds beside locks."""
    return [path for path in folder.iterdir() if path.name != ".locks"] if folder.is_dir() else []
