"""ExecuTorch, on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.engines.base import Engine, Precision, first_line, read_exported
from effnets.engines.metadata import ModelMetadata
from effnets.errors import EngineError, WeightsError
from effnets.utils.quiet import quiet_exporters, quiet_native

METADATA, LABELS = "metadata", "labels"  # methods of a program that return text

_OUTPUTS = ("logits", "probabilities")
_LOCK = threading.Lock()  # of the threads, which the whole process shares
_loaded: WeakSet[ExecuTorchEngine] = WeakSet()


class ExecuTorchEngine(Engine):
    """Executes a ``.pte`` program that `effnets.export` wrote, image by image.

    `threads` is ExecuTorch's, for the whole process, in which all its programs take turns.

    Raises:
        MissingFileError: if the file does not exist.
        ArgumentError: if the precision is not float32.
        EngineError: if ExecuTorch cannot load the file.
        WeightsError: if it was not exported by effnets, or its metadata is damaged.
    """

    def __init__(self, model: Path | bytes, *, precision: Precision = "float32", threads: int | None = None) -> None:
        data, name = read_exported(model, precision)
        if data[4:6] != b"ET":
            raise WeightsError(f"{name}: is not an ExecuTorch program, or damaged; export the model again")
        try:
            with quiet_exporters(), quiet_native():
                from executorch.runtime import Runtime

                self._program = Runtime.get().load_program(data)
                methods = self._program.method_names
                texts = self._program.load_method(METADATA).execute([]) if METADATA in methods else ["{}"]
                with _LOCK:
                    self._forward: Any = self._program.load_method("forward")
        except Exception as error:  # of C++
            raise EngineError(f"{name}: executorch cannot load it: {first_line(error)}") from None
        super().__init__("executorch", ModelMetadata.from_json(texts[0], name), precision, threads)
        _loaded.add(self)
        height, width = self.description.image_size
        raw, channels = self.description.input_kind == "pixels", self.description.channels
        shape = (1, height, width, channels) if raw else (1, channels, height, width)
        with quiet_native():  # the first execution reads what the CPU is, and logs that
            self._run(np.zeros(shape, np.uint8 if raw else np.float32))

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with _LOCK, torch.inference_mode():
            try:
                _use_threads(self.threads)
                if self._forward is None:
                    self._forward = self._program.load_method("forward")
                rows = [self._forward.execute([torch.from_numpy(image[None])]) for image in images]
            except Exception as error:
                raise EngineError(f"executorch failed: {first_line(error)}") from None
        found = (np.concatenate([value.numpy() for value in values]) for values in zip(*rows, strict=True))
        return dict(zip(_OUTPUTS, found, strict=False))

    def release(self) -> None:
        """Drop the method until the next run: it keeps a pointer to the threads that there were when it was loaded."""
        self._forward = None


def _use_threads(threads: int | None) -> None:
    from executorch.extension.pybindings import portable_lib

    if threads is not None and portable_lib._threadpool_get_thread_count() != threads:
        for engine in list(_loaded):
            engine.release()
        portable_lib._unsafe_reset_threadpool(threads)
