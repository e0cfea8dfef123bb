"""The network that answers where no model is named, and what is said of it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effnets.nn.classifier import Classifier


DEMONSTRATION = "mixnet_xs_32px.cifar10"


def load_demonstration() -> Classifier:
    """The demonstration network with its weights, which lie in the package.

    Raises:
        MissingFileError, WeightsError: the installation is not whole.
    """
    # Imported here, like every use of torch by a command.
    from effnets.factory import create_model

    return create_model(DEMONSTRATION, pretrained=True)


def notice(network: Classifier) -> str:
    """What a user must know who named no model: how little this one knows, and how to get another."""
    names = network.class_names or ()
    return textwrap.fill(
        f"No model is named, so the demonstration network answers, {DEMONSTRATION}. It was trained on CIFAR-10's "
        f"pictures of {network.spec.input_size} pixels and knows only {len(names)} classes: {', '.join(names)}. "
        "For ImageNet's 1,000 name a model: --model mobilenetv2_100, for example.",
        width=100,
    )
