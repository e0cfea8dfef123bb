"""Write docs/costs.md: parameters and multiply-adds of the models beside the figures of their publications.

uv run scripts/cost_table.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

import effnets

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "costs.md"
COMMAND = "uv run scripts/cost_table.py"
WORTH_A_NOTE = 2.0  # per cent

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

KERNEL_STUDY = {
    "mobilenetv1_100": {"k5": 0.08, "k7": 0.20, "k3_5": 0.04, "k3_5_7": 0.10},
    "mobilenetv2_100": {"k5": 0.12, "k7": 0.29, "k3_5": 0.06, "k3_5_7": 0.14},
}


def main() -> None:
    text = make_page()
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} is out of date: run {COMMAND}")


def make_page() -> str:
    figures = yaml.safe_load((ROOT / "scripts" / "paper_figures.yaml").read_text(encoding="utf-8"))
    notes: list[str] = []
    rows = "".join(make_row(figure, notes) for figure in figures)
    numbered = "".join(f"{number}. {note}\n" for number, note in enumerate(notes, start=1))
    return INTRODUCTION + rows + "\n" + numbered + KERNELS + make_kernel_rows()


def make_row(figure: dict[str, Any], notes: list[str]) -> str:
    size = figure.get("size") or effnets.load_spec(figure["model"]).input_size
    cost = effnets.count(figure["model"], size)
    cells = [f"`{figure['model']}`", f"{size}"]
    large = False
    for counted, stated in ((cost.params / 1e6, figure["params"]), (cost.madds / 1e6, figure["madds"])):
        difference = 100 * (counted / stated - 1)
        large |= abs(difference) > WORTH_A_NOTE
        cells += [f"{counted:,.2f}", f"{stated:,}", f"{difference:+.1f} %"]
    note = figure.get("note")
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


if __name__ == "__main__":
    main()
