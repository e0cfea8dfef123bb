"""Merge a file's tensors into a network: check names, shapes and values, then copy; report every decision."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effnets.errors import ArgumentError, WeightsError
from effnets.nn.classifier import Classifier, require_values
from effnets.nn.features import FeaturePyramid
from effnets.nn.utils import LoadReport, hash_values, initialize
from effnets.spec.plan import make_plan
from effnets.weights.remap import NativeWeights

_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SHOWN = 5
_EXACT = 2.0**53  # up to there a float is a whole number for certain


def _require_precision(path: Path, wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> None:
    """Refuse integers, booleans and numbers below 16 bits in the place of weights, and fractions in a counter's.

    Programs that average buffers or cast whole state dicts leave counters as whole floats.
    The others are quantized, or another thing under the same name: as they stand their values mean nothing here.
    """
    wrong = [
        f"{name} is {_kind(offered[name])}"
        for name, target in wanted.items()
        if name in offered
        and not (offered[name].dtype in _PRECISIONS if target.is_floating_point() else _counts(offered[name]))
    ]
    if wrong:
        raise WeightsError(
            f"{path}: {_listed(wrong)}; weights are float16, bfloat16, float32 or float64 and counters whole numbers: "
            "save the network unquantized, with model.float()"
        )


def _counts(tensor: Tensor) -> bool:
    """Whether it holds whole numbers."""
    if tensor.is_floating_point():
        return bool((tensor.double() == tensor.double().round()).all()) and bool((tensor.abs() < _EXACT).all())
    return tensor.dtype != torch.bool


def _require_finite(path: Path, cast: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinity, and variances below 0, which make NaN; `cast` is `offered` in the network's types."""
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
    """Whether all numbers are finite, or else False where only their sum overflows; far cheaper than isfinite."""
    parts: list[Tensor] = []
    vectors: list[Tensor] = []
    for tensor in tensors:
        (vectors if tensor.ndim == 1 else parts).append(tensor)
    if vectors:  # hundreds of short ones: a call for each would take as long as their numbers
        parts.append(torch.cat(vectors))
    return math.isfinite(math.fsum(number if math.isfinite(number) else math.nan for number in map(_sum, parts)))


def _sum(tensor: Tensor) -> float:
    if tensor.element_size() < 4:
        return tensor.sum(dtype=torch.float32).item()  # its own sum overflows at 65,504
    # NumPy's takes one thread. On a busy machine torch's waits for all of its own, a hundred times a network.
    with np.errstate(over="ignore", invalid="ignore"):
        return float(tensor.numpy(force=True).sum())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


_HEAD_CHOICES = ("auto", "strict", "drop")
_HEAD_PARTS = ("head.", "hidden.", "classifier.")
_DIFF_LINES = 20


def merge_weights(model: Classifier | FeaturePyramid, weights: NativeWeights, *, head: str = "auto") -> LoadReport:
    """Copy prepared weights into a network, by the rules of `load_weights`."""
    if head not in _HEAD_CHOICES:
        raise ArgumentError(f"head is {head!r}; choose one of {', '.join(_HEAD_CHOICES)}")
    targets = model.state_dict()
    require_values(model)
    if head == "strict" and isinstance(model, FeaturePyramid):
        raise ArgumentError("head='strict' wants a classifier to fit, and a feature pyramid has none; leave head out")
    offered = dict(weights.tensors)
    notes = list(weights.notes)
    dropped = _drop_by_rule(model, offered)
    reinitialised = _reinitialise_by_rule(targets, offered, head)
    dropped += [name for name in reinitialised if offered.pop(name, None) is not None]
    wanted = {name: target for name, target in targets.items() if name not in reinitialised}
    uncounted = [name for name in wanted if name.endswith("num_batches_tracked") and name not in offered]
    if uncounted:
        notes.append(f"{len(uncounted)} batch counters are not in the file and stay as they are")
    wanted = {name: target for name, target in wanted.items() if name not in uncounted}
    path = weights.checkpoint.path
    _require_precision(path, wanted, offered)
    notes += _adapt_input_channels(targets, offered)
    _copy_checked(path, f"{path} ({weights.dialect} names) does not fit {model.spec.name}", wanted, offered)
    kinds = {(_kind(offered[name]), _kind(target)) for name, target in wanted.items()}
    notes += [f"tensors of {theirs} were cast to {ours}" for theirs, ours in sorted(kinds) if theirs != ours]

    if reinitialised and isinstance(model, Classifier):
        initialize(model.classifier)
        had = weights.num_classes
        warnings.warn(
            f"{model.spec.name}: the classifier of {model.num_classes} classes is newly initialized and needs training "
            f"({path.name} has {'none' if had is None else f'one of {had}'})",
            stacklevel=3,
        )
    if isinstance(model, Classifier):
        # A fresh classifier has no names; the file's come before those that the model has.
        names = model.class_names if weights.class_names is None else weights.class_names
        fit = not reinitialised and names is not None and len(names) == model.num_classes
        model.class_names = names if fit else None
        model.background = weights.background and not reinitialised
        kept = not reinitialised and model.num_classes == (weights.num_classes or 0)
        model.classifier_activation = weights.classifier_activation if kept else "softmax"
        model.thresholds = weights.thresholds if kept else None
    model.spec = replace(weights.spec, num_classes=model.spec.num_classes)
    model.load_report = LoadReport(
        source=weights.source,
        dialect=weights.dialect,
        sha256=weights.checkpoint.sha256,
        loaded=tuple(wanted),
        reinitialised=tuple(reinitialised),
        dropped=tuple(dropped),
        notes=tuple(notes),
        values=hash_values(model),
    )
    return model.load_report


def copy_strictly(path: Path, tensors: Mapping[str, Tensor], module: nn.Module, name: str) -> None:
    """Copy the tensors of a file into a module that has all of them, and no others; messages call the module `name`.

    Raises:
        WeightsError: if names or shapes differ, or values are not numbers that a network can have.
    """
    targets = module.state_dict()
    _require_precision(path, targets, tensors)
    _copy_checked(path, f"{path} does not fit {name}", targets, tensors)


def _copy_checked(path: Path, misfit: str, wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> None:
    """Copy `offered` into `wanted`; if names or shapes differ, `misfit` begins the message."""
    _require_match(misfit, wanted, offered)
    cast = {name: offered[name].to(target.dtype) for name, target in wanted.items()}
    _require_finite(path, cast, offered)
    for name, target in wanted.items():
        _copy(target, cast[name])


def _copy(target: Tensor, source: Tensor) -> None:
    """`target` gets the values of `source`, of its own shape and type."""
    if target.is_cpu and source.is_cpu and target.dtype == source.dtype and target.dtype != torch.bfloat16:
        # NumPy's takes one thread. On a busy machine torch's waits for all of its own, up to 200 ms a network.
        np.copyto(target.detach().numpy(), source.detach().numpy())
    else:
        target.copy_(source)


def _drop_by_rule(model: Classifier | FeaturePyramid, offered: dict[str, Tensor]) -> list[str]:
    """Take from `offered` what this network leaves out by design: the head of a backbone, the classifier of a body."""
    if isinstance(model, FeaturePyramid):
        present = len(model.plan.stages)
        whole = len(make_plan(model.spec).stages)
        unused = _HEAD_PARTS + tuple(f"stages.{index}." for index in range(present, whole))
    else:
        unused = () if model.num_classes else ("classifier.",)
    dropped = [name for name in offered if name.startswith(unused)]
    for name in dropped:
        del offered[name]
    return dropped


def _reinitialise_by_rule(targets: Mapping[str, Tensor], offered: Mapping[str, Tensor], head: str) -> list[str]:
    """Names of the classifier's parameters if it is to be initialized again."""
    names = [name for name in targets if name.startswith("classifier.")]
    fits = all(name in offered and offered[name].shape[:1] == targets[name].shape[:1] for name in names)
    return names if names and (head == "drop" or (head == "auto" and not fits)) else []


def _adapt_input_channels(targets: Mapping[str, Tensor], offered: dict[str, Tensor]) -> list[str]:
    """Let the stem see another number of channels, at the same scale: the sum over channels is kept."""
    name = "stem.conv.weight"
    stem, target = offered.get(name), targets[name]
    if stem is None or stem.ndim != 4 or stem.shape == target.shape or stem.shape[0] != target.shape[0]:
        return []
    had, wanted = stem.shape[1], target.shape[1]
    if wanted == 1:
        offered[name] = stem.float().sum(dim=1, keepdim=True)
        return [f"the stem's {had} input channels were summed into 1"]
    repeated = stem.float()[:, [index % had for index in range(wanted)]]
    offered[name] = repeated * (had / wanted)
    return [f"the stem's {had} input channels were repeated to {wanted} and scaled by {had}/{wanted}"]


def _require_match(misfit: str, wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> None:
    """Raise a readable diff unless names and shapes are the same."""
    lines = []
    both = wanted.keys() & offered.keys()
    # What only one side has says most, then the shapes of convolutions; those of batch normalization follow from them.
    for name in sorted(wanted.keys() | offered.keys(), key=lambda n: (n in both, n in both and wanted[n].ndim < 2, n)):
        ours, theirs = wanted.get(name), offered.get(name)
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            continue
        for sign, tensor in (("-", ours), ("+", theirs)):
            if tensor is not None:
                lines.append(f"  {sign} {name} {list(tensor.shape)}")
    if lines:
        more = [f"  … and {len(lines) - _DIFF_LINES} more"] if len(lines) > _DIFF_LINES else []
        shown = "\n".join([*lines[:_DIFF_LINES], *more])
        raise WeightsError(f"{misfit}; the network's own (-) beside the file's (+):\n{shown}")
