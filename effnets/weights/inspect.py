"""Say what a weights file is for this library, with the functions that load it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from effnets.errors import WeightsError
from effnets.nn.build import build_classifier
from effnets.spec.entries import model_names
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec
from effnets.weights.dialects import Dialect, detect_dialect
from effnets.weights.files import Checkpoint, read_checkpoint
from effnets.weights.remap import prepare_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSummary:
    """What a weights file is.

    Attributes:
        path: of the file. sha256: of its content.
        dialect: the framework whose names its tensors have.
        models: of the zoo that it fits, those first whose padding, epsilon and activation are the framework's own.
        num_classes: outputs of its classifier, without background; None if it has no classifier.
        class_names: in its header; None without them.
        parameters: numbers in all its tensors.
        header: statements of a safetensors file, class names left out.
        notes: what was unwrapped, left out, or is there beside it, such as averaged weights.
    """

    path: str
    sha256: str
    dialect: str
    models: tuple[str, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    parameters: int
    header: Mapping[str, str]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def inspect_checkpoint(path: str | os.PathLike[str]) -> CheckpointSummary:
    """Read a weights file as `effnets.load_weights` does, and find the networks that it fits.

    Raises:
        MissingFileError, WeightsError: as `read_checkpoint` and `detect_dialect`.
    """
    checkpoint = read_checkpoint(path)
    dialect = detect_dialect(checkpoint.tensors.keys(), str(checkpoint.path))
    specs = _fitting(checkpoint, dialect)
    num_classes, names, notes = None, None, checkpoint.notes
    if specs:
        prepared = prepare_weights(path, specs[0], dialect.name, sha256=checkpoint.sha256)
        num_classes, names, notes = prepared.num_classes, prepared.class_names, prepared.notes
    return CheckpointSummary(
        path=str(checkpoint.path),
        sha256=checkpoint.sha256,
        dialect=dialect.name,
        models=tuple(spec.name for spec in specs),
        num_classes=num_classes,
        class_names=names,
        parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        header={key: value for key, value in checkpoint.header.items() if key != "class_names"},
        notes=notes,
    )


def _fitting(checkpoint: Checkpoint, dialect: Dialect) -> list[ModelSpec]:
    """Return the zoo's networks whose tensors, the classifier's apart, are those of the file."""
    found = []
    for spec in map(load_spec, model_names()):
        try:
            offered = dialect.to_native(checkpoint.tensors, make_plan(spec))
        except WeightsError:
            continue
        if _shapes(offered) == _expected(spec):
            found.append(spec)
    return sorted(found, key=lambda spec: len(dialect.differences(spec)))


def _expected(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = build_classifier(spec, num_classes=0, initialized=False)
    return _shapes(network.state_dict())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return shapes by name, without the classifier and the counters, which files may lack."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.startswith("classifier.") and not name.endswith(".num_batches_tracked")
    }
