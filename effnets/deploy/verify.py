"""Whether an exported model computes what its network computes: checked before anybody sees the file."""

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
from torch import Tensor, nn

from effnets.deploy.graph import LOGITS, NORMALISED, PROBABILITIES, TOP_INDICES, TOP_PROBABILITIES, NetworkGraph
from effnets.deploy.node_check import find_divergence, find_faulty_node
from effnets.deploy.pixel_check import compare_pixels
from effnets.deploy.probes import normalised, probe_images
from effnets.deploy.reference import Replay
from effnets.engines.base import Engine, load_onnx
from effnets.engines.metadata import Description
from effnets.errors import EffnetsError, VerificationError
from effnets.inference.pixels import cover_size

__all__ = ["TOLERANCE", "verify", "verify_rewrites"]

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
