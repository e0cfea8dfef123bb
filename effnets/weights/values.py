"""Whether a file's tensors are numbers that a network can compute with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from effnets.errors import WeightsError

__all__ = ["require_finite", "require_precision"]

_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SHOWN = 5


def require_precision(path: Path, wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> None:
    """Refuse integers, booleans and numbers below 16 bits in the place of weights, and fractions in a counter's.

    They are quantised, or another thing under the same name: as they stand their values mean nothing here.

    Raises:
        WeightsError: names the tensors and their types.
    """
    wrong = [
        f"{name} is {_kind(offered[name])}"
        for name, target in wanted.items()
        if name in offered
        and not (
            offered[name].dtype in _PRECISIONS
            if target.is_floating_point()
            else not offered[name].is_floating_point() and offered[name].dtype != torch.bool
        )
    ]
    if wrong:
        raise WeightsError(
            f"{path}: {_listed(wrong)}; weights are float16, bfloat16, float32 or float64 and counters integers: "
            "save the network unquantised, with model.float()"
        )


def require_finite(path: Path, cast: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinity, and variances below 0, which make NaN; `cast` is `offered` in the network's types.

    Raises:
        WeightsError: names the tensors.
    """
    weights = {name: tensor for name, tensor in cast.items() if tensor.is_floating_point()}
    if not _sum_is_finite(weights.values()):
        # The sum of large numbers may overflow: only now each number is looked at.
        wrong = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
        if found := [name for name in wrong if not offered[name].isfinite().all()]:
            raise WeightsError(f"{path}: NaN or infinity in {_listed(found)}; fetch it again, or take an earlier epoch")
        if wrong:
            kind = _kind(weights[wrong[0]])
            raise WeightsError(f"{path}: numbers too large for {kind} in {_listed(wrong)}; build the model in float32")
    variances = {name: tensor for name, tensor in weights.items() if name.endswith(".running_var")}
    if variances and bool((torch.cat(list(variances.values())) < 0).any()):
        wrong = [name for name, tensor in variances.items() if (tensor < 0).any()]
        raise WeightsError(f"{path}: variances below 0 in {_listed(wrong)}; no batch has them: fetch it again")


def _sum_is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite, or else False where only their sum overflows; a ninth of isfinite's time."""
    parts: list[Tensor] = []
    vectors: list[Tensor] = []
    for tensor in tensors:
        (vectors if tensor.ndim == 1 else parts).append(tensor)
    if vectors:  # hundreds of short ones: a call for each would take as long as their numbers
        parts.append(torch.cat(vectors))
    # Half precision in single: its own sum overflows at 65,504.
    sums = (part.sum(dtype=torch.float32 if part.element_size() < 4 else None).item() for part in parts)
    return math.isfinite(math.fsum(number if math.isfinite(number) else math.nan for number in sums))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
