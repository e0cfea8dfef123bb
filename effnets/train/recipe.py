"""Every setting of a training. Free of torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from effnets.data.augmentation import Augmentation
from effnets.errors import ArgumentError, ConfigError
from effnets.spec.yaml import Node, read_yaml
from effnets.utils.arguments import require, require_choice, require_range
from effnets.utils.paths import configs_dir

Schedule = Literal["cosine", "exponential", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]
Statistics = Literal["train", "eval"]
Balance = Literal["none", "weights", "sampler"]
Cache = Literal["auto", "none"]


def _for_photographs() -> Augmentation:
    """Light differs from photograph to photograph, and a part of a thing is as good a sign of it as another."""
    return Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, random_erasing=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. The defaults fine-tune a pretrained one on a few hundred to many thousand photographs.

    Attributes:
        model: a name of the zoo, or a YAML file.
        weights: what to begin with: ``pretrained`` (the published ones), ``random``, a tag, a file or a folder.
        image_size: side of the square input in pixels; None takes the weights'.
        epochs: passes over the training pictures, of the whole network (or of what is not frozen).
        head_epochs: passes over the cached features before, in which the new classifier alone learns; 0 for none.
            probe_penalty: with `freeze` backbone, half of it times the sum of the classifier's squared weights is added
            to the loss, since a thousand features of a few hundred pictures separate anything. probe_views: how often
            its pictures are augmented, once for all epochs, each of which has all of these views.
        freeze: what keeps its weights, as of `effnets.freeze`: none, stem, a number of stages, stages, backbone. With
            backbone, the classifier learns on features, by Adam and a cosine, and a note names what has no effect then.
        bn: batch statistics of what is not frozen: ``train`` by the batch, ``eval`` as they are in the weights. With
            `freeze` backbone, ``train`` moves the backbone's once towards those of the training pictures.
        batch_size: pictures in one forward pass. accumulate: forward passes, of all processes together, in one step of
            the optimiser: a step sees batch_size · accumulate pictures however many processes there are.
        optimizer: a name of timm's. learning_rate: of the last layer, the highest; None takes 0.002 for a classifier of
            256 features, and less the more it has, or 0.01 with `freeze` backbone, on features of deviation 1.
            momentum: where the optimiser has one. eps, alpha: of the optimiser (alpha is RMSProp's decay); None takes
            its own.
        weight_decay: of all weights save depthwise kernels, normalisation and biases.
        layer_decay: factor of the learning rate from each block to the one before it.
        clip_grad: largest norm of the gradient; 0 leaves it.
        schedule: of the learning rate: ``cosine``, ``exponential`` (times `decay_rate` every `decay_epochs`), or
            ``constant``. warmup_epochs: over which it rises from 0 first; None takes one, but no more than a quarter of
            all. min_learning_rate: where the cosine ends.
        label_smoothing: share of the target that is spread over all classes.
        drop_rate: dropout before the classifier; None takes the model's. drop_path_rate: stochastic depth at the last
            block.
        ema_decay: of the moving average of the weights, which rises to this; 0 for no average.
        patience: epochs without a better validation after which training ends; 0 for never.
        precision: ``auto`` takes bfloat16 where a measurement on this machine says it is faster.
        channels_last: keep the channels innermost in memory, which is faster nearly everywhere.
        balance: of classes of unlike size: ``weights`` in the loss, a ``sampler`` that draws all alike, or ``none``.
        teacher: a network to learn from as well: a name, with published weights, or a folder. teacher_share: of its
            answers in the loss, the rest being the labels'. temperature: that both networks' answers are softened by.
        val_share: of the training pictures, to validate by where the data has none for it; None takes a tenth, or a
            twentieth where the data has test pictures to measure by.
        cache: ``auto`` decodes the training pictures once, shrunk until the smallest crops have the pixels of the input
            (or the whole twice its side), and keeps them in memory where all of them fit into 1 GiB for each training
            process and crops are ``resized``; crops then differ a little from those of the whole pictures. ``none``
            decodes them in every epoch.
        seed: of everything drawn. workers: processes that load pictures, for each training process; None chooses.
        checkpoint_minutes: how often a checkpoint is written within an epoch.
        augmentation: of the training pictures; a recipe that states any of it states all of it.
    """

    model: str
    weights: str = "pretrained"
    image_size: int | None = None
    epochs: int = 10
    head_epochs: int = 1
    probe_penalty: float = 1e-2
    probe_views: int = 6
    freeze: str = "none"
    bn: Statistics = "train"
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float | None = None
    momentum: float = 0.9
    eps: float | None = None
    alpha: float | None = None
    weight_decay: float = 0.05
    layer_decay: float = 0.98
    clip_grad: float = 0.0
    schedule: Schedule = "cosine"
    warmup_epochs: float | None = None
    min_learning_rate: float = 0.0
    decay_rate: float = 0.97
    decay_epochs: float = 1.0
    label_smoothing: float = 0.1
    drop_rate: float | None = None
    drop_path_rate: float = 0.0
    ema_decay: float = 0.999
    patience: int = 0
    precision: Precision = "auto"
    channels_last: bool = True
    balance: Balance = "none"
    teacher: str | None = None
    teacher_share: float = 0.5
    temperature: float = 2.0
    val_share: float | None = None
    cache: Cache = "auto"
    seed: int = 0
    workers: int | None = None
    checkpoint_minutes: float = 10.0
    augmentation: Augmentation = field(default_factory=_for_photographs)

    def __post_init__(self) -> None:
        require(bool(self.model), "model is empty; name a model of the zoo or a YAML file")
        require(bool(self.weights), "weights is empty; say pretrained, random, a tag, a file or a folder")
        known = ("none", "stem", "stages", "backbone")
        require(
            self.freeze in known or (self.freeze.isdecimal() and self.freeze.isascii() and int(self.freeze) > 0),
            f"freeze is {self.freeze!r}; choose none, stem, a number of stages, stages, or backbone",
        )
        if self.image_size is not None:
            require_range("image_size", self.image_size, 8, 8192)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None:
                require_range(name, value, low, high)
        for name, choices in _CHOICES:
            require_choice(name, getattr(self, name), choices)
        if self.learning_rate is not None:
            require(self.learning_rate > 0, f"learning_rate is {self.learning_rate:g}; it must lie above 0")
            require(
                self.min_learning_rate <= self.learning_rate,
                f"min_learning_rate is {self.min_learning_rate:g}, above learning_rate {self.learning_rate:g}; "
                "lower it",
            )
        require(
            self.freeze != "backbone" or self.teacher is None,
            "teacher is for a network that learns: with freeze: backbone only the classifier does; leave one out",
        )
        require(
            self.freeze != "backbone" or self.weights != "random",
            "freeze is backbone, and weights are random: there would be nothing to classify by; give weights",
        )


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, 100_000),
    ("head_epochs", 0, 100_000),
    ("probe_penalty", 0, 10),
    ("probe_views", 1, 1000),
    ("batch_size", 1, 1 << 20),
    ("accumulate", 1, 1 << 20),
    ("learning_rate", 0, 100),
    ("momentum", 0, 1),
    ("eps", 0, 10),
    ("alpha", 0, 1),
    ("weight_decay", 0, 10),
    ("layer_decay", 0.01, 1),
    ("clip_grad", 0, 1e6),
    ("warmup_epochs", 0, 100_000),
    ("min_learning_rate", 0, 100),
    ("decay_rate", 0.001, 1),
    ("decay_epochs", 0.001, 100_000),
    ("label_smoothing", 0, 0.99),
    ("drop_rate", 0, 0.99),
    ("drop_path_rate", 0, 0.99),
    ("ema_decay", 0, 0.999999),
    ("patience", 0, 100_000),
    ("teacher_share", 0, 1),
    ("temperature", 0.01, 100),
    ("val_share", 0, 0.9),
    ("seed", 0, 2**31 - 1),
    ("workers", 0, 1024),
    ("checkpoint_minutes", 0, 1e6),
)
_CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bn", get_args(Statistics)),
    ("schedule", get_args(Schedule)),
    ("precision", get_args(Precision)),
    ("balance", get_args(Balance)),
    ("cache", get_args(Cache)),
)


_PLAIN_TEXT = re.compile(r"[a-z]\w*[a-z0-9]", re.ASCII)
_Settings = TypeVar("_Settings")


def list_recipes() -> list[str]:
    """Names of the recipes that come along."""
    return sorted(path.stem for path in (configs_dir() / "recipes").glob("*.yaml"))


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe: a path, or the name of one that comes along.

    Raises:
        ConfigError: there is none; the message has near names.
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
    """Read a recipe; `changes`, by the keys' names (``augmentation.mixup``), go before what the file says.

    Raises:
        MissingFileError: no such file.
        ConfigError: not YAML, an unknown key or a value that cannot be; the message has the file, the line where the
            key stands, and the fix.
    """
    path = Path(path)
    node = read_yaml(path)
    for key, value in (changes or {}).items():
        node = _changed(node, key.split("."), value, path)
    return _decode(Recipe, node, path)


def _changed(node: Node, keys: Sequence[str], value: Any, path: Path) -> Node:
    """`node` with one value put in place."""
    if not keys:
        return _given(value)
    mapping = {} if node.value is None else node.value
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: holds no settings called {keys[0]}")
    below = mapping.get(keys[0]) or (_default(keys[0]) if keys[1:] else Node(None, 0, 0))
    return Node({**mapping, keys[0]: _changed(below, keys[1:], value, path)}, node.line, node.column)


def _default(name: str) -> Node:
    """The settings under `name` where a file states none of them: one that is changed leaves the others as they are."""
    for each in fields(Recipe):
        if each.name == name and each.default_factory is not MISSING:
            return _given(asdict(each.default_factory()))
    return Node(None, 0, 0)


def _given(value: Any) -> Node:
    """Plain data as if it were read; line 0 says that no file has it."""
    if isinstance(value, list | tuple):
        return Node([_given(item) for item in value], 0, 0)
    if isinstance(value, Mapping):
        return Node({str(key): _given(item) for key, item in value.items()}, 0, 0)
    return Node(value, 0, 0)


def encode_recipe(recipe: Recipe) -> str:
    """A recipe as YAML, from which `read_recipe` makes the same again; every setting is written out."""
    return yaml.dump(_plain(asdict(recipe)), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that might be read as something else, by whatever version of YAML."""


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
        # The checks begin with the name of the setting.
        name = str(error).partition(" ")[0]
        raise ConfigError(f"{_place(path, node.value.get(name, node))}{error}") from None
    except TypeError:
        missing = [field.name for field in fields(kind) if field.name == "model" and "model" not in values]
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; add a line such as 'model: mobilenetv2_100'") from None


def _value(hint: Any, node: Node, path: Path, key: str) -> Any:
    """The value of one setting, of the type that its field is declared with."""
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
    """Where a setting stands, to begin a message with; nothing of one that was given by hand."""
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
