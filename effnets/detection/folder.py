"""Save a detector into a folder, and load it from there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from effnets._version import __version__
from effnets.detection.create import assemble, require_torchvision
from effnets.detection.detector import Detector, DetectorSettings, check_class_names, detector_of
from effnets.errors import ArgumentError, ConfigError, MissingFileError
from effnets.nn.build import build_classifier, build_features
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec
from effnets.weights.files import read_safetensors, write_checkpoint
from effnets.weights.folder import CONFIG, DETECTOR_KEY, TABLE, TABLE_KEY, WEIGHTS, read_detector_config
from effnets.weights.merge import copy_strictly
from effnets.weights.safety import require_plain
from effnets.weights.save import SIGNATURE, save_folder

_NAMES_KEY = "label_names"


def save_detector(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a detector into a folder, from which `effnets.load_detector` makes it again.

    ``model.safetensors`` holds the weights, ``config.json`` the settings and the names of the classes, ``model.yaml``
    describes the backbone.

    Args:
        model: from `effnets.create_detector`, also wrapped by torch.compile or DataParallel.
        folder: made if it is not there; files of the same names in it are replaced.

    Raises:
        ArgumentError: if `model` is no such detector, or has another number of names than classes. WeightsError: if
            the folder cannot be written.
    """
    detector = detector_of(model)
    names = check_class_names(detector.class_names, detector.num_classes)
    config: dict[str, Any] = {
        "architecture": detector.spec.name,
        TABLE_KEY: TABLE,
        DETECTOR_KEY: asdict(detector.settings),
        "effnets_version": __version__,
    }
    if names:
        config[_NAMES_KEY] = list(names)
    tensors = {name: tensor.cpu() for name, tensor in detector.state_dict().items()}
    header = {"model": detector.spec.name, "detector": detector.settings.kind}
    save_folder(
        Path(folder),
        detector.spec,
        json.dumps(config, indent=1, ensure_ascii=False) + "\n",
        card=_card(detector),
        write_weights=lambda path: write_checkpoint(path, tensors, header),
    )


def load_detector(folder: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Detector:
    """Load a detector that `save_detector` or a training wrote, in evaluation mode.

    Args:
        folder: with ``config.json``, ``model.yaml`` and ``model.safetensors``.
        device: of the parameters; None: the CPU.

    Raises:
        MissingFileError: if the folder holds no detector, or lacks a file of it.
        ConfigError: if a file is invalid. WeightsError: if the weights are damaged, or of another detector.
        EngineError: if torchvision is not installed.
    """
    folder = Path(folder)
    read = read_detector_config(folder)
    if read is None:
        raise MissingFileError(f"{folder}: holds no detector; give a folder with the {CONFIG} of one")
    spec, config = read
    weights = folder / WEIGHTS[0]
    if not weights.is_file():
        raise MissingFileError(f"{folder}: lacks {WEIGHTS[0]}, the weights of the detector; save it again")
    require_torchvision()
    try:
        settings = _read_settings(config[DETECTOR_KEY])
        names = check_class_names(config.get(_NAMES_KEY), settings.num_classes)
        detector = _build(spec, settings)
    except (ArgumentError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder / CONFIG}: describes no detector ({error}); save it again") from None
    tensors, _ = read_safetensors(weights)
    require_plain(weights, tensors)
    copy_strictly(weights, tensors, detector, f"{settings.kind} on {spec.name}")
    detector.class_names = names
    return detector.to(device=device).eval()


def _read_settings(values: dict[str, Any]) -> DetectorSettings:
    return DetectorSettings(**{**values, "reductions": tuple(values["reductions"])})


def _build(spec: ModelSpec, settings: DetectorSettings) -> Detector:
    if settings.kind == "ssdlite":
        return assemble(build_classifier(spec, num_classes=0, initialized=False), settings)
    levels = [level.reduction for level in make_plan(spec).features]
    indices = [levels.index(reduction) for reduction in settings.reductions]
    return assemble(build_features(spec, out_indices=indices, initialized=False), settings)


def _card(detector: Detector) -> str:
    settings, names = detector.settings, detector.class_names or ()
    facts = {"library_name": "effnets", "pipeline_tag": "object-detection", "tags": ["object-detection"]}
    classes = f"\nClasses: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}\n" if names else ""
    return f"""---
{yaml.safe_dump(facts, sort_keys=False)}---

# {settings.kind} on {detector.spec.name}

An object detector of {settings.num_classes - 1} classes, {SIGNATURE}.
{classes}
```python
import effnets

detector = effnets.load_detector("<this folder>")
```
"""
