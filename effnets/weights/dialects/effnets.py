"""This library's own names: those of the modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from effnets.spec.plan import BlockPlan, NetworkPlan
from effnets.weights.dialects.interface import Dialect, block_places, by_renaming

__all__ = ["DIALECT", "block_modules"]


def _claims(keys: Collection[str]) -> bool:
    return "stem.conv.weight" in keys and any(key.startswith("stages.") for key in keys)


def _module_names(plan: NetworkPlan) -> Mapping[str, str]:
    """Every module with parameters, under its own name."""
    names = ["stem.conv", "stem.bn", "head.conv", "head.bn", "hidden.conv", "hidden.bn", "classifier"]
    for place, block in block_places(plan):
        names += [f"{place}.{part}" for part in block_modules(block)]
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


_to_native, _from_native = by_renaming(_module_names)

# What a network needs beside its weights stands in the header, which only safetensors have.
DIALECT = Dialect(
    name="effnets",
    claims=_claims,
    to_native=_to_native,
    from_native=_from_native,
    suffixes=(".safetensors",),
)
