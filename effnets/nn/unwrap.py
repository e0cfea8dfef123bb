"""Networks under the wrappers that training programs put around them."""

from __future__ import annotations

from torch import nn

from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid

__all__ = ["network_of", "require_classifier", "require_values", "unwrap"]


def unwrap(model: nn.Module) -> nn.Module:
    """The network within torch.compile's wrapper and (Distributed)DataParallel's, in any order."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def network_of(model: nn.Module) -> Classifier | FeaturePyramid:
    """The network of this library within `model`.

    Raises:
        ArgumentError: there is none.
    """
    inner = unwrap(model)
    if isinstance(inner, Classifier | FeaturePyramid):
        return inner
    raise ArgumentError(f"model is a {type(inner).__name__}; give one that create_model built")


def require_classifier(model: nn.Module) -> Classifier:
    """The classifier within `model`, for what needs logits of an image.

    Raises:
        ArgumentError: there is none, it has no outputs, no pooling before them, or no values.
    """
    network = unwrap(model)
    if not isinstance(network, Classifier):
        raise ArgumentError(f"model is a {type(network).__name__}; give a classifier that create_model built")
    if not network.num_classes or network.pool.kind == "none":
        raise ArgumentError("this model gives no logits for an image; build it with classes and with pooling")
    require_values(network)
    return network


def require_values(model: nn.Module) -> None:
    """Refuse a model on the meta device.

    Raises:
        ArgumentError: it is there.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ArgumentError("a model on the meta device has no values; build it on a real device")
