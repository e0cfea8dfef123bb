"""Settings of single tasks, as parts of a recipe. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from effnets.data.detection_augmentation import DetectionAugmentation
from effnets.utils.arguments import Range, check_fields, require

_SCALE = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MultilabelSettings:
    """Of ``task: multilabel``.

    Raises:
        ConfigError: if a setting has a value it cannot take.
    """

    loss: Annotated[
        Literal["bce", "asymmetric"],
        "``bce``: binary cross entropy of each label; ``asymmetric`` (Ridnik et al. 2021, arXiv:2009.14119), for many "
        "labels of which an image has few.",
    ] = "bce"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSettings:
    """Of ``task: embed``.

    Raises:
        ConfigError: if a setting has a value it cannot take.
    """

    size: Annotated[int | None, Range(2, 65_536), "Of the embedding; None takes the classifier's input as it is."] = (
        None
    )
    loss: Annotated[
        Literal["triplet", "arcface", "multi_similarity"],
        "``triplet`` with semi-hard negatives (Schroff et al. 2015, arXiv:1503.03832), ``arcface`` (Deng et al. 2019, "
        "arXiv:1801.07698), or ``multi_similarity`` (Wang et al. 2019, arXiv:1904.06627).",
    ] = "multi_similarity"
    margin: Annotated[
        float | None,
        Range(0, 10),
        "Of triplets, as a squared distance, or of ArcFace, in radians; None takes 0.2 or 0.5.",
    ] = None
    scale: Annotated[float, Range(1, 1000), "Of ArcFace's cosines, before their softmax."] = _SCALE
    images_per_class: Annotated[int, Range(2, 1024), "In a batch, of each class that is in it."] = 4

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.margin is None or self.loss != "multi_similarity",
            "margin is for loss: triplet or arcface; omit it",
        )
        require(
            self.loss == "arcface" or self.scale == _SCALE,
            f"scale is for loss: arcface, and this is loss: {self.loss}; omit it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSettings:
    """Of ``task: detect``.

    Raises:
        ConfigError: if a setting has a value it cannot take.
    """

    detector: Annotated[Literal["ssdlite", "faster_rcnn", "retinanet"], "As of `effnets.create_detector`."] = "ssdlite"
    augmentation: Annotated[DetectionAugmentation, "Of the training images and their boxes."] = field(
        default_factory=DetectionAugmentation
    )

    def __post_init__(self) -> None:
        check_fields(self)
