"""Between which bounds each value of a network lies on calibration photographs, and where it pays to clip it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from effnets.deploy.quantize.onnx_values import Values, copy_of

Ranges = dict[str, tuple[float, float]]

_BINS = 2048
_LEVELS = 256
_STEP, _LARGE = 7, 20_000  # of many values every seventh is counted
_SHARES = np.linspace(0.2, 1.0, 41)  # of the whole range that are tried
_ERRORS_ONLY = 4


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often which values came, in 2048 equal bins between `low` and `high`."""

    low: float
    high: float
    counts: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return np.asarray(self.low + width * (np.arange(len(self.counts)) + 0.5), np.float64)


def session_of(model: onnx.ModelProto, outputs: Iterable[str] = ()) -> onnxruntime.InferenceSession:
    """A session that also gives the values `outputs`."""
    tapped = copy_of(model)
    present = {output.name for output in tapped.graph.output}
    tapped.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(tapped.SerializeToString(), options, ["CPUExecutionProvider"])


def collect(model: onnx.ModelProto, batches: Callable[[], Iterable[NDArray[np.float32]]]) -> dict[str, Histogram]:
    """A histogram of every value that the network computes, its input included.

    Args:
        model: in float32.
        batches: gives the calibration images, float32 ``[N, C, H, W]``, and is called twice.
    """
    source = model.graph.input[0].name
    clipped = _clipped(model)
    names = [name for node in model.graph.node for name in node.output if name not in clipped]
    session = session_of(model, names)
    bounds: Ranges = {}
    for images in batches():
        for name, value in _values(session, names, source, images):
            low, high = bounds.get(name, (np.inf, -np.inf))
            least, most = torch.aminmax(value)
            bounds[name] = min(low, least.item()), max(high, most.item())
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in bounds}
    for images in batches():
        for name, value in _values(session, names, source, images):
            low, high = bounds[name]
            # A prime step, so that no column of the map is always passed over.
            sample = value.flatten()[:: _STEP if value.numel() > _LARGE else 1]
            counts[name] += torch.histc(sample, _BINS, low, max(high, low + 1e-9))
    histograms = {name: Histogram(*bounds[name], counts[name].numpy()) for name in bounds}
    return histograms | {name: histograms[after] for name, after in clipped.items()}


def _clipped(model: onnx.ModelProto) -> dict[str, str]:
    """Values that nothing reads but an activation that only clips, and what it makes of them: they are never stored."""
    values = Values(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Clip", "Relu") and len(values.readers[node.input[0]]) == 1:
            found[node.input[0]] = node.output[0]
    return {name: after for name, after in found.items() if name in values.writer and name not in values.outputs}


def _values(
    session: onnxruntime.InferenceSession, names: list[str], source: str, images: NDArray[np.float32]
) -> Iterable[tuple[str, torch.Tensor]]:
    yield source, torch.from_numpy(images)
    for name, value in zip(names, session.run(names, {source: images}), strict=True):
        if value.dtype == np.float32:
            yield name, torch.from_numpy(value)


def ranges_by(method: str, histograms: dict[str, Histogram]) -> Ranges:
    """The range of each value that `method`, of `METHODS`, keeps; what lies outside is clipped to it."""
    return {name: METHODS[method](histogram) for name, histogram in histograms.items()}


def _whole(histogram: Histogram) -> tuple[float, float]:
    return histogram.low, histogram.high


def _percentile(share: float) -> Callable[[Histogram], tuple[float, float]]:
    def cut(histogram: Histogram) -> tuple[float, float]:
        """All but (1 - share) of the values, at each end."""
        below = np.cumsum(histogram.counts) / histogram.counts.sum()
        edges = np.linspace(histogram.low, histogram.high, len(below) + 1)
        low = edges[int(np.searchsorted(below, 1 - share))]
        high = edges[min(int(np.searchsorted(below, share)) + 1, len(below))]
        return float(low), float(high)

    return cut


def _best(loss: Callable[[Histogram, float, float], float]) -> Callable[[Histogram], tuple[float, float]]:
    def search(histogram: Histogram) -> tuple[float, float]:
        """The share of the range, shrunk towards zero, at the least loss."""
        tried = [(float(share * min(histogram.low, 0)), float(share * max(histogram.high, 0))) for share in _SHARES]
        return min(tried, key=lambda bounds: loss(histogram, *bounds))

    return search


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    centres = histogram.centres
    step = max((high - low) / (_LEVELS - 1), 1e-12)
    rounded = np.clip(np.round(centres / step), np.round(low / step), np.round(high / step)) * step
    return float((histogram.counts * (centres - rounded) ** 2).sum())


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Kullback and Leibler's, of the clipped values from the same in 256 levels.

    Zeros do not count: every quantisation has them exactly, and after a ReLU they would outweigh all else.
    """
    centres = histogram.centres
    counts = np.where(np.abs(centres) == np.abs(centres).min(), 0.0, histogram.counts)
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return np.inf
    clipped = counts[inside].copy()
    clipped[0] += counts[centres < low].sum()
    clipped[-1] += counts[centres > high].sum()
    levels = np.minimum(np.arange(len(clipped)) * _LEVELS // len(clipped), _LEVELS - 1)
    held = counts[inside] > 0
    sums = np.bincount(levels, counts[inside], _LEVELS)
    sizes = np.bincount(levels, held, _LEVELS)
    coarse = np.where(held, sums[levels] / np.maximum(sizes[levels], 1), 0)
    p, q = clipped / max(clipped.sum(), 1), np.maximum(coarse / max(coarse.sum(), 1), 1e-9)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


METHODS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": _whole,
    "percentile 99.99": _percentile(0.9999),
    "percentile 99.9": _percentile(0.999),
    "mse": _best(_squared_error),
    "entropy": _best(_divergence),
}
