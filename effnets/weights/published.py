"""Published weights, fetched and ready to be merged into their network."""

from __future__ import annotations

from dataclasses import replace

from effnets.errors import WeightsError
from effnets.spec.specs import ModelSpec, WeightsSpec
from effnets.spec.weights import apply_weights
from effnets.weights.dialects import DIALECTS
from effnets.weights.fetch import fetch
from effnets.weights.prepare import NativeWeights, prepare_weights

__all__ = ["prepare_published"]


def prepare_published(weights: WeightsSpec, spec: ModelSpec, num_classes: int | None = None) -> NativeWeights:
    """Fetch `weights` and name their tensors natively; what they ask of the network is applied to `spec`.

    An output for background is left out, unless `num_classes` counts it in.

    Raises:
        DownloadError, WeightsError, MissingFileError: as `effnets.weights.fetch.fetch` and `prepare_weights`; also if
            this library cannot read the framework's files.
    """
    if weights.dialect not in DIALECTS:
        raise WeightsError(
            f"{weights.name} has the names of {weights.dialect}, which are not known here (known are "
            f"{', '.join(DIALECTS)}); choose other weights: list_weights({weights.model!r}) has their tags"
        )
    file = fetch(weights)
    prepared = prepare_weights(file.path, apply_weights(spec, weights), file.dialect, num_classes, sha256=file.sha256)
    return replace(prepared, source=file.source, notes=(f"published weights {weights.name}", *prepared.notes))
