"""Class-activation maps: which places of a picture speak for a class (Zhou et al. 2016, arXiv:1512.04150)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.nn.utils import evaluating

__all__ = ["class_activation_maps"]


def class_activation_maps(network: Classifier, images: Tensor, classes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Evidence of each place for some classes, ``[N, number of classes, H / 32, W / 32]``.

    The weights of the class times the last feature map (equation 2 of the paper), without bias: with average pooling
    the mean over all places, plus the bias, is the logit. In networks with a layer between pooling and classifier
    (ReXNet-lite, MobileNetV1 with a head) each place goes through that layer by itself, as if it were all there is;
    there the sum is no longer exact.

    Args:
        network: a classifier; it is run in evaluation mode.
        images: its input, ``[N, in_chans, H, W]``.
        classes: outputs to explain, as many for each image.

    Raises:
        ArgumentError: the network has no linear classifier.
    """
    weight = getattr(network.get_classifier(), "weight", None)
    if not isinstance(weight, Tensor):
        raise ArgumentError("model has no classifier, so that no place speaks for a class; build it with num_classes")
    chosen = torch.tensor(classes, device=weight.device)
    with evaluating(network), torch.inference_mode():
        features = network.forward_features(images.to(device=weight.device, dtype=weight.dtype))
        features = network.hidden(features)
        maps = torch.einsum("nkc,nchw->nkhw", weight.flatten(1)[chosen], features)
    return maps.float().cpu().numpy()
