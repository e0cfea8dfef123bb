"""What exports to all formats have in common: how a network is made ready, the report, and writing files."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from effnets.deploy.export.metadata import describe
from effnets.deploy.export.program import one_thread
from effnets.deploy.optimize.optimize import optimize as rewrite
from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.engines.metadata import InputKind, ModelMetadata
from effnets.errors import ArgumentError, EngineError, ExportError
from effnets.inference.arrays import COLOR_MODES
from effnets.nn.classifier import require_classifier
from effnets.utils.arguments import check_size
from effnets.utils.atomic_file import find_target, write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """A written and verified file.

    Attributes:
        path, sha256, size: of the file; size in bytes, of a folder that of all its files.
        description: the file's metadata.
        errors: for each engine it was verified on, the largest difference of logits as a share of the largest logit; of
            a detector, that of scores.
        seconds: duration of the export.
        notes: what else is to be known, such as a verification that could not execute the file.
    """

    path: Path
    sha256: str
    size: int
    description: ModelMetadata
    errors: dict[str, float]
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        checked = ", ".join(f"{engine} {error:.0e}" for engine, error in self.errors.items())
        notes = "".join(f"; {note}" for note in self.notes)
        compared = "scores" if self.description.detector else "logits"
        return f"{self.path}: {self.size / 1e6:.1f} MB, {compared} within {checked} of the network's{notes}"


@dataclass
class Export:
    """A network made ready for export to `path`.

    Attributes:
        original: the network, in float64 on the CPU in evaluation mode; the file is compared with it.
        rewritten: what is exported, a rewritten copy, in float64 too.
        metadata: of the file.
        started: when the export began, by `time.perf_counter`.
    """

    path: Path
    original: nn.Module
    rewritten: nn.Module
    metadata: ModelMetadata
    started: float = field(default_factory=time.perf_counter)

    @cached_property
    def module(self) -> nn.Module:
        """What is exported, in float32, its weights rounded once."""
        return copy.deepcopy(self.rewritten).float()

    def write(
        self,
        data: bytes,
        errors: Mapping[str, float],
        *,
        beside: Mapping[Path, bytes] | None = None,
        notes: Sequence[str] = (),
    ) -> ExportReport:
        """Write the file, and those `beside` it, and return the report; raises ExportError if one cannot be written."""
        write_files({**(beside or {}), self.path: data})
        return ExportReport(
            path=self.path,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data) + sum(map(len, (beside or {}).values())),
            description=self.metadata,
            errors=dict(errors),
            seconds=time.perf_counter() - self.started,
            notes=tuple(notes),
        )


def prepare(
    model: nn.Module,
    path: str | os.PathLike[str],
    suffix: str,
    *,
    image_size: int | tuple[int, int] | None,
    dynamic_size: bool = False,
    input_kind: InputKind = "normalised",
    optimize: bool | Rewrites,
    engine: str,
    preferred: str = "",
    is_folder: bool = False,
    embedding: bool = False,
    probabilities: bool = False,
    checks_rewrites: bool = True,
) -> Export:
    """Check the arguments of an export and rewrite a copy of the network for `engine`, by its preset or `optimize`.

    The file's metadata name `preferred` as the engine that it was made for. With `is_folder` a folder is to be written,
    with `embedding` the file gets that output, of the length that its metadata state, with `probabilities` that one.
    Without `checks_rewrites` the rewritten network is yet to be compared with the original (`Reference` does).

    Raises:
        ArgumentError: if `model` is not a classifier with the outputs that it states, the path has another suffix, or
            an argument is out of range.
        ExportError: if no file can be written there.
        VerificationError: if a rewrite would change what the network computes.
    """
    started = time.perf_counter()
    path = check_path(path, suffix, is_folder=is_folder)
    network = require_classifier(model)
    if input_kind != "normalised" and network.in_chans not in COLOR_MODES:
        raise ArgumentError(
            f"preprocess=True is for images of 3, 1 or 4 channels, and this model takes {network.in_chans}; leave it "
            "out: the file then takes float32, which effnets.predict prepares"
        )
    is_embedding = network.classifier_activation == "l2"
    if probabilities and is_embedding:
        raise ArgumentError("this network makes embeddings, which have no probabilities; leave softmax and topk out")
    names = network.class_names
    if names is not None and len(names) != network.num_classes:
        raise ArgumentError(
            f"model.class_names has {len(names)} names for {network.num_classes} outputs; give one for each"
        )
    rewrites = optimize if isinstance(optimize, Rewrites) else preset(engine) if optimize else None

    from effnets.deploy.export.verify import verify_rewrites

    usual = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    metadata = describe(
        network,
        size=None if dynamic_size else usual,
        usual_size=usual if dynamic_size else None,
        input_kind=input_kind,
        rewrites=rewrites,
        engine=preferred,
        embedding=(network.num_outputs if is_embedding else network.head_hidden_size) if embedding else 0,
    )
    # In float64, so that folding rounds once; the original is what the file is compared with.
    original = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
    with one_thread(), torch.no_grad():
        shape = list(original(torch.zeros(1, network.in_chans, *usual, dtype=torch.float64)).shape)
    if shape != [1, network.num_outputs]:
        raise ArgumentError(
            f"model returns {shape}, not [1, {network.num_outputs}]; use reset_classifier to change that"
        )
    rewritten = rewrite(original, rewrites) if rewrites else copy.deepcopy(original)
    if rewrites and checks_rewrites:
        verify_rewrites(original, rewritten, metadata)
    return Export(path, original, rewritten, metadata, started)


def require_packages(packages: Sequence[str], extra: str) -> None:
    """Raise EngineError, with the extra to install, if a package is missing."""
    if missing := [name for name in packages if not find_spec(name)]:
        raise EngineError(f"exporting needs {', '.join(missing)}; install with: pip install 'effnets[{extra}]'")


def check_path(path: str | os.PathLike[str], suffix: str = ".onnx", *, is_folder: bool = False) -> Path:
    """Return `path` if it can be written; raises ArgumentError if it has another suffix, else ExportError."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ArgumentError(f"path is {str(path)!r}; give the file the suffix {suffix}")
    check_writable(path, is_folder=is_folder)
    return path


def check_writable(path: Path, *, is_folder: bool = False) -> None:
    """Raise ExportError unless a file can be written there, before the work; of a link, the file it leads to.

    With `is_folder` a folder is to be written, which may exist.
    """
    try:
        target = find_target(path) if path.parent.is_dir() and not is_folder else path
        folder = Path(os.path.realpath(target) if is_folder else target).parent
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"{path}: cannot be written there; choose another place ({reason})") from None
    if not folder.is_dir():
        raise ExportError(f"{path}: cannot be written: {folder} is not a folder; make it first")
    if not os.access(folder, os.W_OK):
        raise ExportError(f"{path}: cannot be written there; choose another place")


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises ExportError if it cannot be written, or reads back differently."""
    try:
        write_whole(path, data, read_back=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files in their order; if one cannot be written, restore those before it and raise ExportError."""
    before: dict[Path, bytes | None] = {}
    try:
        for path, data in files.items():
            before[path] = path.read_bytes() if len(files) > 1 and path.is_file() else None
            write_file(path, data)
    except BaseException:
        for path in list(before)[:-1]:
            content = before[path]
            with suppress(ExportError, OSError):  # the first failure is reported
                if content is None:
                    find_target(path).unlink()
                else:
                    write_file(path, content)
        raise
