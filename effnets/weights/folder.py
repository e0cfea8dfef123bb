"""A network in a folder: its table, weights, preprocessing, labels and a model card, to keep or send.

``model.yaml`` is an architecture table with one model, ``model.safetensors`` its weights with a header of what belongs
to them, and ``config.json`` says the same in timm's words, for timm. A folder that timm wrote, with
``config.json`` and weights alone, is read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from effnets.config import load_spec
from effnets.entry import encode_entry
from effnets.errors import ArgumentError, ConfigError, MissingFileError, WeightsError
from effnets.nn.classifier import Classifier
from effnets.nn.unwrap import unwrap
from effnets.spec import ModelSpec, PreprocessSpec
from effnets.weights.save import save_weights

__all__ = ["SavedModel", "read_folder", "save_pretrained"]

TABLE, WEIGHTS, CONFIG, CARD = "model.yaml", "model.safetensors", "config.json", "README.md"
_TIMM_WEIGHTS = (WEIGHTS, "pytorch_model.bin")
# What timm's model_args may say that the spec or the arguments of create_model say here.
_HARMLESS_ARGUMENTS = frozenset({"num_classes", "drop_rate", "drop_path_rate", "global_pool"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """What a folder holds: the network, the file of its weights, and names of its classes where they are stated."""

    spec: ModelSpec
    weights: Path
    class_names: tuple[str, ...] | None = None


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str], *, dialect: str = "effnets") -> None:
    """Write a classifier into a folder, from which `create_model(folder, pretrained=True)` makes it again.

    Args:
        model: the classifier, also inside of torch.compile or DataParallel.
        folder: made if it is not there; files of the same names in it are replaced.
        dialect: names of the weights; with ``timm``, timm loads the folder too (``local-dir:``) where it has the model.

    Raises:
        ArgumentError: `model` is no classifier of this library. WeightsError: the folder cannot be written.
    """
    network = unwrap(model)
    if not isinstance(network, Classifier):
        raise ArgumentError(f"model is a {type(network).__name__}; give a classifier that create_model built")
    folder = Path(folder)
    texts = {
        TABLE: yaml.safe_dump({network.spec.name: encode_entry(network.spec)}, sort_keys=False, width=120),
        CONFIG: json.dumps(_timm_config(network), indent=1, ensure_ascii=False) + "\n",
        CARD: _model_card(network),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(network, folder / WEIGHTS, dialect=dialect)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written ({error.strerror or error})") from None


def read_folder(folder: str | os.PathLike[str]) -> SavedModel:
    """What is in a folder of `save_pretrained`'s, or of timm's.

    Raises:
        MissingFileError: no table and no config, or no weights.
        ConfigError: a file that is not one, or a network that this library does not have.
    """
    folder = Path(folder)
    weights = next((folder / name for name in _TIMM_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise MissingFileError(f"{folder}: holds no weights; looked for {' and '.join(_TIMM_WEIGHTS)}")
    if (folder / TABLE).is_file():
        return SavedModel(spec=load_spec(folder / TABLE), weights=weights)
    if (folder / CONFIG).is_file():
        return _read_timm_config(folder / CONFIG, weights)
    raise MissingFileError(f"{folder}: holds neither {TABLE} nor {CONFIG}; save the model with save_pretrained")


def _timm_config(model: Classifier) -> dict[str, Any]:
    preprocess = model.spec.preprocess
    size, test_size = preprocess.input_size, preprocess.test_input_size
    pretrained: dict[str, Any] = {
        "num_classes": model.num_classes,
        "input_size": [model.in_chans, size, size],
        "crop_pct": preprocess.crop_pct,
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
    if test_size is not None:
        pretrained["test_input_size"] = [model.in_chans, test_size, test_size]
    if preprocess.test_crop_pct is not None:
        pretrained["test_crop_pct"] = preprocess.test_crop_pct
    config: dict[str, Any] = {"architecture": model.spec.name, "num_classes": model.num_classes}
    config |= {"num_features": model.num_features, "pretrained_cfg": pretrained}
    if model.class_names:
        config["label_names"] = list(model.class_names)
    return config


def _read_timm_config(path: Path, weights: Path) -> SavedModel:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture, pretrained = config["architecture"], config.get("pretrained_cfg", config)
        arguments = config.get("model_args", {})
        labels = config.get("label_names") or pretrained.get("label_names")
        num_classes = int(config.get("num_classes", pretrained.get("num_classes", 1000)))
        preprocess = _read_preprocess(pretrained)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: is no config of timm's ({type(error).__name__}: {error})") from None
    if strange := set(arguments) - _HARMLESS_ARGUMENTS - {"in_chans"}:
        raise ConfigError(f"{path}: model_args {', '.join(sorted(strange))} have no meaning here; build it in timm")
    spec = replace(load_spec(str(architecture)), preprocess=preprocess, num_classes=num_classes)
    names = tuple(str(label) for label in labels) if isinstance(labels, list) else None
    return SavedModel(spec=spec, weights=weights, class_names=names)


def _read_preprocess(config: Mapping[str, Any]) -> PreprocessSpec:
    values: dict[str, Any] = {}
    for key in ("input_size", "test_input_size"):
        if config.get(key):
            values[key] = int(config[key][-1])
    for key in ("crop_pct", "test_crop_pct"):
        if config.get(key) is not None:
            values[key] = float(config[key])
    for key in ("mean", "std"):
        if config.get(key):
            values[key] = tuple(float(number) for number in config[key])
    if config.get("interpolation"):
        values["interpolation"] = config["interpolation"]
    return PreprocessSpec(**values)


def _model_card(model: Classifier) -> str:
    spec, preprocess = model.spec, model.spec.preprocess
    size, names = preprocess.input_size, model.class_names or ()
    classes = f"\nClasses: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}\n" if names else ""
    return f"""---
library_name: effnets
pipeline_tag: image-classification
tags:
- image-classification
- {spec.family}
---

# {spec.name}

An image classifier of {model.num_classes} classes, saved by effnets.

| input | crop share | interpolation | mean | std |
|---|---|---|---|---|
| {size}×{size} | {preprocess.crop_pct:g} | {preprocess.interpolation} | {preprocess.mean} | {preprocess.std} |
{classes}
```python
import effnets

model = effnets.create_model("<this folder>", pretrained=True)
effnets.predict(model, "photo.jpg")
```
"""
