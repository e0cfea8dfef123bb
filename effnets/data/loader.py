"""From a request for a micro-batch to its pictures, in this process or in a worker. Knows torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effnets.data.corrupt import CorruptImages, allowed_corrupt, reasons
from effnets.data.dataset import ImageDataset
from effnets.data.sampling import balanced_order, occurrences, shuffled_order
from effnets.data.seeding import Stream, seeded
from effnets.data.transforms import TrainTransform
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
    """What was asked for, images [n, 3, H, W] of the readable pictures, their [n] indices, and errors by index.

    A `fault` is of the data as a whole: a server that does not answer any more.
    """

    request: BatchRequest
    images: Tensor
    indices: NDArray[np.int64]
    broken: dict[int, str]
    fault: str | None = None


class BatchDataset(Dataset[BatchResult]):
    """Answers requests. Broken pictures are part of it: raised in a worker, errors would come with its traceback.

    Args:
        source: of the pictures.
        transform: a `TrainTransform`, whose uint8 is still to be normalised, or the evaluation transform.
        seed: of what is drawn.
    """

    def __init__(self, source: ImageDataset, transform: TrainTransform | Transform, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed

    def __getitem__(self, request: BatchRequest) -> BatchResult:
        samples: dict[tuple[int, int], Tensor] = {}
        broken: dict[int, str] = {}
        for index, repeat in zip(request.indices.tolist(), request.repeats.tolist(), strict=True):
            try:
                samples[index, repeat] = self._sample(request.epoch, index, repeat)
            except ImageError as error:
                broken[index] = str(error)
            except DataError as error:
                return BatchResult(request, torch.empty(0), np.array([], np.int64), {}, str(error))
        images = self._stack(list(samples.values())) if samples else torch.empty(0)
        return BatchResult(request, images, np.array([index for index, _ in samples], np.int64), broken)

    def _sample(self, epoch: int, index: int, repeat: int) -> Tensor:
        if isinstance(self.transform, TrainTransform):
            return self.transform(self.source, index, (Stream.SAMPLE, self.seed, epoch, index, repeat))
        return self.transform(self.source.image(index))

    def _stack(self, samples: list[Tensor]) -> Tensor:
        if isinstance(self.transform, TrainTransform):
            # Views of [H, W, 3]: to stack them as [3, H, W] would take ten times as long.
            return torch.stack([sample.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
        return torch.stack(samples)


class WorkerShutdown:
    """Ends the worker processes of a DataLoader when their parent says so, or exits.

    Workers ignore SIGTERM and SIGINT: a signal to the whole process group asks the training to save, which needs the
    batches on their way. But SIGTERM is also what multiprocessing sends to workers at exit before it joins them, so
    they wait for a message on a pipe instead. (Not an Event: setting one hangs once a waiting process was killed.)
    """

    def __init__(self) -> None:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        self.worker_init_fn = partial(_initialize_worker, receiver)
        # Called at exit before multiprocessing terminates and joins its children, or when this object is collected.
        self.end_workers = Finalize(self, sender.send_bytes, args=(b"end",), exitpriority=10)


def _initialize_worker(receiver: Connection, _worker: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_when_readable, args=(receiver,), daemon=True).start()


def _exit_when_readable(receiver: Connection) -> None:
    wait([receiver])  # nobody reads the message, so that every worker sees it
    os._exit(0)


Order = Literal["shuffled", "balanced", "sequential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some pictures of one source.

    Attributes:
        number: of the global micro-batch within its epoch, from 0.
        images: float32 [N, 3, H, W], normalised.
        labels: int64 [N]; true classes.
        indices: int64 [N], on the CPU; into the source.
        targets: float32 [N, classes], each row adding up to 1, where pictures were mixed; else None.
    """

    number: int
    images: Tensor
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None


class EpochLoader:
    """The batches of an epoch, from any position on, for one of several processes.

    The order is a function of (seed, epoch), a sample of (seed, epoch, index), mixing of (seed, epoch, batch); none
    depends on the number of workers or processes, and torch's global generator is left alone. Global micro-batch j goes
    to process j % world_size.

    Args:
        source: where the pictures come from.
        transform: a `TrainTransform`, or the evaluation transform of `effnets.create_transform`.
        batch_size: pictures in a micro-batch.
        order: "shuffled"; "balanced": as many pictures of every class, to within one, those of small classes again and
            again; or "sequential".
        seed: of order, augmentation and mixing.
        drop_last: leave out the last micro-batch if it is not full.
        multiple: leave out as many of the last micro-batches as it takes for their number to be a multiple of this:
            the processes times the steps of gradient accumulation.
        workers: processes that prepare pictures; 0 prepares them here.
        corrupt_limit: how many different pictures may turn out broken on the way. They are left out of their batches,
            with a warning, and noted in `corrupt`; by default 5 % of all or 3, as `open_data` has it.
        rank, world_size: this process's number and how many there are.
        device: that images and labels come on.
        channels_last: lay the images out so.

    Attributes:
        corrupt: the pictures that turned out so.

    Raises:
        ArgumentError: an argument has a value it cannot take, or the pictures do not fill a batch.
    """

    def __init__(
        self,
        source: ImageDataset,
        transform: TrainTransform | Transform,
        *,
        batch_size: int,
        order: Order = "shuffled",
        seed: int = 0,
        drop_last: bool = True,
        multiple: int = 1,
        workers: int = 0,
        corrupt_limit: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        self.source, self.transform, self.order = source, transform, order
        self.batch_size = check_integer("batch_size", batch_size, 1, "give the pictures in a batch, from 1")
        self.seed = check_integer("seed", seed, 0, "give an integer from 0")
        check_integer("multiple", multiple, 1, "give an integer from 1")
        check_integer("workers", workers, 0, "give a number of processes, from 0")
        if not 0 <= rank < world_size:
            raise ArgumentError(f"rank is {rank} of {world_size} processes; give one from 0 to {world_size - 1}")
        self.rank, self.world_size = rank, world_size
        self.corrupt = CorruptImages(
            len(source), allowed_corrupt(len(source)) if corrupt_limit is None else corrupt_limit
        )
        self.device = torch.device(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        whole = len(source) // self.batch_size if drop_last else -(-len(source) // self.batch_size)
        self._length = whole // multiple * multiple
        if not self._length:
            raise ArgumentError(
                f"batch_size is {batch_size}, but {len(source)} pictures are too few for {multiple} "
                f"{'full ' if drop_last else ''}batches; choose a smaller batch size"
            )
        if order == "balanced" and source.shards is not None:
            raise ArgumentError(
                "pictures in shards on a server come shard by shard, so that a sampler cannot draw all classes alike; "
                "set balance to weights"
            )
        self._requests = _RequestSampler()
        self._shutdown = WorkerShutdown()
        self._loader: DataLoader[BatchResult] = DataLoader(
            BatchDataset(source, transform, self.seed),
            batch_size=None,  # a request is a whole batch already
            sampler=self._requests,
            num_workers=workers,
            collate_fn=_as_is,  # type: ignore[arg-type] # there is no list without a batch size
            persistent_workers=workers > 0,
            worker_init_fn=self._shutdown.worker_init_fn,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
        )
        classes = len(source.class_names)
        self._mixing = transform.mixing(classes) if isinstance(transform, TrainTransform) else None
        self._mean, self._std = (self._per_channel(values) for values in _statistics(transform))

    def __len__(self) -> int:
        """Global micro-batches in an epoch, of all processes together."""
        return self._length

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's batches of an epoch. Finish or drop one epoch before asking for the next.

        Args:
            epoch: its number, from 0.
            start: the global micro-batch to begin at; `len(self)` gives none.

        Raises:
            DataError: more pictures are broken than may be, or all of a batch, or the data cannot be had any more; the
                message names them.
        """
        order, repeats = self._order(epoch)
        first = start + (self.rank - start) % self.world_size
        size = self.batch_size
        self._requests.pending = [
            BatchRequest(number, epoch, order[number * size :][:size], repeats[number * size :][:size])
            for number in range(first, self._length, self.world_size)
        ]
        for answer in self._loader:
            if answer.fault is not None:
                raise DataError(answer.fault)
            self.corrupt.note(answer.broken)
            if not len(answer.indices):
                # Nothing to take a step by, and processes that skip one would fall out of step with the others.
                raise DataError(
                    "no picture of a batch can be read; mend or remove them, or raise batch_size:"
                    f"{reasons(answer.broken.values())}"
                )
            yield self._finish(answer)

    def close(self) -> None:
        """End the worker processes; there are no batches after this."""
        self._shutdown.end_workers()

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices, and how often each came before in this epoch."""
        length = len(self.source)
        nothing = np.zeros(length, np.int64)
        match self.order:
            case "sequential":
                return np.arange(length), nothing
            case "shuffled":
                return shuffled_order(length, self.seed, epoch, self.source.shards), nothing
            case "balanced":
                order = balanced_order(self.source.labels, self.seed, epoch)
                return order, occurrences(order)

    def _finish(self, answer: BatchResult) -> Batch:
        request = answer.request
        images = answer.images.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).sub_(self._mean).div_(self._std)
        images = images.contiguous(memory_format=self.memory_format)
        labels = torch.from_numpy(self.source.labels[answer.indices]).to(self.device, non_blocking=True)
        targets = None
        if self._mixing is not None:
            with seeded(Stream.BATCH, self.seed, request.epoch, request.number):
                images, targets = self._mixing(images, labels)
        return Batch(
            number=request.number,
            images=images,
            labels=labels,
            indices=torch.from_numpy(answer.indices),
            targets=targets,
        )

    def _per_channel(self, values: tuple[float, ...]) -> Tensor:
        """On the scale of 0..255, to be broadcast over [N, 3, H, W]."""
        return (255 * torch.tensor(values, dtype=torch.float32, device=self.device)).reshape(-1, 1, 1)


class _RequestSampler:
    """What the next iteration of the DataLoader asks for."""

    def __init__(self) -> None:
        self.pending: Sequence[BatchRequest] = ()

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)


def _as_is(answer: BatchResult) -> BatchResult:
    return answer


def _statistics(transform: TrainTransform | Transform) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return transform.preprocess.mean, transform.preprocess.std
