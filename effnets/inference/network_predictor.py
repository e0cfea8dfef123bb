"""What a network in torch makes of photographs; `effnets.inference.predictor` is the front door."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.inference.image import ImageSource
from effnets.inference.labels import Prediction, class_names, rank
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier, network_of
from effnets.nn.features import FeaturePyramid
from effnets.nn.utils import evaluating


class NetworkClassifier:
    """A network and the preprocessing of its weights, for `effnets.inference.predictor`."""

    def __init__(self, model: nn.Module, input_size: int | tuple[int, int] | None) -> None:
        self._model = model
        self._transform = create_transform(_classifier(model), input_size=input_size)

    def prepare(self, image: ImageSource) -> Tensor:
        """The network's input ``[C, H, W]``."""
        return self._transform(image)

    def classify(self, batch: Sequence[Tensor], topk: int) -> list[list[Prediction]]:
        """Predictions for each prepared image."""
        return classify(self._model, torch.stack(list(batch)), topk)


def classify(model: nn.Module, batch: Tensor, topk: int = 5) -> list[list[Prediction]]:
    """Predictions for a normalised batch ``[N, in_chans, H, W]``; arguments and errors as `effnets.predict`."""
    network = _classifier(model)
    names = network.class_names or class_names(network.num_classes)
    weight = next(network.parameters())
    with evaluating(model), torch.inference_mode():
        logits = model(batch.to(device=weight.device, dtype=weight.dtype))
    if logits.ndim != 2:
        raise ArgumentError("this model has global_pool='none' and judges every place; pool to classify an image")
    return rank(logits.float().cpu().numpy(), names, topk)


def _classifier(model: nn.Module) -> Classifier:
    network = network_of(model)
    if isinstance(network, FeaturePyramid) or not network.num_classes:
        raise ArgumentError("this model has no classifier; build it without features_only and with num_classes above 0")
    return network
