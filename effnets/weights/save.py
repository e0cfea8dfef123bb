"""A network's weights as a file, for this library or for another framework."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import nn

from effnets.errors import WeightsError
from effnets.nn.classifier import Classifier, network_of, require_values
from effnets.weights.dialects import get_dialect
from effnets.weights.files import write_checkpoint
from effnets.weights.header import make_header

__all__ = ["save_weights"]


def save_weights(model: nn.Module, path: str | os.PathLike[str], *, dialect: str = "effnets") -> None:
    """Write a network's weights in the names and layout of `dialect`, for its framework to load strictly.

    Args:
        model: the network, also inside of torch.compile or DataParallel.
        path: ``.safetensors``, with a header of what belongs to the weights; for other dialects than this library's
            also ``.pth``, ``.pt`` or ``.bin``, a plain state dict; for ``keras`` ``.h5``, for `Model.load_weights`.
        dialect: ``effnets``, ``timm``, ``torchvision``, ``transformers``, ``keras`` or ``clovaai``.

    Raises:
        ArgumentError: unknown dialect, or a model without values.
        WeightsError: the framework has no such network, or runs it with another padding, epsilon or activation; it
            reads no such files; or the file cannot be written.
    """
    network = network_of(model)
    require_values(network)
    chosen, path = get_dialect(dialect), Path(path)
    if path.suffix.lower() not in chosen.suffixes:
        raise WeightsError(
            f"{path}: weights of dialect {dialect} are written as {' or '.join(chosen.suffixes)}; "
            "give the file that suffix"
        )
    if differences := chosen.differences(network.spec):
        raise WeightsError(
            f"{network.spec.name} would give other logits there: {'; '.join(differences)}; save it in dialect effnets"
        )
    tensors = chosen.from_native({name: tensor.cpu() for name, tensor in network.state_dict().items()}, network.plan)
    header = {"model": network.spec.name, "dialect": dialect, "num_classes": str(network.plan.num_classes)}
    if isinstance(network, Classifier):
        header["background"] = "true" if network.background else "false"
        if network.class_names:
            header["class_names"] = json.dumps(network.class_names, ensure_ascii=False)
    write_checkpoint(path, tensors, header | make_header(network.spec))
