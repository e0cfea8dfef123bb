"""How many training images a second are decoded and augmented, by augmentation and number of workers.

    uv run scripts/benchmark_data.py ../shared/data/grocery20.tar --workers 0 2

Every figure is the median of several epochs; those of different settings take turns, and the first epoch, in which
workers start and the cache fills, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time

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
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in loaders}
    for epoch in range(arguments.epochs + 1):
        for key, loader in loaders.items():
            rate = images_per_second(loader, epoch)
            if epoch:
                rates[key].append(rate)
    for (name, workers), values in rates.items():
        low, high = min(values), max(values)
        print(f"{name:32} {workers} workers {statistics.median(values):6.0f} images/s ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
