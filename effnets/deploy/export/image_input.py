"""A network behind the input and the outputs that files for phones have."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from effnets.engines.metadata import ModelMetadata
from effnets.utils.quiet import EXPORTING


class ImageInput(nn.Module):
    """Take images as a file for phones does, one at a time, and return its outputs in their order.

    Args:
        network: takes float32 ``[N, channels, H, W]``, normalized, and returns logits ``[N, C]``.
        metadata: of the file. With `input_kind` ``pixels`` images are uint8 ``[N, H, W, channels]``, to be normalized.
        channels_last: take normalized images as ``[N, H, W, channels]`` too.
        softmax: return the probabilities as well, of labels their sigmoid.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, metadata: ModelMetadata, *, channels_last: bool, softmax: bool) -> None:
        super().__init__()
        self.network: Any = network
        self.softmax, self.embedding = softmax, metadata.embedding > 0
        self.activation = metadata.classifier_activation
        self.pixels = metadata.input_kind == "pixels"
        self.channels_last = channels_last or self.pixels
        if self.pixels:
            preprocess = metadata.preprocess.for_channels(metadata.channels)
            # One multiplication and one addition a value, of pixels in 0..255.
            std = torch.tensor(preprocess.std, dtype=torch.float64)
            self.register_buffer("scale", (1 / (255 * std)).float().view(-1, 1, 1), persistent=False)
            shift = -torch.tensor(preprocess.mean, dtype=torch.float64) / std
            self.register_buffer("shift", shift.float().view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        if self.pixels:
            images = images.to(torch.float32) * self.scale + self.shift
        outputs: tuple[Tensor, ...]
        if self.embedding and self.activation == "l2":
            outputs = (self.network(images),)
            outputs = *outputs, F.normalize(outputs[0])
        elif self.embedding:
            embedding = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
            outputs = self.network.classifier(embedding), embedding
        else:
            outputs = (self.network(images),)
        if self.softmax:
            outputs = *outputs, outputs[0].sigmoid() if self.activation == "sigmoid" else outputs[0].softmax(1)
        return outputs if len(outputs) > 1 else outputs[0]

    def example(self, metadata: ModelMetadata) -> Tensor:
        """Return an image that it takes, with N 1."""
        height, width = metadata.image_size
        shape = (height, width, metadata.channels) if self.channels_last else (metadata.channels, height, width)
        if self.pixels:
            return torch.zeros(1, *shape, dtype=torch.uint8)
        return torch.zeros(1, *shape)


def trace(network: nn.Module, metadata: ModelMetadata) -> ExportedProgram:
    """Return torch's program of a network for one normalized image, with which verification compares."""
    example = torch.zeros(1, metadata.channels, *metadata.image_size)
    with EXPORTING:
        return torch.export.export(network, (example,), strict=False)
