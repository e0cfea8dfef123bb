"""Freeze parts of a network: no gradients, and fixed batch statistics."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier, network_of
from effnets.nn.features import FeaturePyramid

_BN_CHOICES = ("eval", "train")


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization by its running statistics, which it never changes, also after ``.train()``.

    A class of its own rather than a flag: it is copied, saved and wrapped like any other module.
    """

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:  # noqa: ARG002
        return super().train(False)


def freeze(model: nn.Module, until: int | str | None, bn: str = "eval") -> None:
    """Freeze a network from its input up to and including `until`; the parts above learn, also if they did not before.

    Args:
        model: the network, also wrapped by torch.compile or DataParallel.
        until: ``"stem"``; a number n, the stem and the first n stages; ``"stages"``, all of them; ``"backbone"``,
            everything but the classifier (of a feature pyramid, everything); None freezes nothing.
        bn: ``"eval"`` fixes the frozen part's batch statistics, so that it always computes the same, also after
            ``.train()``; ``"train"`` lets them follow the images; scale and shift stay.

    Raises:
        ArgumentError: if the network has no part `until`, or `bn` is neither.
    """
    network = network_of(model)
    if bn not in _BN_CHOICES:
        raise ArgumentError(f"bn is {bn!r}; choose one of {', '.join(_BN_CHOICES)}")
    frozen = _count_parts(network, until)
    for index, part in enumerate(_parts(network)):
        part.requires_grad_(index >= frozen)
        freeze_statistics(part, index < frozen and bn == "eval")


def freeze_statistics(module: nn.Module, frozen: bool = True) -> None:
    """Fix the statistics of every batch normalization in `module`, or release them."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.__class__ = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
            part.train(module.training)


def parse_until(text: str) -> int | str | None:
    """Parse `until` of `freeze`, as recipes and the command line state it: ``none``, ``3``, ``stages``, ….

    Raises:
        ArgumentError: if `text` has another form.
    """
    if text == "none":
        return None
    if text.isdecimal() and text.isascii():
        return int(text)
    if text in ("stem", "stages", "backbone"):
        return text
    raise ArgumentError(f"freeze is {text!r}; choose none, stem, a number of stages, stages, or backbone")


def _parts(network: Classifier | FeaturePyramid) -> Iterator[nn.Module]:
    """Stem, stages, and for a classifier the head's convolutions and the classifier, from the input on."""
    yield network.stem
    yield from network.stages
    if isinstance(network, Classifier):
        yield nn.ModuleList([network.head, network.hidden])
        yield network.classifier


def _count_parts(network: Classifier | FeaturePyramid, until: int | str | None) -> int:
    """How many of `_parts` are frozen."""
    stages = len(network.stages)
    if until is None:
        return 0
    if isinstance(until, int) and not isinstance(until, bool) and 0 < until <= stages:
        return 1 + until
    named = {"stem": 1, "stages": 1 + stages, "backbone": 1 + stages + isinstance(network, Classifier)}
    if isinstance(until, str) and until in named:
        return named[until]
    raise ArgumentError(
        f"until is {until!r}; give 'stem', a number of stages from 1 to {stages}, 'stages', 'backbone', or None"
    )
