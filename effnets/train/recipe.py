"""Recipes: every setting of a training, read from YAML and written as YAML. Free of torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from effnets.data.augmentation import Augmentation
from effnets.errors import ConfigError
from effnets.spec.decode import decode_dataclass
from effnets.spec.yaml import Node, read_yaml
from effnets.train.task_settings import DetectionSettings, EmbeddingSettings, MultilabelSettings
from effnets.utils.arguments import MAX_SIDE, Pattern, Range, check_fields, require
from effnets.utils.paths import configs_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. The defaults fine-tune a pretrained one on a few hundred to many thousand images.

    Raises:
        ConfigError: if a setting has a value it cannot take, or two contradict each other.
    """

    model: Annotated[str, "A model's name, or a YAML file."]
    task: Annotated[
        Literal["classify", "multilabel", "embed", "detect"],
        "What is learned: a class for each image, any number of labels, vectors that are near each other for images of "
        "one class, or boxes around objects.",
    ] = "classify"
    weights: Annotated[
        str, "What to start from: ``pretrained`` (the published weights), ``random``, a tag, a file or a folder."
    ] = "pretrained"
    image_size: Annotated[
        int | None, Range(8, MAX_SIDE), "Side of the square input in pixels; None takes the weights' own."
    ] = None
    in_chans: Annotated[
        int | None,
        Range(1, 65_536),
        "Channels of the images: 3 RGB, 1 grayscale, 4 RGBA; others are read from ``.npy`` files and TIFFs with a page "
        "for each. None takes the weights' own, else 3.",
    ] = None
    mean: Annotated[
        tuple[float, ...] | None,
        Range(-1e3, 1e3),
        "Mean of each channel, of values in 0..1 (of floats in a file, of these); None takes the weights' own.",
    ] = None
    std: Annotated[tuple[float, ...] | None, Range(1e-6, 1e3), "Standard deviation of each channel, likewise."] = None
    epochs: Annotated[
        int, Range(1, 100_000), "Passes over the training images, of the whole network or what is not frozen."
    ] = 10
    epoch_repeats: Annotated[
        int | None,
        Range(1, 1000),
        "Passes over the training images in an epoch, each with other augmentations; None takes 2 where they are fewer "
        "than 32 batches, which are few steps, and else 1.",
    ] = None
    head_epochs: Annotated[
        int,
        Range(0, 100_000),
        "Passes over cached features before, in which the new classifier alone learns; 0: skip them.",
    ] = 1
    probe_penalty: Annotated[
        float,
        Range(0, 10),
        "With `freeze` backbone, half of it times the sum of the classifier's squared weights is added to the loss, "
        "since a thousand features of a few hundred images separate anything.",
    ] = 1e-2
    probe_views: Annotated[
        int,
        Range(1, 1000),
        "With `freeze` backbone, how often every image is augmented, once for all epochs, each of which has all of "
        "these views.",
    ] = 6
    freeze: Annotated[
        str,
        Pattern("none|stem|stages|backbone|0*[1-9][0-9]*", "none, stem, a number of stages, stages, or backbone"),
        "Layers that keep their weights, as of `effnets.freeze`. With ``backbone``, the classifier learns on features, "
        "by Adam and a cosine, and a message names settings without effect.",
    ] = "none"
    bn: Annotated[
        Literal["train", "eval"],
        "Batch statistics of what is not frozen: ``train`` by the batch, ``eval`` as in the weights. With `freeze` "
        "backbone, ``train`` moves the backbone's once towards those of the training images.",
    ] = "train"
    batch_size: Annotated[int, Range(1, 1 << 20), "Images in a forward pass."] = 32
    accumulate: Annotated[
        int,
        Range(1, 1 << 20),
        "Forward passes, of all processes together, in a step of the optimizer: a step sees batch_size · accumulate "
        "images, whatever the number of processes.",
    ] = 1
    optimizer: Annotated[str, "A name of timm's."] = "adamw"
    learning_rate: Annotated[
        float | None,
        Range(0, 100),
        "Of the last layer, the highest; None takes 0.002 for a classifier of 256 features, and less the more it has, "
        "or 0.01 with `freeze` backbone, on features of deviation 1.",
    ] = None
    momentum: Annotated[float, Range(0, 1), "Of optimizers that have one."] = 0.9
    eps: Annotated[float | None, Range(0, 10), "Of the optimizer; None takes its own."] = None
    alpha: Annotated[float | None, Range(0, 1), "RMSProp's decay; None takes its own."] = None
    weight_decay: Annotated[
        float, Range(0, 10), "Of all weights except depthwise kernels, normalization and biases."
    ] = 0.05
    layer_decay: Annotated[
        float, Range(0.01, 1), "Factor of the learning rate from each block to the one before it."
    ] = 0.98
    clip_grad: Annotated[float, Range(0, 1e6), "Largest norm of the gradient; 0: no limit."] = 0.0
    schedule: Annotated[
        Literal["cosine", "exponential", "constant"],
        "Of the learning rate: ``cosine``, ``exponential`` (times `decay_rate` every `decay_epochs`), or ``constant``.",
    ] = "cosine"
    warmup_epochs: Annotated[
        float | None,
        Range(0, 100_000),
        "Epochs over which the learning rate rises from 0 first; None takes one, but at most a quarter of all.",
    ] = None
    min_learning_rate: Annotated[float, Range(0, 100), "Learning rate at the end of the cosine."] = 0.0
    decay_rate: Annotated[float, Range(0.001, 1), "Factor of the exponential schedule."] = 0.97
    decay_epochs: Annotated[float, Range(0.001, 100_000), "Epochs between two steps of the exponential schedule."] = 1.0
    label_smoothing: Annotated[float, Range(0, 0.99), "Share of the target that is spread over all classes."] = 0.1
    drop_rate: Annotated[float | None, Range(0, 0.99), "Dropout before the classifier; None takes the model's."] = None
    drop_path_rate: Annotated[float, Range(0, 0.99), "Stochastic depth at the last block."] = 0.0
    ema_decay: Annotated[
        float,
        Range(0, 0.999999),
        "Of the moving average of the weights, which rises to this, in short trainings to less; 0: no average.",
    ] = 0.999
    patience: Annotated[
        int, Range(0, 100_000), "Epochs without a better validation after which training ends; 0: never."
    ] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], "``auto`` takes bfloat16 where the device has matrix units for it."
    ] = "auto"
    channels_last: Annotated[bool, "Memory format of the images, faster nearly everywhere."] = True
    balance: Annotated[
        Literal["none", "weights", "sampler"],
        "Of classes of different sizes: ``weights`` in the loss, a ``sampler`` that draws all equally often, or "
        "``none``.",
    ] = "none"
    teacher: Annotated[
        str | None,
        "A network to learn from as well: a name, with published weights, a folder, a YAML file, ``timm:NAME``, or an "
        "exported file, such as ONNX.",
    ] = None
    teacher_weights: Annotated[
        str | None, "Of a teacher called by a name, by ``timm:NAME`` or by a YAML file: a file or, but for timm, a tag."
    ] = None
    teacher_share: Annotated[
        float, Range(0, 1), "Share of the teacher's outputs in the loss, the rest being the labels'."
    ] = 0.5
    temperature: Annotated[float, Range(0.01, 100), "Softens the outputs of teacher and student."] = 2.0
    distillation_type: Annotated[
        Literal["logits", "embedding", "features"],
        "What is learned of the teacher: its ``logits``, its ``embedding``, the input of its classifier, or the "
        "``features`` of one of its stages, by the mean squared difference. A projection between different channels "
        "is learned as well, and left out of the network.",
    ] = "logits"
    distillation_stage: Annotated[
        int | None,
        Range(0, 1000),
        "Of the student, from 0, compared with the teacher's last stage of the same reduction; None takes the last.",
    ] = None
    distillation_normalize: Annotated[
        bool, "Compare embeddings, or the vectors of every place of feature maps, at length 1."
    ] = False
    val_share: Annotated[
        float | None,
        Range(0, 0.9),
        "Of the training images, to validate with if the data has no validation images; None takes a tenth, or a "
        "twentieth if the data has test images.",
    ] = None
    cache: Annotated[
        Literal["auto", "none"],
        "``auto`` decodes the training images once, shrunk until the smallest crops have the pixels of the input (or "
        "the whole twice its side), and keeps them in memory if all of them fit into 1 GiB for each training process "
        "and crops are ``resized``; crops then differ a little from those of the whole images. ``none`` decodes them "
        "in every epoch.",
    ] = "auto"
    seed: Annotated[int, Range(0, 2**31 - 1), "Of all random numbers."] = 0
    workers: Annotated[
        int | None, Range(0, 1024), "Processes that load images, for each training process; None chooses."
    ] = None
    checkpoint_minutes: Annotated[float, Range(0, 1e6), "Minutes between two checkpoints within an epoch."] = 10.0
    augmentation: Annotated[
        Augmentation, "Of the training images; a recipe that states any of it states all of it."
    ] = field(default_factory=Augmentation)
    multilabel: Annotated[MultilabelSettings, "Of ``task: multilabel`` alone."] = field(
        default_factory=MultilabelSettings
    )
    embedding: Annotated[EmbeddingSettings, "Of ``task: embed`` alone."] = field(default_factory=EmbeddingSettings)
    detection: Annotated[DetectionSettings, "Of ``task: detect`` alone."] = field(default_factory=DetectionSettings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the settings of other tasks."""
        others = [name for task, name in _SETTINGS.items() if task != self.task]
        return {name: value for name, value in asdict(self).items() if name not in others}

    def changed(self, names: Sequence[str]) -> list[str]:
        """Return which of the settings called `names` differ from their defaults."""
        default = Recipe(model=self.model)
        return [name for name in names if getattr(self, name) != getattr(default, name)]

    def __post_init__(self) -> None:
        require(bool(self.model), "model is empty; give a model's name or a YAML file")
        require(bool(self.weights), "weights is empty; give pretrained, random, a tag, a file or a folder")
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
        unlike = self.distillation_type != "logits"
        require(
            self.teacher is not None or not (unlike or self.teacher_weights),
            "teacher is missing, which teacher_weights and distillation_type are about; name one",
        )
        require(
            not unlike or self.teacher_share < 1 or self.task == "embed",
            f"teacher_share is 1, and with distillation_type: {self.distillation_type} the classifier then learns "
            "nothing; lower it, to 0.99 for example",
        )
        require(
            self.distillation_type == "features" or self.distillation_stage is None,
            "distillation_stage is for distillation_type: features; omit it, or set that",
        )
        require(unlike or not self.distillation_normalize, "distillation_normalize is not for logits; omit it")
        for task, name in _SETTINGS.items():
            require(
                self.task == task or getattr(self, name) == type(getattr(self, name))(),
                f"{name} is for task: {task}, and this is task: {self.task}; omit it, or set task: {task}",
            )
        require(
            self.task == "classify" or self.freeze != "backbone",
            f"freeze is backbone, which is for task: classify; with task: {self.task} freeze stages",
        )
        require(
            self.task != "embed" or self.teacher is None or self.distillation_type == "embedding",
            f"distillation_type is {self.distillation_type}, and with task: embed the teacher's embedding is learned; "
            "set it to embedding",
        )
        require(
            self.task != "embed" or self.balance == "none",
            f"balance is {self.balance}, and with task: embed batches have as many images of each class; omit it",
        )
        require(
            self.task == "classify" or not (self.augmentation.mixup or self.augmentation.cutmix),
            f"augmentation.mixup and cutmix are for task: classify, and this is task: {self.task}; omit them",
        )
        require(
            self.task != "embed" or self.batch_size % self.embedding.images_per_class == 0,
            f"batch_size is {self.batch_size}, no multiple of embedding.images_per_class, "
            f"{self.embedding.images_per_class}; raise or lower one of them",
        )
        require(
            self.task != "embed" or self.batch_size >= 2 * self.embedding.images_per_class,
            f"batch_size is {self.batch_size}, less than 2 classes of {self.embedding.images_per_class} images "
            f"(embedding.images_per_class); raise it to {2 * self.embedding.images_per_class}",
        )
        require(
            self.task != "detect" or self.teacher is None,
            "teacher is not for task: detect; omit it",
        )
        require(
            self.freeze != "backbone" or self.weights != "random",
            "freeze is backbone, and weights are random: their features have no use; give weights",
        )


_SETTINGS = {"multilabel": "multilabel", "embed": "embedding", "detect": "detection"}
_PLAIN_TEXT = re.compile(r"[a-z]\w*[a-z0-9]", re.ASCII)


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
    if not isinstance(node.value, dict):
        raise ConfigError(f"{path}: holds no settings; write lines such as 'epochs: 10'")
    if (freeze := node.value.get("freeze")) is not None and type(freeze.value) is int:
        node.value["freeze"] = replace(freeze, value=str(freeze.value))  # freeze: 3
    return decode_dataclass(Recipe, path, "", node)


def _changed(node: Node, keys: Sequence[str], value: Any, path: Path) -> Node:
    """Return `node` with one value changed."""
    if not keys:
        return _given(value)
    mapping = {} if node.value is None else node.value
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: holds no settings called {keys[0]}")
    below = _changed(mapping.get(keys[0]) or _given(None), keys[1:], value, path)
    return Node({**mapping, keys[0]: below}, node.line, node.column)


def _given(value: Any) -> Node:
    """Return plain data as if it were read from line 0, which stands for no file."""
    if isinstance(value, list | tuple):
        return Node([_given(item) for item in value], 0, 0)
    if isinstance(value, Mapping):
        return Node({str(key): _given(item) for key, item in value.items()}, 0, 0)
    return Node(value, 0, 0)


def encode_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting of its task, the inverse of `read_recipe`."""
    return yaml.dump(_plain(recipe.to_dict()), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


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
