"""Verification: an export is compared with the network it was made from, before it is handed over.

Each node of the graph is also checked by itself: it reads random arrays instead of the outputs of other nodes, so that
no layer hides the faults of another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from effnets.deploy.export.graph import (
    LOGITS,
    NORMALIZED,
    PROBABILITIES,
    TOP_INDICES,
    TOP_PROBABILITIES,
    NetworkGraph,
    with_outputs,
)
from effnets.engines.base import Engine, load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EffnetsError, VerificationError
from effnets.inference.arrays import Pixels, resize
from effnets.inference.image import center_crop, cover_size, normalize_pixels, resized_size
from effnets.spec.specs import PreprocessSpec

# Called with the name and value of each tensor operator; later operators receive its result.
Watch = Callable[[str, Tensor], Tensor]
Arrays = Mapping[str, NDArray[Any]]

_TOLERANCE = 1e-4  # of the largest logit's magnitude
_ROUNDING = 2e-7  # of a channel's largest value: float32's error on each value, in any order of summation
_ROUNDING_ALLOWANCE = 4  # times the change of the logits by such errors, for networks that amplify them
_TOLERANCE_LIMIT = 1e-2  # if float32 can be further off, the network's own answers mean little
_FLOAT64_TOLERANCE = 1e-8
_PROBABILITY_TOLERANCE = 1e-5
_MAX_STRAY_PIXELS = 0.01  # that differ by one level of 255
_MAX_FAR_PIXELS = 1e-4  # that differ by two
_BATCHES = (1, 3)
_OTHER_SIZES = ((256, 320), (32, 45))  # besides the usual one and one pixel more; the last has tiny final maps
_PHOTO_SIZES = ((300, 400), (333, 250), (96, 96), (600, 200))

_NODE_TOLERANCE = 3e-5  # float32 is off by some 1e-6 of a channel's values; real faults are larger
_DIVERGENCE = 1e-3  # of values in a whole network, where rounding adds up
_ENOUGH_PLACES = 16
_CUT = "/cut"
_FATAL_ONLY = 4  # of what ONNX Runtime logs
_NOISE_MEAN, _NOISE_SPREAD = 1.0, 3.0
_ANY_SIZE = (65, 97)  # odd, where paddings and roundings differ


@torch.inference_mode()
def verify_rewrites(network: nn.Module, rewritten: nn.Module, metadata: ModelMetadata) -> None:
    """Raise VerificationError unless a rewritten network agrees closely with the original, both in float64."""
    for images in _inputs(metadata):
        inputs = torch.from_numpy(images).double()
        error = _relative_error(rewritten(inputs).numpy(), network(inputs).numpy())
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(f"{metadata.model}: not exported: a rewrite changed it: {_off(error, images)}")


def verify(
    graph: NetworkGraph, network: nn.Module, exported: nn.Module, metadata: ModelMetadata, engines: Sequence[str]
) -> dict[str, float]:
    """Compare a graph with the network it was made from, in evaluation mode, in four ways:

    - each node by itself with torch's operator (`find_faulty_node`);
    - torch's program with the module it was traced from, both in float64, where they must agree closely;
    - logits on each of `engines` with the float64 network's, for several batches, sizes and kinds of images;
    - preprocessing in the graph with that of `inference.pixels`.

    Args:
        graph, metadata: of the export.
        network: the original, in float64 on the CPU.
        exported: the module that was traced, perhaps rewritten, with its weights rounded to float32.
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


class _Expected(NamedTuple):
    """The network's inputs, its float64 logits, and the tolerance, as a share of the largest logit."""

    inputs: NDArray[np.float32]
    logits: NDArray[np.float64]
    tolerance: float


class _Checks:
    """The comparisons on an engine; what they have in common is computed once."""

    def __init__(self, graph: NetworkGraph, network: nn.Module, exported: nn.Module, metadata: ModelMetadata) -> None:
        self._graph = graph
        self._network = network
        self._single = copy.deepcopy(exported).float()
        self._exported = copy.deepcopy(exported).double()
        self._metadata = metadata
        self._program = Float64Interpreter(graph.program)
        self._raw = metadata.input_kind == "uint8"
        # With preprocessing in the graph, the expected logits depend on the pixels of the engine at hand.
        self._expected = [] if self._raw else [self._expect(images) for images in _inputs(metadata)]

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
            errors.append(self._compare(engine, images, self._expect(inputs)))
        return max(errors)

    @torch.inference_mode()
    def _expect(self, images: NDArray[np.float32]) -> _Expected:
        """Compute the network's logits, and compare the program with the module it was traced from."""
        inputs = torch.from_numpy(images)
        logits = self._network(inputs.double()).numpy()
        traced = self._exported(inputs.double()).numpy()
        error = _relative_error(self._program(inputs).numpy(), traced)
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(f"torch.export changed the function: {_off(error, images)}")
        # Two samples of the effect of rounding: errors on every value, and those of float32 in torch.
        rounded = Float64Interpreter(self._graph.program, _rounding())(inputs).numpy()
        single = self._single(inputs).numpy()
        allowance = _ROUNDING_ALLOWANCE * max(_relative_error(draw, logits) for draw in (rounded, single))
        return _Expected(images, logits, min(max(_TOLERANCE, allowance), _TOLERANCE_LIMIT))

    def _compare(self, engine: Engine, images: NDArray[Any], expected: _Expected) -> float:
        outputs = engine.run(images)
        error = _relative_error(outputs[LOGITS], expected.logits)
        if not error <= expected.tolerance:
            place = find_divergence(self._graph, engine.name, images, expected.inputs, self._metadata)
            raise VerificationError(f"{engine.name}: {_off(error, images)}; {place}")
        _compare_probabilities(outputs, engine.name)
        return error


def _rounding() -> Watch:
    """Return a function that adds errors like those of float32 to every value."""
    generator = torch.Generator().manual_seed(0)

    def watch(_: str, value: Tensor) -> Tensor:
        scale = value.abs().amax(tuple(range(2, value.ndim)), keepdim=True) if value.ndim > 2 else value.abs().max()
        return value + _ROUNDING * scale * torch.randn(value.shape, generator=generator, dtype=torch.float32)

    return watch


def _compare_probabilities(outputs: Mapping[str, NDArray[Any]], name: str) -> None:
    if PROBABILITIES not in outputs:
        return
    logits = outputs[LOGITS].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    if not np.abs(outputs[PROBABILITIES] - expected).max() <= _PROBABILITY_TOLERANCE:
        raise VerificationError(f"{name}: probabilities are not the softmax of the logits")
    if TOP_INDICES in outputs:
        indices, top = outputs[TOP_INDICES], outputs[TOP_PROBABILITIES]
        ranked = -np.sort(-outputs[PROBABILITIES], axis=1)[:, : top.shape[1]]
        picked = np.take_along_axis(outputs[PROBABILITIES], indices, axis=1)
        if not (np.array_equal(top, ranked) and np.array_equal(top, picked)):
            raise VerificationError(f"{name}: the top {top.shape[1]} are not the largest probabilities")


def _relative_error(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Return the largest error as a share of the largest value (of 1 if all are 0); NaN if a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def _off(error: float, images: NDArray[Any]) -> str:
    return f"logits of images {list(images.shape)} are off by {error:.1e} of the largest"


def _inputs(metadata: ModelMetadata) -> Iterator[NDArray[np.float32]]:
    height, width = metadata.image_size
    shapes = [(batch, height, width) for batch in _BATCHES]
    if metadata.size is None:
        shapes += [(2, *size) for size in ((height + 1, width + 1), *_OTHER_SIZES)]
    for seed, shape in enumerate(shapes):
        yield normalized(probe_images(*shape, metadata.channels, seed=seed), metadata.preprocess)


def _photographs(metadata: ModelMetadata) -> Iterator[NDArray[np.uint8]]:
    height, width = cover_size(*metadata.image_size, metadata.preprocess)
    # The last one's width, resized, ends at a half; squares are not rounded.
    tie = [] if height == width else [(2 * height, 2 * (width + width % 2) + 1)]
    for seed, size in enumerate((*_PHOTO_SIZES, *tie)):
        yield probe_images(_BATCHES[seed % len(_BATCHES)], *size, metadata.channels, seed=seed)


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


def probe_images(count: int, height: int, width: int, channels: int, *, seed: int) -> NDArray[np.uint8]:
    """`count` images, uint8 ``[N, H, W, channels]``: clouds, then clouds over a gradient, over a checkerboard, …

    No image is smooth or periodic throughout: where channels are constant, networks amplify rounding errors hugely.
    """
    generator = np.random.default_rng(seed)
    down, across = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    images = []
    for index in range(count):
        background: NDArray[Any] = np.zeros((height, width, 1))
        if index % 3 == 1:
            slant = generator.uniform(size=channels)
            background = 255 * (slant * down / max(1, height - 1) + (1 - slant) * across / max(1, width - 1)) - 128
        elif index % 3 == 2:
            # Squares that no stride divides, with enough contrast to clip to black and white.
            background = 300.0 * ((down // 3 + across // 5) % 2) - 150
        images.append(np.clip(background + _clouds(generator, height, width, channels), 0, 255))
    return np.stack(images).astype(np.uint8)


def normalized(images: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Return the images as a network's input, float32 ``[N, channels, H, W]``, without resizing."""
    try:
        preprocess = preprocess.for_channels(images.shape[3])
    except ArgumentError:  # without a mean for each, the network can be verified all the same
        preprocess = PreprocessSpec(mean=(0.5,), std=(0.25,))
    return np.stack([normalize_pixels(image, preprocess) for image in images])


def _clouds(generator: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """As in photographs, coarse structure is strong and fine structure weak, and the colors correlate."""
    total = np.zeros((height, width, channels))
    cells = 1
    while cells < max(height, width):
        gray = generator.normal(size=(min(cells, height), min(cells, width), 1))
        coarse = gray + 0.4 * generator.normal(size=(*gray.shape[:2], channels))
        total += np.stack([_enlarge(coarse[..., c], height, width) for c in range(channels)], -1) / cells**0.5
        cells *= 2
    return 128 + 50 * total / total.std().clip(1e-6)


def _enlarge(plane: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


class Float64Interpreter(fx.Interpreter):
    """Runs an exported program in float64; `watch` sees, and may replace, the value of every operator.

    `input_name` and `output_name` are the program's names of its images and logits.
    """

    def __init__(self, program: ExportedProgram, watch: Watch | None = None) -> None:
        super().__init__(program.graph_module)
        self._watch = watch
        self._state: list[Tensor] = []
        values: Mapping[str, Any] = {**program.state_dict, **program.constants}
        self.input_name = ""
        for spec in program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                self.input_name = spec.arg.name
            else:
                value = values[str(spec.target)].detach()
                self._state.append(value.double() if value.is_floating_point() else value)
        self.output_name = program.graph_signature.user_outputs[0]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits ``[N, C]`` in float64."""
        # The images are the last input, after all parameters and buffers.
        output: tuple[Tensor, ...] = self.run(*self._state, images.double())
        return output[0]

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator."""
        value = super().run_node(n)
        watched = n.op == "call_function" or n.name == self.input_name
        if self._watch and watched and isinstance(value, Tensor) and value.is_floating_point():
            return self._watch(n.name, value)
        return value


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
