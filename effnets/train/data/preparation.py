"""From a request for a micro-batch to its pictures, in this process or in a worker. Knows torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effnets.errors import DataError, ImageError
from effnets.inference.transform import Transform
from effnets.train.data.randomness import Stream
from effnets.train.data.source import ImageSource
from effnets.train.data.transforms import TrainTransform

__all__ = ["Answer", "Preparation", "Request", "WorkerShutdown"]


class Request(NamedTuple):
    """One global micro-batch: its number, its epoch, [N] indices, and [N] how often each came before in the epoch."""

    number: int
    epoch: int
    indices: NDArray[np.int64]
    repeats: NDArray[np.int64]


class Answer(NamedTuple):
    """What was asked for, images [n, 3, H, W] of the readable pictures, their [n] indices, and errors by index.

    A `fault` is of the data as a whole: a server that does not answer any more.
    """

    request: Request
    images: Tensor
    indices: NDArray[np.int64]
    broken: dict[int, str]
    fault: str | None = None


class Preparation(Dataset[Answer]):
    """Answers requests. Broken pictures are part of it: raised in a worker, errors would come with its traceback.

    Args:
        source: of the pictures.
        transform: a `TrainTransform`, whose uint8 is still to be normalised, or the evaluation transform.
        seed: of what is drawn.
    """

    def __init__(self, source: ImageSource, transform: TrainTransform | Transform, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed

    def __getitem__(self, request: Request) -> Answer:
        samples: dict[tuple[int, int], Tensor] = {}
        broken: dict[int, str] = {}
        for index, repeat in zip(request.indices.tolist(), request.repeats.tolist(), strict=True):
            try:
                samples[index, repeat] = self._sample(request.epoch, index, repeat)
            except ImageError as error:
                broken[index] = str(error)
            except DataError as error:
                return Answer(request, torch.empty(0), np.array([], np.int64), {}, str(error))
        images = self._stack(list(samples.values())) if samples else torch.empty(0)
        return Answer(request, images, np.array([index for index, _ in samples], np.int64), broken)

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
