"""Weights into a network: strict, all or nothing, and every decision reported."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from effnets.errors import ArgumentError, WeightsError
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid
from effnets.nn.init import initialise
from effnets.nn.unwrap import network_of, require_values
from effnets.plan import make_plan
from effnets.spec import ModelSpec
from effnets.weights.dialects import Dialect, detect_dialect, get_dialect
from effnets.weights.files import Checkpoint, read_checkpoint
from effnets.weights.header import apply_header, read_class_names, stated_background
from effnets.weights.report import LoadReport

__all__ = ["NativeWeights", "load_weights", "merge_weights", "prepare_weights"]

_HEAD_CHOICES = ("auto", "strict", "drop")
_HEAD_PARTS = ("head.", "hidden.", "classifier.")
_CLASSIFIER = ("classifier.weight", "classifier.bias")
_DIFF_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeWeights:
    """A checkpoint's tensors under native names, and the network they were trained for.

    `source` says where they came from, `background` whether the first output stands for none of the classes.
    """

    checkpoint: Checkpoint
    source: str
    dialect: str
    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None
    background: bool
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int | None:
        """Outputs of the checkpoint's classifier; None if it has none."""
        return _count_outputs(self.tensors)


def prepare_weights(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    dialect: str = "auto",
    num_classes: int | None = None,
    *,
    sha256: str | None = None,
) -> NativeWeights:
    """Read a file and name its tensors natively; its header's statements are applied to `spec`.

    An output for background is left out, unless `num_classes` counts it in. `sha256` is the file's, where it is known.

    Raises:
        MissingFileError, WeightsError: as `read_checkpoint`, `detect_dialect` and `apply_header`; or the framework has
            no such network.
    """
    checkpoint = read_checkpoint(path, sha256=sha256)
    source = str(checkpoint.path)
    chosen = detect_dialect(checkpoint.tensors.keys(), source) if dialect == "auto" else get_dialect(dialect)
    spec, notes = apply_header(spec, checkpoint.header, source)
    notes += chosen.differences(spec)
    try:
        tensors = chosen.to_native(checkpoint.tensors, make_plan(spec))
    except WeightsError as error:
        raise WeightsError(f"{source} ({chosen.name} names), for {spec.name}: {error}") from None
    background = _has_background(checkpoint, chosen, _count_outputs(tensors))
    if background and num_classes != _count_outputs(tensors):
        notes += (f"of {_count_outputs(tensors)} outputs the first, background, was dropped",)
        tensors |= {name: tensors[name][1:] for name in _CLASSIFIER if name in tensors}
        background = False
    return NativeWeights(
        checkpoint=checkpoint,
        source=source,
        dialect=chosen.name,
        spec=spec,
        tensors=tensors,
        class_names=read_class_names(checkpoint.header, source),
        background=background,
        notes=(*checkpoint.notes, *notes),
    )


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], *, dialect: str = "auto", head: str = "auto"
) -> LoadReport:
    """Load a weights file into a network: every tensor fits, or nothing is changed.

    Preprocessing and class names that the file's header states become the model's; of what it does not state the model
    keeps what it has.

    Args:
        model: the network, also inside of torch.compile or DataParallel.
        path: a ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.h5`` file.
        dialect: whose names the file has; ``auto`` tells by its keys.
        head: what to do with the classifier. ``auto`` loads it if it has the network's size, and else (or if the
            file has none) initialises a new one; ``strict`` wants it to fit; ``drop`` always initialises a new one.

    Returns:
        What was done; also kept as ``model.load_report``.

    Raises:
        MissingFileError: no such file.
        WeightsError: damaged, of unknown dialect, trained for another padding, epsilon or activation, or with names
            or shapes that are not this network's; then the message is a diff of ``-`` missing and ``+`` unexpected.
        ArgumentError: an unknown dialect or head.
    """
    model = network_of(model)
    weights = prepare_weights(path, model.spec, dialect, model.plan.num_classes)
    for field in ("padding", "bn_eps", "activation"):
        wanted, present = getattr(weights.spec, field), getattr(model.spec, field)
        if wanted != present:
            raise WeightsError(
                f"{path}: these weights were trained with {field} {wanted}, and the model is built with {present}; "
                f"build it for them: create_model({model.spec.name!r}, weights={str(path)!r})"
            )
    return merge_weights(model, weights, head=head)


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
    notes += _adapt_input_channels(targets, offered)
    wanted = {name: target for name, target in targets.items() if name not in reinitialised}
    uncounted = [name for name in wanted if name.endswith("num_batches_tracked") and name not in offered]
    if uncounted:
        notes.append(f"{len(uncounted)} batch counters are not in the file and stay as they are")
    wanted = {name: target for name, target in wanted.items() if name not in uncounted}
    _require_match(model.spec, weights, wanted, offered)
    notes += _casts(wanted, offered)

    for name, target in wanted.items():
        target.copy_(offered[name])
    if reinitialised and isinstance(model, Classifier):
        initialise(model.classifier)
        had = weights.num_classes
        warnings.warn(
            f"{model.spec.name}: the classifier of {model.num_classes} classes is newly initialised and needs training "
            f"({weights.checkpoint.path.name} has {'none' if had is None else f'one of {had}'})",
            stacklevel=3,
        )
    if isinstance(model, Classifier):
        _take_class_names(model, weights.class_names, fresh=bool(reinitialised))
        model.background = weights.background and not reinitialised
    model.spec = replace(weights.spec, num_classes=model.spec.num_classes)
    model.load_report = LoadReport(
        source=weights.source,
        dialect=weights.dialect,
        sha256=weights.checkpoint.sha256,
        loaded=tuple(wanted),
        reinitialised=tuple(reinitialised),
        dropped=tuple(dropped),
        notes=tuple(notes),
    )
    return model.load_report


def _casts(wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> list[str]:
    """A note on each change of precision."""
    pairs = {(_name(offered[name].dtype), _name(target.dtype)) for name, target in wanted.items()}
    return [f"tensors of {theirs} were cast to {ours}" for theirs, ours in sorted(pairs) if theirs != ours]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _take_class_names(model: Classifier, names: tuple[str, ...] | None, fresh: bool) -> None:
    """The file's names if the classifier is the file's; none for a fresh one; else those the model has, if they fit."""
    if fresh:
        names = None
    elif names is None:
        names = model.class_names
    model.class_names = names if names is not None and len(names) == model.num_classes else None


def _count_outputs(tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("classifier.weight")
    return None if weight is None or weight.ndim == 0 else weight.shape[0]


def _has_background(checkpoint: Checkpoint, dialect: Dialect, outputs: int | None) -> bool:
    """Whether the first output stands for none of the classes: as the header says, or else by their number."""
    stated = stated_background(checkpoint.header, str(checkpoint.path))
    return outputs is not None and (outputs == dialect.background_outputs if stated is None else stated)


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
    """Names of the classifier's parameters if it is to be initialised anew."""
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


def _require_match(
    spec: ModelSpec, weights: NativeWeights, wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]
) -> None:
    """Raise a readable diff unless names and shapes are the same."""
    lines = []
    both = wanted.keys() & offered.keys()
    # What only one side has says most, then the shapes of convolutions; those of batch normalisation follow from them.
    for name in sorted(wanted.keys() | offered.keys(), key=lambda n: (n in both, n in both and wanted[n].ndim < 2, n)):
        ours, theirs = wanted.get(name), offered.get(name)
        if ours is not None and theirs is not None and _fits(ours, theirs):
            continue
        kinds = ours is not None and theirs is not None and ours.shape == theirs.shape
        for sign, tensor in (("-", ours), ("+", theirs)):
            if tensor is not None:
                dtype = f" {_name(tensor.dtype)}" if kinds else ""
                lines.append(f"  {sign} {name} {list(tensor.shape)}{dtype}")
    if lines:
        more = [f"  … and {len(lines) - _DIFF_LINES} more"] if len(lines) > _DIFF_LINES else []
        raise WeightsError(
            f"{weights.checkpoint.path} ({weights.dialect} names) does not fit {spec.name}; "
            "the network's own (-) beside the file's (+):\n" + "\n".join([*lines[:_DIFF_LINES], *more])
        )


def _fits(ours: Tensor, theirs: Tensor) -> bool:
    """The same shape, and numbers of the same kind: a file's integers are no weights, nor its fractions a counter."""
    return ours.shape == theirs.shape and ours.is_floating_point() == theirs.is_floating_point()
