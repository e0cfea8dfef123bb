"""Initialization, modes, and reports of what was loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading weights did to every tensor.

    Attributes:
        source: where the tensors came from.
        dialect: the framework whose names they had.
        sha256: of the file, in hex.
        loaded: parameters and buffers with values from the file.
        reinitialised: those freshly initialized instead, by rule: a classifier of another size.
        dropped: the file's tensors left out by rule: its head, for a backbone.
        notes: other decisions, a sentence each.
        values: `hash_values` of the network after loading.
    """

    source: str
    dialect: str
    sha256: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    values: str = ""

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors loaded"
        if self.reinitialised:
            counts += f", freshly initialized: {', '.join(self.reinitialised)}"
        if self.dropped:
            counts += f", {len(self.dropped)} left out"
        return "\n  ".join([f"{self.source} ({self.dialect} names): {counts}", *self.notes])


def initialize(module: nn.Module) -> None:
    """Draw the weights of every convolution and linear layer in `module`, from torch's generator.

    Convolutions are normal with variance 2 / fan-out, as in MixNet's reference code; linear layers narrow, so that a
    new classifier starts near uniform probabilities; batch normalization is neutral. Modules on the meta device stay.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        if not isinstance(part, nn.Conv2d | nn.Linear) or part.weight.is_meta:
            continue
        if isinstance(part, nn.Conv2d):
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan_out))
        else:
            nn.init.normal_(part.weight, 0.0, 0.01)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore every module's own mode afterwards: parts of a model may be frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def hash_values(network: nn.Module) -> str:
    """Return a SHA-256 of the names and values of all parameters and buffers, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
