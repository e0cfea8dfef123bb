"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, section 4.1), exactly: of networks and ONNX graphs.

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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from effnets.deploy.quantize.qdq_graph import Values, attribute_of

_LARGEST_FACTOR = 16.0  # beyond it only rounding is left of a channel
_HOMOGENEOUS = ("Relu", "Clip", "Add")

Interval = tuple[NDArray[np.float64], NDArray[np.float64]]


class _Stream(NamedTuple):
    """The nodes around values whose channels must be scaled alike: convolutions write and read them."""

    writers: list[onnx.NodeProto]
    readers: list[onnx.NodeProto]
    clips: list[onnx.NodeProto]


def equalize(model: onnx.ModelProto, pixels: tuple[float, float]) -> tuple[onnx.ModelProto, int]:
    """Return a copy that computes the same with equalized channels, and the number of scaled channels.

    The `model` is in float32, batch normalization folded; `pixels` are the bounds of its input.
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
                weight = _weight(conv, values)
                values.put(conv.input[1], weight * factors.reshape(-1, *[1] * (weight.ndim - 1)))
                if len(conv.input) > 2:
                    values.put(conv.input[2], values.get(conv.input[2]) * factors)
            for conv in stream.readers:
                grouped = _grouped(conv, values)
                scaled_weight = grouped / factors.reshape(grouped.shape[0], 1, grouped.shape[2], 1)
                values.put(conv.input[1], scaled_weight.reshape(_weight(conv, values).shape))
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
        if names & values.outputs or not names <= values.writer.keys():
            continue
        writers = [values.writer[name] for name in sorted(names)]
        readers = [node for name in sorted(names) for node in values.readers.get(name, [])]
        if any(node.op_type not in (*_HOMOGENEOUS, "Conv") for node in (*writers, *readers)):
            continue
        clips = [node for node in writers if node.op_type == "Clip"]
        writers, readers = ([node for node in nodes if node.op_type == "Conv"] for nodes in (writers, readers))
        if writers and readers and all(_clip_of(clip, values)[0] == 0 for clip in clips):
            yield _Stream(writers, readers, clips)


def _factors(stream: _Stream, values: Values, bounds: dict[str, Interval]) -> NDArray[np.float64]:
    return choose_factors(
        [_weight(conv, values) for conv in stream.writers],
        [_grouped(conv, values) for conv in stream.readers],
        [(bounds[clip.input[0]][1], _clip_of(clip, values)[1]) for clip in stream.clips],
    )


def choose_factors(
    writers: Sequence[NDArray[np.float64]],
    readers: Sequence[NDArray[np.float64]],
    clips: Sequence[tuple[NDArray[np.float64], float]],
) -> NDArray[np.float64]:
    """Return the factor of each channel: √(range of its readers' weights / range of its writers').

    Args:
        writers: their weights ``[outputs, …]``.
        readers: their weights ``[groups, outputs of a group, inputs of a group, kernel]``.
        clips: for each ReLU6 or the like, the upper bounds of its inputs and where it clips.
    """
    written = np.max([np.abs(weight).reshape(len(weight), -1).max(1) for weight in writers], axis=0)
    read = np.max([np.abs(grouped).max((1, 3)).reshape(-1) for grouped in readers], axis=0)
    alive = (written > 0) & (read > 0)
    factors = np.ones(len(written))
    factors[alive] = np.sqrt(read[alive] / written[alive])
    # A factor common to all channels only moves the clip; differences between channels count.
    if alive.any() and not clips:
        factors[alive] /= np.exp(np.log(factors[alive]).mean())
    factors = np.clip(factors, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    for top, ceiling in clips:
        room = np.where(top <= ceiling, ceiling / np.maximum(top, 1e-9), 1.0)
        factors = np.where(top <= ceiling, np.minimum(factors, room), 1.0)
    return factors


def _clip_of(node: onnx.NodeProto, values: Values) -> tuple[float, float]:
    lowest, highest = [*node.input[1:], "", ""][:2]
    low = float(values.get(lowest)) if lowest else -np.inf
    high = float(values.get(highest)) if highest else np.inf
    return low, high


def _weight(conv: onnx.NodeProto, values: Values) -> NDArray[np.float64]:
    return values.get(conv.input[1]).astype(np.float64)


def _grouped(conv: onnx.NodeProto, values: Values) -> NDArray[np.float64]:
    """Return ``[groups, outputs of a group, inputs of a group, kernel]``."""
    weight, groups = _weight(conv, values), attribute_of(conv, "group", 1)
    return grouped_weight(weight, groups)


def grouped_weight(weight: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Return a convolution's weight as ``[groups, outputs of a group, inputs of a group, kernel]``."""
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


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
    bias = values.get(conv.input[2]).astype(np.float64) if len(conv.input) > 2 else None
    return through_conv(_grouped(conv, values), bias, bounds)


def through_conv(grouped: NDArray[np.float64], bias: NDArray[np.float64] | None, bounds: Interval) -> Interval:
    """Return the bounds of each channel after a convolution; `grouped` as of `grouped_weight`."""
    groups, outputs, inputs, _ = grouped.shape
    added = np.zeros(groups * outputs) if bias is None else bias
    # Padding adds zeros to the inputs.
    low, high = (np.broadcast_to(side, (groups * inputs,)) for side in bounds)
    low, high = np.minimum(low, 0).reshape(groups, 1, inputs), np.maximum(high, 0).reshape(groups, 1, inputs)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return np.full(groups * outputs, -np.inf), np.full(groups * outputs, np.inf)
    positive, negative = np.maximum(grouped, 0).sum(3), np.minimum(grouped, 0).sum(3)
    least = (positive * low + negative * high).sum(2).reshape(-1) + added
    most = (positive * high + negative * low).sum(2).reshape(-1) + added
    return least, most
