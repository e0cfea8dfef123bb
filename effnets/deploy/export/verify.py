"""Verification: an exported file is compared with the network it was made from, before it is handed over.

This is what all formats have in common; `verify_onnx` also compares every node of a graph by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from effnets.deploy.export.base import Export
from effnets.deploy.export.image_input import trace
from effnets.deploy.export.program import Float64Interpreter, Program, Watch, one_thread
from effnets.engines.base import Engine
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EffnetsError, VerificationError
from effnets.inference.image import normalize_pixels
from effnets.inference.labels import probabilities
from effnets.spec.specs import PreprocessSpec

_TOLERANCE = 1e-4  # of the largest logit's magnitude
_ROUNDING = 2e-7  # of a channel's largest value: float32's error on each value, in any order of summation
_ROUNDING_ALLOWANCE = 4  # times the change of the logits by such errors, for networks that amplify them
_TOLERANCE_LIMIT = 1e-2  # if float32 can be further off, the network's own answers mean little
_FLOAT64_TOLERANCE = 1e-8
_PROBABILITY_TOLERANCE = 1e-5
BATCHES = (1, 3)
_OTHER_SIZES = ((256, 320), (32, 45))  # besides the usual one and one pixel more; the last has tiny final maps
# In which order files hold the dimensions of weights, which PyTorch has as [out, in, height, width].
_LAYOUTS = ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0), (2, 3, 1, 0))


@one_thread()
@torch.inference_mode()
def verify_rewrites(network: nn.Module, rewritten: nn.Module, metadata: ModelMetadata) -> None:
    """Raise VerificationError unless a rewritten network agrees closely with the original, both in float64."""
    for images in probe_batches(replace(metadata, input_kind="normalised")):
        inputs = torch.from_numpy(images).double()
        error = relative_error(rewritten(inputs).numpy(), network(inputs).numpy())
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(
                f"{metadata.model}: not exported: a rewrite changed it: {describe_error(error, images)}"
            )


def verify_file(
    engine: Engine,
    data: bytes,
    reference: Reference,
    metadata: ModelMetadata,
    required: Mapping[str, bytes],
    *,
    softmax: bool = False,
) -> float:
    """Compare an exported file with the network it was made from, in three ways:

    - the file contains each weight of the exported module, byte for byte in one of the usual layouts, and what is
      `required`;
    - its metadata is as it should be, read back by the engine;
    - logits on the engine with the float64 network's, for several batches and kinds of images, and `softmax` with them.

    Returns the largest difference of logits, as a share of the largest logit. Raises VerificationError if anything
    differs; says what.
    """
    try:
        if missing := find_missing(data, reference.weights(), required):
            raise VerificationError(f"the file does not contain {missing}")
        expected, found = metadata.to_properties(), engine.description.to_properties()
        if changed := [key for key, value in expected.items() if found.get(key) != value]:
            raise VerificationError(f"its metadata differs in {', '.join(changed)}")
        return max(_compare(engine, images, reference, metadata, softmax) for images in probe_batches(metadata))
    except VerificationError as error:
        raise VerificationError(f"{metadata.model}: not exported: {error}") from None
    except EffnetsError as error:
        raise VerificationError(f"{metadata.model}: not exported: the file does not run: {error}") from None


def _compare(
    engine: Engine, images: NDArray[Any], reference: Reference, metadata: ModelMetadata, softmax: bool
) -> float:
    raw = metadata.input_kind == "pixels"
    expected = reference.expect(normalized(images, metadata.preprocess) if raw else images)
    outputs = engine.run(images)
    error = relative_error(outputs["logits"], expected.logits)
    if not expected.allows(error):
        raise VerificationError(f"{engine.name}: {describe_error(error, images)}")
    if softmax and "probabilities" not in outputs:
        raise VerificationError(f"{engine.name}: there is no output named probabilities")
    compare_probabilities(outputs, engine.name, metadata)
    compare_embedding(outputs, engine.name, images, expected)
    return error


def find_missing(data: bytes, weights: Mapping[str, NDArray[np.float32]], required: Mapping[str, bytes]) -> str | None:
    """Return the name of the first of `weights` or `required` that a file's content lacks; None if all are there."""
    for name, weight in weights.items():
        orders = _LAYOUTS if weight.ndim == 4 else ((0, 1), (1, 0)) if weight.ndim == 2 else ((0,),)
        if not any(np.ascontiguousarray(weight.transpose(order)).tobytes() in data for order in orders):
            return f"the weight {name}"
    return next((name for name, content in required.items() if content not in data), None)


@dataclass
class Expected:
    """The network's inputs, its float64 logits, and the float64 embedding if the file is to have it.

    Attributes:
        draws: of the effect of rounding on the first so many images, computed when a difference is above the usual
            tolerance: errors of the logits, and of the embedding if there is any.
    """

    inputs: NDArray[np.float32]
    logits: NDArray[np.float64]
    draws: Callable[[int], tuple[float, float]]
    embedding: NDArray[np.float64] | None = None

    def first(self) -> Expected:
        """Return what is expected of the first image alone."""
        embedding = None if self.embedding is None else self.embedding[:1]
        return replace(self, inputs=self.inputs[:1], logits=self.logits[:1], embedding=embedding)

    def _allowance(self, output: int) -> float:
        return _ROUNDING_ALLOWANCE * self.draws(len(self.inputs))[output]

    @cached_property
    def tolerance(self) -> float:
        """How far float32 may be off, as a share of the largest logit."""
        return min(max(_TOLERANCE, self._allowance(0)), _TOLERANCE_LIMIT)

    def allows(self, error: float) -> bool:
        """Return whether an error of the logits, as a share of the largest, is within the tolerance."""
        return error <= _TOLERANCE or error <= self.tolerance

    def allows_embedding(self, error: float) -> bool:
        """Return whether an error of the embedding, as a share of its largest value, is."""
        return self.allows(error) or error <= min(self._allowance(1), _TOLERANCE_LIMIT)


class Reference:
    """What a network answers in float64, and how far float32 may be off.

    Args:
        program: torch's program of `exported`, for one image or any number.
        network: the original, in float64 on the CPU.
        exported: the module that was traced, perhaps rewritten; in float64, if it is yet to be compared with `network`,
            or with its weights rounded to float32.
        folded: whether files hold its weights as they are; else converters fold batch normalization into them.
        embedding: whether files return the classifier's input too, in which case both modules are classifiers.
    """

    def __init__(
        self,
        program: Program,
        network: nn.Module,
        exported: nn.Module,
        *,
        folded: bool = False,
        embedding: bool = False,
    ) -> None:
        self.program, self._network, self._exported = program, network, exported
        self._folded, self._embedding = folded, embedding
        self._interpreter = Float64Interpreter(program)

    @cached_property
    def _single(self) -> nn.Module:
        # Layers that keep packed weights need to know later whether these were changed, which inference mode forgets.
        with torch.inference_mode(False), torch.no_grad():
            return copy.deepcopy(self._exported).float()

    @classmethod
    def of(cls, made: Export) -> Reference:
        """Return the reference of an export that takes one image."""
        folded, embedding = bool(made.metadata.rewrites.get("fold_bn")), made.metadata.embedding > 0
        return cls(trace(made.module, made.metadata), made.original, made.module, folded=folded, embedding=embedding)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights and biases by name that files must hold; equal numbers, such as zeros, may be missing."""
        values = self._single.state_dict().items() if self._folded else ()
        arrays = {name: value.numpy() for name, value in values if value.is_floating_point()}
        return {name: array for name, array in arrays.items() if np.ptp(array) > 0}

    @one_thread()
    @torch.inference_mode()
    def expect(self, images: NDArray[np.float32]) -> Expected:
        """Compute the logits, and compare the program, and the module it was traced from, with the network."""
        inputs = torch.from_numpy(images)
        logits = self._network(inputs.double()).numpy()
        self._compare_program(images, logits)
        embedding = _embed(self._network, inputs.double()) if self._embedding else None

        def draw(count: int) -> tuple[float, float]:
            first = None if embedding is None else embedding[:count]
            return self._draw(inputs[:count], logits[:count], first)

        return Expected(images, logits, cache(draw), embedding)

    def _compare_program(self, images: NDArray[np.float32], logits: NDArray[np.float64]) -> None:
        inputs = torch.from_numpy(images)
        found = self._interpreter(inputs).numpy()
        if relative_error(found, logits) <= _FLOAT64_TOLERANCE:
            return
        # Its weights may be rounded. If not, it is wrong; then say which of the two steps to it is.
        traced = self._exported
        if self._interpreter.rounded or next(traced.parameters()).dtype != torch.float64:
            traced = copy.deepcopy(self._single).double()
        error = relative_error(found, traced(inputs.double()).numpy())
        if not error <= _FLOAT64_TOLERANCE:
            raise VerificationError(f"tracing changed the function: {describe_error(error, images)}")
        if next(self._exported.parameters()).dtype == torch.float64:
            error = relative_error(self._exported(inputs.double()).numpy(), logits)
            if not error <= _FLOAT64_TOLERANCE:
                raise VerificationError(f"a rewrite changed it: {describe_error(error, images)}")

    @torch.inference_mode()
    def _draw(
        self, inputs: Tensor, logits: NDArray[np.float64], embedding: NDArray[np.float64] | None
    ) -> tuple[float, float]:
        """Return two samples' effect of rounding: of errors on every value, and of those of float32 in torch."""
        rounded = Float64Interpreter(self.program, _rounding())(inputs).numpy()
        allowance = max(relative_error(draw, logits) for draw in (rounded, self._single(inputs).numpy()))
        if embedding is None:
            return allowance, 0.0
        return allowance, relative_error(_embed(self._single, inputs), embedding)


def _embed(network: Any, images: Tensor) -> NDArray[Any]:
    embedding: NDArray[Any] = network.forward_embedding(images).numpy()
    return embedding


def compare_embedding(outputs: Mapping[str, NDArray[Any]], name: str, images: NDArray[Any], expected: Expected) -> None:
    """Raise VerificationError unless ``embedding``, if expected, is the float64 network's."""
    if expected.embedding is None:
        return
    if "embedding" not in outputs:
        raise VerificationError(f"{name}: there is no output named embedding")
    error = relative_error(outputs["embedding"], expected.embedding)
    if not expected.allows_embedding(error):
        raise VerificationError(f"{name}: {describe_error(error, images, 'embeddings')}")


def compare_probabilities(outputs: Mapping[str, NDArray[Any]], name: str, metadata: ModelMetadata) -> None:
    """Raise VerificationError unless ``probabilities`` are the softmax of the logits, and the top ones the largest.

    Of labels they are the sigmoid.
    """
    if "probabilities" not in outputs:
        return
    expected = probabilities(outputs["logits"], metadata.classifier_activation)
    if not np.abs(outputs["probabilities"] - expected).max() <= _PROBABILITY_TOLERANCE:
        raise VerificationError(f"{name}: probabilities are not the {metadata.classifier_activation} of the logits")
    if "top_indices" in outputs:
        indices, top = outputs["top_indices"], outputs["top_probabilities"]
        ranked = -np.sort(-outputs["probabilities"], axis=1)[:, : top.shape[1]]
        picked = np.take_along_axis(outputs["probabilities"], indices, axis=1)
        if not (np.array_equal(top, ranked) and np.array_equal(top, picked)):
            raise VerificationError(f"{name}: the top {top.shape[1]} are not the largest probabilities")


def relative_error(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Return the largest error as a share of the largest value (of 1 if all are 0); NaN if a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def describe_error(error: float, images: NDArray[Any], what: str = "logits") -> str:
    """Say how far the logits of images are off, or `what` else."""
    return f"{what} of images {list(images.shape)} are off by {error:.1e} of the largest"


def probe_batches(metadata: ModelMetadata) -> Iterator[NDArray[Any]]:
    """Yield batches of images as an exported file takes them: normalized, or uint8 ``[N, H, W, channels]``."""
    height, width = metadata.image_size
    shapes = [(batch, height, width) for batch in BATCHES]
    if metadata.size is None:
        shapes += [(2, *size) for size in ((height + 1, width + 1), *_OTHER_SIZES)]
    for seed, shape in enumerate(shapes):
        images = probe_images(*shape, metadata.channels, seed=seed)
        yield images if metadata.input_kind == "pixels" else normalized(images, metadata.preprocess)


def _rounding() -> Watch:
    """Return a function that adds errors like those of float32 to every value."""
    generator = torch.Generator().manual_seed(0)

    def watch(_: str, value: Tensor) -> Tensor:
        scale = value.abs().amax(tuple(range(2, value.ndim)), keepdim=True) if value.ndim > 2 else value.abs().max()
        return value + _ROUNDING * scale * torch.randn(value.shape, generator=generator, dtype=torch.float32)

    return watch


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
