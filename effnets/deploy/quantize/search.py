"""The search for a quantisation that passes the gate: settings by error, then layers by sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from effnets.deploy.export.graph import LOGITS
from effnets.deploy.quantize.calibration import METHODS, Photos, collect, ranges_by
from effnets.deploy.quantize.cross_layer_equalization import equalize
from effnets.deploy.quantize.qdq_graph import Ranges, bias_errors, layers_of, prepare, quantised, session_of
from effnets.errors import VerificationError

_TRIAL_IMAGES = 32  # that errors are measured on, at most
_EXACT = 1e-4


def logits_of(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits ``[N, C]`` on ONNX Runtime."""
    session, source = session_of(model), model.graph.input[0].name
    return np.concatenate([session.run([LOGITS], {source: images})[0] for images in batches])


class Search:
    """What calibration images say about the quantisations of one network; held-out images are not seen here.

    Args:
        model: the float export. photos: for calibration.
        methods: of `ranges.METHODS`, to try.
        progress: told what is done, in a few words.

    Attributes:
        trials: the error of each setting tried, in turn; the least one was taken.
        error: of the setting taken, with all layers in int8.
        method, equalised, bias_corrected: that setting.
        sensitivity: filled by `rank`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        photos: Photos,
        methods: Sequence[str] = tuple(METHODS),
        progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._photos, self._progress = photos, progress
        self._model = prepare(model)
        trial = photos.first(_TRIAL_IMAGES)
        self._batches = list(trial.batches())
        self._expected = logits_of(model, self._batches)
        self._ranges: Ranges = {}
        self._biases: dict[str, NDArray[np.float32]] = {}
        self.trials: dict[str, float] = {}
        self.sensitivity: dict[str, float] = {}
        self.method, self.equalised, self.bias_corrected = "", 0, False
        self._choose(methods)
        self.layers = layers_of(self._model)
        self.error = min(self.trials.values())

    def build(self, left: Sequence[str] = ()) -> onnx.ModelProto:
        """The network in int8 by the chosen setting, with these layers in float."""
        return quantised(self._model, self._ranges, left=left, biases=self._biases)

    def rank(self) -> list[str]:
        """All layers, those first whose rounding costs most: each in turn is left in float, the others in int8."""
        falls = {}
        for index, layer in enumerate(self.layers):
            self._progress(f"sensitivity of layer {index + 1} of {len(self.layers)}")
            falls[layer] = 1 - self.error_of(self.build([layer])) / self.error
        self.sensitivity = dict(sorted(falls.items(), key=lambda item: -item[1]))
        return list(self.sensitivity)

    def error_of(self, model: onnx.ModelProto) -> float:
        """Root mean square of the difference of logits, over the spread of float's logits."""
        found = logits_of(model, self._batches)
        error = float(np.sqrt(np.mean((found - self._expected) ** 2)) / self._expected.std())
        return error if np.isfinite(error) else float("inf")

    def _choose(self, methods: Sequence[str]) -> None:
        self._progress("ranges")
        histograms = collect(self._model, self._photos.batches)
        for method in methods:
            self._progress(f"ranges by {method}")
            self._try(method, self._model, ranges_by(method, histograms), {}, 0)
        method = self.method
        preprocess = self._photos.preprocess
        pixels = [(bound - m) / s for bound in (0, 1) for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
        equalised, channels = equalize(self._model, (min(pixels), max(pixels)))
        if channels:
            self._progress("equalisation")
            if not self.error_of(equalised) < _EXACT:
                raise VerificationError("equalisation changed the network; nothing was written")
            histograms = collect(equalised, self._photos.batches)
            self._try(f"{method}, equalised", equalised, ranges_by(method, histograms), {}, channels)
        self._progress("biases")
        biases = bias_errors(self._model, self._ranges, self._photos.batches())
        name = f"{method}{', equalised' if self.equalised else ''}, biases corrected"
        self._try(name, self._model, self._ranges, biases, self.equalised)

    def _try(
        self,
        name: str,
        model: onnx.ModelProto,
        ranges: Ranges,
        biases: dict[str, NDArray[np.float32]],
        equalised: int,
    ) -> None:
        """Take this setting if its error is the least so far."""
        error = self.error_of(quantised(model, ranges, biases=biases))
        if error < min(self.trials.values(), default=float("inf")) or not self._ranges:
            self._model, self._ranges, self._biases = model, ranges, biases
            self.method, self.equalised, self.bias_corrected = name.partition(",")[0], equalised, bool(biases)
        self.trials[name] = error
