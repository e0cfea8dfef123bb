"""`NetworkSearch`: how a network is made ready for int8 in torch, once for all formats that are converted from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.deploy.quantize.calibration import CalibrationImages
from effnets.deploy.quantize.qdq_graph import Ranges
from effnets.deploy.quantize.rounding import (
    correct_biases,
    fit_biases,
    input_ranges,
    layers_of_network,
    logits_by_torch,
    rounded_network,
)
from effnets.deploy.quantize.torch_equalization import equalize_network
from effnets.errors import VerificationError
from effnets.nn.classifier import Classifier

_TRIAL_IMAGES = 32  # at most, to measure errors
_EXACT = 1e-8  # of the largest logit, in float64


class NetworkSearch:
    """Chooses how a float32 network is changed before it is converted to int8; it sees calibration images only.

    Equalization and the correction of biases are each kept if rounding, simulated in torch, then changes logits less.

    Attributes:
        network: the changed network, in float32.
        layers, trials, error, method, equalized, bias_corrected, sensitivity: as of `QuantSearch`.
    """

    def __init__(
        self, network: Classifier, images: CalibrationImages, progress: Callable[[str], object] = lambda _: None
    ) -> None:
        self._images, self._progress = images, progress
        self._batches = list(images.first(_TRIAL_IMAGES).batches())
        self._expected = logits_by_torch(network, self._batches)
        self.layers = list(layers_of_network(network))
        self.network, self._ranges = network, input_ranges(network, images.batches())
        self.trials: dict[str, float] = {}
        self.sensitivity: dict[str, float] = {}
        self.error = float("inf")
        self.method, self.equalized, self.bias_corrected = "minmax", 0, False
        self._choose()

    def rank(self) -> list[str]:
        """Return all layers, most sensitive first: each in turn is left in float, the others in int8."""
        falls = {}
        for index, layer in enumerate(self.layers):
            self._progress(f"sensitivity of layer {index + 1} of {len(self.layers)}")
            falls[layer] = 1 - self._error(self.network, self._ranges, [layer]) / self.error
        self.sensitivity = dict(sorted(falls.items(), key=lambda item: -item[1]))
        return list(self.sensitivity)

    def _choose(self) -> None:
        plain = copy.deepcopy(self.network)
        fit_biases(plain, self._ranges)
        self._try("minmax", plain, self._ranges)
        self._progress("equalization")
        preprocess = self._images.preprocess.for_channels(self._images.pixels.shape[3])
        pixels = [(bound - m) / s for bound in (0, 1) for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
        equalized = copy.deepcopy(self.network).double()
        channels = equalize_network(equalized, (min(pixels), max(pixels)))
        if channels:
            _check_same(self.network, equalized, self._batches[0])
            equalized = equalized.float()
            ranges = input_ranges(equalized, self._images.batches())
            fit_biases(equalized, ranges)
            if self._try("minmax, equalized", equalized, ranges):
                self.equalized = channels
        self._progress("biases")
        corrected = copy.deepcopy(self.network)
        correct_biases(corrected, self._ranges, self._images.batches())
        fit_biases(corrected, self._ranges)
        name = f"minmax{', equalized' if self.equalized else ''}, biases corrected"
        self.bias_corrected = self._try(name, corrected, self._ranges)

    def _try(self, name: str, network: Classifier, ranges: Ranges) -> bool:
        """Take this network if its error is the least so far, and say whether it is."""
        error = self.trials[name] = self._error(network, ranges)
        better = error < self.error or len(self.trials) == 1
        if better:
            self.network, self.error, self._ranges = network, error, ranges
        return better

    def _error(self, network: Classifier, ranges: Ranges, float_layers: Collection[str] = ()) -> float:
        found = logits_by_torch(rounded_network(network, ranges, float_layers), self._batches)
        error = relative_deviation(found, self._expected)
        return error if np.isfinite(error) else float("inf")


def relative_deviation(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the root mean square of the difference of logits, over the standard deviation of float's logits."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def _check_same(network: Classifier, changed: Classifier, images: NDArray[np.float32]) -> None:
    before = copy.deepcopy(network).double()
    inputs = torch.from_numpy(images).double()
    with torch.inference_mode():
        expected, found = before(inputs).numpy(), changed(inputs).numpy()
    if not np.abs(found - expected).max() <= _EXACT * np.abs(expected).max():
        raise VerificationError("equalization changed the network; nothing was written")
