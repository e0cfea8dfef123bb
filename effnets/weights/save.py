"""A network's weights as a file, for this library or for another framework."""

from __future__ import annotations

import os
from pathlib import Path

from effnets.errors import WeightsError
from effnets.nn.classifier import Classifier
from effnets.weights.dialects import get_dialect
from effnets.weights.files import write_checkpoint
from effnets.weights.header import make_header

__all__ = ["save_weights"]


def save_weights(model: Classifier, path: str | os.PathLike[str], *, dialect: str = "effnets") -> None:
    """Write a network's weights in the names and layout of `dialect`, for its framework to load strictly.

    Args:
        model: the network.
        path: ``.safetensors``, with a header of what belongs to the weights; for other dialects than this library's
            also ``.pth``, ``.pt`` or ``.bin``, a plain state dict; for ``keras`` ``.h5``, for `Model.load_weights`.
        dialect: ``effnets``, ``timm``, ``torchvision``, ``transformers``, ``keras`` or ``clovaai``.

    Raises:
        ArgumentError: unknown dialect.
        WeightsError: the framework has no such network, or runs it with another padding, epsilon or activation; it
            reads no such files; or the file cannot be written.
    """
    chosen, path = get_dialect(dialect), Path(path)
    if path.suffix not in chosen.suffixes:
        raise WeightsError(
            f"{path}: weights of dialect {dialect} are written as {' or '.join(chosen.suffixes)}; "
            "give the file that suffix"
        )
    if differences := chosen.differences(model.spec):
        raise WeightsError(
            f"{model.spec.name} would give other logits there: {'; '.join(differences)}; save it in dialect effnets"
        )
    tensors = chosen.from_native({name: tensor.cpu() for name, tensor in model.state_dict().items()}, model.plan)
    header = {"model": model.spec.name, "dialect": dialect, "num_classes": str(model.num_classes)}
    header["background"] = "true" if model.background else "false"
    write_checkpoint(path, tensors, header | make_header(model.spec))
