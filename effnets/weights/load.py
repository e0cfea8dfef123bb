"""Load and convert weights files: strict, all or nothing, and every decision reported."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from effnets.errors import ArgumentError, WeightsError
from effnets.nn.build import build_classifier
from effnets.nn.classifier import network_of
from effnets.nn.utils import LoadReport
from effnets.spec.models import load_spec
from effnets.spec.specs import ModelSpec
from effnets.weights.merge import merge_weights
from effnets.weights.remap import prepare_weights
from effnets.weights.save import save_weights


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    head: str = "auto",
    ema: bool = False,
) -> LoadReport:
    """Load a weights file into a network: every tensor fits, or nothing is changed.

    Preprocessing and class names in the file's header become the model's; the model keeps its own otherwise.

    Args:
        model: the network, also inside of torch.compile or DataParallel.
        path: a ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.h5`` file: a state dict, or a training program's
            checkpoint with one.
        dialect: of the parameter names; ``auto`` detects it by the keys.
        head: what to do with the classifier. ``auto`` loads it if it has the network's size, and else (or if the
            file has no classifier) initializes a new one; ``strict`` requires it to fit; ``drop`` always initializes a
            new one.
        ema: take the averaged weights of a training program's checkpoint instead of the last ones.

    Returns:
        What was loaded; also kept as ``model.load_report``.

    Raises:
        MissingFileError: if the file does not exist.
        WeightsError: if the file is damaged, of unknown dialect, trained for another padding, epsilon or activation, or
            has other names or shapes than the network: a diff of ``-`` missing and ``+`` unexpected. Also if it holds
            several networks, `ema` is set and none is averaged, or it holds types that are not known to be harmless.
        ArgumentError: if dialect or head is unknown.
    """
    model = network_of(model)
    weights = prepare_weights(path, model.spec, dialect, model.plan.num_classes, ema=ema)
    for field in ("padding", "bn_eps", "activation"):
        wanted, present = getattr(weights.spec, field), getattr(model.spec, field)
        if wanted != present:
            raise WeightsError(
                f"{path}: these weights were trained with {field} {wanted}, and the model is built with {present}; "
                f"build it for them: create_model({model.spec.name!r}, weights={str(path)!r})"
            )
    return merge_weights(model, weights, head=head)


def convert_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | ModelSpec,
    to: str,
    dialect: str = "auto",
    num_classes: int | None = None,
    ema: bool = False,
) -> LoadReport:
    """Write the weights of `source` as `target` in dialect `to`, through the network, which verifies that they fit.

    Args:
        source: the file to read, of `dialect` (``auto``: detected by the keys), with a classifier or without.
        target: the file to write; its suffix as for `effnets.save_weights`.
        model: the network, as for `effnets.create_model`.
        num_classes: outputs of `target`: None for those of `source`, without background; the number with it (1001)
            keeps it, 0 leaves the classifier out.
        ema: take averaged weights, as for `effnets.load_weights`.

    Returns:
        What was read.

    Raises:
        ArgumentError: if both are the same file, a dialect is unknown, or `source` has another number of outputs.
        MissingFileError, WeightsError: as `effnets.load_weights` and `effnets.save_weights`.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve() or (source.exists() and target.exists() and source.samefile(target)):
        raise ArgumentError(f"{target}: is the file to read as well; name another to write")
    weights = prepare_weights(source, load_spec(model), dialect, num_classes, ema=ema)
    outputs = weights.num_classes or 0
    if num_classes not in (None, 0, outputs):
        raise ArgumentError(
            f"{source}: num_classes is {num_classes}, and the file has {outputs} outputs, a background not counted; "
            "leave num_classes out to keep them, add 1 for a background, or give 0 for no classifier"
        )
    network = build_classifier(
        weights.spec, num_classes=outputs if num_classes is None else num_classes, initialized=False
    )
    report = merge_weights(network, weights, head="strict")
    save_weights(network, target, dialect=to)
    return report
