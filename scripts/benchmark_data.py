"""How many training images a second are decoded and augmented, by augmentation and number of workers.

    uv run scripts/benchmark_data.py ../shared/data/grocery20.tar --workers 0 2 [--against timm,torchvision,datasets]

`--against` measures other libraries' loaders beside, with crops and flips alone, on a folder of the same files.
Every figure is the median of several epochs; those of different settings take turns, and the first epoch, in which
workers start and the cache fills, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from effnets.data import open_data
from effnets.data.augmentation import Augmentation
from effnets.data.dataset import CachedDataset
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.spec.specs import PreprocessSpec

AUGMENTATIONS = {
    "default": Augmentation(),
    "jitter": Augmentation(brightness=0.4, contrast=0.4, saturation=0.4),
    "randaugment, erasing": Augmentation(policy="randaugment", random_erasing=0.25),
}


def peer_loaders(names: Sequence[str], folder: Path, size: int, batch_size: int, workers: int) -> dict[str, Any]:
    """Return loaders of other libraries for a folder of images by class: random resized crops and flips."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": True, "num_workers": workers}

    def of_timm() -> Any:
        from timm.data import ImageDataset, create_loader

        plain = {"use_prefetcher": False, "no_aug": False, "color_jitter": None, "auto_augment": None}
        return create_loader(
            ImageDataset(str(folder)), (3, size, size), batch_size, is_training=True, num_workers=workers, **plain
        )

    def of_datasets() -> Any:
        from datasets import load_dataset

        loaded = load_dataset(
            "imagefolder", data_dir=str(folder), split="train", cache_dir=str(folder.parent / "cache")
        )

        def collate(rows: list[dict[str, Any]]) -> Any:
            return torch.stack([transform(row["image"].convert("RGB")) for row in rows]), [row["label"] for row in rows]

        return DataLoader(loaded, collate_fn=collate, **options)

    makers = {
        "timm": of_timm,
        "torchvision": lambda: DataLoader(ImageFolder(str(folder), transform), **options),
        "datasets": of_datasets,
    }
    return {name: makers[name]() for name in names}


def peer_images_per_second(loader: Any) -> float:
    begin = time.perf_counter()
    images = sum(len(batch[0]) for batch in loader)
    return images / (time.perf_counter() - begin)


def images_per_second(loader: EpochLoader, epoch: int) -> float:
    begin = time.perf_counter()
    images = sum(len(batch.indices) for batch in loader.batches(epoch))
    return images / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=224, help="side of the samples, in pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--against", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = open_data(arguments.data).train
    if train is None:
        parser.error(f"{arguments.data} has no training images")
    sources = {"": train, ", cached": CachedDataset(train, round(1.7 * arguments.size))}
    loaders = {
        (f"{name}{kept}", workers): EpochLoader(
            source,
            TrainTransform(PreprocessSpec(), arguments.size, augmentation),
            batch_size=arguments.batch_size,
            workers=workers,
        )
        for name, augmentation in AUGMENTATIONS.items()
        for kept, source in sources.items()
        for workers in arguments.workers
    }
    scratch = tempfile.TemporaryDirectory()
    peers: dict[tuple[str, int], Any] = {}
    if arguments.against:
        folder = Path(scratch.name) / "images"
        for index, label in enumerate(train.labels):
            path = folder / train.class_names[label] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(train.read(index))
        for workers in arguments.workers:
            found = peer_loaders(arguments.against.split(","), folder, arguments.size, arguments.batch_size, workers)
            peers |= {(name, workers): loader for name, loader in found.items()}
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in (*loaders, *peers)}
    for epoch in range(arguments.epochs + 1):
        for key, peer in peers.items():
            rate = peer_images_per_second(peer)
            if epoch:
                rates[key].append(rate)
        for key, loader in loaders.items():
            rate = images_per_second(loader, epoch)
            if epoch:
                rates[key].append(rate)
    for (name, workers), values in rates.items():
        low, high = min(values), max(values)
        print(f"{name:32} {workers} workers {statistics.median(values):6.0f} images/s ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
