"""A network in a folder: read what `save_pretrained` wrote, or timm, or transformers. Free of torch.

``model.yaml`` is an architecture table with one model, ``model.safetensors`` its weights with a header of what belongs
to them, and ``config.json`` says the same in timm's words, for timm. Folders that timm or transformers wrote, without a
table, are read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effnets.errors import ConfigError, MissingFileError
from effnets.spec.models import load_spec
from effnets.spec.specs import ModelSpec
from effnets.weights.foreign_config import read_arguments, read_timm_config, read_transformers_config

__all__ = ["CONFIG", "TABLE", "TABLE_KEY", "WEIGHTS", "SavedModel", "files_beside", "read_folder"]

TABLE, CONFIG, PROCESSOR = "model.yaml", "config.json", "preprocessor_config.json"
# Tried in this order. The second is what timm wrote in earlier days.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# By this key of config.json a reader far away knows of the table, without asking for a file that may not be there.
TABLE_KEY = "model_table"

# The names of 11,821 classes take half of one.
_MAX_CONFIG = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A network that lies in a folder.

    Attributes:
        spec: its description.
        source: the folder, or the repository, for messages.
        class_names: where the config states them. (A header of the weights may state them too.)
        arguments: what `create_model` was given when it was built: in_chans, global_pool, drop_rate, output_stride.
        background: whether the first output stands for none of the classes; None where the config does not tell.
        weights: the file of its weights; None where it was not asked for.
        weights_source, weights_sha256: where that file is from and its hash, where that is known.
    """

    spec: ModelSpec
    source: str
    class_names: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    background: bool | None = None
    weights: Path | None = None
    weights_source: str | None = None
    weights_sha256: str | None = None


def read_folder(folder: str | os.PathLike[str], *, with_weights: bool = True) -> SavedModel:
    """What is in a folder of `save_pretrained`'s, timm's or transformers'.

    Raises:
        MissingFileError: no table and no config; or no weights, where they are asked for.
        ConfigError: a file that is not one, or a network that this library does not have.
    """
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        saved = _read_config(folder)
    elif (folder / TABLE).is_file():
        saved = SavedModel(spec=load_spec(folder / TABLE), source=str(folder))
    else:
        raise MissingFileError(f"{folder}: holds neither {TABLE} nor {CONFIG}; save the model with save_pretrained")
    if not with_weights:
        return saved
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise MissingFileError(f"{folder}: holds no weights; looked for {' and '.join(WEIGHTS)}")
    return replace(saved, weights=weights)


def files_beside(config: Path) -> tuple[str, ...]:
    """What must be read with a ``config.json`` to know the network, and may be there.

    Raises:
        ConfigError: it is no JSON object.
    """
    content = _read_json(config)
    if content.get(TABLE_KEY) == TABLE:
        return (TABLE,)
    return (PROCESSOR,) if _is_transformers(content) else ()


def _read_config(folder: Path) -> SavedModel:
    path = folder / CONFIG
    config = _read_json(path)
    if config.get(TABLE_KEY) == TABLE:
        # Only then: a table may also be left from a network that another program saved over.
        if not (folder / TABLE).is_file():
            raise MissingFileError(f"{folder}: lacks {TABLE}, of which its {CONFIG} tells; save the model again")
        arguments = read_arguments(config, str(path))
        return SavedModel(spec=load_spec(folder / TABLE), source=str(folder), arguments=arguments)
    if _is_transformers(config):
        processor = _read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else None
        spec, names, background = read_transformers_config(config, processor, str(path))
        return SavedModel(spec=spec, source=str(folder), class_names=names, background=background)
    spec, names = read_timm_config(config, str(path))
    return SavedModel(spec=spec, source=str(folder), class_names=names, arguments=read_arguments(config, str(path)))


def _is_transformers(config: dict[str, Any]) -> bool:
    return "model_type" in config and "architecture" not in config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG + 1)
        if len(content) > _MAX_CONFIG:
            raise ConfigError(f"{path}: is larger than {_MAX_CONFIG >> 20} MiB, more than any config; replace it")
        config = json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no JSON file ({type(error).__name__}: {error}); replace it") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: holds a {type(config).__name__}, not a config; replace it")
    return config
