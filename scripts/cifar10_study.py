"""Train the four families on CIFAR-10 with one recipe and one budget, and write docs/cifar10.md.

    uv run scripts/cifar10_study.py DATA --runs FOLDER [--epochs 4] [--pictures 12500] [--seeds 0,1]
        [--write docs/cifar10.md]

DATA holds train.parquet and test.parquet in the Hub's layout. The networks are those of scripts/cifar10_families.yaml,
the recipe is cifar10_demo with its length changed. Finished runs are kept in FOLDER: a study that was stopped goes on
with the next one. Processor time is counted, so run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as parquet

import effnets
from effnets.spec.cost import count
from effnets.spec.entries import read_entries
from effnets.train.recipe import find_recipe, read_recipe
from effnets.utils.atomic_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ROOT / "scripts" / "cifar10_families.yaml"
RECIPE = "cifar10_demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one network reached, run by run."""

    name: str
    parameters: int
    multiply_adds: int
    top1: tuple[float, ...]
    processor_seconds: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=12_500)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    data = take_part(arguments.data, arguments.runs / f"data-{arguments.pictures}", arguments.pictures)
    names = [entry.name for entry in read_entries(FAMILIES)]
    metrics = {
        (name, seed): train(name, seed, data, arguments.runs, arguments.epochs) for seed in seeds for name in names
    }
    rows = []
    for name in names:
        cost = count(f"{FAMILIES}:{name}")
        runs = [metrics[name, seed] for seed in seeds]
        rows.append(
            Row(
                name=name,
                parameters=cost.params,
                multiply_adds=cost.madds,
                top1=tuple(run["test_top1"] for run in runs),
                processor_seconds=tuple(run["processor_seconds"] for run in runs),
            )
        )
    text = document(rows, seeds, arguments.epochs, arguments.pictures, next(iter(metrics.values())))
    print(text)
    if arguments.write:
        write_whole(arguments.write, text.encode())


def take_part(data: Path, folder: Path, pictures: int) -> Path:
    """The first `pictures` of the training set (it is in no order) and the whole test set."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.parquet").exists():
        table = parquet.read_table(data / "train.parquet")
        parquet.write_table(table.slice(0, pictures), folder / "partial")
        (folder / "partial").rename(folder / "train.parquet")
    if not (folder / "test.parquet").exists():
        (folder / "test.parquet").symlink_to((data / "test.parquet").resolve())
    return folder


def train(name: str, seed: int, data: Path, runs: Path, epochs: int) -> dict[str, Any]:
    """The metrics of one run, of an earlier study if it has them."""
    kept = runs / f"{name}-{epochs}-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    changes = {"model": f"{FAMILIES}:{name}", "seed": seed, "epochs": epochs, "workers": 0}
    recipe = read_recipe(find_recipe(RECIPE), changes)
    shutil.rmtree(runs / kept.stem, ignore_errors=True)  # of a run that was stopped
    begin = time.process_time()
    trained = effnets.finetune(recipe, data, runs / kept.stem, check="none")
    metrics = {**trained.metrics, "processor_seconds": time.process_time() - begin}
    write_whole(kept, json.dumps(metrics, indent=1).encode())
    print(f"{name}, seed {seed}: {trained.test_top1:.2f} %", flush=True)
    return metrics


def document(rows: list[Row], seeds: list[int], epochs: int, pictures: int, run: dict[str, Any]) -> str:
    """The page."""
    command = (
        f"uv run scripts/cifar10_study.py DATA --runs FOLDER --epochs {epochs} --pictures {pictures} "
        f"--seeds {','.join(map(str, seeds))} --write docs/cifar10.md"
    )
    header = [
        "network",
        "parameters (M)",
        "MAdds (M)",
        *(f"top-1, seed {seed}" for seed in seeds),
        "mean",
        "processor seconds",
    ]
    lines = [
        "| " + " | ".join(header) + " |",
        "|---" + "|---:" * (len(header) - 1) + "|",
    ]
    for row in rows:
        values = [
            f"{row.parameters / 1e6:.2f}",
            f"{row.multiply_adds / 1e6:.1f}",
            *(f"{top1:.2f}" for top1 in row.top1),
        ]
        values += [f"{mean(row.top1):.2f}", f"{mean(row.processor_seconds):.0f}"]
        lines.append(f"| `{row.name}` | " + " | ".join(values) + " |")
    spread = max(max(row.top1) - min(row.top1) for row in rows)
    return f"""# Four families on CIFAR-10, equally dear

Made by `{command}`,
on {run["machine"]}; torch {run["versions"]["torch"]}.

32-pixel variants of MobileNetV1, MobileNetV2, MixNet-S and ReXNet-1.0, at widths that bring them to nearly the same
multiply-adds (`scripts/cifar10_families.yaml`), each trained from random weights by one
recipe (`configs/recipes/cifar10_demo.yaml`, its length apart) for {epochs} epochs of
{pictures:,} pictures. Top-1 is in per cent of the 10,000 test pictures, measured once at the end. Processor
seconds are those of a whole run on one thread, testing included, the mean of the seeds.

{chr(10).join(lines)}

## What this says, and what not

{chr(10).join(findings(rows))}
- Two runs of one network differ by up to {spread:.2f} points here, and 10,000 pictures alone leave
  ±{error(rows):.1f} points (95 %).
- The budget is small: no network has learned nearly all that it could, and which of them learns fastest need not be
  the one that is best in the end. The recipe was chosen for `mixnet_xs_32px`, a MixNet, and tuned for none of these.
- The widths are far below those that the papers designed their networks at, ReXNet's most of all (its stem keeps its
  32 channels, and takes a large part of the multiply-adds). Equal multiply-adds are not equal time: see the seconds.
- Nothing follows for ImageNet, for 224 pixels, or for long trainings.
"""


def findings(rows: list[Row]) -> list[str]:
    """Which networks the runs tell apart: every run of one above every run of the other."""
    apart, alike = [], []
    ranked = sorted(rows, key=lambda row: -mean(row.top1))
    for better, worse in combinations(ranked, 2):
        pair = f"`{better.name}` above `{worse.name}`"
        if min(better.top1) > max(worse.top1):
            apart.append(f"{pair} (by {mean(better.top1) - mean(worse.top1):.1f})")
        else:
            alike.append(pair)
    told = [f"- In every run: {', '.join(apart)}."] if apart else []
    return told + ([f"- Not told apart: {', '.join(alike)}."] if alike else [])


def error(rows: list[Row]) -> float:
    """Half of the widest 95 % interval of an accuracy on 10,000 pictures, in points."""
    return max(
        196 * (share * (1 - share) / 10_000) ** 0.5 for row in rows for share in (top1 / 100 for top1 in row.top1)
    )


if __name__ == "__main__":
    main()
