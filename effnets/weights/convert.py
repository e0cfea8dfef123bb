"""A weights file from one framework's names and layout to another's."""

from __future__ import annotations

import os
from pathlib import Path

from effnets.config import load_spec
from effnets.errors import ArgumentError
from effnets.nn.build import build_classifier
from effnets.spec import ModelSpec
from effnets.weights.merge import merge_weights
from effnets.weights.prepare import prepare_weights
from effnets.weights.report import LoadReport
from effnets.weights.save import save_weights

__all__ = ["convert_weights"]


def convert_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | ModelSpec,
    to: str,
    dialect: str = "auto",
) -> LoadReport:
    """Write the weights of `source` as `target`, in dialect `to`; they pass through the network, so that they fit it.

    Args:
        source: the file to read, of `dialect` (``auto``: told by its keys), with a classifier or without.
        target: the file to write; its suffix as for `effnets.save_weights`.
        model: the network, as for `effnets.create_model`.

    Returns:
        What was read.

    Raises:
        ArgumentError: both are the same file, or a dialect is unknown.
        MissingFileError, WeightsError: as `effnets.load_weights` and `effnets.save_weights`.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve() or (source.exists() and target.exists() and source.samefile(target)):
        raise ArgumentError(f"{target}: is the file to read as well; name another to write")
    weights = prepare_weights(source, load_spec(model), dialect)
    network = build_classifier(weights.spec, num_classes=weights.num_classes or 0, initialised=False)
    report = merge_weights(network, weights, head="strict")
    save_weights(network, target, dialect=to)
    return report
