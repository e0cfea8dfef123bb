"""What several tests share: where the project's material lies, and networks that are not blind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from effnets.deploy.export.verify import normalized, probe_images
from effnets.nn.classifier import Classifier
from effnets.nn.layers import SqueezeExcite

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here: it holds real weights and photos")


def shake(
    model: nn.Module,
    *,
    bn_high: float = 2.0,
    gates: float = 1.0,
    size: int = 224,
    seed: int = 0,
    seen: torch.Tensor | None = None,
) -> nn.Module:
    """Make a fresh network see: a new one has logits of 0.01 and no activation near 6, so errors would go unseen.

    BN weights are drawn from U(1, bn_high), biases from N(0, 1), and the running statistics come from one batch:
    `seen`, or noise of `size`. `gates` is a factor on what opens squeeze-and-excite's: where all open wide at once, as
    for a picture unlike those of the statistics, a deep network doubles its values in every block.
    """
    generator = torch.Generator().manual_seed(seed)
    in_channels = next(p for p in model.parameters() if p.ndim == 4).shape[1]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1.0, bn_high, generator=generator)
            nn.init.normal_(module.bias, 0.0, 1.0, generator=generator)
            module.momentum = 1.0
        elif isinstance(module, SqueezeExcite):
            module.expand.weight.data *= gates
    model.train()
    with torch.no_grad():
        model(torch.randn(4, in_channels, size, size, generator=generator) if seen is None else seen)
    return model.eval()


def shake_gently(model: Classifier) -> Classifier:
    """As `shake`, for comparisons in float32.

    By pictures such as verification shows: with large scales, statistics of noise, or gates that open at once, deep
    networks of random weights are chaotic, and no float32 agrees with another.
    """
    size = model.spec.input_size
    seen = normalized(probe_images(4, size, size, 3, seed=9), model.spec.preprocess)
    shake(model, bn_high=1.1, gates=0.1, seen=torch.from_numpy(seen))
    return model


class Logits(nn.Module):
    """A network of transformers', whose output has logits among others, as `shake` can run it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).logits


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    """Reproducible normal noise of `shape`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error_between(a: torch.Tensor, b: torch.Tensor) -> float:
    """max|a-b| / max(1, max|a|)."""
    return ((a - b).abs().max() / a.abs().max().clamp(min=1.0)).item()
