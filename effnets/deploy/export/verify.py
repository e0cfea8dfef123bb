"""Verification: an export is compared with the network it was made from, before it is handed over."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn

from effnets.deploy.export.graph import LOGITS, NORMALIZED, PROBABILITIES, TOP_INDICES, TOP_PROBABILITIES, NetworkGraph
from effnets.deploy.export.node_check import Float64Interpreter, find_divergence, find_faulty_node
from effnets.engines.base import Engine, load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import EffnetsError, VerificationError
from effnets.inference.image import center_crop, cover_size, normalise_pixels, resized_size
from effnets.spec.specs import PreprocessSpec

_TOLERANCE = 1e-4  # of the largest logit's magnitude
_ROUNDING = 2e-7  # of a channel's largest value: float32's error on each value, in any order of summation
_ROUNDING_ALLOWANCE = 4  # times the change of the logits by such errors, for networks that amplify them
_TOLERANCE_LIMIT = 1e-2  # if float32 can be further off, the network's own answers mean little
_FLOAT64_TOLERANCE = 1e-8
_PROBABILITY_TOLERANCE = 1e-5
_MAX_STRAY_PIXELS = 0.01  # that differ by one level of 255
_MAX_FAR_PIXELS = 1e-4  # that differ by two
_BATCHES = (1, 3)
_OTHER_SIZES = ((256, 320), (32, 45))  # besides the usual one and one pixel more; the last not a multiple of the stride
_PHOTO_SIZES = ((300, 400), (333, 250), (96, 96), (600, 200))


def probe_images(count: int, height: int, width: int, channels: int, *, seed: int) -> NDArray[np.uint8]:
    """`count` images, uint8 ``[N, H, W, channels]``: clouds, then clouds over a gradient, over a checkerboard, …

    No image is smooth or periodic throughout: where channels are constant, networks amplify rounding errors hugely.
    """
    generator = np.random.default_rng(seed)
    backgrounds = (_nothing, _gradient, _checkerboard)
    images = []
    for index in range(count):
        background = backgrounds[index % len(backgrounds)](generator, height, width, channels)
        images.append(np.clip(background + _clouds(generator, height, width, channels), 0, 255))
    return np.stack(images).astype(np.uint8)


def normalized(images: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Return the images as a network's input, float32 ``[N, channels, H, W]``, without resizing."""
    if images.shape[3] not in (1, len(preprocess.mean)):
        preprocess = PreprocessSpec(mean=(0.5,) * images.shape[3], std=(0.25,) * images.shape[3])
    return np.stack([normalise_pixels(image, preprocess) for image in images])


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


def _nothing(_: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    return np.zeros((height, width, channels))


def _enlarge(plane: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _gradient(generator: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    slant = generator.uniform(size=channels)
    return 255 * (slant * down + (1 - slant) * across) - 128


def _checkerboard(_: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """Squares that no stride divides, with enough contrast to clip to black and white."""
    squares = (np.arange(height)[:, None] // 3 + np.arange(width)[None, :] // 5) % 2
    return np.broadcast_to(300.0 * squares[..., None] - 150, (height, width, channels))


def compare_pixels(images: NDArray[np.uint8], inputs: NDArray[np.float32], metadata: ModelMetadata, name: str) -> None:
    """Check that preprocessing in the graph gives the pixels of `inference.pixels`.

    Some may differ by one level, where sums end near a half, and few by two, where those of both directions do.

    Args:
        images: uint8 ``[N, H, W, C]``.
        inputs: the graph's result, ``[N, C, *image_size]``.
        metadata: of the graph.
        name: the engine's, for the message.

    Raises:
        VerificationError: if more pixels differ, or by more.
    """
    squeezed = images[..., 0] if metadata.channels == 1 else images
    expected = np.stack([_resized_across_first(Image.fromarray(image), metadata) for image in squeezed])
    # In units of one level of 255, whatever the channel's std.
    levels = np.abs(inputs - expected) * 255 * np.reshape(_stds(metadata), (1, -1, 1, 1))
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
    for size in ((new_width, image.height), (new_width, new_height)):
        image = image.resize(size, Image.Resampling[preprocess.interpolation.upper()])
    cropped = np.asarray(center_crop(image, height, width))
    return normalise_pixels(cropped.reshape(height, width, metadata.channels), preprocess)


def _stds(metadata: ModelMetadata) -> NDArray[np.float64]:
    std = np.array(metadata.preprocess.std)
    return std.mean(keepdims=True) if metadata.channels == 1 else std


@torch.inference_mode()
def verify_rewrites(network: nn.Module, rewritten: nn.Module, metadata: ModelMetadata) -> None:
    """Compare a rewritten network with the original, both in float64, where they must agree closely.

    Raises:
        VerificationError: if they differ.
    """
    for images in _inputs(metadata):
        inputs = torch.from_numpy(images).double()
        error = _relative_error(rewritten(inputs).numpy(), network(inputs).numpy())
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(f"{metadata.model}: not exported: a rewrite changed it: {_off(error, images)}")


def verify(
    graph: NetworkGraph, network: nn.Module, exported: nn.Module, metadata: ModelMetadata, engines: Sequence[str]
) -> dict[str, float]:
    """Compare a graph with the network it was made from, in evaluation mode, in four ways:

    - each node by itself with torch's operator (`node_check`), so that no layer hides the faults of another;
    - torch's program with the module it was traced from, both in float64, where they must agree closely;
    - logits on each of `engines` with the float64 network's, for several batches, sizes and kinds of images;
    - preprocessing in the graph with that of `inference.pixels`.

    Args:
        graph: the export.
        network: the original, in float64 on the CPU.
        exported: the module that was traced, perhaps rewritten, with its weights rounded to float32.
        metadata: of the export.
        engines: names of `engines.base.ENGINES`.

    Returns:
        For each engine the largest difference of logits, as a share of the largest logit.

    Raises:
        VerificationError: if anything differs; says what, and where the first difference is.
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


@dataclass(frozen=True, slots=True)
class _Expected:
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
        tapped = load_onnx(_with_normalized(self._graph.model).SerializeToString(), self._metadata, name)
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
        rounded = Float64Interpreter(self._graph.program, _Rounding())(inputs).numpy()
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


class _Rounding:
    """Adds errors like those of float32 to every value."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, _: str, value: Tensor) -> Tensor:
        scale = value.abs().amax(tuple(range(2, value.ndim)), keepdim=True) if value.ndim > 2 else value.abs().max()
        noise = torch.randn(value.shape, generator=self._generator, dtype=torch.float32)
        return value + _ROUNDING * scale * noise


def _inputs(metadata: ModelMetadata) -> Iterator[NDArray[np.float32]]:
    height, width = metadata.image_size
    shapes = [(batch, height, width) for batch in _BATCHES]
    if metadata.size is None:
        shapes += [(2, *size) for size in ((height + 1, width + 1), *_OTHER_SIZES)]
    for seed, shape in enumerate(shapes):
        yield normalized(probe_images(*shape, metadata.channels, seed=seed), metadata.preprocess)


def _photographs(metadata: ModelMetadata) -> Iterator[NDArray[np.uint8]]:
    for seed, (height, width) in enumerate((*_PHOTO_SIZES, *_tie(metadata))):
        batch = _BATCHES[seed % len(_BATCHES)]
        yield probe_images(batch, height, width, metadata.channels, seed=seed)


def _tie(metadata: ModelMetadata) -> Iterator[tuple[int, int]]:
    """Yield a photograph whose resized width ends at a half; squares are not rounded."""
    height, width = cover_size(*metadata.image_size, metadata.preprocess)
    if height != width:
        yield 2 * height, 2 * (width + width % 2) + 1


def _relative_error(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Return the largest error as a share of the largest value (of 1 if all are 0); NaN if a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def _off(error: float, images: NDArray[Any]) -> str:
    return f"logits of images {list(images.shape)} are off by {error:.1e} of the largest"


def _with_normalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with the preprocessed images as a further output."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(helper.make_tensor_value_info(NORMALIZED, TensorProto.FLOAT, None))
    return tapped


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
