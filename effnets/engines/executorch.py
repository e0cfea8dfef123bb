"""ExecuTorch, on the CPU."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.engines.base import Engine, Precision, first_line, read_exported
from effnets.engines.metadata import ModelMetadata, output_names
from effnets.errors import EngineError, WeightsError
from effnets.utils.quiet import quiet_exporters, quiet_native

METADATA, LABELS = "metadata", "labels"  # methods of a program that return text

_LOCK = threading.Lock()  # of the threads, which the whole process shares
_started = False  # whether a program was loaded, after which the threads cannot be replaced


class ExecuTorchEngine(Engine):
    """Executes a ``.pte`` program that `effnets.export` wrote, image by image.

    ExecuTorch's threads are the whole process's, in which all its programs take turns. The first program sets their
    number, `threads`; another one later is a warning, because ExecuTorch crashes when they are replaced.

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
            with quiet_exporters(), quiet_native(), _LOCK:
                from executorch.runtime import Runtime

                in_use = _use_threads(threads)
                self._program = Runtime.get().load_program(data)
                methods = self._program.method_names
                texts = self._program.load_method(METADATA).execute([]) if METADATA in methods else ["{}"]
                self._forward: Any = self._program.load_method("forward")
        except Exception as error:  # of C++
            raise EngineError(
                f"{name}: executorch cannot load it, it is damaged or of another version: {first_line(error)}; export "
                "the model again"
            ) from None
        if threads not in (None, in_use):
            text = f"executorch has {in_use} threads in this process since its first program, so not {threads}"
            warnings.warn(text, RuntimeWarning, stacklevel=4)
        super().__init__("executorch", ModelMetadata.from_json(texts[0], name), precision, threads)
        height, width = self.description.image_size
        raw, channels = self.description.input_kind == "pixels", self.description.channels
        shape = (1, height, width, channels) if raw else (1, channels, height, width)
        with quiet_native():  # the first execution reads what the CPU is, and logs that
            logits = self._run(np.zeros(shape, np.uint8 if raw else np.float32))["logits"]
        self.description.check_outputs(logits.shape[1], name)

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with _LOCK, torch.inference_mode():
            try:
                rows = [self._forward.execute([torch.from_numpy(image[None])]) for image in images]
            except Exception as error:
                raise EngineError(f"executorch failed: {first_line(error)}") from None
        found = (np.concatenate([value.numpy() for value in values]) for values in zip(*rows, strict=True))
        return dict(zip(output_names(self.description, softmax=True), found, strict=False))


def _use_threads(threads: int | None) -> int:
    """Set the number of threads, if no program was loaded yet; return the number in use."""
    global _started
    from executorch.extension.pybindings import portable_lib

    if threads is not None and not _started and portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    _started = True
    return int(portable_lib._threadpool_get_thread_count())
