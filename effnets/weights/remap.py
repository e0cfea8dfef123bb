"""A weights file → tensors under native names, and the network they were trained for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from effnets.errors import WeightsError
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec
from effnets.weights.dialects import Dialect, detect_dialect, get_dialect
from effnets.weights.files import Checkpoint, read_checkpoint
from effnets.weights.header import apply_header, read_class_names, stated_background

_CLASSIFIER = ("classifier.weight", "classifier.bias")


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
    background: bool | None = None,
    class_names: tuple[str, ...] | None = None,
) -> NativeWeights:
    """Read a file and name its tensors natively; its header's statements are applied to `spec`.

    An output for background is left out, unless `num_classes` counts it in. `sha256` is the file's, `background` and
    `class_names` are what else is known of its outputs; the file's header goes before them.

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
    outputs = _count_outputs(tensors)
    background = _has_background(checkpoint, chosen, outputs, background)
    class_names = read_class_names(checkpoint.header, source) or class_names
    if background and num_classes != _count_outputs(tensors):
        notes += (f"of {_count_outputs(tensors)} outputs the first, background, was dropped",)
        tensors |= {name: tensors[name][1:] for name in _CLASSIFIER if name in tensors}
        background = False
        if class_names is not None and len(class_names) == outputs:
            class_names = class_names[1:]
    return NativeWeights(
        checkpoint=checkpoint,
        source=source,
        dialect=chosen.name,
        spec=spec,
        tensors=tensors,
        class_names=class_names,
        background=background,
        notes=(*checkpoint.notes, *notes),
    )


def _count_outputs(tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("classifier.weight")
    return None if weight is None or weight.ndim == 0 else weight.shape[0]


def _has_background(checkpoint: Checkpoint, dialect: Dialect, outputs: int | None, known: bool | None) -> bool:
    """Whether the first output stands for none of the classes: as the header or the caller says, or by their number."""
    stated = stated_background(checkpoint.header, str(checkpoint.path))
    if stated is None:
        stated = known
    return outputs is not None and (outputs == dialect.background_outputs if stated is None else stated)
