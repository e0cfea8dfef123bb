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
    return INTRODUCTION + rows + "\n" + numbered + KERNELS + make_kernel_rows()


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


PAGES = {COSTS: make_page, MODELS: make_models, README: make_readme}

if __name__ == "__main__":
    main()
