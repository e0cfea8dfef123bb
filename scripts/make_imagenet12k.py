"""Write effnets/assets/imagenet12k.tsv.gz: WordNet identifier and first lemma of each class, from what timm ships.

uv run scripts/make_imagenet12k.py
"""

from __future__ import annotations

import gzip
from pathlib import Path

import timm.data

TARGET = Path(__file__).resolve().parent.parent / "effnets" / "assets" / "imagenet12k.tsv.gz"


def main() -> None:
    # No time stamp: the same table is the same file.
    TARGET.write_bytes(gzip.compress(make_table().encode("utf-8"), compresslevel=9, mtime=0))
    print(f"wrote {TARGET}")


def make_table() -> str:
    info = Path(timm.data.__file__).parent / "_info"
    lemmas = dict(read_row(line) for line in read_lines(info / "imagenet_synset_to_lemma.txt"))
    synsets = read_lines(info / "imagenet12k_synsets.txt")
    return "".join(f"{synset}\t{lemmas[synset].split(', ')[0]}\n" for synset in synsets)


def read_row(line: str) -> tuple[str, str]:
    synset, lemmas = line.split("\t")
    return synset, lemmas


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main()
