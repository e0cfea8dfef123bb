"""Which values a network has, as a hash."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

__all__ = ["hash_of_values"]


def hash_of_values(network: nn.Module) -> str:
    """A SHA-256 of the names and values of all parameters and buffers, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
