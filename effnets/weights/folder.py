"""A network in a folder: read what `save_pretrained` wrote, or timm. Free of torch.

``model.yaml`` is an architecture table with one model, ``model.safetensors`` its weights with a header of what belongs
to them, and ``config.json`` says the same in timm's words, for timm. A folder that timm wrote, with ``config.json`` and
weights alone, is read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effnets.config import load_spec
from effnets.errors import ConfigError, MissingFileError
from effnets.spec import ModelSpec, PreprocessSpec

__all__ = ["CONFIG", "TABLE", "TABLE_KEY", "WEIGHTS", "SavedModel", "names_table", "read_folder"]

TABLE, CONFIG = "model.yaml", "config.json"
# Tried in this order. The second is what timm wrote in earlier days.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# By this key of config.json a reader far away knows of the table, without asking for a file that may not be there.
TABLE_KEY = "model_table"
# What timm's model_args may say that the spec or the arguments of create_model say here.
_HARMLESS_ARGUMENTS = frozenset({"num_classes", "drop_rate", "drop_path_rate", "global_pool", "in_chans"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A network that lies in a folder.

    Attributes:
        spec: its description.
        source: the folder, or the repository, for messages.
        class_names: where the config states them. (A header of the weights may state them too.)
        weights: the file of its weights; None where it was not asked for.
        weights_source, weights_sha256: where that file is from and its hash, where that is known.
    """

    spec: ModelSpec
    source: str
    class_names: tuple[str, ...] | None = None
    weights: Path | None = None
    weights_source: str | None = None
    weights_sha256: str | None = None


def read_folder(folder: str | os.PathLike[str], *, with_weights: bool = True) -> SavedModel:
    """What is in a folder of `save_pretrained`'s, or of timm's.

    Raises:
        MissingFileError: no table and no config; or no weights, where they are asked for.
        ConfigError: a file that is not one, or a network that this library does not have.
    """
    folder = Path(folder)
    if (folder / TABLE).is_file():
        saved = SavedModel(spec=load_spec(folder / TABLE), source=str(folder))
    elif (folder / CONFIG).is_file():
        saved = _read_timm_config(folder / CONFIG)
    else:
        raise MissingFileError(f"{folder}: holds neither {TABLE} nor {CONFIG}; save the model with save_pretrained")
    if not with_weights:
        return saved
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise MissingFileError(f"{folder}: holds no weights; looked for {' and '.join(WEIGHTS)}")
    return replace(saved, weights=weights)


def names_table(config: Path) -> bool:
    """Whether a ``config.json`` says that a table lies beside it.

    Raises:
        ConfigError: it is no JSON object.
    """
    return _read_json(config).get(TABLE_KEY) == TABLE


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no JSON file ({type(error).__name__}: {error}); replace it") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: holds a {type(config).__name__}, not a config of timm's; replace it")
    return config


def _read_timm_config(path: Path) -> SavedModel:
    config = _read_json(path)
    if "architecture" not in config:
        raise ConfigError(f"{path}: names no architecture as timm's configs do; its keys are {', '.join(config)[:200]}")
    try:
        pretrained = config.get("pretrained_cfg", config)
        arguments = config.get("model_args", {})
        labels = config.get("label_names") or pretrained.get("label_names")
        num_classes = int(config.get("num_classes", pretrained.get("num_classes", 1000)))
        preprocess = _read_preprocess(pretrained)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ConfigError(f"{path}: is no config of timm's ({type(error).__name__}: {error})") from None
    if strange := set(arguments) - _HARMLESS_ARGUMENTS:
        raise ConfigError(f"{path}: model_args {', '.join(sorted(strange))} have no meaning here; build it in timm")
    spec = replace(load_spec(str(config["architecture"])), preprocess=preprocess, num_classes=num_classes)
    names = tuple(str(label) for label in labels) if isinstance(labels, list) else None
    return SavedModel(spec=spec, source=str(path.parent), class_names=names)


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
