"""Read folders of saved networks: this library's, timm's and transformers' ``config.json``. Free of torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.spec.entries import find_entry
from effnets.spec.models import load_spec
from effnets.spec.specs import Activation, Interpolation, ModelSpec, Padding, PreprocessSpec

ClassNames = tuple[str, ...] | None

# Arguments of create_model, and those without effect in evaluation mode.
_ARGUMENTS = ("in_chans", "global_pool", "drop_rate", "output_stride")
_HARMLESS_ARGUMENTS = frozenset({*_ARGUMENTS, "num_classes", "drop_path_rate"})

_TRANSFORMERS_FAMILIES = {"mobilenet_v1": "mobilenetv1", "mobilenet_v2": "mobilenetv2"}
# Settings of transformers that are fixed in the networks of the zoo.
_TRANSFORMERS_FIXED = {
    "num_channels": 3,
    "min_depth": 8,
    "depth_divisible_by": 8,
    "expand_ratio": 6,
    "output_stride": 32,
    "first_layer_is_expansion": True,
}
_HIDDEN_ACTS: Mapping[str, Activation] = {
    "relu6": "relu6",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_RESAMPLING: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


def read_timm_config(config: Mapping[str, Any], source: str) -> tuple[ModelSpec, ClassNames]:
    """The network and the names of its classes of a config that timm's ``save_for_hf`` wrote; `source` names the file.

    Raises:
        ConfigError: if it is not such a config, or needs what this library does not have.
        UnknownModelError: if the zoo does not have the architecture.
    """
    if "architecture" not in config:
        raise ConfigError(f"{source}: names no architecture as timm's configs do; its keys are {_some(config)}")
    with _reading(source, "timm"):
        pretrained = config.get("pretrained_cfg", config)
        arguments = config.get("model_args", {})
        names = _timm_labels(config.get("label_names") or pretrained.get("label_names") or config.get("labels"))
        num_classes = int(config.get("num_classes", pretrained.get("num_classes", 1000)))
        preprocess = _timm_preprocess(pretrained)
        strange = sorted(arguments.keys() - _HARMLESS_ARGUMENTS)
    if strange:
        raise ConfigError(f"{source}: model_args {', '.join(strange)} have no meaning here; build it in timm")
    architecture = str(config["architecture"])
    try:
        find_entry(architecture)  # a name of the zoo, not a path
        spec = replace(load_spec(architecture), preprocess=preprocess, num_classes=num_classes)
    except (UnknownModelError, ConfigError) as error:
        raise ConfigError(f"{source}: {error}") from None
    return spec, names


def read_arguments(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What timm's and this library's configs say of the arguments that the network was built with.

    Raises:
        ConfigError: as `read_timm_config`.
    """
    with _reading(source, "timm"):
        pretrained = config.get("pretrained_cfg", config)
        given = {
            "in_chans": pretrained["input_size"][0] if pretrained.get("input_size") else None,
            "global_pool": config.get("global_pool"),
            **config.get("model_args", {}),
        }
        return {name: given[name] for name in _ARGUMENTS if given.get(name) is not None}


def _timm_labels(labels: Any) -> ClassNames:
    """A list of names, or a mapping of numbers or synsets to them, in the order of the outputs."""
    if isinstance(labels, Mapping):
        by_number = all(str(key).isdecimal() for key in labels)
        labels = [labels[key] for key in (sorted(labels, key=int) if by_number else labels)]
    return tuple(str(label) for label in labels) if labels else None


def _timm_preprocess(config: Mapping[str, Any]) -> PreprocessSpec:
    values: dict[str, Any] = {}
    for key in ("input_size", "test_input_size"):
        if config.get(key):
            _, height, width = config[key]
            if height != width:
                raise ValueError(f"{key} is {height}×{width}, and only squares are read")
            values[key] = int(height)
    for key in ("crop_mode", "test_crop_mode"):
        if config.get(key, "center") not in ("center", None):
            raise ValueError(f"{key} is {config[key]!r}, and images are only cut from the center here")
    for key in ("crop_pct", "test_crop_pct"):
        if config.get(key) is not None:
            values[key] = float(config[key])
    for key in ("mean", "std"):
        if config.get(key):
            values[key] = tuple(float(number) for number in config[key])
    if config.get("interpolation"):
        values["interpolation"] = config["interpolation"]
    return PreprocessSpec(**values)


def read_transformers_config(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, source: str
) -> tuple[ModelSpec, ClassNames, bool]:
    """The same of what transformers' ``save_pretrained`` wrote; and whether the first output stands for background.

    Args:
        config: its ``config.json``.
        processor: its ``preprocessor_config.json``, or None: then transformers' own defaults hold.
        source: the config's file, for messages.

    Raises:
        ConfigError: another network than MobileNetV1 or V2, or asks for what this library does not have.
    """
    family = _TRANSFORMERS_FAMILIES.get(str(config["model_type"]))
    if family is None:
        known = " and ".join(_TRANSFORMERS_FAMILIES)
        raise ConfigError(
            f"{source}: model_type is {config['model_type']!r}; of transformers' networks {known} are here"
        )
    for key, value in _TRANSFORMERS_FIXED.items():
        if config.get(key, value) != value:
            raise ConfigError(f"{source}: {key} is {config[key]!r}, and this library's networks have {value!r}")
    with _reading(source, "transformers"):
        width = float(config.get("depth_multiplier", 1.0))
        names = _transformers_labels(config)
        activation = _HIDDEN_ACTS.get(str(config.get("hidden_act", "relu6")))
        bn_eps = float(config.get("layer_norm_eps", 1e-3))
        preprocess = _transformers_preprocess(processor or {})
    if activation is None:
        raise ConfigError(f"{source}: hidden_act is {config['hidden_act']!r}; known are {_some(_HIDDEN_ACTS)}")
    if family == "mobilenetv2" and width < 1 and not config.get("finegrained_output", True):
        raise ConfigError(f"{source}: finegrained_output is false; this library's heads keep their 1280 channels")
    tensorflow = config.get("tf_padding", True)
    try:
        spec = load_spec(f"{'tf_' if tensorflow else ''}{family}_{round(100 * width):03d}")
    except UnknownModelError as error:
        raise ConfigError(f"{source}: depth_multiplier is {width:g}, a width that is not here: {error}") from None
    padding: Padding = "same" if tensorflow else "symmetric"
    with _reading(source, "transformers"):
        spec = replace(spec, padding=padding, bn_eps=bn_eps, activation=activation, preprocess=preprocess)
    background = names[0] == "background" and len(names) > 1
    has_names = any(name != f"LABEL_{index}" for index, name in enumerate(names))
    return replace(spec, num_classes=len(names) - background), tuple(names) if has_names else None, background


def _transformers_labels(config: Mapping[str, Any]) -> list[str]:
    """The classes' names in order; transformers leaves out what is its default, two classes without names."""
    labels = config.get("id2label") or {index: f"LABEL_{index}" for index in range(int(config.get("num_labels", 2)))}
    return [name for _, name in sorted((int(index), str(name)) for index, name in labels.items())]


def _transformers_preprocess(processor: Mapping[str, Any]) -> PreprocessSpec:
    """Resize the shorter side, crop the center, normalize; the defaults are those of transformers' processors."""
    size = processor.get("size", {"shortest_edge": 256})
    crop = processor.get("crop_size", {"height": 224, "width": 224})
    side = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
    height, width = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
    steps = ("do_resize", "do_center_crop", "do_rescale")
    if height != width or not all(processor.get(step, True) for step in steps):
        raise ValueError(f"images are to be resized, cut to a square and divided by 255, not {processor}")
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255):
        raise ValueError("rescale_factor is not 1/255")
    normalized = processor.get("do_normalize", True)
    crop_pct = height / side
    if math.floor(height / crop_pct) < side:  # by rounding
        crop_pct = math.nextafter(crop_pct, 0)
    return PreprocessSpec(
        input_size=int(height),
        crop_pct=crop_pct,
        interpolation=_RESAMPLING[processor.get("resample", 2)],
        mean=tuple(processor.get("image_mean", (0.5,) * 3)) if normalized else (0.0,) * 3,
        std=tuple(processor.get("image_std", (0.5,) * 3)) if normalized else (1.0,) * 3,
    )


@contextmanager
def _reading(source: str, framework: str) -> Iterator[None]:
    """Turn the errors of reading an unexpected config into a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise ConfigError(f"{source}: is no config of {framework} that is understood here ({reason})") from None


def _some(keys: Mapping[str, Any]) -> str:
    return ", ".join(keys)[:200]


TABLE, CONFIG, PROCESSOR = "model.yaml", "config.json", "preprocessor_config.json"
# Tried in this order. The second is what timm wrote in earlier days.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Of weights files, wherever they are.
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES, *HDF5_SUFFIXES)
# With this key in config.json, a reader of a repository requests the table only if it exists.
TABLE_KEY = "model_table"
# The key of the settings of a saved detector, whose backbone the table describes.
DETECTOR_KEY = "detector"

# The names of 11,821 classes take half of one.
_MAX_CONFIG = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A network saved in a folder.

    Attributes:
        spec: its description.
        source: the folder, or the repository, for messages.
        class_names: where the config states them. (A header of the weights may state them too.)
        arguments: what `create_model` was given when it was built: in_chans, global_pool, drop_rate, output_stride.
        background: whether the first output is the background; None if the config does not state it.
        weights: the file of its weights; None if not requested.
        weights_source, weights_sha256: origin and hash of that file, if known.
    """

    spec: ModelSpec
    source: str
    class_names: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    background: bool | None = None
    weights: Path | None = None
    weights_source: str | None = None
    weights_sha256: str | None = None


def find_weights_file(folder: Path) -> Path | None:
    """Return the weights of the network saved in a folder; None without any."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def read_folder(folder: str | os.PathLike[str], *, with_weights: bool = True) -> SavedModel:
    """Read a folder that `save_pretrained`, timm or transformers wrote.

    Raises:
        MissingFileError: if it has no table and no config, or no weights although requested.
        ConfigError: if a file is invalid, or this library does not have the network.
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
    weights = find_weights_file(folder)
    if weights is None:
        raise MissingFileError(f"{folder}: holds no weights; looked for {' and '.join(WEIGHTS)}")
    return replace(saved, weights=weights)


def read_detector_config(folder: str | os.PathLike[str]) -> tuple[ModelSpec, dict[str, Any]] | None:
    """Return the backbone and the ``config.json`` of the detector saved in a folder; None if it holds no detector.

    Raises:
        ConfigError: if a file is invalid. MissingFileError: if the backbone's table is missing.
    """
    path = Path(folder) / CONFIG
    # os.path answers for any name, where Path raises.
    if not os.path.isfile(path) or DETECTOR_KEY not in (config := _read_json(path)):  # noqa: PTH113
        return None
    if not isinstance(config[DETECTOR_KEY], dict):
        raise ConfigError(
            f"{path}: {DETECTOR_KEY} is {config[DETECTOR_KEY]!r:.100}, not a mapping; save the detector again"
        )
    return _read_table(Path(folder)), config


def files_beside(config: Path) -> tuple[str, ...]:
    """Return the files to read together with a ``config.json``, which may exist.

    Raises:
        ConfigError: if it is not a JSON object.
    """
    content = _read_json(config)
    if content.get(TABLE_KEY) == TABLE:
        return (TABLE,)
    return (PROCESSOR,) if _is_transformers(content) else ()


def _read_config(folder: Path) -> SavedModel:
    path = folder / CONFIG
    config = _read_json(path)
    if DETECTOR_KEY in config:
        raise ConfigError(f"{folder}: holds a detector, not a classifier; load it with effnets.load_detector")
    if config.get(TABLE_KEY) == TABLE:
        # Only then: another program may have saved over a network and left its table.
        spec, arguments = _read_table(folder), read_arguments(config, str(path))
        return SavedModel(spec=spec, source=str(folder), arguments=arguments)
    if _is_transformers(config):
        processor = _read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else None
        spec, names, background = read_transformers_config(config, processor, str(path))
        return SavedModel(spec=spec, source=str(folder), class_names=names, background=background)
    spec, names = read_timm_config(config, str(path))
    return SavedModel(spec=spec, source=str(folder), class_names=names, arguments=read_arguments(config, str(path)))


def _read_table(folder: Path) -> ModelSpec:
    if not (folder / TABLE).is_file():
        raise MissingFileError(f"{folder}: lacks {TABLE}, of which its {CONFIG} tells; save the model again")
    return load_spec(folder / TABLE)


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
