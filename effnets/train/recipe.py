"""Recipes: every setting of a training, read from YAML and written as YAML. Free of torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from effnets.data.augmentation import Augmentation
from effnets.errors import ArgumentError, ConfigError
from effnets.spec.yaml import Node, read_yaml
from effnets.utils.arguments import Range, check_fields, require
from effnets.utils.paths import configs_dir


def _photo_augmentation() -> Augmentation:
    """Light differs from photo to photo, and a part of a thing shows its class as well as another part."""
    return Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, random_erasing=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. The defaults fine-tune a pretrained one on a few hundred to many thousand images.

    Attributes:
        model: a model's name, or a YAML file.
        weights: to start from: ``pretrained`` (the published ones), ``random``, a tag, a file or a folder.
        image_size: side of the square input in pixels; None takes the weights' own.
        epochs: passes over the training images, of the whole network or what is not frozen.
        head_epochs: passes over cached features before, in which the new classifier alone learns; 0 for none.
        probe_penalty: with `freeze` backbone, half of it times the sum of the classifier's squared weights is added to
            the loss, since a thousand features of a few hundred images separate anything.
        probe_views: with `freeze` backbone, how often every image is augmented, once for all epochs, each of which has
            all of these views.
        freeze: layers that keep their weights, as of `effnets.freeze`: none, stem, a number of stages, stages, or
            backbone: then the classifier learns on features, by Adam and a cosine, and a message names settings without
            effect.
        bn: batch statistics of what is not frozen: ``train`` by the batch, ``eval`` as in the weights. With `freeze`
            backbone, ``train`` moves the backbone's once towards those of the training images.
        batch_size: images in a forward pass.
        accumulate: forward passes, of all processes together, in a step of the optimizer: a step sees batch_size ·
            accumulate images, whatever the number of processes.
        optimizer: a name of timm's.
        learning_rate: of the last layer, the highest; None takes 0.002 for a classifier of 256 features, and less the
            more it has, or 0.01 with `freeze` backbone, on features of deviation 1.
        momentum: of optimizers that have one. eps, alpha: of the optimizer (alpha is RMSProp's decay); None takes its
            own.
        weight_decay: of all weights except depthwise kernels, normalization and biases.
        layer_decay: factor of the learning rate from each block to the one before it.
        clip_grad: largest norm of the gradient; 0 for no limit.
        schedule: of the learning rate: ``cosine``, ``exponential`` (times `decay_rate` every `decay_epochs`), or
            ``constant``.
        warmup_epochs: over which the rate rises from 0 first; None takes one, but at most a quarter of all.
        min_learning_rate: at the end of the cosine.
        label_smoothing: share of the target that is spread over all classes.
        drop_rate: dropout before the classifier; None takes the model's. drop_path_rate: stochastic depth at the last
            block.
        ema_decay: of the moving average of the weights, which rises to this; 0 for no average.
        patience: epochs without a better validation after which training ends; 0 for never.
        precision: ``auto`` takes bfloat16 where the device computes in it natively.
        channels_last: memory format of the images, faster nearly everywhere.
        balance: of classes of different sizes: ``weights`` in the loss, a ``sampler`` that draws all equally often, or
            ``none``.
        teacher: a network to learn from as well: a name, with published weights, or a folder. teacher_share: of its
            outputs in the loss, the rest being the labels'. temperature: that softens both networks' outputs.
        val_share: of the training images, to validate with if the data has no validation images; None takes a tenth,
            or a twentieth if the data has test images.
        cache: ``auto`` decodes the training images once, shrunk until the smallest crops have the pixels of the input
            (or the whole twice its side), and keeps them in memory if all of them fit into 1 GiB for each training
            process and crops are ``resized``; crops then differ a little from those of the whole images. ``none``
            decodes them in every epoch.
        seed: of all random numbers. workers: processes that load images, for each training process; None chooses.
        checkpoint_minutes: between two checkpoints within an epoch.
        augmentation: of the training images; a recipe that states any of it states all of it.

    Raises:
        ConfigError: if a setting has a value it cannot take, or two contradict each other.
    """

    model: str
    weights: str = "pretrained"
    image_size: Annotated[int | None, Range(8, 8192)] = None
    epochs: Annotated[int, Range(1, 100_000)] = 10
    head_epochs: Annotated[int, Range(0, 100_000)] = 1
    probe_penalty: Annotated[float, Range(0, 10)] = 1e-2
    probe_views: Annotated[int, Range(1, 1000)] = 6
    freeze: str = "none"
    bn: Literal["train", "eval"] = "train"
    batch_size: Annotated[int, Range(1, 1 << 20)] = 32
    accumulate: Annotated[int, Range(1, 1 << 20)] = 1
    optimizer: str = "adamw"
    learning_rate: Annotated[float | None, Range(0, 100)] = None
    momentum: Annotated[float, Range(0, 1)] = 0.9
    eps: Annotated[float | None, Range(0, 10)] = None
    alpha: Annotated[float | None, Range(0, 1)] = None
    weight_decay: Annotated[float, Range(0, 10)] = 0.05
    layer_decay: Annotated[float, Range(0.01, 1)] = 0.98
    clip_grad: Annotated[float, Range(0, 1e6)] = 0.0
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_epochs: Annotated[float | None, Range(0, 100_000)] = None
    min_learning_rate: Annotated[float, Range(0, 100)] = 0.0
    decay_rate: Annotated[float, Range(0.001, 1)] = 0.97
    decay_epochs: Annotated[float, Range(0.001, 100_000)] = 1.0
    label_smoothing: Annotated[float, Range(0, 0.99)] = 0.1
    drop_rate: Annotated[float | None, Range(0, 0.99)] = None
    drop_path_rate: Annotated[float, Range(0, 0.99)] = 0.0
    ema_decay: Annotated[float, Range(0, 0.999999)] = 0.999
    patience: Annotated[int, Range(0, 100_000)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    balance: Literal["none", "weights", "sampler"] = "none"
    teacher: str | None = None
    teacher_share: Annotated[float, Range(0, 1)] = 0.5
    temperature: Annotated[float, Range(0.01, 100)] = 2.0
    val_share: Annotated[float | None, Range(0, 0.9)] = None
    cache: Literal["auto", "none"] = "auto"
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    workers: Annotated[int | None, Range(0, 1024)] = None
    checkpoint_minutes: Annotated[float, Range(0, 1e6)] = 10.0
    augmentation: Augmentation = field(default_factory=_photo_augmentation)

    def __post_init__(self) -> None:
        require(bool(self.model), "model is empty; give a model's name or a YAML file")
        require(bool(self.weights), "weights is empty; give pretrained, random, a tag, a file or a folder")
        known = ("none", "stem", "stages", "backbone")
        require(
            self.freeze in known or (self.freeze.isdecimal() and self.freeze.isascii() and int(self.freeze) > 0),
            f"freeze is {self.freeze!r}; choose none, stem, a number of stages, stages, or backbone",
        )
        check_fields(self)
        if self.learning_rate is not None:
            require(self.learning_rate > 0, f"learning_rate is {self.learning_rate:g}; it must be above 0")
            require(
                self.min_learning_rate <= self.learning_rate,
                f"min_learning_rate is {self.min_learning_rate:g}, above learning_rate {self.learning_rate:g}; "
                "lower it",
            )
        require(
            self.freeze != "backbone" or self.teacher is None,
            "teacher is for a network that learns, with freeze: backbone only the classifier does; omit one of them",
        )
        require(
            self.freeze != "backbone" or self.weights != "random",
            "freeze is backbone, and weights are random: their features have no use; give weights",
        )


_PLAIN_TEXT = re.compile(r"[a-z]\w*[a-z0-9]", re.ASCII)
_Settings = TypeVar("_Settings")


def list_recipes() -> list[str]:
    """Return the names of the included recipes."""
    return sorted(path.stem for path in (configs_dir() / "recipes").glob("*.yaml"))


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """Return the file of a recipe, given its path or the name of an included one.

    Raises:
        ConfigError: if there is no such recipe; the message has similar names.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = list_recipes()
    if str(name) in known:
        return configs_dir() / "recipes" / f"{name}.yaml"
    near = get_close_matches(str(name), known, n=3)
    meant = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}, or give a YAML file"
    raise ConfigError(f"no recipe {str(name)!r}; {meant}")


def read_recipe(path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; `changes`, by key (``augmentation.mixup``), override the file.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if it is not YAML, or has an unknown key or an invalid value; the message has the file, the line of
            the key, and the fix.
    """
    path = Path(path)
    node = read_yaml(path)
    for key, value in (changes or {}).items():
        node = _changed(node, key.split("."), value, path)
    return _decode(Recipe, node, path)


def _changed(node: Node, keys: Sequence[str], value: Any, path: Path) -> Node:
    """Return `node` with one value changed."""
    if not keys:
        return _given(value)
    mapping = {} if node.value is None else node.value
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: holds no settings called {keys[0]}")
    below = mapping.get(keys[0]) or (_default(keys[0]) if keys[1:] else Node(None, 0, 0))
    return Node({**mapping, keys[0]: _changed(below, keys[1:], value, path)}, node.line, node.column)


def _default(name: str) -> Node:
    """The default settings under `name`, for a change of one of them if the file states none."""
    for each in fields(Recipe):
        if each.name == name and each.default_factory is not MISSING:
            return _given(asdict(each.default_factory()))
    return Node(None, 0, 0)


def _given(value: Any) -> Node:
    """Return plain data as if it were read from line 0, which stands for no file."""
    if isinstance(value, list | tuple):
        return Node([_given(item) for item in value], 0, 0)
    if isinstance(value, Mapping):
        return Node({str(key): _given(item) for key, item in value.items()}, 0, 0)
    return Node(value, 0, 0)


def encode_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting, the inverse of `read_recipe`."""
    return yaml.dump(_plain(asdict(recipe)), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some version of YAML might read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN_TEXT.fullmatch(text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _decode(kind: type[_Settings], node: Node, path: Path) -> _Settings:
    if not isinstance(node.value, dict):
        raise ConfigError(f"{path}: holds no settings; write lines such as 'epochs: 10'")
    assert is_dataclass(kind), "settings are dataclasses"
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    values: dict[str, Any] = {}
    for key, item in node.value.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(known)}"
            raise ConfigError(f"{_place(path, item)}unknown key {key!r}; {meant}")
        values[key] = _value(known[key], item, path, key)
    try:
        return kind(**values)
    except (ArgumentError, ConfigError) as error:
        # Messages start with the name of the setting.
        name = str(error).partition(" ")[0]
        raise ConfigError(f"{_place(path, node.value.get(name, node))}{error}") from None
    except TypeError:
        missing = [field.name for field in fields(kind) if field.name == "model" and "model" not in values]
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; add a line such as 'model: mobilenetv2_100'") from None


def _value(hint: Any, node: Node, path: Path, key: str) -> Any:
    """Decode one setting by the type of its field."""
    value = node.value
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    for option in options:
        if option is NoneType and value is None:
            return None
        if is_dataclass(option) and isinstance(option, type) and isinstance(value, dict):
            return _decode(option, node, path)
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if get_origin(option) is tuple and isinstance(value, list):
            return tuple(_value(get_args(option)[0], item, path, key) for item in value)
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if option in (bool, int, str) and type(value) is option:
            return value
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # freeze: 3
    wanted = " or ".join(_name(option) for option in options)
    raise ConfigError(f"{_place(path, node)}{key} is {_shown(value)}; it must be {wanted}")


def _place(path: Path, node: Node) -> str:
    """The start of a message: the file and line of a setting, or nothing for a change by hand."""
    return f"{path}:{node.line}: " if node.line else ""


def _name(option: Any) -> str:
    if get_origin(option) is Literal:
        return f"one of {', '.join(map(str, get_args(option)))}"
    if get_origin(option) is tuple:
        return f"a list, each {_name(get_args(option)[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return names.get(option, "a mapping of settings")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "null" if value is None else repr(value)
