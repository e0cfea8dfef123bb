"""CUDA graphs: the launches of a network for single images, recorded once and replayed together.

One image leaves a GPU idle between launches, of which a network has hundreds; a replay is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]


class CudaGraphs:
    """Computes what `forward` computes, with replays for single images ``[1, C, H, W]`` on a GPU.

    A shape is recorded when it comes for the second time, at most `shapes` of them; whatever else comes, larger batches
    and ever new sizes, is executed launch by launch, and so is everything on a CPU.

    Args:
        forward: of a network in evaluation mode, whose weights stay where they are.
        shapes: how many to record, each with memory of its own.
        record: makes the replay of one shape.
    """

    def __init__(
        self, forward: Forward, *, shapes: int = 4, record: Callable[[Forward, Tensor], Forward] | None = None
    ):
        self._forward, self._shapes, self._record = forward, shapes, record or _record
        self._replays: dict[tuple[object, ...], Forward] = {}
        self._seen: set[tuple[object, ...]] = set()
        self._lock = Lock()  # a replay writes where the one before it did

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[0] != 1 or not images.is_cuda:
            return self._forward(images)
        key = (tuple(images.shape), images.dtype)
        with self._lock:
            if key in self._seen and key not in self._replays and len(self._replays) < self._shapes:
                self._replays[key] = self._recorded(images)
            if len(self._seen) < 16 * self._shapes:
                self._seen.add(key)
            return self._replays.get(key, self._forward)(images)

    def _recorded(self, images: Tensor) -> Forward:
        try:
            return self._record(self._forward, images)
        except RuntimeError as error:  # an operator that waits for the GPU cannot be recorded
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            warnings.warn(f"no CUDA graph is used: {reason}", RuntimeWarning, stacklevel=4)
            return self._forward


def _record(forward: Forward, images: Tensor) -> Forward:
    """Return a replay of `forward` for images of this shape; raises RuntimeError where CUDA cannot record it."""
    kept = images.clone()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # kernels are compiled, chosen and given their memory before anything is recorded
            forward(kept)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward(kept)

    def replay(images: Tensor) -> Tensor:
        kept.copy_(images)
        graph.replay()
        return output.clone()

    return replay
