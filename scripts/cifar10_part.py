"""Write a part of CIFAR-10: its first training and test images, which are in no order.

    uv run scripts/cifar10_part.py DATA OUTPUT --train 5000 --test 2000

DATA holds train.parquet and test.parquet in the Hub's layout; OUTPUT is a new folder, in the same layout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as parquet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, required=True)
    parser.add_argument("--test", type=int, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    for split in ("train", "test"):
        table = parquet.read_table(arguments.data / f"{split}.parquet")
        parquet.write_table(table.slice(0, getattr(arguments, split)), arguments.output / f"{split}.parquet")


if __name__ == "__main__":
    main()
