"""A network in torch as it was built, for `effnets.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.inference.labels import class_names
from effnets.inference.transform import create_transform
from effnets.nn.classifier import network_of, require_values
from effnets.nn.features import FeaturePyramid
from effnets.nn.utils import evaluating

__all__ = ["NetworkScorer"]


class NetworkScorer:
    """A classifier, also inside of torch.compile or DataParallel, on the device and in the precision it is in.

    Raises:
        ArgumentError: it has no classifier, or no pooling before it.
    """

    def __init__(self, model: nn.Module, image_size: int | tuple[int, int] | None) -> None:
        network = network_of(model)
        if isinstance(network, FeaturePyramid) or not network.num_classes:
            raise ArgumentError(
                "this model has no classifier; build it without features_only and with num_classes above 0"
            )
        if network.pool.kind == "none":
            raise ArgumentError("this model has global_pool='none' and judges every place; pool to classify an image")
        require_values(network)
        self._module = model
        self._transform = create_transform(network, input_size=image_size)
        self.model = network.spec.name
        self.engine = "torch"
        self.class_names = network.class_names or class_names(network.num_classes)
        self.named = network.class_names is not None or not self.class_names[-1].startswith("class ")
        if len(self.class_names) != network.num_classes:
            raise ArgumentError(
                f"class_names has {len(self.class_names)} names for {network.num_classes} classes; give one for each"
            )

    def prepare(self, image: Image.Image) -> Tensor:
        """float32 ``[C, H, W]``."""
        return self._transform(image)

    def logits(self, batch: Sequence[Tensor]) -> NDArray[np.float32]:
        """Logits ``[N, C]``."""
        weight = next(self._module.parameters())
        # The same function, and up to twice as fast on CPUs for depthwise convolutions.
        images = torch.stack(list(batch)).to(
            device=weight.device, dtype=weight.dtype, memory_format=torch.channels_last
        )
        with evaluating(self._module), torch.inference_mode():
            return self._module(images).float().cpu().numpy()
