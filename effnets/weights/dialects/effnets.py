"""This library's own names: those of the modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.spec.plan import NetworkPlan
from effnets.weights.dialects.interface import Dialect, block_modules


class Effnets(Dialect):
    """This library's own."""

    name = "effnets"
    # What a network needs beside its weights stands in the header, which only safetensors have.
    suffixes = (".safetensors",)

    def claims(self, keys: Collection[str]) -> bool:
        return "stem.conv.weight" in keys and any(key.startswith("stages.") for key in keys)

    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        names = ["stem.conv", "stem.bn", "head.conv", "head.bn", "hidden.conv", "hidden.bn", "classifier"]
        names += [f"{place}.{part}" for _, place, _, part in block_modules(plan)]
        return {name: name for name in names}
