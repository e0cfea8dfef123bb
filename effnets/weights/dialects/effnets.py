"""This library's own names: those of the modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from effnets.plan import BlockPlan, NetworkPlan

__all__ = ["block_modules", "claims", "module_names"]


def claims(keys: Collection[str]) -> bool:
    """Whether these are native names."""
    return "stem.conv.weight" in keys and any(key.startswith("stages.") for key in keys)


def module_names(plan: NetworkPlan) -> Mapping[str, str]:
    """Every module with parameters, under its own name."""
    names = ["stem.conv", "stem.bn", "head.conv", "head.bn", "hidden.conv", "hidden.bn", "classifier"]
    for stage_index, stage in enumerate(plan.stages):
        for block_index, block in enumerate(stage):
            names += [f"stages.{stage_index}.{block_index}.{part}" for part in block_modules(block)]
    return {name: name for name in names}


def block_modules(block: BlockPlan) -> Iterator[str]:
    """Names, within a block, of its modules with parameters."""
    if block.expand:
        yield "expand.conv"
        yield "expand.bn"
    for part in ("convolution",) if block.type == "cn" else ("depthwise", "project"):
        yield f"{part}.conv"
        yield f"{part}.bn"
    if block.squeeze_channels:
        yield "se.reduce"
        yield "se.expand"
        if block.type == "lb":
            yield "se.bn"
