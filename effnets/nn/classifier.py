"""The image classifier: stem, stages, head, classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.nn.features import FeatureInfo, FeaturePyramid
from effnets.nn.layers import ConvBNAct, GlobalPool, Linear
from effnets.nn.utils import LoadReport, initialize
from effnets.spec.plan import NetworkPlan
from effnets.spec.specs import ClassifierActivation, ModelSpec
from effnets.utils.arguments import check_integer

# What an image is given, by `Classifier.classifier_activation`, for messages.
ANSWERS: dict[str, str] = {"softmax": "one class", "sigmoid": "any number of labels", "l2": "an embedding"}


def check_global_pool(kind: str) -> str:
    """Return `kind` if `GlobalPool` knows it, and ``none`` for the empty string, as timm's users write it.

    Raises:
        ArgumentError: if `kind` is unknown.
    """
    if kind not in (*GlobalPool.KINDS, ""):
        raise ArgumentError(f"global_pool is {kind!r}; choose one of {', '.join(GlobalPool.KINDS)}")
    return kind or "none"


class Classifier(nn.Module):
    """A whole network: images ``[N, in_chans, H, W]`` to logits ``[N, num_classes]``.

    Without pooling (``global_pool="none"``) the classifier acts on every place by itself and the logits are a map,
    ``[N, num_classes, H / 32, W / 32]`` at the usual output stride. With ``num_classes=0`` the output is the
    classifier's input.

    Attributes:
        spec, plan: description of the network, and every convolution with its numbers.
        num_features: channels of `forward_features`.
        num_classes, in_chans: outputs and input channels.
        feature_info: channels and reductions of the feature maps.
        head_hidden_size: input channels of the classifier (`num_features`, except for ReXNet-lite).
        load_report: report on the weights loaded last, None before any.
        class_names: of the outputs, from a file's header or set by you; saved with the weights.
        background: whether the first output is a background class, as in TensorFlow's 1001.
        classifier_activation: what users of the outputs apply to them, which `forward` does not: ``softmax`` where an
            image has one class, ``sigmoid`` where it has any number of labels, ``l2``, the division by their length,
            where they are an embedding. Saved with the weights.
        thresholds: of labels, the least probability of each that counts as yes; None: a half. Saved with the weights.
    """

    if TYPE_CHECKING:
        # Module's own returns Any.
        def __call__(self, x: Tensor) -> Tensor: ...

    def __init__(
        self,
        *,
        spec: ModelSpec,
        plan: NetworkPlan,
        stem: ConvBNAct,
        stages: nn.Sequential,
        head: ConvBNAct | None,
        hidden: ConvBNAct | None,
        classifier: Linear | None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.plan = plan
        self.in_chans = plan.stem.in_channels
        self.num_features = plan.num_features
        self.head_hidden_size = plan.pre_logits_channels
        self.num_classes = plan.num_classes
        self.feature_info = FeatureInfo(plan.features)
        self.load_report: LoadReport | None = None
        self.class_names: tuple[str, ...] | None = None
        self.background = False
        self.classifier_activation: ClassifierActivation = "softmax"
        self.thresholds: tuple[float, ...] | None = None
        self.stem = stem
        self.stages = stages
        self.head = head or nn.Identity()
        self.pool = GlobalPool(check_global_pool(global_pool))
        self.hidden = hidden or nn.Identity()
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = classifier or nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images ``[N, in_chans, H, W]`` to the last feature map ``[N, num_features, H / 32, W / 32]``."""
        return self.head(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last feature map to logits; with `pre_logits`, to the input of the classifier, ``[N, C]``.

        Without pooling both are maps, ``[N, C, H / 32, W / 32]``.
        """
        x = self.dropout(self.hidden(self.pool(x)))
        if self.pool.kind != "none":
            x = self._classify(x.flatten(1), pre_logits)
        else:
            x = self._classify(x.movedim(1, -1), pre_logits).movedim(-1, 1)
        return x

    def _classify(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_embedding(self, x: Tensor) -> Tensor:
        """Map images to embeddings ``[N, D]``: outputs of length 1 if they are such, else the classifier's input."""
        if self.classifier_activation == "l2":
            return F.normalize(self(x))
        return self.forward_head(self.forward_features(x), pre_logits=True)

    @property
    def num_outputs(self) -> int:
        """Numbers in the output: `num_classes`, or those of the classifier's input if there is no classifier."""
        return self.num_classes or self.head_hidden_size

    def get_classifier(self) -> nn.Module:
        """Return the classifier: a `Linear`, or an identity without classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a newly initialized one of `num_classes` outputs (0: an identity), and pooling.

        Raises:
            ArgumentError: if `num_classes` is negative, or the pooling unknown.
        """
        num_classes = check_integer("num_classes", num_classes, 0, "it must be 0 (no classifier) or more")
        if global_pool is not None:
            self.pool = GlobalPool(check_global_pool(global_pool))
        weight = next(self.stem.parameters())
        self.plan = replace(self.plan, num_classes=num_classes)
        self.spec = replace(self.spec, num_classes=num_classes)
        self.num_classes = num_classes
        self.class_names = None
        self.background = False
        self.classifier_activation, self.thresholds = "softmax", None
        self.classifier = nn.Identity()
        if num_classes:
            self.classifier = Linear(
                self.plan.pre_logits_channels, num_classes, device=weight.device, dtype=weight.dtype
            )
            initialize(self.classifier)
        self.classifier.train(self.training)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network within torch.compile's wrapper and (Distributed)DataParallel's, in any order."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def network_of(model: nn.Module) -> Classifier | FeaturePyramid:
    """Return the network of this library within `model`.

    Raises:
        ArgumentError: if `model` holds another module.
    """
    inner = unwrap(model)
    if isinstance(inner, Classifier | FeaturePyramid):
        return inner
    raise ArgumentError(f"model is a {type(inner).__name__}; give one that create_model built")


def require_classifier(model: nn.Module) -> Classifier:
    """Return the classifier within `model`, where one vector of logits for each image is needed.

    Raises:
        ArgumentError: if `model` is not a classifier, or has no classes, no pooling, or no values. An embedding needs
            no classes.
    """
    network = unwrap(model)
    if not isinstance(network, Classifier):
        raise ArgumentError(f"model is a {type(network).__name__}; give a classifier that create_model built")
    has_outputs = network.num_classes or network.classifier_activation == "l2"
    if not has_outputs or network.pool.kind == "none":
        raise ArgumentError("this model gives no logits for an image; build it with classes and with pooling")
    require_values(network)
    return network


def require_single_class(model: nn.Module, purpose: str) -> Classifier:
    """Return the classifier within `model`, where an image must have one class, which `purpose` names.

    Raises:
        ArgumentError: as `require_classifier`, or if the outputs are labels or an embedding.
    """
    network = require_classifier(model)
    if network.classifier_activation != "softmax":
        kind = ANSWERS[network.classifier_activation]
        raise ArgumentError(
            f"{purpose} is for networks that give an image one class, and this one gives it {kind}; export it to "
            ".onnx, in float"
        )
    return network


def require_values(model: nn.Module) -> None:
    """Refuse a model on the meta device.

    Raises:
        ArgumentError: if a parameter is on the meta device.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ArgumentError("a model on the meta device has no values; build it on a real device")
