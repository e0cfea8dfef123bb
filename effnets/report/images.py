"""Class-activation maps: which places of an image speak for a class (Zhou et al. 2016, arXiv:1512.04150)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from effnets.errors import ArgumentError
from effnets.evaluation.result import Evaluation
from effnets.inference.arrays import Pixels
from effnets.inference.image import cover_size, crop_box
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier
from effnets.nn.utils import evaluating
from effnets.report.charts import INK, drawing, drawing_style
from effnets.utils.arguments import check_size


def class_activation_maps(network: Classifier, images: Tensor, classes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Evidence of each place for some classes, ``[N, number of classes, H / 32, W / 32]``.

    The weights of the class times the last feature map (equation 2 of the paper), without bias: with average pooling
    the mean over all places, plus the bias, is the logit. In networks with a layer between pooling and classifier
    (ReXNet-lite, MobileNetV1 with a head) each place goes through that layer by itself, as if it were all there is;
    there the sum is no longer exact.

    Args:
        network: a classifier; it is run in evaluation mode.
        images: its input, ``[N, in_chans, H, W]``.
        classes: outputs to explain, as many for each image.

    Raises:
        ArgumentError: the network has no linear classifier.
    """
    weight = getattr(network.get_classifier(), "weight", None)
    if not isinstance(weight, Tensor):
        raise ArgumentError("model has no classifier, so that no place speaks for a class; build it with num_classes")
    chosen = torch.tensor(classes, device=weight.device)
    with evaluating(network), torch.inference_mode():
        features = network.forward_features(images.to(device=weight.device, dtype=weight.dtype))
        features = network.hidden(features)
        maps = torch.einsum("nkc,nchw->nkhw", weight.flatten(1)[chosen], features)
    return maps.float().cpu().numpy()


_THUMBNAIL = 240  # pixels: twice what the page shows, for dense screens
_MAP = 224
_HEAT = "inferno"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An image with what was answered.

    Attributes:
        name: class folder and file. truth, answer: names of classes. probability: of the answer, 0..1.
    """

    image: Image.Image
    name: str
    truth: str
    answer: str
    probability: float

    @property
    def is_right(self) -> bool:
        """Whether the answer is the true class."""
        return self.truth == self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class CamExample:
    """An image as the network saw it, and the maps for its answer and, where that was wrong, for the true class."""

    example: Example
    for_answer: Image.Image
    for_truth: Image.Image | None


def mistakes(evaluation: Evaluation, count: int) -> list[Example]:
    """The mistakes with the highest probabilities, the surest first."""
    found: list[Example] = []
    for place in _surest(evaluation, count, 0):
        with drawing(evaluation.source.name(int(evaluation.indices[place]))):
            image = _image(evaluation, place)
            found.append(
                _example(evaluation, place, _as_seen(_as_picture(image), (_THUMBNAIL,) * 2, (_THUMBNAIL,) * 2))
            )
    return found


def explain(evaluation: Evaluation, network: Classifier, wrong: int, right: int) -> list[CamExample]:
    """Maps for the surest answers: so many `wrong` ones, and so many `right` ones, each of another class."""
    places = _surest(evaluation, wrong, right)
    transform = create_transform(network)
    size = check_size(transform.size)
    found: list[CamExample] = []
    for place in places:
        with drawing(evaluation.source.name(int(evaluation.indices[place]))):
            image = _image(evaluation, place)
            answer, truth = int(evaluation.answers[place]), int(evaluation.labels[place])
            classes = [answer] if answer == truth else [answer, truth]
            maps = class_activation_maps(network, transform(image)[None], [classes])[0]
            seen = _as_seen(_as_picture(image), cover_size(*size, transform.preprocess), size)
            heated = _heated(seen, maps)
            found.append(
                CamExample(
                    example=_example(evaluation, place, seen.resize((_MAP, _MAP), Image.Resampling.LANCZOS)),
                    for_answer=heated[0],
                    for_truth=heated[1] if len(heated) > 1 else None,
                )
            )
    return found


def to_data_uri(image: Image.Image) -> str:
    """The image as a JPEG within a link."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def probability(share: float) -> str:
    """In per cent, never more certain than it is."""
    return "over 99\u00a0%" if 0.995 <= share < 1 else f"{100 * share:.0f}\u00a0%"


def _surest(evaluation: Evaluation, wrong: int, right: int) -> list[int]:
    order = np.argsort(-evaluation.confidences, kind="stable")
    is_right = evaluation.right[order]
    mistaken, certain = order[~is_right][:wrong], order[is_right]
    # The first, and so the surest, of each class.
    _, first = np.unique(evaluation.labels[certain], return_index=True)
    return [int(place) for place in (*mistaken, *certain[np.sort(first)][:right])]


def _image(evaluation: Evaluation, place: int) -> Pixels:
    return evaluation.source.image(int(evaluation.indices[place]))


def _as_picture(image: Pixels) -> Image.Image:
    """An image of any channels as one to look at; of planes the first in gray, from its least value to its largest."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    plane = image[..., 0] - image[..., 0].min()
    return Image.fromarray((255 * plane / max(float(plane.max()), 1e-9)).astype(np.uint8)).convert("RGB")


def _example(evaluation: Evaluation, place: int, image: Image.Image) -> Example:
    return Example(
        image=image,
        name="/".join(PurePath(evaluation.source.name(int(evaluation.indices[place]))).parts[-2:]),
        truth=evaluation.class_names[evaluation.labels[place]],
        answer=evaluation.class_names[evaluation.answers[place]],
        probability=float(evaluation.confidences[place]),
    )


def _as_seen(image: Image.Image, cover: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """What is left of an image that covers `cover` when its middle is cropped to `size`, (height, width)."""
    share = min(image.height / cover[0], image.width / cover[1])
    box = crop_box(image.size, size[1] * share, size[0] * share)
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)


def _heated(seen: Image.Image, maps: NDArray[np.float32]) -> Sequence[Image.Image]:
    """Overlay each map on the image in gray, with one color scale; negative evidence is clipped."""
    grey = np.asarray(seen.convert("L").resize((_MAP, _MAP)), np.float32)[..., None] / 255
    evidence = np.maximum(maps, 0) / max(float(maps.max()), 1e-9)
    images = []
    for values in evidence:
        large = Image.fromarray(values.astype(np.float32)).resize((_MAP, _MAP), Image.Resampling.BICUBIC)
        heat = np.clip(np.asarray(large), 0, 1)
        colour = mpl.colormaps[_HEAT](heat)[..., :3]
        strength = 0.15 + 0.6 * heat[..., None] ** 0.8
        mixed = (1 - strength) * (0.25 + 0.75 * grey) + strength * colour
        images.append(Image.fromarray((255 * mixed).astype(np.uint8)))
    return images


_TILE, _CAPTION = 190, 44


def contact_sheet(images: Sequence[tuple[Image.Image, str]], columns: int) -> bytes:
    """`images` with two lines under each, `columns` in a row."""
    rows = -(-len(images) // columns)
    with drawing_style():
        figure = Figure(figsize=(columns * _TILE / 72, rows * (_TILE + _CAPTION) / 72), dpi=72, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for plot in grid.flat:
            plot.set_axis_off()
        for plot, (image, caption) in zip(grid.flat, images, strict=False):
            plot.imshow(np.asarray(image))
            plot.set_title(caption, fontsize=8.5, color=INK, y=-0.22, va="bottom")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=108, facecolor="white", metadata={"Software": None})
        return png.getvalue()
