"""Shared by the tests of rewrites: shaken networks in float64, inputs that show errors, and the comparison."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import effnets
from tests.support import error_between, images, shake

# Splits are unequal in the kernel study, padding is TensorFlow's in tf_mixnet_s.
FAMILIES = (
    *("mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "tf_mixnet_s"),
    *("rexnet_100", "rexnetr_100", "rexnet_lite_100", "mobilenetv1_100_k3_5_7"),
)
SHAPES = ((1, 3, 64, 64), (3, 3, 65, 65), (1, 3, 96, 80))
EXACT = 1e-9
# A wrong rewrite must exceed this error in the same comparison.
SEEN = 1e-4


@cache
def shaken(name: str, **arguments) -> nn.Module:
    """Return the same network to every test of a process: rewriting must not change it."""
    torch.manual_seed(0)
    return shake(effnets.create_model(name, **arguments), size=64).double()


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        found = model(x)
    return [found] if isinstance(found, Tensor) else found


@cache
def expected(name: str, shape: tuple[int, ...], **arguments) -> list[Tensor]:
    return outputs(shaken(name, **arguments), images(*shape).double())


def worst_error(model: nn.Module, name: str, **arguments) -> float:
    """Return the largest error of a rewritten network over all inputs, relative to the largest output."""
    found = []
    for shape in SHAPES:
        reference = expected(name, shape, **arguments)
        actual = outputs(model, images(*shape).to(next(model.parameters()).dtype))
        assert [map_.shape for map_ in actual] == [map_.shape for map_ in reference]
        found += [error_between(a, b.double()) for a, b in zip(reference, actual, strict=True)]
    return max(found)
