"""What a classifier's outputs are called."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

__all__ = ["class_names", "imagenet1k", "imagenet1k_lemmas", "imagenet1k_wordnet_ids", "imagenet12k"]


@cache
def imagenet1k() -> tuple[str, ...]:
    """Return the labels of ImageNet's 1,000 classes, in order: the first lemma of each WordNet synset.

    They are not all different: classes 134 and 517 are both a "crane", 638 and 639 both a "maillot".
    """
    return tuple(lemmas.split(", ")[0] for lemmas in imagenet1k_lemmas())


@cache
def imagenet1k_lemmas() -> tuple[str, ...]:
    """Return all lemmas of each of the 1,000 synsets: "tench, Tinca tinca"."""
    return tuple(lemmas for _, lemmas in _imagenet1k_table())


@cache
def imagenet1k_wordnet_ids() -> tuple[str, ...]:
    """Return the WordNet number of each of the 1,000 synsets, as ImageNet's folders are called: "n01440764"."""
    return tuple(wordnet_id for wordnet_id, _ in _imagenet1k_table())


@cache
def imagenet12k() -> tuple[str, ...]:
    """Return the labels of ImageNet-12k's 11,821 classes, in timm's order: the first lemma of each WordNet synset.

    Several hundred occur more than once, as words have several meanings.
    """
    return _first_lemmas(gzip.decompress(files("effnets").joinpath("data", "imagenet12k.tsv.gz").read_bytes()))


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return a name for each output of a classifier whose weights bring none along.

    1000 outputs are taken for ImageNet's classes, 1001 for a "background" before them, as in TensorFlow, and 11821 for
    the classes of ImageNet-12k. Others are called "class 0", "class 1", ….
    """
    if num_classes == 1000:
        return imagenet1k()
    if num_classes == 1001:
        return ("background", *imagenet1k())
    if num_classes == 11821:
        return imagenet12k()
    return tuple(f"class {index}" for index in range(num_classes))


def _imagenet1k_table() -> list[list[str]]:
    text = files("effnets").joinpath("data", "imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def _first_lemmas(table: bytes) -> tuple[str, ...]:
    return tuple(_first_lemma(line) for line in table.decode("utf-8").splitlines())


def _first_lemma(line: str) -> str:
    _wordnet_id, lemmas = line.split("\t")
    return lemmas.split(", ")[0]
