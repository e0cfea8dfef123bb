"""Parts of a network that no longer learn: no gradients, and batch statistics that stand still."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier, network_of
from effnets.nn.features import FeaturePyramid

__all__ = ["HeldBatchNorm2d", "freeze", "hold_statistics", "parse_until"]

_BN_CHOICES = ("eval", "train")


class HeldBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by its running statistics, which it never changes, whatever ``.train()`` says.

    A class of its own rather than a flag: it is copied, saved and wrapped like any other module.
    """

    def train(self, mode: bool = True) -> HeldBatchNorm2d:  # noqa: ARG002
        return super().train(False)


def freeze(model: nn.Module, until: int | str | None, bn: str = "eval") -> None:
    """Freeze a network from its input up to and including `until`; what lies above learns, also if it did not before.

    Args:
        model: the network, also inside of torch.compile or DataParallel.
        until: ``"stem"``; a number n, the stem and the first n stages; ``"stages"``, all of them; ``"backbone"``,
            everything but the classifier (of a feature pyramid, everything); None, nothing.
        bn: ``"eval"`` holds the frozen part's batch statistics, so that it computes the same for good, also after
            ``.train()``; ``"train"`` lets them follow the images, while their scale and shift stay.

    Raises:
        ArgumentError: no such part, or no such choice.
    """
    network = network_of(model)
    if bn not in _BN_CHOICES:
        raise ArgumentError(f"bn is {bn!r}; choose one of {', '.join(_BN_CHOICES)}")
    frozen = _count_parts(network, until)
    for index, part in enumerate(_parts(network)):
        part.requires_grad_(index >= frozen)
        hold_statistics(part, index < frozen and bn == "eval")


def hold_statistics(module: nn.Module, hold: bool = True) -> None:
    """Hold the statistics of every batch normalisation in `module`, or let them go."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.__class__ = HeldBatchNorm2d if hold else nn.BatchNorm2d
            part.train(module.training)


def parse_until(text: str) -> int | str | None:
    """`until` of `freeze` from text, as recipes and the command line state it: ``none``, ``3``, ``stages``, ….

    Raises:
        ArgumentError: it is none of these.
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
