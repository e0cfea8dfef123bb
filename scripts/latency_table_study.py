"""Compare the latencies that a table of blocks foretells with those of whole networks, for candidates of a space.

    uv run scripts/latency_table_study.py SPACE --measurements FOLDER [--candidates 50] [--fit 8] [--engine auto]
        [--threads N] [--seconds 270]

SPACE is a name of configs/spaces or a YAML file. Measurements are kept in FOLDER; after `--seconds` the program ends
with exit status 75, and the same command goes on. When all are there, it prints what share of them is foretold
within 10 %, by the plain sum of the pieces and after a line was fitted to other candidates.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from random import Random

import numpy as np

from effnets.errors import ConfigError
from effnets.search.latency_table import LatencyTable
from effnets.search.space import SearchSpace, read_space
from effnets.spec.specs import ModelSpec
from effnets.utils.machine import describe_machine

_TO_BE_CONTINUED = 75


class TimeUpError(Exception):
    """What was measured is kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("--measurements", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--fit", type=int, default=8)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=270)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    space = read_space(arguments.space)
    specs = draw(space, arguments.candidates + arguments.fit, Random(arguments.seed))

    def progress(what: str, share: float) -> None:
        print(f"\r{100 * share:3.0f} % {what:40}", end="", file=sys.stderr)
        # Only between groups: what is being timed is kept when it is done.
        if time.monotonic() > end and not what.startswith("timing"):
            raise TimeUpError

    table = LatencyTable(arguments.engine, arguments.threads, specs[0].input_size, arguments.measurements,
                         progress=progress)  # fmt: skip
    try:
        sums = table.total(specs)
        whole = table.measure_all(specs)
    except TimeUpError:
        print("\nto be continued: run it again", file=sys.stderr)
        sys.exit(_TO_BE_CONTINUED)
    print(file=sys.stderr)
    report(table, specs, np.array(sums), np.array(whole), arguments.fit)


def draw(space: SearchSpace, count: int, random: Random) -> list[ModelSpec]:
    """Different random candidates; those that make no network are passed over."""
    found: dict[tuple[int, ...], ModelSpec] = {}
    while len(found) < count:
        picks = space.random(random)
        try:
            found[picks] = space.spec(picks)
        except ConfigError:
            continue
    return list(found.values())


def report(table: LatencyTable, specs: list[ModelSpec], sums: np.ndarray, whole: np.ndarray, fit: int) -> None:
    """Print the figures; the last `fit` networks are for the line alone."""
    count = len(specs) - fit
    print(f"{table.engine} on {describe_machine()}, at {table.size} pixels; {count} candidates,")
    print(f"{whole[:count].min():.2f} to {whole[:count].max():.2f} ms, median {np.median(whole[:count]):.2f} ms")
    show("sum of the pieces", sums[:count], whole[:count])
    if fit:
        offset, factor = table.fit(specs[count:])
        show(f"{offset:.3f} ms + {factor:.3f} · sum, fitted to {fit} others", offset + factor * sums[:count],
             whole[:count])  # fmt: skip


def show(what: str, foretold: np.ndarray, whole: np.ndarray) -> None:
    """Print the errors of one way to foretell."""
    errors = foretold / whole - 1
    ranks = [np.argsort(np.argsort(values)) for values in (foretold, whole)]
    print(
        f"{what}: {100 * np.mean(np.abs(errors) <= 0.1):.0f} % within 10 %; errors {100 * np.median(errors):+.1f} % in "
        f"the median, {100 * np.median(np.abs(errors)):.1f} % absolute, {100 * np.abs(errors).max():.1f} % at most; "
        f"rank correlation {np.corrcoef(*ranks)[0, 1]:.3f}"
    )


if __name__ == "__main__":
    main()
