"""A network in torch as it was built, for `effnets.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from effnets.engines.base import Engine
from effnets.errors import ArgumentError
from effnets.inference.image import color_mode, image_to_array, load_rgb
from effnets.inference.labels import class_names
from effnets.inference.transform import create_transform
from effnets.nn.classifier import network_of, require_values
from effnets.nn.features import FeaturePyramid
from effnets.nn.utils import evaluating
from effnets.utils.arguments import check_size

if TYPE_CHECKING:
    from torch import nn


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


class Scorer(Protocol):
    """A model with the preprocessing of its weights.

    Attributes:
        model: its name. engine: what executes it; ``torch`` for a network as it was built.
        class_names: of the outputs. named: whether they are the weights' own, rather than numbers.
    """

    model: str
    engine: str
    class_names: tuple[str, ...]
    named: bool

    def prepare(self, image: Image.Image) -> Any:
        """The picture as the model's input, without N."""

    def logits(self, batch: Sequence[Any]) -> NDArray[np.float32]:
        """Logits ``[N, C]`` of prepared pictures."""


def scorer_of(model: nn.Module | Engine, image_size: int | tuple[int, int] | None) -> Scorer:
    """What gives logits with `model`, pictures brought to `image_size`.

    Raises:
        ArgumentError: the model has no classifier, or takes no pictures of that size.
    """
    if isinstance(model, Engine):
        return EngineScorer(model, image_size)
    from effnets.evaluation.scorers import NetworkScorer

    return NetworkScorer(model, image_size)


class EngineScorer:
    """An engine of `effnets.load_engine`, and what its description says of preprocessing."""

    def __init__(self, engine: Engine, image_size: int | tuple[int, int] | None) -> None:
        description = engine.description
        color_mode(description.channels)
        self._size = description.image_size if image_size is None else check_size(image_size, "image_size")
        if description.size not in (None, self._size):
            height, width = description.size
            raise ArgumentError(
                f"image_size is {image_size!r}, but {description.model} was exported for {height}×{width}; "
                "leave it out, or export with dynamic_size"
            )
        self._engine = engine
        self._raw = description.input_kind == "uint8"
        precision = engine.precision if engine.precision != "float32" else description.precision
        self.model = description.model
        self.engine = engine.name
        self.engine += ", rewritten" if any(description.rewrites.values()) else ""
        self.engine += f", {precision}" if precision != "float32" else ""
        self.class_names = engine.labels
        self.named = not all(name == f"class {index}" for index, name in enumerate(engine.labels))

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """float32 ``[C, H, W]``; uint8 ``[H, W, C]`` where the file preprocesses by itself."""
        description = self._engine.description
        loaded = load_rgb(image, description.channels)
        if self._raw:
            return np.asarray(loaded).reshape(loaded.height, loaded.width, description.channels)
        return image_to_array(loaded, description.preprocess, self._size)

    def logits(self, batch: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Logits ``[N, C]``."""
        # Raw pictures differ in size, so that they go one by one.
        inputs = [image[None] for image in batch] if self._raw else [np.stack(batch)]
        return np.concatenate([self._engine(images) for images in inputs])
