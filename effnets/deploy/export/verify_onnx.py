"""Verification of an ONNX graph, node by node and on the engines that execute it.

Each node of the graph is also checked by itself: it reads random arrays instead of the outputs of other nodes, so that
no layer hides the faults of another.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn

from effnets.deploy.export.graph import NORMALIZED, NetworkGraph, with_outputs
from effnets.deploy.export.onnx_writer import LOGITS
from effnets.deploy.export.program import Float64Interpreter
from effnets.deploy.export.verify import (
    BATCHES,
    Expected,
    Reference,
    compare_embedding,
    compare_probabilities,
    describe_error,
    probe_batches,
    probe_images,
    relative_error,
)
from effnets.engines.base import Engine, load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import EffnetsError, VerificationError
from effnets.inference.arrays import Pixels, resize
from effnets.inference.image import center_crop, cover_size, normalize_pixels, resized_size

Arrays = Mapping[str, NDArray[Any]]

_MAX_STRAY_PIXELS = 0.01  # that differ by one level of 255
_MAX_FAR_PIXELS = 1e-4  # that differ by two
_PHOTO_SIZES = ((300, 400), (333, 250), (96, 96), (600, 200))

_NODE_TOLERANCE = 3e-5  # float32 is off by some 1e-6 of a channel's values; real faults are larger
_DIVERGENCE = 1e-3  # of values in a whole network, where rounding adds up
_ENOUGH_PLACES = 16
_CUT = "/cut"
_FATAL_ONLY = 4  # of what ONNX Runtime logs
_NOISE_MEAN, _NOISE_SPREAD = 1.0, 3.0
_ANY_SIZE = (65, 97)  # odd, where paddings and roundings differ


def verify(
    graph: NetworkGraph, network: nn.Module, exported: nn.Module, metadata: ModelMetadata, engines: Sequence[str]
) -> dict[str, float]:
    """Compare a graph with the network it was made from, in evaluation mode, in four ways:

    - each node by itself with torch's operator (`find_faulty_node`);
    - torch's program with the module it was traced from, both in float64, where they must agree closely;
    - logits, and embeddings if there are any, on each of `engines` with the float64 network's, for several batches,
      sizes and kinds of images;
    - preprocessing in the graph with that of `inference.pixels`.

    Args:
        graph, metadata: of the export.
        network: the original, in float64 on the CPU.
        exported: the module that was traced, perhaps rewritten, as of `Reference`.
        engines: names of `engines.base.ENGINES`.

    Returns the largest difference of logits by engine, as a share of the largest logit. Raises VerificationError if
    anything differs; says what, and where the first difference is.
    """
    try:
        if fault := find_faulty_node(graph, metadata):
            raise VerificationError(f"the exported graph is wrong at {fault}")
        checks = _Checks(graph, network, exported, metadata)
        return {name: checks.run(name) for name in engines}
    except VerificationError as error:
        raise VerificationError(f"{metadata.model}: not exported: {error}") from None
    except EffnetsError as error:
        raise VerificationError(f"{metadata.model}: not exported: the graph does not run: {error}") from None


class _Checks:
    """The comparisons on an engine; what they have in common is computed once."""

    def __init__(self, graph: NetworkGraph, network: nn.Module, exported: nn.Module, metadata: ModelMetadata) -> None:
        self._graph, self._metadata = graph, metadata
        self._reference = Reference(graph.program, network, exported, embedding=metadata.embedding > 0)
        # With preprocessing in the graph, the expected logits depend on the pixels of the engine at hand.
        self._raw = metadata.input_kind == "uint8"
        batches = [] if self._raw else [images for images in probe_batches(metadata) if len(images) > 1]
        expected = [self._reference.expect(images) for images in batches]
        # A network answers each image by itself, so the float64 answer to one of several holds for it alone.
        self._expected = [one for several in expected for one in (several, several.first())]

    def run(self, name: str) -> float:
        """Return the largest difference of logits on an engine."""
        engine = load_onnx(self._graph.model.SerializeToString(), self._metadata, name)
        if not self._raw:
            return max(self._compare(engine, expected.inputs, expected) for expected in self._expected)
        tapped = load_onnx(with_outputs(self._graph.model, [NORMALIZED]).SerializeToString(), self._metadata, name)
        errors = []
        for images in _photographs(self._metadata):
            inputs = tapped.run(images)[NORMALIZED]
            compare_pixels(images, inputs, self._metadata, name)
            errors.append(self._compare(engine, images, self._reference.expect(inputs)))
        return max(errors)

    def _compare(self, engine: Engine, images: NDArray[Any], expected: Expected) -> float:
        outputs = engine.run(images)
        error = relative_error(outputs[LOGITS], expected.logits)
        if not expected.allows(error):
            place = find_divergence(self._graph, engine.name, images, expected.inputs, self._metadata)
            raise VerificationError(f"{engine.name}: {describe_error(error, images)}; {place}")
        compare_probabilities(outputs, engine.name, self._metadata)
        compare_embedding(outputs, engine.name, images, expected)
        return error


def _photographs(metadata: ModelMetadata) -> Iterator[NDArray[np.uint8]]:
    height, width = cover_size(*metadata.image_size, metadata.preprocess)
    # The last one's width, resized, ends at a half; squares are not rounded.
    tie = [] if height == width else [(2 * height, 2 * (width + width % 2) + 1)]
    for seed, size in enumerate((*_PHOTO_SIZES, *tie)):
        yield probe_images(BATCHES[seed % len(BATCHES)], *size, metadata.channels, seed=seed)


def compare_pixels(images: NDArray[np.uint8], inputs: NDArray[np.float32], metadata: ModelMetadata, name: str) -> None:
    """Check that preprocessing in the graph gives the pixels of `inference.pixels`.

    Some may differ by one level, where sums end near a half, and few by two, where those of both directions do; more
    raise VerificationError. `images` are uint8 ``[N, H, W, C]``, `inputs` the result ``[N, C, *image_size]`` of the
    graph on the engine `name`.
    """
    squeezed = images[..., 0] if metadata.channels == 1 else images
    expected = np.stack([_resized_across_first(Image.fromarray(image), metadata) for image in squeezed])
    stds = metadata.preprocess.for_channels(metadata.channels).std
    # In units of one level of 255, whatever the channel's std.
    levels = np.abs(inputs - expected) * 255 * np.reshape(stds, (1, -1, 1, 1))
    stray, far = float((levels > 0.01).mean()), int((levels > 1.01).sum())
    if not (levels.max() < 2.01 and stray < _MAX_STRAY_PIXELS and far <= max(1, _MAX_FAR_PIXELS * levels.size)):
        raise VerificationError(
            f"{name}: preprocessing of images {list(images.shape)} is wrong: {100 * stray:.1f} % of the pixels differ, "
            f"by up to {levels.max():.1f} of 255"
        )


def _resized_across_first(image: Image.Image, metadata: ModelMetadata) -> NDArray[np.float32]:
    """Resize as `image_to_array`, but always across before down, as the graph does and Pillow did before version 13.

    Since then Pillow resizes images that are much higher than wide in the other order, which rounds differently.
    """
    (height, width), preprocess = metadata.image_size, metadata.preprocess
    new_width, new_height = resized_size(image, height, width, preprocess)
    resized: Pixels = image
    for size in ((new_width, image.height), (new_width, new_height)):
        resized = resize(resized, size, Image.Resampling[preprocess.interpolation.upper()])
    cropped = np.asarray(center_crop(resized, height, width))
    return normalize_pixels(cropped.reshape(height, width, metadata.channels), preprocess)


class NodeFault(NamedTuple):
    """A node whose output is not what torch computes from the same inputs."""

    node: str
    operator: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node} ({self.operator}, output {self.value}): {self.reason}"


def find_faulty_node(graph: NetworkGraph, metadata: ModelMetadata, *, seed: int = 0) -> NodeFault | None:
    """Compare all nodes of the network itself; return the first that differs from torch, None if none does."""
    height, width = metadata.size or _ANY_SIZE
    replay = Float64Interpreter(graph.program)
    # The program has its own names for its input and output.
    names = {replay.input_name: graph.network_input, replay.output_name: LOGITS}
    written = {name for node in graph.model.graph.node for name in node.output}
    cut: dict[str, NDArray[np.float32]] = {}
    expected: dict[str, NDArray[np.float64]] = {}
    generator = np.random.default_rng(seed)

    def watch(name: str, value: Tensor) -> Tensor:
        name = names.get(name, name)
        if name not in written and name != graph.network_input:
            return value
        if name != graph.network_input:
            expected[name] = value.numpy()
        if name == LOGITS:
            return value
        noise = generator.standard_normal(tuple(value.shape), np.float32)
        cut[name] = noise * np.float32(_NOISE_SPREAD) + np.float32(_NOISE_MEAN)
        return torch.from_numpy(cut[name]).double()

    Float64Interpreter(graph.program, watch)(torch.zeros(1, metadata.channels, height, width))
    try:
        found = _run_cut(graph, cut, list(expected))
    except Exception as error:  # of a graph that does not run; the engine names the node
        return NodeFault("unknown", "-", "-", " ".join(str(error).split())[:300])
    return _first_fault(graph, expected, found, _NODE_TOLERANCE)


def find_divergence(
    graph: NetworkGraph, engine: str, images: NDArray[Any], inputs: NDArray[np.float32], metadata: ModelMetadata
) -> str:
    """Say where an engine first differs from torch though every node by itself is right, for the error message.

    `inputs` are the images as the network receives them, after preprocessing in the graph if it has any.
    """
    expected: dict[str, NDArray[np.float64]] = {}

    def watch(name: str, value: Tensor) -> Tensor:
        expected[name] = value.numpy()
        return value

    Float64Interpreter(graph.program, watch)(torch.from_numpy(inputs))
    written = [name for node in graph.model.graph.node for name in node.output if name in expected]
    found = load_onnx(with_outputs(graph.model, written).SerializeToString(), metadata, engine).run(images)
    if fault := _first_fault(graph, expected, found, _DIVERGENCE):
        return f"first at {fault}"
    return "every node by itself is right, so the engine's own fusing must be wrong"


def _first_fault(graph: NetworkGraph, expected: Arrays, found: Arrays, tolerance: float) -> NodeFault | None:
    for node in graph.model.graph.node:
        for name in node.output:
            if name in expected and name in found and (reason := _difference(expected[name], found[name], tolerance)):
                return NodeFault(node.name, node.op_type, name, reason)
    return None


def _run_cut(graph: NetworkGraph, cut: Arrays, wanted: list[str]) -> Arrays:
    """Return the `wanted` values of the graph, whose nodes read the arrays of `cut` instead of those values."""
    model = copy.deepcopy(graph.model)
    del model.graph.output[:]
    for node in model.graph.node:
        node.input[:] = [name + _CUT if name in cut else name for name in node.input]
    read = {name for node in model.graph.node for name in node.input}
    feeds = {name + _CUT: array for name, array in cut.items() if name + _CUT in read}
    inputs = [entry for entry in model.graph.input if entry.name in read]
    del model.graph.input[:]
    added = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in feeds)
    model.graph.input.extend([*inputs, *added])
    for entry in inputs:
        shape = [side.dim_value or 1 for side in entry.type.tensor_type.shape.dim]
        feeds[entry.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type))
    return dict(zip(wanted, session_of(model, wanted, optimized=False).run(wanted, feeds), strict=True))


def session_of(
    model: onnx.ModelProto, outputs: Iterable[str] = (), *, optimized: bool = True
) -> onnxruntime.InferenceSession:
    """Return a session with the values `outputs` as further outputs, on request without ONNX Runtime's own rewrites."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = with_outputs(model, outputs).SerializeToString()
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])


def _difference(expected: NDArray[np.float64], found: NDArray[np.float32], tolerance: float) -> str | None:
    """Say what is wrong with `found`; None if it is right."""
    if expected.shape != found.shape:
        return f"has shape {list(found.shape)}, where torch has {list(expected.shape)}"
    if not np.isfinite(found).all():
        return "is not finite"
    error, scale = np.abs(found - expected), np.abs(expected)
    if expected.ndim > 2 and expected[0, 0].size >= _ENOUGH_PLACES:
        places = (0, *range(2, expected.ndim))
        # Channels differ in scale; those of zeros alone are compared at a hundredth of the largest scale.
        error, scale = error.max(places), np.maximum(scale.max(places), 0.01 * scale.max())
    else:
        # A few values do not show their channel's scale: they may happen to be near zero.
        scale = scale.max()
    share = float(np.max(error / np.maximum(scale, np.finfo(np.float32).tiny)))
    return f"differs from torch by {share:.1e} of its scale" if share > tolerance else None
