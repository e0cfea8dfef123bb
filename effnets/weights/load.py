"""Weights from a file into a network: strict, all or nothing, and every decision reported."""

from __future__ import annotations

import os

from torch import nn

from effnets.errors import WeightsError
from effnets.nn.classifier import network_of
from effnets.nn.load_report import LoadReport
from effnets.weights.merge import merge_weights
from effnets.weights.prepare import prepare_weights

__all__ = ["load_weights"]


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], *, dialect: str = "auto", head: str = "auto"
) -> LoadReport:
    """Load a weights file into a network: every tensor fits, or nothing is changed.

    Preprocessing and class names that the file's header states become the model's; of what it does not state the model
    keeps what it has.

    Args:
        model: the network, also inside of torch.compile or DataParallel.
        path: a ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.h5`` file.
        dialect: whose names the file has; ``auto`` tells by its keys.
        head: what to do with the classifier. ``auto`` loads it if it has the network's size, and else (or if the
            file has none) initialises a new one; ``strict`` wants it to fit; ``drop`` always initialises a new one.

    Returns:
        What was done; also kept as ``model.load_report``.

    Raises:
        MissingFileError: no such file.
        WeightsError: damaged, of unknown dialect, trained for another padding, epsilon or activation, or with names
            or shapes that are not this network's; then the message is a diff of ``-`` missing and ``+`` unexpected.
        ArgumentError: an unknown dialect or head.
    """
    model = network_of(model)
    weights = prepare_weights(path, model.spec, dialect, model.plan.num_classes)
    for field in ("padding", "bn_eps", "activation"):
        wanted, present = getattr(weights.spec, field), getattr(model.spec, field)
        if wanted != present:
            raise WeightsError(
                f"{path}: these weights were trained with {field} {wanted}, and the model is built with {present}; "
                f"build it for them: create_model({model.spec.name!r}, weights={str(path)!r})"
            )
    return merge_weights(model, weights, head=head)
