"""Write docs/costs.md, costs beside the papers' figures, and the tables of models in README.md and docs/models.md.

uv run scripts/cost_table.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import effnets
from effnets.detection.plan import count_ssdlite
from effnets.spec.weights import find_weights

ROOT = Path(__file__).resolve().parent.parent
COSTS = ROOT / "docs" / "costs.md"
MODELS = ROOT / "docs" / "models.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- models: made by `uv run scripts/cost_table.py` -->\n", "<!-- /models -->"
COMMAND = "uv run scripts/cost_table.py"
WORTH_A_NOTE = 2.0  # per cent
# Those that docs/performance.md measures.
HEADLINE = ("mobilenetv1_100", "mobilenetv2_100", "mixnet_s", "mixnet_m", "mixnet_l", "rexnet_100", "rexnet_150")

INTRODUCTION = f"""# Costs beside the publications' figures

Made by `{COMMAND}`; a test keeps it in step. Parameters are all that trains, batch normalisation's scales and offsets
included; multiply-adds (MAdds) are those of convolutions, squeeze-and-excite and the classifier for one image at the
given size. A difference above {WORTH_A_NOTE:g} % has a note.

| model | input | parameters (M) | paper | difference | MAdds (M) | paper | difference | source | note |
|---|---:|---:|---:|---:|---:|---:|---:|---|---|
"""

KERNELS = """
## Kernel studies

Parameters that larger depthwise kernels add to the 3×3 network, beside table 1 of the MixConv paper (arXiv:1907.09595).

| model | added parameters (M) | paper | difference |
|---|---:|---:|---:|
"""

DETECTORS = """
## SSDLite detectors

SSDLite at 320×320 (`effnets.create_detector(…, "ssdlite")`), beside table 1 of the MixConv paper (arXiv:1907.09595), by
`effnets.detection.plan.count_ssdlite`. MobileNetV2's paper (arXiv:1801.04381, table 6) rounds the plain ones to 5.1 M
and 1.3 G, 4.3 M and 0.8 G.

| backbone | parameters (M), {paper} outputs | paper | difference | MAdds (G) | paper | difference | {coco} outputs |
|---|---:|---:|---:|---:|---:|---:|---:|
"""

DETECTOR_NOTES = """
For how many classes the papers score a box we do not know. With the {coco} outputs of TensorFlow's COCO labels,
background included, the structure is that of the published `ssdlite_mobilenet_v2_coco`: {folded:.3f} M with batch
normalization folded into biases, where Open Model Zoo states 4.475 M (`models/public/ssdlite_mobilenet_v2`). That is
more than the paper's table has. An output takes {each_v1:.1f} k parameters on MobileNetV1 and {each_v2:.1f} k on
MobileNetV2: with {paper} all ten rows agree to {paper_params:.3f} M and {paper_madds:.3f} G; with {used}, for the 80
classes that COCO uses and the background, to {used_params:.3f} M and {used_madds:.3f} G; with {coco} to
{coco_params:.3f} M and {coco_madds:.3f} G.
"""

FAMILIES = {
    "MobileNetV1": "mobilenetv1_025 mobilenetv1_050 mobilenetv1_075 mobilenetv1_100 mobilenetv1_100h mobilenetv1_125",
    "MobileNetV2": "mobilenetv2_035 mobilenetv2_050 mobilenetv2_075 mobilenetv2_100 mobilenetv2_110d mobilenetv2_120d "
    "mobilenetv2_130 mobilenetv2_140",
    "MixNet": "mixnet_s mixnet_m mixnet_l mixnet_xl mixnet_xxl",
    "ReXNet": "rexnet_090 rexnet_100 rexnet_130 rexnet_150 rexnet_200 rexnet_220 rexnet_300",
    "ReXNetR": "rexnetr_100 rexnetr_130 rexnetr_150 rexnetr_200 rexnetr_300",
    "ReXNet-lite": "rexnet_lite_100 rexnet_lite_130 rexnet_lite_150 rexnet_lite_200",
    "as TensorFlow trains them": "tf_mobilenetv1_100 tf_mobilenetv2_100 tf_mixnet_s tf_mixnet_m tf_mixnet_l",
    "for 32-pixel images": "mixnet_xs_32px mixnet_s_32px mobilenetv1_100_32px mobilenetv2_100_32px rexnet_100_32px",
    "others": "mnasnet_a1 fbnet_c proxylessnas_mobile efficientnet_lite0",
}

KERNEL_STUDY = {
    "mobilenetv1_100": {"k5": 0.08, "k7": 0.20, "k3_5": 0.04, "k3_5_7": 0.10},
    "mobilenetv2_100": {"k5": 0.12, "k7": 0.29, "k3_5": 0.06, "k3_5_7": 0.14},
}

# Table 1 of the MixConv paper (arXiv:1907.09595): parameters in M and multiply-adds in G of SSDLite at 320×320.
DETECTOR_STUDY = {
    "mobilenetv1_100": (5.12, 1.31),
    "mobilenetv1_100_k5": (5.20, 1.38),
    "mobilenetv1_100_k3_5": (5.16, 1.35),
    "mobilenetv1_100_k7": (5.32, 1.47),
    "mobilenetv1_100_k3_5_7": (5.22, 1.39),
    "mobilenetv2_100": (4.35, 0.79),
    "mobilenetv2_100_k5": (4.47, 0.87),
    "mobilenetv2_100_k3_5": (4.41, 0.83),
    "mobilenetv2_100_k7": (4.64, 0.98),
    "mobilenetv2_100_k3_5_7": (4.49, 0.88),
}
COCO_OUTPUTS, PAPER_OUTPUTS, USED_OUTPUTS = 91, 82, 81


def main() -> None:
    for path, make in PAGES.items():
        text = make(path.read_text(encoding="utf-8"))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is out of date: run {COMMAND}")


def make_page(_before: str) -> str:
    figures = yaml.safe_load((ROOT / "scripts" / "paper_figures.yaml").read_text(encoding="utf-8"))
    notes: list[str] = []
    rows = "".join(make_row(figure, notes) for figure in figures)
    numbered = "".join(f"{number}. {note}\n" for number, note in enumerate(notes, start=1))
    return INTRODUCTION + rows + "\n" + numbered + KERNELS + make_kernel_rows() + make_detectors()


class Computed(dict[str, float]):
    """Figures of models by name, computed when a note asks for them."""

    def __init__(self, compute: Callable[[str], float]) -> None:
        super().__init__()
        self.compute = compute

    def __missing__(self, name: str) -> float:
        return self.compute(name) / 1e6


def bn_parameters(name: str) -> int:
    model = effnets.create_model(name, device="meta")
    return sum(2 * part.num_features for part in model.modules() if isinstance(part, nn.BatchNorm2d))


def bn_elements(name: str) -> int:
    """What all batch normalisations write for one image: one multiply-add each."""
    model = effnets.create_model(name, device="meta").eval()
    sizes: list[int] = []
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda _part, _inputs, output: sizes.append(output.numel()))
    size = model.spec.input_size
    model(torch.empty(1, 3, size, size, device="meta"))
    return sum(sizes)


def madds_without_expansion_of_1(name: str) -> int:
    spec = effnets.load_spec(name)
    blocks = (replace(b, type="ds") if b.type == "ir" and b.expansion == 1 else b for b in spec.blocks)
    return effnets.count(replace(spec, blocks=tuple(blocks))).madds


FIGURES = {
    "params": Computed(lambda name: effnets.count(name).params),
    "madds": Computed(lambda name: effnets.count(name).madds),
    "bn_free": Computed(lambda name: effnets.count(name).params - bn_parameters(name)),
    "bn_madds": Computed(bn_elements),
    "madds_without_expansion_of_1": Computed(madds_without_expansion_of_1),
}


def make_models(text: str) -> str:
    """The page of models with its table of families filled in."""
    rows = "| family | models | parameters (M) | multiply-adds (M) |\n|---|---|---:|---:|\n"
    for family, names in FAMILIES.items():
        costs = [effnets.count(name) for name in names.split()]
        models = " · ".join(f"`{name}`" for name in names.split())
        params = " · ".join(f"{cost.params / 1e6:.1f}" for cost in costs)
        madds = " · ".join(f"{cost.madds / 1e6:.0f}" for cost in costs)
        rows += f"| {family} | {models} | {params} | {madds} |\n"
    return _between_markers(text, rows)


def make_readme(text: str) -> str:
    """The README with its table of headline models filled in; times are those of docs/performance.md."""
    rows = (
        "| model | top-1 (%) | parameters (M) | MAdds (M) | ms/image | times as fast as timm |\n"
        "|---|---:|---:|---:|---:|---:|\n"
    )
    page = PERFORMANCE.read_text(encoding="utf-8")
    for name in HEADLINE:
        spec = find_weights(f"{name}.{effnets.list_weights(name)[0]}")
        cost = effnets.count(name)
        row = re.search(rf"^\| {name} \| 1 \| onnxruntime \| effnets rewritten \| (\S+) \| \S+ \| (\S+) \|", page, re.M)
        assert row is not None, f"{PERFORMANCE}: has no row of {name}"
        figures = [f"{spec.top1:.1f}", f"{cost.params / 1e6:.1f}", f"{cost.madds / 1e6:.0f}", row[1], row[2]]
        rows += f"| `{name}` | {' | '.join(figures)} |\n"
    return _between_markers(text, rows)


def _between_markers(text: str, rows: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + rows + END + rest.partition(END)[2]


def make_row(figure: dict[str, Any], notes: list[str]) -> str:
    size = figure.get("size") or effnets.load_spec(figure["model"]).input_size
    cost = effnets.count(figure["model"], size)
    cells = [f"`{figure['model']}`", f"{size}"]
    large = False
    for counted, stated in ((cost.params / 1e6, figure["params"]), (cost.madds / 1e6, figure["madds"])):
        difference = 100 * (counted / stated - 1)
        large |= abs(difference) > WORTH_A_NOTE
        cells += [f"{counted:,.2f}", f"{stated:,}", f"{difference:+.1f} %"]
    note = figure.get("note", "").format_map(FIGURES)
    if large and not note:
        sys.exit(f"{figure['model']} at {size}: differs by over {WORTH_A_NOTE} %, and paper_figures.yaml says not why")
    if note and note not in notes:
        notes.append(note)
    return "| " + " | ".join([*cells, figure["source"], str(notes.index(note) + 1) if note else ""]) + " |\n"


def make_kernel_rows() -> str:
    rows = ""
    for base, study in KERNEL_STUDY.items():
        for suffix, stated in study.items():
            added = (effnets.count(f"{base}_{suffix}").params - effnets.count(base).params) / 1e6
            rows += f"| `{base}_{suffix}` | {added:+.3f} | {stated:+.2f} | {added - stated:+.3f} |\n"
    return rows


def make_detectors() -> str:
    """The section of SSDLite's costs, and what the differences from the paper are."""
    rows = ""
    for name, (params, madds) in DETECTOR_STUDY.items():
        counted, coco = count_ssdlite(name, num_classes=PAPER_OUTPUTS), count_ssdlite(name, num_classes=COCO_OUTPUTS)
        cells = [
            f"{counted.params / 1e6:.3f}",
            f"{params:.2f}",
            f"{counted.params / 1e6 - params:+.3f}",
            f"{counted.madds / 1e9:.3f}",
            f"{madds:.2f}",
            f"{counted.madds / 1e9 - madds:+.3f}",
            f"{coco.params / 1e6:.2f} M, {coco.madds / 1e9:.2f} G",
        ]
        rows += f"| `{name}` | {' | '.join(cells)} |\n"
    figures: dict[str, float] = {"folded": folded_parameters("mobilenetv2_100") / 1e6}
    outputs = {"coco": COCO_OUTPUTS, "paper": PAPER_OUTPUTS, "used": USED_OUTPUTS}
    for name, number in outputs.items():
        figures[f"{name}_params"], figures[f"{name}_madds"] = largest_differences(number)
    for version in ("v1", "v2"):
        fewer, more = (count_ssdlite(f"mobilenet{version}_100", num_classes=number).params for number in (90, 91))
        figures[f"each_{version}"] = (more - fewer) / 1e3
    return DETECTORS.format(**outputs) + rows + DETECTOR_NOTES.format(**outputs, **figures)


def largest_differences(num_classes: int) -> tuple[float, float]:
    """The largest differences from the paper's table, in M parameters and G multiply-adds."""
    pairs = []
    for name, (params, madds) in DETECTOR_STUDY.items():
        cost = count_ssdlite(name, num_classes=num_classes)
        pairs.append((abs(cost.params / 1e6 - params), abs(cost.madds / 1e9 - madds)))
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def folded_parameters(name: str) -> int:
    """Parameters of an SSDLite detector with a bias for each channel in place of batch normalization's two."""
    detector = effnets.create_detector(name, "ssdlite", num_classes=COCO_OUTPUTS, device="meta")
    norms = sum(part.num_features for part in detector.modules() if isinstance(part, nn.BatchNorm2d))
    return count_ssdlite(name, num_classes=COCO_OUTPUTS).params - norms


PAGES = {COSTS: make_page, MODELS: make_models, README: make_readme}

if __name__ == "__main__":
    main()
