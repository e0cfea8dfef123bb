"""What a classifier's outputs are called."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["class_names", "imagenet1k"]


@cache
def imagenet1k() -> tuple[str, ...]:
    """Return the labels of ImageNet's 1,000 classes, in order: the first lemma of each WordNet synset.

    They are not all different: classes 134 and 517 are both a "crane", 638 and 639 both a "maillot".
    """
    table = files("effnets").joinpath("data", "imagenet1k.tsv").read_text(encoding="utf-8")
    return tuple(_first_lemma(line) for line in table.splitlines())


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return a name for each output of a classifier whose weights bring none along.

    1000 outputs are taken for ImageNet's classes, and 1001 for a "background" before them, as in TensorFlow.
    Others are called "class 0", "class 1", ….
    """
    if num_classes == 1000:
        return imagenet1k()
    if num_classes == 1001:
        return ("background", *imagenet1k())
    return tuple(f"class {index}" for index in range(num_classes))


def _first_lemma(line: str) -> str:
    _wordnet_id, lemmas = line.split("\t")
    return lemmas.split(", ")[0]
