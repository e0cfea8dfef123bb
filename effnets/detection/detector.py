"""What all detectors have in common: their settings, and what they know beside torchvision's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.nn.classifier import require_values, unwrap
from effnets.nn.features import FeaturePyramid
from effnets.spec.specs import ModelSpec
from effnets.utils.arguments import MAX_SIDE, Range, check_fields, check_integer

Kind = Literal["ssdlite", "faster_rcnn", "retinanet"]
KINDS: tuple[Kind, ...] = ("ssdlite", "faster_rcnn", "retinanet")

_SIDE = Range(32, MAX_SIDE)
_SHARE = Range(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """What a detector is, beside its backbone; saved with it."""

    kind: Annotated[Kind, "The detector."]
    num_classes: Annotated[int, Range(2, 100_000), "Classes, with the background, which is label 0."]
    image_size: Annotated[
        int, _SIDE, "Pixels. SSDLite resizes images to this square; the others the shorter side to this."
    ]
    max_size: Annotated[int, _SIDE, "At most so many pixels for the longer side, but for SSDLite."]
    fpn_channels: Annotated[int, Range(8, 4096), "Channels of the feature pyramid network's maps, but for SSDLite."]
    reductions: Annotated[tuple[int, ...], Range(1, 1024), "Strides of the maps that the backbone provides."]
    score_threshold: Annotated[float, _SHARE, "Boxes of lower scores are left out."]
    nms_threshold: Annotated[float, _SHARE, "Of boxes of one class that overlap more (IoU), the best is kept."]
    max_detections: Annotated[int, Range(1, 100_000), "The most boxes of an image."]

    def __post_init__(self) -> None:
        check_fields(self, ArgumentError)


class Detector(nn.Module):
    """An object detector; its classes are torchvision's `SSD`, `FasterRCNN` and `RetinaNet` as well.

    Takes a list of images, float32 ``[3, H, W]`` in 0..1, of any sizes. In evaluation mode it returns for each a dict
    of ``boxes`` ``[n, 4]`` (x1, y1, x2, y2 in pixels of the image), ``labels`` ``[n]`` from 1 and ``scores`` ``[n]``,
    best first. In training mode it takes as many targets, dicts of ``boxes`` and ``labels``, and returns a dict of
    losses.

    Attributes:
        settings: what it is.
        spec: the backbone's description, with mean and std of its images.
        class_names: of the labels from 1, None if unknown; set them as a tuple. Saved with the weights.
    """

    in_chans = 3
    settings: DetectorSettings
    spec: ModelSpec
    class_names: tuple[str, ...] | None

    if TYPE_CHECKING:
        # Module's own returns Any.
        def __call__(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any: ...

    @property
    def num_classes(self) -> int:
        """Classes, with the background."""
        return self.settings.num_classes

    @property
    def body(self) -> FeaturePyramid:
        """The part of the backbone that is the zoo's network, for `effnets.freeze`."""
        backbone: Any = self.backbone
        body = backbone.body
        assert isinstance(body, FeaturePyramid), "the builders of this room make no other"
        return body


def detector_of(model: nn.Module) -> Detector:
    """Return the detector within `model`, which may be wrapped by torch.compile or DataParallel.

    Raises:
        ArgumentError: if `model` holds no detector of this library, or one without values.
    """
    inner = unwrap(model)
    if not isinstance(inner, Detector):
        raise ArgumentError(f"model is a {type(inner).__name__}; give a detector that create_detector built")
    require_values(inner)
    return inner


def check_class_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """Return the names as a tuple; raises ArgumentError unless there is one for each class but the background."""
    if names is None:
        return None
    if isinstance(names, str) or len(names) != num_classes - 1 or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"class_names has {len(names)} names for {num_classes - 1} classes; give one text for each label from 1, "
            "and none for the background"
        )
    return tuple(names)


def check_kind(kind: object) -> Kind:
    """Return `kind` if it is one of `KINDS`; raises ArgumentError if not."""
    for known in KINDS:
        if kind == known:
            return known
    raise ArgumentError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")


def check_channels(in_chans: int) -> None:
    """Raise ArgumentError unless a backbone takes 3 channels, as torchvision's detectors do."""
    if check_integer("in_chans", in_chans, 1, "it must be at least 1") != 3:
        raise ArgumentError(f"the backbone takes {in_chans} channels, and detectors take RGB images; build it with 3")
