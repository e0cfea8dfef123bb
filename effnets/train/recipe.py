"""Every setting of a training. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from effnets.data.augmentation import Augmentation
from effnets.utils.arguments import require, require_choice, require_range

__all__ = ["Recipe"]

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
