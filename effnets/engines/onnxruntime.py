"""ONNX Runtime, on the CPU or with its CUDA and TensorRT providers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from effnets.engines.base import Engine, Precision, first_line
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError

_ERRORS_ONLY = 3

# Without TF32, which rounds inputs to 10 bits of mantissa.
_PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "onnxruntime": [],
    "onnxruntime-cuda": [("CUDAExecutionProvider", {"use_tf32": "0"})],
    "onnxruntime-tensorrt": [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {"use_tf32": "0"})],
}


def has_gpu() -> bool:
    """Return whether this build of ONNX Runtime has CUDA and finds a device."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists()


class OnnxRuntimeEngine(Engine):
    """Executes an ONNX model in ONNX Runtime.

    Raises:
        ArgumentError: if the precision is not float32.
        EngineError: if ONNX Runtime cannot load the model, or was built without the provider.
    """

    def __init__(
        self,
        model: Path | bytes,
        metadata: ModelMetadata,
        *,
        name: str = "onnxruntime",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        super().__init__(name, metadata, precision, threads)
        if precision != "float32":
            raise ArgumentError(f"{name} has no {precision}; use the engine openvino, or float32")
        providers = _PROVIDERS[name]
        self.on_gpu, self.concurrent = bool(providers), not providers and threads in (None, 1)
        if missing := [provider for provider, _ in providers if provider not in onnxruntime.get_available_providers()]:
            raise EngineError(f"{name}: this onnxruntime has no {missing[0]}; install onnxruntime-gpu instead of it")
        shown = "the model" if isinstance(model, bytes) else str(model)
        try:
            self._model = model if isinstance(model, bytes) else model.read_bytes()
            self._session = _open(self._model, providers, threads)
        except Exception as error:  # each kind of failure has a class of its own
            raise EngineError(f"{shown}: onnxruntime cannot load it: {first_line(error)}") from None
        self._of_one_thread = self._session if threads == 1 else None
        self._sharing, self._lock = 0, Lock()  # how many are within `shared_by`
        used = self._session.get_providers()
        if providers and used[0] != providers[0][0]:
            raise EngineError(
                f"{name}: onnxruntime could not start {providers[0][0]}; check that CUDA and cuDNN are found"
            )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    @contextmanager
    def shared_by(self, threads: int) -> Iterator[None]:
        if threads == 1 or not self.concurrent:
            yield
            return
        # Threads of a session wait for each other at every layer; sessions of one thread do not.
        if self._of_one_thread is None:
            self._of_one_thread = _open(self._model, [], 1)
        with self._lock:
            self._sharing += 1
        try:
            yield
        finally:
            with self._lock:
                self._sharing -= 1

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        session = (self._sharing and self._of_one_thread) or self._session
        try:
            values: list[NDArray[np.float32]] = session.run(self._outputs, {self._input: images})
        except Exception as error:
            raise EngineError(f"{self.name} failed: {first_line(error)}") from None
        return dict(zip(self._outputs, values, strict=True))


def _open(
    model: bytes, providers: list[tuple[str, dict[str, str]]], threads: int | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, [*providers, ("CPUExecutionProvider", {})])
