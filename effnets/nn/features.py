"""Backbones: the pyramid of feature maps that detection and segmentation heads build on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.nn.layers import ConvBNAct
from effnets.nn.utils import LoadReport
from effnets.spec.plan import FeaturePlan, NetworkPlan
from effnets.spec.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """Channels and strides of a network's feature maps, from the finest to the coarsest."""

    levels: tuple[FeaturePlan, ...]

    def channels(self) -> list[int]:
        """Return the channels of each map."""
        return [level.channels for level in self.levels]

    def reduction(self) -> list[int]:
        """Return the stride of each map relative to the input: a side of n pixels has ceil(n / reduction) places."""
        return [level.reduction for level in self.levels]

    def module_name(self) -> list[str]:
        """Return the name of the module that puts out each map."""
        return ["stem" if level.stage < 0 else f"stages.{level.stage}" for level in self.levels]


def select_levels(levels: tuple[FeaturePlan, ...], indices: int | Sequence[int] | None) -> tuple[FeaturePlan, ...]:
    """Select levels of a pyramid by ascending `indices`; negative ones count from the coarsest.

    A single number n means the n coarsest, None all.

    Raises:
        ArgumentError: if an index does not exist, or `indices` is empty or not ascending.
    """
    if indices is None:
        return levels
    count = len(levels)
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise ArgumentError(f"out_indices is {indices}; as a number it says how many levels, 1 to {count}")
        return levels[-indices:]
    for index in indices:
        if not isinstance(index, int) or not -count <= index < count:
            raise ArgumentError(f"out_indices has {index!r}; this network's levels are 0 to {count - 1}")
    places = [index % count for index in indices]
    if not places or sorted(set(places)) != places:
        raise ArgumentError(f"out_indices is {tuple(indices)}; give each level once, from the finest to the coarsest")
    return tuple(levels[place] for place in places)


class FeaturePyramid(nn.Module):
    """A network without head and classifier; its output is a list of maps ``[N, C, H / reduction, W / reduction]``.

    Parameters have the names they have in `effnets.nn.classifier.Classifier`. Stages beyond the coarsest
    selected level are left out.
    """

    if TYPE_CHECKING:
        # Module's own returns Any.
        def __call__(self, x: Tensor) -> list[Tensor]: ...

    def __init__(self, *, spec: ModelSpec, plan: NetworkPlan, stem: ConvBNAct, stages: nn.Sequential) -> None:
        super().__init__()
        self.spec = spec
        self.plan = plan
        self.in_chans = plan.stem.in_channels
        self.feature_info = FeatureInfo(plan.features)
        self.load_report: LoadReport | None = None
        self.stem = stem
        self.stages = stages
        self._taps = [level.stage for level in plan.features]  # a list: TorchScript knows no sets

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        x = self.stem(x)
        if -1 in self._taps:
            features.append(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._taps:
                features.append(x)
        return features
