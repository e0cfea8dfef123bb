"""Batches of training images, prepared in this process or in workers. Knows torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Literal, NamedTuple, Required, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from effnets.data.checks import CorruptImages, allowed_corrupt, reasons
from effnets.data.dataset import EncodedImage, ImageDataset, LazyImage
from effnets.data.remote import stream_folder, stream_images
from effnets.data.sampling import Stream, balanced_order, batches_by_class, occurrences, seeded, shuffled_order
from effnets.data.transforms import TrainTransform
from effnets.data.workers import WorkerShutdown, start_method, start_workers
from effnets.errors import ArgumentError, DataError, ImageError
from effnets.inference.transform import Transform
from effnets.utils.arguments import check_integer


class BatchRequest(NamedTuple):
    """One global micro-batch: its number, its epoch, [N] indices, and [N] how often each came before in the epoch."""

    number: int
    epoch: int
    indices: NDArray[np.int64]
    repeats: NDArray[np.int64]


class BatchResult(NamedTuple):
    """Samples of the readable images, their [n] indices, and error messages of the others by index.

    Samples of classification are images [n, C, H, W]. A `fault` concerns the data as a whole, such as a server that
    does not answer.
    """

    samples: Any
    indices: NDArray[np.int64]
    corrupt: dict[int, str]
    fault: str | None = None


class BatchDataset(Dataset[BatchResult], ABC):
    """Prepares batches. Errors are part of the result: raised in a worker, they would come with its traceback.

    Args:
        dataset: of the images.
        seed: of everything random.
    """

    def __init__(self, dataset: ImageDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, check_integer("seed", seed, 0, "give an integer from 0")

    def __getitem__(self, request: BatchRequest) -> BatchResult:
        images = ((index, partial(self.dataset.lazy_image, index)) for index in request.indices.tolist())
        return self.prepare(request.epoch, images, request.repeats.tolist())

    def prepare(
        self, epoch: int, images: Iterable[tuple[int, Callable[[], LazyImage]]], repeats: Sequence[int]
    ) -> BatchResult:
        """Return the batch of some images, given by their indices and functions that read them."""
        samples: dict[tuple[int, int], Any] = {}
        corrupt: dict[int, str] = {}
        for (index, read), repeat in zip(images, repeats, strict=True):
            try:
                samples[index, repeat] = self._sample(index, read(), (Stream.SAMPLE, self.seed, epoch, index, repeat))
            except ImageError as error:
                corrupt[index] = str(error)
            except DataError as error:
                return _fault(error)
        return BatchResult(
            self._collate(list(samples.values())), np.array([index for index, _ in samples], np.int64), corrupt
        )

    @abstractmethod
    def _sample(self, index: int, image: LazyImage, key: tuple[int, ...]) -> Any:
        """Return an image's sample; `key` seeds everything random."""

    @abstractmethod
    def _collate(self, samples: list[Any]) -> Any:
        """Return some samples, or none, as one."""


class ImageBatches(BatchDataset):
    """Prepares batches of images.

    Args:
        dataset: of the images.
        transform: a `TrainTransform`, whose uint8 is still to be normalized, or the evaluation transform.
        seed: of everything random.
    """

    def __init__(self, dataset: ImageDataset, transform: TrainTransform | Transform, seed: int) -> None:
        super().__init__(dataset, seed)
        self.transform = transform

    def _sample(self, index: int, image: LazyImage, key: tuple[int, ...]) -> Tensor:  # noqa: ARG002 (its label is known)
        if isinstance(self.transform, TrainTransform):
            return self.transform(image, key)
        return self.transform(image.decode())

    def _collate(self, samples: list[Tensor]) -> Tensor:
        if not samples:
            return torch.empty(0)
        if isinstance(self.transform, TrainTransform):
            # Views of [H, W, C]: stacking them as [C, H, W] would take ten times as long.
            return torch.stack([sample.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
        return torch.stack(samples)


class StreamedBatches(IterableDataset[BatchResult]):
    """Endless batches of an epoch of a streamed data set.

    Args:
        batches: prepares them.
        stream: the images, of `stream_images`.
        batch_size: images in a batch.
        epoch: its number, from 0.
        skip: how many batches each worker reads without preparing them.
    """

    def __init__(self, batches: BatchDataset, stream: Any, *, batch_size: int, epoch: int, skip: int) -> None:
        self.batches, self.stream, self.batch_size = batches, stream, batch_size
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[BatchResult]:
        examples = islice(self.stream, self.skip * self.batch_size, None)
        name, channels = self.batches.dataset.name, self.batches.dataset.channels
        while True:
            try:
                chosen = list(islice(examples, self.batch_size))
            except DataError as error:
                yield _fault(error)
                return
            if not chosen:  # more workers than files
                return
            images = [
                (one["index"], partial(EncodedImage, one["data"], name(one["index"]), channels)) for one in chosen
            ]
            yield self.batches.prepare(self.epoch, images, [0] * len(images))


def _fault(error: DataError) -> BatchResult:
    return BatchResult(torch.empty(0), np.array([], np.int64), {}, str(error))


Order = Literal["shuffled", "balanced", "by_class", "sequential"]


class EpochSettings(TypedDict, total=False):
    """Arguments of `BatchLoader` that are not about single batches."""

    passes: int
    multiple: int
    workers: int
    corrupt_limit: int | None
    rank: int
    world_size: int
    device: torch.device | str


class LoaderSettings(EpochSettings):
    """The same arguments of the loaders derived from it."""

    seed: int


class BatchSettings(TypedDict, total=False):
    """Arguments of `BatchLoader` that say which images are in a batch."""

    batch_size: Required[int]
    order: Order
    images_per_class: int
    drop_last: bool


class BatchLoaderSettings(BatchSettings, EpochSettings):
    """All keyword arguments of `BatchLoader`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some images of one data set.

    Attributes:
        number: of the global micro-batch within its epoch, from 0.
        images: float32 [N, C, H, W], normalized.
        labels: int64 [N]; true classes.
        indices: int64 [N], on the CPU; into the data set.
        targets: float32 [N, classes], each row summing to 1, if images were mixed; where an image has any number of
            labels, [N, labels] of 1, 0, or NaN where it is unknown; else None.
    """

    number: int
    images: Tensor
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None


_Batch = TypeVar("_Batch")


class BatchLoader(ABC, Generic[_Batch]):
    """The batches of an epoch, from any position on, for one of several processes.

    The order is a function of (seed, epoch), a sample of (seed, epoch, index), mixing of (seed, epoch, batch); these
    do not depend on the number of workers or processes, and torch's global generator is left alone. Global micro-batch
    j goes to process j % world_size.

    A streamed data set (with `shards`) in shuffled order is different: its order also depends on the number of workers
    and processes, images of files may come again before all others came once, and to start in the middle of an epoch
    reads, without decoding, what comes before.

    Args:
        batches: prepares the batches.
        batch_size: images in a micro-batch.
        order: "shuffled"; "balanced": equally many images of every class, to within one, repeating those of small
            classes; "by_class": in each micro-batch `images_per_class` images of each class that is in it; or
            "sequential".
        drop_last: leave out the last micro-batch if it is not full.
        passes: over the images in an epoch.
        multiple: leave out as many of the last micro-batches as needed for their number to be a multiple of this: the
            number of processes times the steps of gradient accumulation.
        workers: processes that prepare images; 0 prepares them here.
        corrupt_limit: how many different images may turn out corrupt. They are left out of their batches, with a
            warning, and listed in `corrupt`; by default 5 % of all or 3, as in `open_data`.
        rank, world_size: this process's number and how many there are.
        device: of the batches.
        images_per_class: for the order "by_class"; `batch_size` is a multiple of it.

    Attributes:
        corrupt: the images that turned out corrupt.

    Raises:
        ArgumentError: if an argument is out of its range, or the images do not fill a batch.
    """

    def __init__(
        self,
        batches: BatchDataset,
        *,
        batch_size: int,
        order: Order = "shuffled",
        drop_last: bool = True,
        passes: int = 1,
        multiple: int = 1,
        workers: int = 0,
        corrupt_limit: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        images_per_class: int = 1,
    ) -> None:
        self._batches, self.dataset, self.seed, self.order = batches, batches.dataset, batches.seed, order
        dataset, self.images_per_class = self.dataset, images_per_class
        self.batch_size = check_integer("batch_size", batch_size, 1, "give the images in a batch, from 1")
        check_integer("multiple", multiple, 1, "give an integer from 1")
        self.passes = check_integer("passes", passes, 1, "give an integer from 1")
        self.workers = check_integer("workers", workers, 0, "give a number of processes, from 0")
        if not 0 <= rank < world_size:
            raise ArgumentError(f"rank is {rank} of {world_size} processes; give one from 0 to {world_size - 1}")
        self.rank, self.world_size = rank, world_size
        limit = allowed_corrupt(len(dataset)) if corrupt_limit is None else corrupt_limit
        self.corrupt = CorruptImages(len(dataset), limit)
        self.device = torch.device(device)
        images = self.passes * len(dataset)
        whole = images // self.batch_size if drop_last else -(-images // self.batch_size)
        self._length = whole // multiple * multiple
        if not self._length:
            raise ArgumentError(
                f"batch_size is {batch_size}, but {len(dataset)} images are too few for {multiple} "
                f"{'full ' if drop_last else ''}batches; choose a smaller batch size"
            )
        if order in ("balanced", "by_class") and dataset.shards is not None:
            what, fix = ("balance its classes", "set balance to weights") if order == "balanced" else (
                "choose the classes of a batch",
                "copy it to this machine, as files",
            )  # fmt: skip
            raise ArgumentError(f"a streamed data set comes file by file, so a sampler cannot {what}; {fix}")
        self._shutdown = WorkerShutdown()
        self._requests: list[BatchRequest] = []  # the sampler of the DataLoader
        self._stream: Any = None
        self._folder: TemporaryDirectory[str] | None = None
        self._loader: DataLoader[BatchResult] | None = None
        if dataset.shards is not None and order == "shuffled":
            self._folder = stream_folder()
            self._stream = stream_images(
                dataset, Path(self._folder.name), seed=self.seed, rank=rank, world_size=world_size
            )
        else:
            self._loader = self._data_loader(self._batches, workers, self._requests)

    def __len__(self) -> int:
        """Global micro-batches in an epoch, of all processes together."""
        return self._length

    def batches(self, epoch: int, start: int = 0) -> Iterator[_Batch]:
        """Yield this process's batches of an epoch. Finish or drop one epoch before asking for the next.

        Args:
            epoch: its number, from 0.
            start: the global micro-batch to start at; `len(self)` yields nothing.

        Raises:
            DataError: if too many images are corrupt, or all of a batch, or the data cannot be read anymore; the
                message names them.
        """
        numbers = range(start + (self.rank - start) % self.world_size, self._length, self.world_size)
        results = self._requested(epoch, numbers) if self._stream is None else self._streamed(epoch, numbers)
        for number, result in zip(numbers, results, strict=False):
            if result.fault is not None:
                raise DataError(result.fault)
            self.corrupt.note(result.corrupt)
            if not len(result.indices):
                # There is nothing to take a step with, and processes that skip one would get out of step with others.
                raise DataError(
                    "no image of a batch can be read; fix or remove them, or raise batch_size:"
                    f"{reasons(result.corrupt.values())}"
                )
            yield self._finish(result, epoch, number)

    def close(self) -> None:
        """End the worker processes; no batches can be loaded after this."""
        self._shutdown.end_workers()
        if self._folder is not None:
            self._folder.cleanup()

    def _data_loader(
        self, dataset: Dataset[BatchResult], workers: int, sampler: list[BatchRequest] | None = None
    ) -> DataLoader[BatchResult]:
        return DataLoader(
            dataset,
            batch_size=None,  # every item is a whole batch already
            sampler=sampler,
            num_workers=workers,
            collate_fn=_as_is,  # type: ignore[arg-type] # it gets no list without a batch size
            persistent_workers=sampler is not None and workers > 0,
            worker_init_fn=self._shutdown.worker_init_fn,
            multiprocessing_context=start_method() if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # by default it would draw from the global one
        )

    def _requested(self, epoch: int, numbers: range) -> Iterator[BatchResult]:
        order, repeats = self._order(epoch)
        size = self.batch_size
        self._requests[:] = [
            BatchRequest(number, epoch, order[number * size :][:size], repeats[number * size :][:size])
            for number in numbers
        ]
        assert self._loader is not None
        return start_workers(self._loader)

    def _streamed(self, epoch: int, numbers: range) -> Iterator[BatchResult]:
        if not numbers:
            return iter(())
        assert self._stream is not None
        self._stream.set_epoch(epoch)
        workers = min(self.workers, self._stream.num_shards)
        # Workers deliver in turn, so each skips the same number of batches, and the rest of a turn is dropped here.
        skip, rest = divmod(numbers[0] // self.world_size, max(workers, 1))
        batches = StreamedBatches(self._batches, self._stream, batch_size=self.batch_size, epoch=epoch, skip=skip)
        return islice(start_workers(self._data_loader(batches, workers)), rest, None)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return indices, and how often each came before in this epoch."""
        length = len(self.dataset)
        passes = range(epoch * self.passes, (epoch + 1) * self.passes)
        match self.order:
            case "sequential":
                order = np.tile(np.arange(length), self.passes)
            case "shuffled":
                order = np.concatenate([shuffled_order(length, self.seed, number) for number in passes])
            case "balanced":
                order = np.concatenate([balanced_order(self.dataset.labels, self.seed, number) for number in passes])
            case "by_class":
                images = self.images_per_class
                classes = self.batch_size // images
                order = batches_by_class(self.dataset.labels, self._length, classes, images, (self.seed, epoch))
        return order, occurrences(order)

    @abstractmethod
    def _finish(self, result: BatchResult, epoch: int, number: int) -> _Batch:
        """Return a batch of what was prepared, on the device."""


class EpochLoader(BatchLoader[Batch]):
    """Batches of labeled images; see `BatchLoader`.

    Args:
        dataset: the images.
        transform: a `TrainTransform`, or the evaluation transform of `effnets.create_transform`.
        seed: of order, augmentation and mixing.
        channels_last: memory format of the images.
        settings: as of `BatchLoader`.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: TrainTransform | Transform,
        *,
        seed: int = 0,
        channels_last: bool = False,
        **settings: Unpack[BatchLoaderSettings],
    ) -> None:
        super().__init__(ImageBatches(dataset, transform, seed), **settings)
        self.transform = transform
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        classes = len(dataset.class_names)
        self._mixing = transform.mixing(classes) if isinstance(transform, TrainTransform) else None
        preprocess = transform.preprocess.for_channels(dataset.channels)
        self._mean, self._std = (  # in 0..255, shaped to be broadcast over [N, C, H, W]
            (255 * torch.tensor(values, dtype=torch.float32, device=self.device)).reshape(-1, 1, 1)
            for values in (preprocess.mean, preprocess.std)
        )

    def _finish(self, result: BatchResult, epoch: int, number: int) -> Batch:
        images = result.samples.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).sub_(self._mean).div_(self._std)
        images = images.contiguous(memory_format=self.memory_format)
        labels = torch.from_numpy(self.dataset.labels[result.indices]).to(self.device, non_blocking=True)
        targets = None
        if self.dataset.targets is not None:
            targets = torch.from_numpy(self.dataset.targets[result.indices]).to(self.device, non_blocking=True)
        elif self._mixing is not None:
            with seeded(Stream.BATCH, self.seed, epoch, number):
                images, targets = self._mixing(images, labels)
        return Batch(
            number=number, images=images, labels=labels, indices=torch.from_numpy(result.indices), targets=targets
        )


def _as_is(result: BatchResult) -> BatchResult:
    return result
