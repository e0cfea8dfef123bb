"""The MixConv paper's study of depthwise kernels (arXiv:1907.09595, figures 1, 4, 5 and 6), in small.

Networks like MobileNetV1 and V2 for 32 pixels with other kernels: of one size, mixed, exponential or dilated, in all
blocks or in one. Each is trained from scratch by one recipe, with several seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from effnets.errors import ArgumentError, ConfigError
from effnets.search.trainings import TrainingResult, train_all
from effnets.spec.block_string import override_block
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan, unroll_blocks
from effnets.spec.specs import BlockSpec, ModelSpec
from effnets.train.recipe import Recipe
from effnets.utils.arguments import check_integer

NETWORKS = {"mobilenetv1": "mobilenetv1_100_32px", "mobilenetv2": "mobilenetv2_100_32px"}
FIGURES = {
    1: "accuracy and kernel size",
    4: "mixed kernels",
    5: "kernels of one layer",
    6: "channel partition and dilation",
}
SIZES = (3, 5, 7, 9, 11)
# What figure 5 puts into one layer of MobileNetV2.
REPLACEMENTS = ("k9", "k3.5.7.9")
_FIGURE_5 = "mobilenetv2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A network of the study.

    Attributes:
        network: of `NETWORKS`. kernels: what was laid over its blocks, such as ``k3.5_dilated``.
        layer: the one block that has them, from 1; None: all have.
        strided: whether that block has stride 2. spec: what to train.
    """

    network: str
    kernels: str
    layer: int | None = None
    strided: bool = False
    spec: ModelSpec

    @property
    def name(self) -> str:
        """Unique within a study, and a folder's name."""
        return self.spec.name

    @property
    def largest(self) -> int:
        """The largest kernel, as its block string says."""
        return int(self.kernels.partition("_")[0].removeprefix("k").rpartition(".")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """What to study.

    Attributes:
        figures: of `FIGURES`. networks: of `NETWORKS`.
        width: multiplier of all channels. largest: kernel size, of `SIZES`.
        layers: how many blocks figure 5 tries, those with stride 2 first. seeds: trainings of every network.

    Raises:
        ArgumentError: a setting is out of range.
    """

    figures: tuple[int, ...] = tuple(FIGURES)
    networks: tuple[str, ...] = tuple(NETWORKS)
    width: float = 0.25
    largest: int = 11
    layers: int = 6
    seeds: int = 3

    def __post_init__(self) -> None:
        for name, values, known in (("figures", self.figures, FIGURES), ("networks", self.networks, NETWORKS)):
            if not values or len(set(values)) < len(values) or not set(values) <= set(known):
                shown = ", ".join(map(str, values))
                raise ArgumentError(f"{name} is {shown!r}; choose from {', '.join(map(str, known))}, each once")
        if 5 in self.figures and _FIGURE_5 not in self.networks:
            raise ArgumentError(f"figure 5 is about {_FIGURE_5}; add it to networks, or leave out figure 5")
        if self.largest not in SIZES[1:]:
            raise ArgumentError(f"largest is {self.largest!r}; choose from {', '.join(map(str, SIZES[1:]))}")
        if not 0.1 <= self.width <= 2:
            raise ArgumentError(f"width is {self.width!r}; give a number from 0.1 to 2")
        check_integer("layers", self.layers, 1, "it must be at least 1")
        check_integer("seeds", self.seeds, 1, "it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """One training of a study."""

    variant: Variant
    seed: int
    result: TrainingResult


def list_variants(settings: KernelSettings) -> list[Variant]:
    """Return the networks of all figures, each once, but for those of `left_out`."""
    return [variant for variant in _all_variants(settings) if _has_room(variant)]


def left_out(settings: KernelSettings) -> list[Variant]:
    """Return the networks whose narrowest block has too few channels for their kernels."""
    return [variant for variant in _all_variants(settings) if not _has_room(variant)]


def _has_room(variant: Variant) -> bool:
    try:
        make_plan(variant.spec)
    except ConfigError:
        return False
    return True


def _all_variants(settings: KernelSettings) -> list[Variant]:
    variants = []
    for network in settings.networks:
        base = _base(network, settings.width)
        if network == _FIGURE_5 or settings.figures != (5,):
            variants += [_everywhere(network, base, text) for text in _kernels(settings)]
        if 5 in settings.figures and network == _FIGURE_5:
            layers = pick_layers(base.blocks, settings.layers)
            variants += [_in_one_layer(network, base, layer, text) for layer in layers for text in REPLACEMENTS]
    return variants


def _kernels(settings: KernelSettings) -> list[str]:
    """What is laid over all blocks of a network."""
    sizes = [size for size in SIZES if size <= settings.largest]
    mixed = ["k" + ".".join(map(str, sizes[:count])) for count in range(2, len(sizes) + 1)]
    kernels = ["k3"]
    if {1, 4} & set(settings.figures):
        kernels += [f"k{size}" for size in sizes[1:]]
    if {4, 6} & set(settings.figures):
        kernels += mixed
    if 6 in settings.figures:
        # Of two sizes an exponential partition is an equal one.
        kernels += [f"{text}_exponential" for text in mixed[1:]] + [f"{text}_dilated" for text in mixed]
    return kernels


def pick_layers(blocks: Sequence[BlockSpec], count: int) -> list[int]:
    """Return the numbers, from 1, of `count` blocks: those with stride 2, then others at even distances."""
    strided = [number for number, block in enumerate(blocks, start=1) if block.stride == 2][:count]
    others = [number for number in range(2, len(blocks) + 1) if number not in strided]
    wanted = min(count - len(strided), len(others))
    spread = [others[round((place + 0.5) * len(others) / wanted - 0.5)] for place in range(wanted)]
    return sorted({*strided, *spread})


def _base(network: str, width: float) -> ModelSpec:
    """The network with a row for every block, so that one of them can be overridden."""
    spec = replace(load_spec(NETWORKS[network]), width=width)
    return replace(spec, blocks=tuple(replace(block, repeats=1) for stage in unroll_blocks(spec) for _, block in stage))


def _everywhere(network: str, base: ModelSpec, kernels: str) -> Variant:
    blocks = tuple(override_block(block, kernels) for block in base.blocks)
    return Variant(
        network=network, kernels=kernels, spec=replace(base, name=f"{network}_{_word(kernels)}", blocks=blocks)
    )


def _in_one_layer(network: str, base: ModelSpec, layer: int, kernels: str) -> Variant:
    blocks = list(base.blocks)
    blocks[layer - 1] = override_block(blocks[layer - 1], kernels)
    name = f"{network}_layer{layer}_{_word(kernels)}"
    strided = blocks[layer - 1].stride == 2
    spec = replace(base, name=name, blocks=tuple(blocks))
    return Variant(network=network, kernels=kernels, layer=layer, strided=strided, spec=spec)


def _word(kernels: str) -> str:
    """Kernels as the names of the zoo have them: ``k3_5_7_dilated``."""
    return kernels.replace(".", "_")


def study_kernels(
    settings: KernelSettings,
    data: str | os.PathLike[str],
    recipe: Recipe,
    folder: Path,
    *,
    progress: Callable[[str, float], object] | None = None,
    on_run: Callable[[KernelRun], object] | None = None,
) -> list[KernelRun]:
    """Train every network with every seed below ``folder/trainings``, all networks with a seed before the next one.

    Trainings that are there are not repeated, and an interrupted one goes on.

    Args:
        settings: what to study. data, recipe: as `effnets.finetune` takes them; the network is the variant's.
        folder: of the study.
        progress: called with what is being done, and the share of all that is done, 0 to 1.
        on_run: called after each training.

    Raises:
        as `train_candidate`.
    """
    runs: list[KernelRun] = []
    variants = list_variants(settings)
    for variant, seed, result in train_all(variants, data, recipe, folder, seeds=settings.seeds, progress=progress):
        runs.append(KernelRun(variant=variant, seed=seed, result=result))
        if on_run is not None:
            on_run(runs[-1])
    return runs
