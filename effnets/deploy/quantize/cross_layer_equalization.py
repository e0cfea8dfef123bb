"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, section 4.1) of an ONNX graph, exactly.

A channel may be multiplied by s > 0 where it is written and divided by s where it is read, if all operations between
are positively homogeneous: ReLU, or an addition whose other operand is scaled alike. Small channels then use more of
the 256 levels that they share with large ones.

ReLU6 is not homogeneous: min(s x, 6) is s min(x, 6) only for x ≤ 6 and x ≤ 6 / s. The paper replaces it by ReLU; here
it stays, and a channel before it is scaled only if it provably never reaches the clip (by interval arithmetic over all
possible images), and by no more than that bound permits. So the function stays the same for every image.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from effnets.deploy.quantize.qdq_graph import Values

_LARGEST_FACTOR = 16.0  # beyond it only rounding is left of a channel
_HOMOGENEOUS = ("Relu", "Clip", "Add")

Interval = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(slots=True)
class _Stream:
    """Values whose channels must be scaled alike, and the convolutions that write and read them."""

    names: set[str]
    writers: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    clips: list[onnx.NodeProto] = field(default_factory=list)


def equalize(model: onnx.ModelProto, pixels: tuple[float, float]) -> tuple[onnx.ModelProto, int]:
    """Return a copy that computes the same with equalized channels, and the number of scaled channels.

    Args:
        model: in float32, batch normalization folded.
        pixels: lower and upper bound of the network's input.
    """
    model = copy.deepcopy(model)
    values = Values(model)
    bounds = _intervals(model, values, pixels)
    scaled = 0
    for stream in _streams(model, values):
        factors = _factors(stream, values, bounds)
        changed = int((np.abs(factors - 1) > 1e-6).sum())
        if changed:
            scaled += changed
            for conv in stream.writers:
                _scale_rows(conv, values, factors)
            for conv in stream.readers:
                _scale_columns(conv, values, 1 / factors)
    return model, scaled


def _streams(model: onnx.ModelProto, values: Values) -> Iterator[_Stream]:
    """Yield the streams that can be scaled; a stream with a value that any other operator touches is left out."""
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for node in model.graph.node:
        if node.op_type in _HOMOGENEOUS:
            # The bounds of a Clip are constants, not values of the stream.
            for name in node.input[: 2 if node.op_type == "Add" else 1]:
                parents[find(name)] = find(node.output[0])
        else:
            for name in node.output:
                find(name)
    groups: dict[str, set[str]] = defaultdict(set)
    for name in list(parents):
        groups[find(name)].add(name)
    for names in groups.values():
        if stream := _whole(_Stream(names), values):
            yield stream


def _whole(stream: _Stream, values: Values) -> _Stream | None:
    if stream.names & values.outputs:
        return None
    for name in sorted(stream.names):
        writer, readers = values.writer.get(name), values.readers.get(name, [])
        if writer is None or writer.op_type not in (*_HOMOGENEOUS, "Conv"):
            return None
        if any(node.op_type not in (*_HOMOGENEOUS, "Conv") for node in readers):
            return None
        if writer.op_type == "Conv":
            stream.writers.append(writer)
        elif writer.op_type == "Clip":
            if _clip_of(writer, values)[0] != 0:
                return None
            stream.clips.append(writer)
        stream.readers += [node for node in readers if node.op_type == "Conv"]
    return stream if stream.writers and stream.readers else None


def _factors(stream: _Stream, values: Values, bounds: dict[str, Interval]) -> NDArray[np.float64]:
    """Return the factor of each channel: √(range of its readers' weights / range of its writers')."""
    written = np.max([np.abs(_rows(conv, values)).max(1) for conv in stream.writers], axis=0)
    read = np.max([np.abs(_columns(conv, values)).max((0, 2)) for conv in stream.readers], axis=0)
    alive = (written > 0) & (read > 0)
    factors = np.ones(len(written))
    factors[alive] = np.sqrt(read[alive] / written[alive])
    # A factor common to all channels only moves the clip; differences between channels count.
    if alive.any() and not stream.clips:
        factors[alive] /= np.exp(np.log(factors[alive]).mean())
    factors = np.clip(factors, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    for clip in stream.clips:
        top, ceiling = bounds[clip.input[0]][1], _clip_of(clip, values)[1]
        room = np.where(top <= ceiling, ceiling / np.maximum(top, 1e-9), 1.0)
        factors = np.where(top <= ceiling, np.minimum(factors, room), 1.0)
    return factors


def _clip_of(node: onnx.NodeProto, values: Values) -> tuple[float, float]:
    lowest, highest = [*node.input[1:], "", ""][:2]
    low = float(values.get(lowest)) if lowest else -np.inf
    high = float(values.get(highest)) if highest else np.inf
    return low, high


def _rows(conv: onnx.NodeProto, values: Values) -> NDArray[np.float64]:
    weight = values.get(conv.input[1]).astype(np.float64)
    return weight.reshape(len(weight), -1)


def _grouped(conv: onnx.NodeProto, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[groups, outputs of a group, inputs of a group, kernel]``."""
    groups = next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


def _columns(conv: onnx.NodeProto, values: Values) -> NDArray[np.float64]:
    """Return ``[outputs of a group, channels, kernel]``, by input channel."""
    grouped = _grouped(conv, values.get(conv.input[1]).astype(np.float64))
    return grouped.transpose(1, 0, 2, 3).reshape(grouped.shape[1], -1, grouped.shape[3])


def _scale_rows(conv: onnx.NodeProto, values: Values, factors: NDArray[np.float64]) -> None:
    weight = values.get(conv.input[1]).astype(np.float64)
    values.put(conv.input[1], weight * factors.reshape(-1, *[1] * (weight.ndim - 1)))
    if len(conv.input) > 2:
        values.put(conv.input[2], values.get(conv.input[2]) * factors)


def _scale_columns(conv: onnx.NodeProto, values: Values, factors: NDArray[np.float64]) -> None:
    weight = values.get(conv.input[1]).astype(np.float64)
    grouped = _grouped(conv, weight)
    scaled = grouped * factors.reshape(grouped.shape[0], 1, grouped.shape[2], 1)
    values.put(conv.input[1], scaled.reshape(weight.shape))


def _intervals(model: onnx.ModelProto, values: Values, pixels: tuple[float, float]) -> dict[str, Interval]:
    """Return the bounds of each channel of each value over all images; infinite where they are unknown."""
    low, high = (np.array([bound], np.float64) for bound in pixels)
    known: dict[str, Interval] = {model.graph.input[0].name: (low, high)}
    unbounded = (np.array([-np.inf]), np.array([np.inf]))
    for node in model.graph.node:
        bounds = [known.get(name, unbounded) for name in node.input]
        result = unbounded
        if node.op_type == "Conv":
            result = _through_conv(node, values, bounds[0])
        elif node.op_type == "Relu":
            result = (np.maximum(bounds[0][0], 0), np.maximum(bounds[0][1], 0))
        elif node.op_type == "Clip":
            least, most = _clip_of(node, values)
            result = (np.clip(bounds[0][0], least, most), np.clip(bounds[0][1], least, most))
        elif node.op_type == "Add":
            result = (bounds[0][0] + bounds[1][0], bounds[0][1] + bounds[1][1])
        for name in node.output:
            known[name] = result
    return known


def _through_conv(conv: onnx.NodeProto, values: Values, bounds: Interval) -> Interval:
    weight = values.get(conv.input[1]).astype(np.float64)
    bias = values.get(conv.input[2]).astype(np.float64) if len(conv.input) > 2 else np.zeros(len(weight))
    grouped = _grouped(conv, weight)
    groups, _, inputs, _ = grouped.shape
    # Padding adds zeros to the inputs.
    low, high = (np.broadcast_to(side, (groups * inputs,)) for side in bounds)
    low, high = np.minimum(low, 0).reshape(groups, 1, inputs), np.maximum(high, 0).reshape(groups, 1, inputs)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return np.full(len(weight), -np.inf), np.full(len(weight), np.inf)
    positive, negative = np.maximum(grouped, 0).sum(3), np.minimum(grouped, 0).sum(3)
    least = (positive * low + negative * high).sum(2).reshape(-1) + bias
    most = (positive * high + negative * low).sum(2).reshape(-1) + bias
    return least, most
