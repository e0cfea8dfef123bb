"""The network on every engine that is installed, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.deploy.engine import load_engine
from effnets.engines.base import available_engines
from effnets.nn.classifier import Classifier
from effnets.utils.machine import describe_machine
from effnets.utils.timing import interleave

__all__ = ["PLAIN", "Speed", "compare_engines"]

PLAIN = "PyTorch, as built"
_ONNX_ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

_Call = Callable[[NDArray[Any]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long an engine takes for one image, in milliseconds (medians), by the number of images at a time."""

    engine: str
    milliseconds: Mapping[int, float]


def compare_engines(
    network: Classifier,
    exported: Path | None,
    *,
    batches: Sequence[int] = (1, 16),
    rounds: int = 9,
    seconds: float = 3.0,
    progress: Callable[[str, float], object] | None = None,
) -> list[Speed]:
    """Time a network as it is, rewritten by `effnets.optimize`, and its exported file on the engines that read it.

    All take turns, and all use every core.

    Args:
        network: in evaluation mode. exported: its ONNX file; None where there is none.
        batches: images at a time. rounds: samples of each engine at each. seconds: no round begins after so many.
        progress: called with what is being done and the share that is done, 0 to 1.
    """
    threads, before = describe_machine().cores, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        calls = _calls(network, exported, threads)
        found: dict[str, dict[int, float]] = {name: {} for name in calls}
        for turn, batch in enumerate(batches):

            def tell(done: float, turn: int = turn, batch: int = batch) -> None:
                if progress is not None:
                    progress(f"measuring, {batch} at a time", (turn + done) / len(batches))

            images = _images(network, batch)
            subjects = {name: _bind(call, images) for name, call in calls.items()}
            for name, timing in interleave(subjects, rounds=rounds, seconds=seconds, progress=tell).items():
                found[name][batch] = timing.median / batch
    finally:
        torch.set_num_threads(before)
    return [Speed(engine=name, milliseconds=milliseconds) for name, milliseconds in found.items()]


def _calls(network: Classifier, exported: Path | None, threads: int) -> dict[str, _Call]:
    calls: dict[str, _Call] = {
        PLAIN: torch.inference_mode()(lambda images: network(torch.from_numpy(images))),
        "PyTorch, effnets.optimize": load_engine(network, "torch", threads=threads),
    }
    for engine in available_engines():
        if exported is not None and engine in _ONNX_ENGINES:
            calls[_ONNX_ENGINES[engine]] = load_engine(exported, engine, threads=threads)
    return calls


def _images(network: Classifier, batch: int) -> NDArray[np.float32]:
    side = network.spec.input_size
    return np.random.default_rng(0).standard_normal((batch, network.in_chans, side, side), np.float32)


def _bind(call: _Call, images: NDArray[Any]) -> Callable[[], object]:
    return lambda: call(images)
