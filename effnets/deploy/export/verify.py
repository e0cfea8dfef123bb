"""Images to compare a model and its export on: what photographs look like to a network, and what they never do."""

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

from effnets.deploy.export.graph import LOGITS, NORMALISED, PROBABILITIES, TOP_INDICES, TOP_PROBABILITIES, NetworkGraph
from effnets.deploy.export.node_check import Replay, find_divergence, find_faulty_node
from effnets.engines.base import Engine, load_onnx
from effnets.engines.metadata import Description
from effnets.errors import EffnetsError, VerificationError
from effnets.inference.pixels import center_crop, cover_size, normalise_pixels, resized_size
from effnets.spec.specs import PreprocessSpec


def probe_images(count: int, height: int, width: int, channels: int, *, seed: int) -> NDArray[np.uint8]:
    """`count` images, uint8 ``[N, H, W, channels]``: clouds, then clouds over a gradient, over a checkerboard, …

    None is smooth or periodic all over: where channels are constant, networks multiply rounding errors beyond measure.
    """
    generator = np.random.default_rng(seed)
    backgrounds = (_nothing, _gradient, _checkerboard)
    images = []
    for index in range(count):
        background = backgrounds[index % len(backgrounds)](generator, height, width, channels)
        images.append(np.clip(background + _clouds(generator, height, width, channels), 0, 255))
    return np.stack(images).astype(np.uint8)


def normalised(images: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """The images as a network's input, float32 ``[N, channels, H, W]``, without resizing."""
    if images.shape[3] not in (1, len(preprocess.mean)):
        preprocess = PreprocessSpec(mean=(0.5,) * images.shape[3], std=(0.25,) * images.shape[3])
    return np.stack([normalise_pixels(image, preprocess) for image in images])


def _clouds(generator: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """As in photographs, coarse structure is strong and fine structure weak, and the colours go together."""
    total = np.zeros((height, width, channels))
    cells = 1
    while cells < max(height, width):
        grey = generator.normal(size=(min(cells, height), min(cells, width), 1))
        coarse = grey + 0.4 * generator.normal(size=(*grey.shape[:2], channels))
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
    """Squares that no stride divides, in contrast enough for black and white, the extremes of any input."""
    squares = (np.arange(height)[:, None] // 3 + np.arange(width)[None, :] // 5) % 2
    return np.broadcast_to(300.0 * squares[..., None] - 150, (height, width, channels))


_MAX_STRAY_PIXELS = 0.01  # that differ by one level of 255
_MAX_FAR_PIXELS = 1e-4  # that differ by two


def compare_pixels(images: NDArray[np.uint8], inputs: NDArray[np.float32], description: Description, name: str) -> None:
    """See that preprocessing in the graph gives the pixels of `runtime.pixels`.

    Some may be at one level's distance, where sums end near a half, and few at two, where both directions' do.

    Args:
        images: uint8 ``[N, H, W, C]``.
        inputs: what the graph made of them, ``[N, C, *image_size]``.
        description: of the graph.
        name: the engine's, for the message.

    Raises:
        VerificationError: more differ, or differ more.
    """
    squeezed = images[..., 0] if description.channels == 1 else images
    expected = np.stack([_resized_across_first(Image.fromarray(image), description) for image in squeezed])
    # In units of one level of 255, whatever the channel's std.
    levels = np.abs(inputs - expected) * 255 * np.reshape(_stds(description), (1, -1, 1, 1))
    stray, far = float((levels > 0.01).mean()), int((levels > 1.01).sum())
    if not (levels.max() < 2.01 and stray < _MAX_STRAY_PIXELS and far <= max(1, _MAX_FAR_PIXELS * levels.size)):
        raise VerificationError(
            f"{name}: preprocessing of images {list(images.shape)} is wrong: {100 * stray:.1f} % of the pixels differ, "
            f"by up to {levels.max():.1f} of 255"
        )


def _resized_across_first(image: Image.Image, description: Description) -> NDArray[np.float32]:
    """As `image_to_array`, but always across before down, as the graph resizes: Pillow did so until its version 13.

    Since then it takes pictures that are much higher than wide the other way round, which rounds otherwise.
    """
    (height, width), preprocess = description.image_size, description.preprocess
    new_width, new_height = resized_size(image, height, width, preprocess)
    for size in ((new_width, image.height), (new_width, new_height)):
        image = image.resize(size, Image.Resampling[preprocess.interpolation.upper()])
    cropped = np.asarray(center_crop(image, height, width))
    return normalise_pixels(cropped.reshape(height, width, description.channels), preprocess)


def _stds(description: Description) -> NDArray[np.float64]:
    std = np.array(description.preprocess.std)
    return std.mean(keepdims=True) if description.channels == 1 else std


TOLERANCE = 1e-4  # of the largest logit's magnitude
_ROUNDING = 2e-7  # of what a channel holds: what float32 may do to each value, in any order of summation
_ROUNDING_ALLOWANCE = 4  # times what such errors make of the logits, where a network makes much of them
_TOLERANCE_LIMIT = 1e-2  # where float32 can be further off, the network's own answers mean little
_FLOAT64_TOLERANCE = 1e-8
_PROBABILITY_TOLERANCE = 1e-5
_BATCHES = (1, 3)
_OTHER_SIZES = ((256, 320), (32, 45))  # besides the usual one and one pixel more; the last below the output stride's
_PHOTO_SIZES = ((300, 400), (333, 250), (96, 96), (600, 200))


@torch.inference_mode()
def verify_rewrites(network: nn.Module, rewritten: nn.Module, description: Description) -> None:
    """Compare a rewritten network with the original, both in float64, where they must agree closely.

    Raises:
        VerificationError: they do not.
    """
    for images in _inputs(description):
        inputs = torch.from_numpy(images).double()
        error = _relative_error(rewritten(inputs).numpy(), network(inputs).numpy())
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(f"{description.model}: not exported: a rewrite changed it: {_off(error, images)}")


def verify(
    graph: NetworkGraph, network: nn.Module, exported: nn.Module, description: Description, engines: Sequence[str]
) -> dict[str, float]:
    """Compare a graph with the network it was made from, in evaluation mode, in four ways:

    - each node by itself with torch's operator (`node_check`), so that no layer hides another's faults;
    - torch's program with the module it was traced from, both in float64, where they must agree closely;
    - logits on each of `engines` with the float64 network's, for several batches, sizes and kinds of images;
    - preprocessing inside of the graph with that of `runtime.pixels`.

    Args:
        graph: what was exported.
        network: the original, in float64 on the CPU.
        exported: what was traced, perhaps rewritten, with its weights rounded to float32.
        description: of the file that it will be.
        engines: names of `runtime.engine.ENGINES`.

    Returns:
        For each engine the largest difference of logits, as a share of the largest logit.

    Raises:
        VerificationError: something differs; says what, and where the first difference is.
    """
    try:
        if fault := find_faulty_node(graph, description):
            raise VerificationError(f"the exported graph is wrong at {fault}")
        checks = _Checks(graph, network, exported, description)
        return {name: checks.run(name) for name in engines}
    except VerificationError as error:
        raise VerificationError(f"{description.model}: not exported: {error}") from None
    except EffnetsError as error:
        raise VerificationError(f"{description.model}: not exported: the graph does not run: {error}") from None


@dataclass(frozen=True, slots=True)
class _Expected:
    """The network's inputs and its float64 logits, and how far from them, as a share of the largest, one may be."""

    inputs: NDArray[np.float32]
    logits: NDArray[np.float64]
    tolerance: float


class _Checks:
    """What is compared on every engine."""

    def __init__(self, graph: NetworkGraph, network: nn.Module, exported: nn.Module, description: Description) -> None:
        self._graph = graph
        self._network = network
        self._single = copy.deepcopy(exported).float()
        self._exported = copy.deepcopy(exported).double()
        self._description = description
        self._program = Replay(graph.program)
        self._raw = description.input_kind == "uint8"
        # With preprocessing inside, the logits to expect are those of what the engine at hand makes of the pixels.
        self._expected = [] if self._raw else [self._expect(images) for images in _inputs(description)]

    def run(self, name: str) -> float:
        """The largest difference on an engine."""
        engine = load_onnx(self._graph.model.SerializeToString(), self._description, name)
        if not self._raw:
            return max(self._compare(engine, expected.inputs, expected) for expected in self._expected)
        tapped = load_onnx(_with_normalised(self._graph.model).SerializeToString(), self._description, name)
        errors = []
        for images in _photographs(self._description):
            inputs = tapped.run(images)[NORMALISED]
            compare_pixels(images, inputs, self._description, name)
            errors.append(self._compare(engine, images, self._expect(inputs)))
        return max(errors)

    @torch.inference_mode()
    def _expect(self, images: NDArray[np.float32]) -> _Expected:
        """The network's logits; on the way the program is compared with the module it was traced from."""
        inputs = torch.from_numpy(images)
        logits = self._network(inputs.double()).numpy()
        traced = self._exported(inputs.double()).numpy()
        error = _relative_error(self._program(inputs).numpy(), traced)
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(f"torch.export changed the function: {_off(error, images)}")
        # Two draws of what rounding may do: errors on every value, and those that float32 makes in torch.
        rounded = Replay(self._graph.program, _Rounding())(inputs).numpy()
        single = self._single(inputs).numpy()
        allowance = _ROUNDING_ALLOWANCE * max(_relative_error(draw, logits) for draw in (rounded, single))
        return _Expected(images, logits, min(max(TOLERANCE, allowance), _TOLERANCE_LIMIT))

    def _compare(self, engine: Engine, images: NDArray[Any], expected: _Expected) -> float:
        outputs = engine.run(images)
        error = _relative_error(outputs[LOGITS], expected.logits)
        if not error <= expected.tolerance:
            place = find_divergence(self._graph, engine.name, images, expected.inputs, self._description)
            raise VerificationError(f"{engine.name}: {_off(error, images)}; {place}")
        _compare_probabilities(outputs, engine.name)
        return error


class _Rounding:
    """Errors like those of float32, put on every value."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, _: str, value: Tensor) -> Tensor:
        scale = value.abs().amax(tuple(range(2, value.ndim)), keepdim=True) if value.ndim > 2 else value.abs().max()
        noise = torch.randn(value.shape, generator=self._generator, dtype=torch.float32)
        return value + _ROUNDING * scale * noise


def _inputs(description: Description) -> Iterator[NDArray[np.float32]]:
    height, width = description.image_size
    shapes = [(batch, height, width) for batch in _BATCHES]
    if description.size is None:
        shapes += [(2, *size) for size in ((height + 1, width + 1), *_OTHER_SIZES)]
    for seed, shape in enumerate(shapes):
        yield normalised(probe_images(*shape, description.channels, seed=seed), description.preprocess)


def _photographs(description: Description) -> Iterator[NDArray[np.uint8]]:
    for seed, (height, width) in enumerate((*_PHOTO_SIZES, *_tie(description))):
        batch = _BATCHES[seed % len(_BATCHES)]
        yield probe_images(batch, height, width, description.channels, seed=seed)


def _tie(description: Description) -> Iterator[tuple[int, int]]:
    """A photograph whose width, resized, ends at a half; squares are not rounded."""
    height, width = cover_size(*description.image_size, description.preprocess)
    if height != width:
        yield 2 * height, 2 * (width + width % 2) + 1


def _relative_error(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """NaN where something is not finite, so that no comparison holds; of logits that are all 0, the error itself."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def _off(error: float, images: NDArray[Any]) -> str:
    return f"logits of images {list(images.shape)} are off by {error:.1e} of the largest"


def _with_normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that also gives what preprocessing made of the images."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(helper.make_tensor_value_info(NORMALISED, TensorProto.FLOAT, None))
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
