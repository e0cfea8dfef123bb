"""Measure how many of its output's dimensions a layer fills: the rank of its features, over random networks.

The study of single layers of ReXNet (arXiv:2007.00992, section 3): a layer that widens d_in channels to d_out can fill
few of the d_out dimensions unless its nonlinearity adds some. For a channel ratio d_in / d_out, random networks of
random width see random inputs, and the rank of the features after the nonlinearity is divided by d_out.

In exact arithmetic almost every nonlinearity fills every dimension. What counts is how many are more than noise: the
rank is the number of singular values above a `threshold` times the largest. The paper's threshold is not known here, so
that the study reports several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from effnets.errors import ArgumentError
from effnets.utils.arguments import check_integer
from effnets.utils.machine import cpu_count

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: Mapping[str, Activation] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "hard_swish": F.hardswish,
    "gelu": F.gelu,
}
LAYERS: Mapping[str, str] = {
    "conv1x1": "1×1 convolution",
    "conv3x3": "3×3 convolution",
    "depthwise": "1×1 expansion, 3×3 depthwise",
    "inverted_bottleneck": "inverted bottleneck, expansion 6",
    "depthwise_act_after_expansion": "as depthwise, activation after the expansion alone",
    "depthwise_act_after_depthwise": "as depthwise, activation after the depthwise alone",
}
RATIOS = (0.05, 0.1, 1 / 6, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
THRESHOLDS = (0.1, 0.03, 0.01)
_EXPANSION = 6
_SIDE = 7  # of the feature maps: that of the last stage at 224 pixels
_SAMPLES = 4  # places for each channel, so that these do not limit the rank
# The eigenvalues of the features' product with themselves are squares, in float32.
_LEAST_THRESHOLD = 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """What a study of random networks measures.

    Attributes:
        seed: of all weights, widths and inputs; networks of one number are the same whatever else is measured.
        networks: random networks for each layer and channel ratio.
        layers, activations, ratios: of `LAYERS`, of `ACTIVATIONS`, and d_in / d_out.
        threshold: singular values above this share of the largest count. thresholds: measured besides.
        channels: the least and the greatest d_out, which is drawn evenly.

    Raises:
        ArgumentError: a name is unknown, or a number out of range.
    """

    seed: int = 0
    networks: int = 30
    layers: Sequence[str] = tuple(LAYERS)
    activations: Sequence[str] = tuple(ACTIVATIONS)
    ratios: Sequence[float] = RATIOS
    threshold: float = 0.03
    thresholds: Sequence[float] = THRESHOLDS
    channels: tuple[int, int] = (128, 384)

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0, "it must be 0 or more")
        check_integer("networks", self.networks, 1, "it must be at least 1")
        check_names("activations", self.activations, ACTIVATIONS)
        check_names("layers", self.layers, LAYERS)
        for threshold in (self.threshold, *self.thresholds):
            check_threshold(threshold)
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ArgumentError(f"ratios is {tuple(self.ratios)!r}; give channel ratios above 0 and at most 1")
        low, high = self.channels
        if not 8 <= low <= high <= 4096:
            raise ArgumentError(f"channels is {self.channels!r}; give the least and the greatest, from 8 to 4096")

    @property
    def all_thresholds(self) -> list[float]:
        """Those of the study, the one that its conclusions rest on first."""
        return list(dict.fromkeys((self.threshold, *self.thresholds)))


def check_names(argument: str, names: Sequence[str], known: Mapping[str, object]) -> None:
    """Raise an ArgumentError unless there are `names`, all of them `known`."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        problem = f"has {unknown[0]!r}" if unknown else "is empty"
        raise ArgumentError(f"{argument} {problem}; choose from {', '.join(known)}")


def check_threshold(threshold: float) -> None:
    """Raise an ArgumentError unless singular values can be compared with this share of the largest."""
    if not _LEAST_THRESHOLD <= threshold < 1:
        raise ArgumentError(
            f"threshold is {threshold!r}; it is a share of the largest singular value, {_LEAST_THRESHOLD} to below 1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPoint:
    """The rank ratio of a layer at one channel ratio.

    Attributes:
        ratio: d_in / d_out. mean: of the rank over d_out. error: standard error of the mean, over `networks` networks.
    """

    layer: str
    activation: str
    ratio: float
    threshold: float
    mean: float
    error: float
    networks: int


def study_ranks(settings: RankSettings, progress: Callable[[str, float], object] | None = None) -> list[RankPoint]:
    """Measure the mean rank ratio of each layer, activation, channel ratio and threshold.

    All activations see the same weights and inputs, so that their differences are exacter than their errors.

    Args:
        settings: what to measure.
        progress: called with what is measured and the share that is done.
    """
    points: list[RankPoint] = []
    cells = [(layer, ratio) for ratio in settings.ratios for layer in settings.layers]
    # A network to a thread: threads within such small products would wait for each other most of the time.
    before = torch.get_num_threads()
    with ThreadPoolExecutor(cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for done, (layer, ratio) in enumerate(cells):
                if progress is not None:
                    progress(f"{LAYERS[layer]} at {ratio:.2f}", done / len(cells))
                ranks = list(pool.map(partial(_measure, settings, layer, ratio), range(settings.networks)))
                points += _summarize(settings, layer, ratio, np.array(ranks))
        finally:
            torch.set_num_threads(before)
    return points


def _summarize(settings: RankSettings, layer: str, ratio: float, ranks: NDArray[np.float64]) -> list[RankPoint]:
    """Average over the networks, the first axis of ``[networks, activations, thresholds]``."""
    count = len(ranks)
    errors = ranks.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else np.zeros(ranks.shape[1:])
    return [
        RankPoint(
            layer=layer,
            activation=activation,
            ratio=ratio,
            threshold=threshold,
            mean=float(ranks[:, place, index].mean()),
            error=float(errors[place, index]),
            networks=count,
        )
        for place, activation in enumerate(settings.activations)
        for index, threshold in enumerate(settings.all_thresholds)
    ]


def _measure(settings: RankSettings, layer: str, ratio: float, number: int) -> list[list[float]]:
    """Return for each activation the rank ratios at all thresholds of random network `number`."""
    # The same widths at every ratio, so that a curve's points differ in the ratio alone.
    out_channels = int(_generator(settings.seed, number).integers(*settings.channels, endpoint=True))
    seed = int(_generator(settings.seed, number, round(ratio * 1e6)).integers(2**63))
    generator = torch.Generator().manual_seed(seed)
    in_channels = max(1, round(ratio * out_channels))
    images = math.ceil(_SAMPLES * out_channels / _SIDE**2)
    x = torch.randn((images, in_channels, _SIDE, _SIDE), generator=generator)
    weights = _draw_weights(layer, in_channels, out_channels, generator)
    with torch.inference_mode():
        products = [gram(_run(layer, x, weights, ACTIVATIONS[name])) for name in settings.activations]
        return [rank_ratios(each, settings.all_thresholds) for each in products]


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(numbers)


def _draw_weights(layer: str, in_channels: int, out_channels: int, generator: torch.Generator) -> list[Tensor]:
    """Normal weights, whose size does not matter since every convolution is normalized."""
    wide = _EXPANSION * in_channels if layer == "inverted_bottleneck" else out_channels
    shapes = {
        "conv1x1": [(out_channels, in_channels, 1, 1)],
        "conv3x3": [(out_channels, in_channels, 3, 3)],
        "inverted_bottleneck": [(wide, in_channels, 1, 1), (wide, 1, 3, 3), (out_channels, wide, 1, 1)],
    }.get(layer, [(wide, in_channels, 1, 1), (wide, 1, 3, 3)])
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _run(layer: str, x: Tensor, weights: Sequence[Tensor], act: Activation) -> Tensor:
    """Return the layer's features; the last convolution of an inverted bottleneck is linear (arXiv:1801.04381)."""
    if layer in ("conv1x1", "conv3x3"):
        return act(_conv_bn(x, weights[0]))
    x = _conv_bn(x, weights[0])
    x = _conv_bn(x if layer == "depthwise_act_after_depthwise" else act(x), weights[1])
    x = x if layer == "depthwise_act_after_expansion" else act(x)
    return _conv_bn(x, weights[2]) if layer == "inverted_bottleneck" else x


def _conv_bn(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution that keeps the resolution, depthwise where the weight has one input; batch normalization."""
    depthwise = weight.shape[1] == 1 and weight.shape[0] == x.shape[1] and weight.shape[-1] > 1
    y = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=x.shape[1] if depthwise else 1)
    return F.batch_norm(y, None, None, training=True)


def gram(features: Tensor) -> Tensor:
    """Return the products of all channels of ``[N, C, H, W]`` with each other, ``[C, C]`` in float64.

    Its eigenvalues are the squares of the singular values of the feature matrix ``[C, N·H·W]``.
    """
    matrix = features.transpose(0, 1).flatten(1)
    return (matrix @ matrix.T).double()


def rank_ratios(products: Tensor, thresholds: Sequence[float]) -> list[float]:
    """Return for each threshold the share of the singular values above it times the largest; of no features, 0."""
    squares = torch.linalg.eigvalsh(products)
    largest = float(squares[-1])
    if largest <= 0:
        return [0.0] * len(thresholds)
    return [float((squares > threshold**2 * largest).double().mean()) for threshold in thresholds]
