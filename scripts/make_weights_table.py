"""Write weights.md, the list of published weights, and the plots of their accuracy in docs/.

uv run scripts/make_weights_table.py [--check]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from demo_section import make_section

from effnets.bench.plots import Point, draw_weights
from effnets.spec.cost import count
from effnets.spec.entries import model_names
from effnets.spec.models import load_spec
from effnets.spec.specs import IMAGENET_MEAN, IMAGENET_STD, WeightsSpec
from effnets.spec.weights import PINS_VARIABLE, find_weights, list_weights

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "weights.md"
COMMAND = "uv run scripts/make_weights_table.py"
PLOTS = {
    "madds": ROOT / "docs" / "accuracy-madds.svg",
    "params": ROOT / "docs" / "accuracy-params.svg",
}

FAMILIES = {
    "mobilenetv1": "MobileNetV1",
    "mobilenetv2": "MobileNetV2",
    "mixnet": "MixNet",
    "rexnet": "ReXNet",
    "others": "others",
}
PUBLISHERS = {"timm": "timm", "torchvision": "torchvision", "transformers": "transformers", "keras": "Keras"}

# What this project's tests compare for the weights of each dialect, in a word and in full; only what they do.
VERIFIED = {
    "timm": (
        "network, names, entry",
        "the network's logits with the same random weights in both, and its parameters' names "
        "(tests/nn/test_parity.py); all of the entry but accuracy (tests/spec/test_weights_peers.py)",
    ),
    "torchvision": (
        "network, names, entry",
        "the network's logits with the same random weights in both, both ways "
        "(tests/weights/dialects/test_torchvision.py); all of the entry but the license "
        "(tests/spec/test_weights_peers.py)",
    ),
    "transformers": (
        "network, names, preprocessing",
        "the network's logits with the same random weights in both, both ways "
        "(tests/weights/dialects/test_transformers.py); interpolation, mean, std, ε, padding and activation, against "
        "transformers' classes (tests/spec/test_weights_peers.py)",
    ),
    "keras": (
        "layout, address",
        "for `tf_mobilenetv1_025.keras_r224_in1k`, logits of Keras' weights, saved as a whole model, on ten "
        "photographs; for the others the layout of their files (tests/weights/dialects/test_keras.py), and the "
        "address against the rule in Keras' source (tests/spec/test_weights_peers.py)",
    ),
}

INTRODUCTION = f"""# Published weights

![Top-1 accuracy against multiply-adds](docs/accuracy-madds.svg)

![Top-1 accuracy against parameters](docs/accuracy-params.svg)

<!-- --8<-- [start:page] -->

Made by `{COMMAND}`; a test keeps it in step. `effnets list --pretrained` shows the
same in the terminal, and `effnets.load_spec("fbnet_c.rmsp_in1k")` is the network that a tag asks for. A model's first
tag is its default.

- **MAdds** are counted at the input size.
- **Accuracy** is the published one on ImageNet-1k's validation set, in per cent, *not measured here*; the number beside
  it is its [source](#sources-of-the-figures). It holds at the input size, or at the one that stands with it. Figures of
  different sources were measured with different preprocessing.
- **Verified**: what our tests compare with the publisher's own software; [in full](#what-is-verified) below.
- **Pinned**: the sha256 of the file is known, computed by `uv run scripts/pin_weights.py`; or its beginning is, stated
  by the publisher in the file's name.
- The [demonstration network](#demonstration-network), for CIFAR-10's ten classes, comes with the package and stands
  apart: its figures are none of ImageNet's.

"""

COLUMNS = {
    "weights": "---",
    "source": "---",
    "licence": "---",
    "parameters (M)": "---:",
    "MAdds (M)": "---:",
    "input (test)": "---:",
    "preprocessing (test)": "---",
    "top-1": "---:",
    "top-5": "---:",
    "verified": "---",
    "pinned": "---",
}
HEAD = f"\n| {' | '.join(COLUMNS)} |\n|{'|'.join(COLUMNS.values())}|\n"

NOTES = """
## Notes

- `tf_mobilenetv1_….keras_…` and `tf_mobilenetv2_….keras_…` are the whole grid of width and resolution that Keras
  Applications publishes. At stride 2 Keras pads below and to the right (MobileNetV1), or as `correct_pad` says
  (MobileNetV2): at even sizes, which all feature maps of these inputs have, both are TensorFlow's SAME padding;
  at odd ones MobileNetV2's still is, MobileNetV1's is not. Keras leaves the resize to its user, so crop and
  interpolation are this library's usual ones. The files are HDF5, which needs the extra `keras`.
- Keras' own figures (source 4, input 224) are stated as errors: accuracy is 100 less those. Its MobileNetV1 weights are
  older than TF-slim's present checkpoints, so at the other sizes they most likely are those of June 2017, whose figures
  stand here (source 5).
- `….google_…` were converted to transformers from TF-slim's checkpoints. They have 1001 outputs, whose first is
  "background"; it is dropped unless asked for. Most of these repositories hold a PyTorch file and no safetensors.
- ImageNet-12k (`….sw_in12k`) has 11,821 classes; no accuracy is published for them.
- The files of [clovaai/rexnet](https://github.com/clovaai/rexnet), ReXNet 1.0 to 3.0 and ReXNet-lite 1.0 to 2.0, are
  shared by Google Drive and have no tag: download one, and give it as `weights=PATH` to `rexnet_100` … `rexnet_300` or
  `rexnet_lite_100` … `rexnet_lite_200`. `rexnet_….nav_in1k` are the same authors' weights.
- The licence `other` is what the model cards say; TF-slim, whose checkpoints they are, is under Apache-2.0.
"""


def main() -> None:
    os.environ.pop(PINS_VARIABLE, None)  # the page is about the pins that are shipped
    weights = [find_weights(f"{model}.{tag}") for model in model_names() for tag in list_weights(model)]
    texts = {PAGE: make_page(weights)} | {path: make_plot(weights, kind) for kind, path in PLOTS.items()}
    for path, text in texts.items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is out of date: run {COMMAND}")


def make_page(weights: list[WeightsSpec]) -> str:
    published = [entry for entry in weights if not entry.packaged]
    sources = list(dict.fromkeys(entry.accuracy_source for entry in published if entry.accuracy_source))
    page = INTRODUCTION
    for family, title in FAMILIES.items():
        rows = [make_row(entry, sources) for entry in published if family_of(entry) == family]
        page += f"\n## {title[0].upper() + title[1:]}\n{HEAD}{''.join(rows)}"
    page += "\n## Sources of the figures\n\n"
    page += "".join(f"{number}. {source}\n" for number, source in enumerate(sources, start=1))
    page += "\n## What is verified\n\n| publisher | what | by |\n|---|---|---|\n"
    page += "".join(f"| {PUBLISHERS[dialect]} | {what} | {by} |\n" for dialect, (what, by) in VERIFIED.items())
    return page + NOTES + "".join(make_section(entry) for entry in weights if entry.packaged)


def make_row(weights: WeightsSpec, sources: list[str]) -> str:
    cost = count(weights.name)
    preprocess = weights.preprocess
    size, crop = f"{preprocess.input_size}", f"{preprocess.crop_pct:.4g}"
    if preprocess.test_input_size:
        size += f" ({preprocess.test_input_size})"
        crop += f" ({preprocess.test_crop_pct:.4g})"
    cells = [
        f"`{weights.name}`",
        link(weights),
        weights.licence,
        f"{cost.params / 1e6:.2f}",
        f"{cost.madds / 1e6:,.0f}",
        size,
        f"{preprocess.interpolation}, crop {crop}, {normalisation(weights)}",
        *figures(weights, sources),
        VERIFIED[weights.dialect][0],
        pinned(weights),
    ]
    return f"| {' | '.join(cells)} |\n"


def link(weights: WeightsSpec) -> str:
    if weights.repo is None:
        return f"[{PUBLISHERS[weights.dialect]}]({weights.source})"
    return f"[{weights.repo}](https://huggingface.co/{weights.repo})"


def normalisation(weights: WeightsSpec) -> str:
    mean, std = weights.preprocess.mean, weights.preprocess.std
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "ImageNet's mean and std"
    assert set(mean) == set(std) == {0.5}, "no other normalisation is published; give this one a name"
    return "mean = std = 0.5"


def figures(weights: WeightsSpec, sources: list[str]) -> list[str]:
    if weights.accuracy_source is None:
        return ["–", "–"]
    place = f"<sup>{sources.index(weights.accuracy_source) + 1}</sup>"
    if weights.accuracy_size:
        place += f" at {weights.accuracy_size}"
    return [as_published(weights.top1) + place, as_published(weights.top5)]


def as_published(figure: float | None) -> str:
    """One decimal or three, as the sources have them."""
    if figure is None:
        return "–"
    return f"{figure:.1f}" if round(figure, 1) == figure else f"{figure:.3f}"


def pinned(weights: WeightsSpec) -> str:
    if weights.sha256:
        return f"`{weights.sha256[:8]}…`"
    return f"`{weights.sha256_prefix}…` by name" if weights.sha256_prefix else "no"


def family_of(weights: WeightsSpec) -> str:
    family = load_spec(weights.model).family
    return family if family in FAMILIES else "others"


def make_plot(weights: list[WeightsSpec], kind: str) -> str:
    points = [make_point(entry, kind) for entry in weights if entry.top1 is not None]
    order = list(FAMILIES.values())
    points.sort(key=lambda point: order.index(point.family))
    against = "multiply-adds" if kind == "madds" else "parameters"
    return draw_weights(
        points,
        title=f"ImageNet top-1 accuracy against {against}, as published",
        x_label=f"{against} (millions)" + (", at the size of the measurement" if kind == "madds" else ""),
        y_label="top-1 (%)",
    )


def make_point(weights: WeightsSpec, kind: str) -> Point:
    cost = count(weights.name, weights.measured_size)
    assert weights.top1 is not None, "asked for those with a figure"
    in_grid = weights.dialect == "keras"
    # Of a grid the largest resolution has the label, and the line leads to the others.
    labelled = weights.dialect == "timm" or (in_grid and weights.preprocess.input_size == 224)
    return Point(
        x=(cost.madds if kind == "madds" else cost.params) / 1e6,
        y=weights.top1,
        family=FAMILIES[family_of(weights)],
        publisher=PUBLISHERS[weights.dialect],
        name=weights.name,
        label=weights.model if labelled else "",
        line=weights.model if in_grid else "",
    )


if __name__ == "__main__":
    main()
