"""The programs that `tune` tries for a network. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.engines.base import Precision
from effnets.spec.plan import NetworkPlan

TUNE_ENGINES = ("onnxruntime", "openvino", "torch", "torch-compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network rewritten for an engine, executed in a precision; `name` is how tables call it."""

    name: str
    engine: str
    precision: Precision
    rewrites: Rewrites

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {
            "name": self.name,
            "engine": self.engine,
            "precision": self.precision,
            "rewrites": self.rewrites.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """What `to_dict` made."""
        return cls(**{**values, "rewrites": Rewrites.from_dict(values["rewrites"])})


def candidates(plan: NetworkPlan, engines: Sequence[str], precisions: Sequence[Precision]) -> list[Candidate]:
    """What is worth trying for a network, likely winners first; the first one is the default.

    Rewrites that would change nothing in this network are left out.
    """
    found = []
    for precision in precisions:
        for engine in engines:
            if engine == "onnxruntime" and precision != "float32":
                continue
            variants = _VARIANTS[engine](plan, preset(engine))
            suffix = "" if precision == "float32" else f", {precision}"
            found += [
                Candidate(name=f"{engine}, {name}{suffix}", engine=engine, precision=precision, rewrites=rewrites)
                for name, rewrites in variants.items()
            ]
    # One round over all engines' first variants, then their second ones: a short budget sees every engine.
    order = {id(candidate): index for group in _by_engine(found) for index, candidate in enumerate(group)}
    return sorted(found, key=lambda candidate: order[id(candidate)])


def _by_engine(found: Sequence[Candidate]) -> list[list[Candidate]]:
    groups: dict[tuple[str, Precision], list[Candidate]] = {}
    for candidate in found:
        groups.setdefault((candidate.engine, candidate.precision), []).append(candidate)
    return list(groups.values())


def _onnx_variants(plan: NetworkPlan, base: Rewrites) -> dict[str, Rewrites]:
    blocks = [block for stage in plan.stages for block in stage]
    variants = {"preset": base}
    if any(len(block.convolution) > 1 for block in blocks):
        variants["depthwise merged"] = replace(base, depthwise="all")
        for price in (9, 40):
            variants[f"depthwise by cost, {price} a copy"] = replace(base, depthwise="cost", copy_taps=price)
        variants["depthwise kept"] = replace(base, depthwise="keep")
    if any(len(block.expand) > 1 or len(block.project) > 1 for block in blocks):
        variants["pointwise dense"] = replace(base, equal_pointwise="dense", unequal_pointwise="dense")
        variants["pointwise grouped"] = replace(base, equal_pointwise="group", unequal_pointwise="dense")
        variants["pointwise kept"] = replace(base, equal_pointwise="keep", unequal_pointwise="keep")
    for align in (1, 8, 16):
        variants[f"aligned to {align}"] = replace(base, align=align)
    return {name: rewrites for name, rewrites in variants.items() if name == "preset" or rewrites != base}


def _torch_variants(_: NetworkPlan, base: Rewrites) -> dict[str, Rewrites]:
    return {"preset": base, "NCHW": replace(base, channels_last=False), "not fused": replace(base, fuse=False)}


def _compiled_variants(_: NetworkPlan, base: Rewrites) -> dict[str, Rewrites]:
    """One alone: a compilation takes minutes."""
    return {"preset": base}


_VARIANTS = {
    "onnxruntime": _onnx_variants,
    "openvino": _onnx_variants,
    "torch": _torch_variants,
    "torch-compile": _compiled_variants,
}
