"""A replica: a process of its own that loads the model once and classifies batches of encoded images."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from effnets.errors import EngineError, ImageError
from effnets.inference.image import NOT_IMAGES, PhotoResult

if TYPE_CHECKING:
    from torch import nn

    from effnets.engines.base import Engine
    from effnets.inference.predictor import Predictor

Load: TypeAlias = "Callable[[], nn.Module | Engine]"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The content of an image file, and what the client calls it; the name is for answers, and is never opened."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a replica has loaded: the model's name, what executes it, and its number of classes."""

    name: str
    engine: str
    classes: int


class Replica:
    """The server's side of a replica. Its methods block, except `kill`.

    Args:
        load: returns the model; called in the new process, so that it must be picklable.
        threads: that decode at the same time.
        max_pixels: of an image; larger ones are refused by their header.
    """

    def __init__(self, load: Load, threads: int, max_pixels: int) -> None:
        self._arguments = (load, threads, max_pixels)
        self._closed = False
        self._sending, self._receiving = Lock(), Lock()
        self.process: SpawnProcess | None = None

    def start(self) -> ServedModel:
        """Start the process and wait until it has loaded the model; raises what `load` raises, or EngineError."""
        context = get_context("spawn")  # a fork would copy the locks of the server's threads
        self._connection, theirs = context.Pipe()
        # Daemons end with the server.
        process = context.Process(target=_run, args=(theirs, *self._arguments), daemon=True)
        process.start()
        self.process = process
        if self._closed:
            process.kill()
        theirs.close()  # so that the end of the process is the end of the connection
        try:
            model = self._connection.recv()
        except (EOFError, OSError):
            process.join()
            raise EngineError(
                f"the process that loads the model ended with status {process.exitcode}; see its output above, "
                "and whether the machine has memory for it"
            ) from None
        if isinstance(model, Exception):
            raise model
        return model

    @property
    def sentinel(self) -> int:
        """What becomes readable when the process ends."""
        assert self.process is not None
        return self.process.sentinel

    def wait(self) -> int | None:
        """Wait for the end of the process, and return its status."""
        assert self.process is not None
        self.process.join()
        return self.process.exitcode

    def classify(self, images: Sequence[EncodedImage], topk: int) -> list[PhotoResult]:
        """Return predictions or an error for each image; several threads may call it.

        Raises:
            EOFError, OSError: if the process has ended.
            Exception: if the model fails.
        """
        # Another batch may be sent while the answer to this one is waited for; answers come in the same order.
        connection = self._connection
        with ExitStack() as receiving:
            with self._sending:
                connection.send(([image.name for image in images], topk))
                for image in images:
                    connection.send_bytes(image.data)  # pickled, all of them would be in memory once more
                receiving.enter_context(self._receiving)
            results = connection.recv()
        if isinstance(results, Exception):
            raise results
        return results

    def kill(self) -> None:
        """End the process at once; `start` and `classify` then raise."""
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """End the process at once and for good, also one that another thread is just starting."""
        self._closed = True
        self.kill()


def _run(connection: Connection, load: Load, threads: int, max_pixels: int) -> None:
    """Load, then answer until the server closes its end or ends."""
    # A terminal and service managers signal all processes; the server finishes what is in work, and then ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Pillow would start Ghostscript for the first of these.
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name not in NOT_IMAGES]
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]  # it refuses twice as many
    try:
        from effnets.inference.predictor import create_predictor

        predictor = create_predictor(load())
    except Exception as error:
        _send(connection, error)
        return
    connection.send(ServedModel(predictor.model, predictor.engine, len(predictor.class_names)))
    with ThreadPoolExecutor(threads) as decoders:
        while True:
            try:
                names, topk = connection.recv()
                images = [EncodedImage(name, connection.recv_bytes()) for name in names]
            except (EOFError, OSError):
                return
            try:
                answer: Any = _classify(predictor, decoders, images, topk)
            except Exception as error:
                answer = error
            _send(connection, answer)


def _send(connection: Connection, answer: Any) -> None:
    try:
        connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        return
    except Exception:  # not every exception can be pickled
        connection.send(RuntimeError(f"{type(answer).__name__}: {answer}"))


def _classify(
    predictor: Predictor, decoders: ThreadPoolExecutor, images: Sequence[EncodedImage], topk: int
) -> list[PhotoResult]:
    results = [PhotoResult(image.name) for image in images]
    prepared = list(decoders.map(lambda image: _prepare(predictor, image), images))
    inputs = []
    for result, value in zip(results, prepared, strict=True):
        if isinstance(value, ImageError):
            result.error = str(value)
        else:
            inputs.append(value)
    if inputs:
        ranked = iter(predictor.predictions(predictor.logits(inputs), topk))
        for result in results:
            result.predictions = () if result.error else next(ranked)
    return results


def _prepare(predictor: Predictor, image: EncodedImage) -> Any:
    """The model's input, or the ImageError."""
    file = BytesIO(image.data)
    file.name = image.name  # what errors call it
    try:
        return predictor.prepare(file)
    except ImageError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            return ImageError(f"{image.name} was not decoded: {error.__cause__} Scale it down")
        return error
