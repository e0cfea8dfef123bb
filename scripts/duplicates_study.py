"""Plant copies among real photographs, and count which of them `effnets duplicates` finds, and what else it finds.

Every twelfth photograph gets a copy of the same kind, each photograph at most one, so that none is found by way of
another copy. It prints the table of docs/embeddings.md, then the pairs of photographs that nobody planted.
"""

from __future__ import annotations

import argparse
import random
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

from effnets.cli.duplicates import STAGE
from effnets.cli.embed import Embedder
from effnets.cli.predict import DEMONSTRATION
from effnets.embeddings.duplicates import Photo, find_duplicates, read_photos
from effnets.inference.image import PhotoResult

KINDS = (
    *("JPEG, quality 30", "JPEG, quality 50", "JPEG, quality 70", "JPEG, quality 90"),
    *("resized, 0.25×", "resized, 0.5×", "resized, 1.5×", "resized, 2×"),
    *("cropped at the center", "cropped anywhere", "cropped, other aspect ratio", "the same, then 0.5×"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="the folder with data/grocery20.tar and data/photos")
    parser.add_argument("--planted", type=int, default=600, help="copies in all [default: 600]")
    parser.add_argument("--threshold", type=float, default=0.85)
    parser.add_argument("--stage", type=int, default=STAGE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(arguments.shared / "data" / "grocery20.tar") as archive:
            archive.extractall(folder / "photos", filter="data")
        originals = sorted((folder / "photos").rglob("*.jpg"))
        originals += sorted(path for path in (arguments.shared / "data" / "photos").iterdir() if path.suffix)
        planted = plant(originals, folder / "copies", arguments.planted)
        measure(originals, planted, arguments.threshold, arguments.stage, folder)


def plant(originals: list[Path], folder: Path, count: int) -> dict[str, tuple[str, str]]:
    """Return path → (original, kind) of each copy."""
    folder.mkdir()
    generator = random.Random(0)
    chosen = generator.sample(originals[:-10], count - 10) + originals[-10:]
    generator.shuffle(chosen)
    planted = {}
    for number, original in enumerate(chosen):
        kind = KINDS[number % len(KINDS)]
        path = folder / f"{number:04d}.jpg"
        quality = int(kind.split()[-1]) if kind.startswith("JPEG") else 85
        with Image.open(original) as image:
            changed(image.convert("RGB"), kind, generator).save(path, quality=quality)
        planted[str(path)] = str(original), kind
    return planted


def changed(image: Image.Image, kind: str, generator: random.Random) -> Image.Image:
    width, height = image.size
    if kind.startswith("JPEG"):
        return image
    if kind.startswith("resized"):
        scale = float(kind.split()[1].rstrip("×"))
        return image.resize((round(scale * width), round(scale * height)), Image.Resampling.LANCZOS)
    kept = generator.uniform(0.7, 0.95)
    ratio = generator.uniform(kept, 1 / kept) if "ratio" in kind or "then" in kind else 1.0
    size = min(width, round(width * (kept * ratio) ** 0.5)), min(height, round(height * (kept / ratio) ** 0.5))
    left, top = width - size[0], height - size[1]
    left, top = (left // 2, top // 2) if "center" in kind else (generator.randint(0, left), generator.randint(0, top))
    cropped = image.crop((left, top, left + size[0], top + size[1]))
    return cropped.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS) if "then" in kind else cropped


def measure(
    originals: list[Path], planted: dict[str, tuple[str, str]], threshold: float, stage: int, folder: Path
) -> None:
    start = time.process_time()
    pipeline = Embedder(DEMONSTRATION, None, stage=stage, decode="fast").pipeline()
    found = read_photos(pipeline, [PhotoResult(str(path)) for path in (*originals, *planted)], stage=stage)
    photos = [photo for photo in found if isinstance(photo, Photo)]
    read = time.process_time()
    groups = find_duplicates(photos, threshold)
    compared = time.process_time()
    print(f"{len(photos)} photos: {read - start:.0f} s of CPU to read, {compared - read:.0f} s to compare\n")
    members = [{group.keep.path, *(copy.photo.path for copy in group.copies)} for group in groups]
    group_of = {path: number for number, paths in enumerate(members) for path in paths}
    total = Counter(kind for _, kind in planted.values())
    right = Counter(
        kind for path, (original, kind) in planted.items() if group_of.get(path, -1) == group_of.get(original)
    )
    print("| copies | planted | found |\n|---|---:|---:|")
    for kind in KINDS:
        print(f"| {kind} | {total[kind]} | {100 * right[kind] / total[kind]:.1f} % |")
    print("\nnot planted, but found:")
    for group, paths in zip(groups, members, strict=True):
        own = sorted(path for path in paths if path not in planted)
        if len(own) > 1:
            agreements = {copy.photo.path: copy.agreement for copy in group.copies}
            print("  ", *(f"{path.removeprefix(str(folder))} {agreements.get(path, 1):.3f}" for path in own))


if __name__ == "__main__":
    main()
