"""Does a supernet rank sub-networks as their own trainings do? Kendall's τ between both accuracies.

    uv run scripts/supernet_study.py SPACE DATA --runs FOLDER [--subnets 12] [--images 10000] [--epochs 6]
        [--supernet-epochs 36] [--max-madds 40e6] [--recipe cifar10_demo] [--set KEY=VALUE …] [--write FILE]

SPACE is a search space (effnets.search.space), DATA holds train.parquet and test.parquet in the Hub's layout, of whose
training images the first `--images` are taken. The sub-networks are drawn as the supernet draws its paths, by another
seed. Each is measured with the supernet's weights on the validation images, and trained by itself, with the same
recipe, for `--epochs`; `--set` changes settings of the supernet's recipe alone. Every training is kept in FOLDER, and
one that was stopped goes on where it was: run the same command again. Beside other programs set OMP_NUM_THREADS=1:
threads that wait for each other's turn take many times longer.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from cifar10_study import take_part
from scipy.stats import kendalltau

from effnets.search.paths import PathSampler
from effnets.search.space import Picks, SearchSpace, read_space
from effnets.search.supernet import Supernet, train_supernet
from effnets.search.trainings import train_candidate
from effnets.spec.scaling import ScaleLimits
from effnets.train.recipe import Recipe, find_recipe, read_recipe
from effnets.utils.atomic_file import write_whole
from effnets.utils.machine import describe_machine, keep_freed_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sub-network: its options and costs, and its top-1 in per cent with shared weights and with its own."""

    options: str
    params: int
    madds: int
    shared_val: float
    own_val: float
    own_test: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--subnets", type=int, default=12)
    arguments = parser.parse_args()
    keep_freed_memory()
    supernet, data, own = open_supernet(arguments)
    rows = [
        measure(supernet, picks, data, own, arguments.runs, arguments.seed)
        for picks in subnets(supernet.space, limits_of(arguments), arguments.seed, arguments.subnets)
    ]
    results = {"taus": taus(rows), "rows": [asdict(row) for row in rows]}
    write_results(arguments, "results.json", results, document(rows, arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which supernet, and how networks are trained by themselves."""
    parser.add_argument("space")
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000, help="training images, those that validate among them")
    parser.add_argument("--val-share", type=float, default=0.2, help="of them, that validate")
    parser.add_argument("--epochs", type=int, default=6, help="of each training by itself")
    parser.add_argument("--supernet-epochs", type=int, default=36)
    parser.add_argument("--max-madds", type=float, help="of the supernet's paths")
    parser.add_argument("--recipe", default="cifar10_demo")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the supernet's recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)


def limits_of(arguments: argparse.Namespace) -> ScaleLimits:
    """The limits on the supernet's paths."""
    return ScaleLimits(max_madds=arguments.max_madds)


def open_supernet(arguments: argparse.Namespace) -> tuple[Supernet, Path, Recipe]:
    """The supernet, trained now unless it is there; the data, and the recipe of networks by themselves."""
    data = take_part(arguments.data, arguments.runs / f"data-{arguments.images}", arguments.images)
    common = {"val_share": arguments.val_share, "workers": 0, "epoch_repeats": 1}
    own = read_recipe(find_recipe(arguments.recipe), common | {"epochs": arguments.epochs})
    changes = dict(pair.split("=", 1) for pair in arguments.set)
    changes = {key: yaml.safe_load(value) for key, value in changes.items()}
    shared = read_recipe(find_recipe(arguments.recipe), common | {"epochs": arguments.supernet_epochs} | changes)
    space, folder = read_space(arguments.space), arguments.runs / "supernet"
    begin = time.monotonic()
    supernet = train_supernet(
        space, data, shared, folder, seed=arguments.seed, limits=limits_of(arguments), progress=show()
    )
    print(f"supernet: {time.monotonic() - begin:.0f} s in this process", flush=True)
    return supernet, data, own


def write_results(arguments: argparse.Namespace, name: str, results: dict[str, Any], text: str) -> None:
    """Print the text, and write it and the results where the arguments say."""
    print(text)
    about = {"arguments": {key: str(value) for key, value in vars(arguments).items()}}
    about["machine"] = str(describe_machine())
    write_whole(arguments.runs / name, json.dumps(about | results, indent=1).encode())
    if arguments.write:
        write_whole(arguments.write, text.encode())


def show():
    """A progress function that prints a line every minute."""
    last = time.monotonic()

    def progress(what: str, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"{100 * fraction:.0f} %: {what}", flush=True)

    return progress


def subnets(space: SearchSpace, limits: ScaleLimits, seed: int, count: int) -> list[Picks]:
    """So many different sub-networks, drawn evenly, by a seed that no path of the supernet was drawn by."""
    sampler = PathSampler(space, seed=seed + 1_000_000, limits=limits)
    found: dict[Picks, None] = {}
    number = 0
    while len(found) < min(count, space.size) and number < 100 * count:
        found[sampler(number)] = None
        number += 1
    return [*found]


def measure(supernet: Supernet, picks: Picks, data: Path, recipe: Recipe, runs: Path, seed: int) -> Row:
    """Both accuracies of a sub-network."""
    space = supernet.space
    options = describe(space, picks)
    shared = supernet.evaluate(picks)
    folder = runs / f"own-{'-'.join(map(str, picks))}"
    result = train_candidate(space.spec(picks), data, recipe, folder, seed=seed, progress=show())
    row = Row(
        options=options,
        params=result.params,
        madds=result.madds,
        shared_val=shared,
        own_val=result.val_top1,
        own_test=result.test_top1,
        seconds=result.seconds,
    )
    print(f"{options}: {row.shared_val:.1f} shared, {row.own_val:.1f} own, {row.own_test:.1f} test", flush=True)
    return row


def describe(space: SearchSpace, picks: Picks) -> str:
    """The options in the order of the table, those of one row together, as in "3.5.7/6/se0.25"."""
    words: dict[int | None, list[str]] = {}
    for choice, index in zip(space.choices, picks, strict=True):
        words.setdefault(choice.row, []).append(str(choice.options[index]).strip("_"))
    return " ".join("/".join(filter(None, row)) or "-" for row in words.values())


def taus(rows: list[Row]) -> dict[str, tuple[float, float]]:
    """Kendall's τ-b of each way to rank against the test accuracy of own trainings, with its p-value."""
    ways = {
        "the supernet": [row.shared_val for row in rows],
        "multiply-adds": [row.madds for row in rows],
        "parameters": [row.params for row in rows],
        "validation of the own training": [row.own_val for row in rows],
    }
    own = [row.own_test for row in rows]
    return {way: tuple(map(float, kendalltau(values, own))) for way, values in ways.items()}


def document(rows: list[Row], arguments: argparse.Namespace) -> str:
    """The table and what it says."""
    lines = [
        "| options | parameters (M) | MAdds (M) | supernet, val | own, val | own, test |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row.own_test):
        values = [f"{row.params / 1e6:.2f}", f"{row.madds / 1e6:.1f}"]
        values += [f"{top1:.2f}" for top1 in (row.shared_val, row.own_val, row.own_test)]
        lines.append(f"| {row.options} | {' | '.join(values)} |")
    found = [f"- {way}: τ = {tau:.2f} (p = {p:.3f})" for way, (tau, p) in taus(rows).items()]
    spread = max(row.own_test for row in rows) - min(row.own_test for row in rows)
    error = max(196 * (row.own_test * (100 - row.own_test) / 1e4 / 10_000) ** 0.5 for row in rows)
    return "\n".join(
        [
            *lines,
            "",
            f"Rank correlation with the own test accuracy, {len(rows)} sub-networks of {arguments.space}:",
            "",
            *found,
            "",
            f"Own test accuracies lie within {spread:.1f} points; 10,000 test images leave ±{error:.1f} (95 %), and "
            "another seed changes them too, so that no way to rank can reach 1.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
