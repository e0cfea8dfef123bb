"""Names of a classifier's outputs, and predictions from logits. Free of torch."""

from __future__ import annotations

import gzip
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError, WeightsError
from effnets.utils.arguments import check_integer

HALF = 0.5  # the threshold of labels that have none


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
    return _first_lemmas(gzip.decompress(files("effnets").joinpath("assets", "imagenet12k.tsv.gz").read_bytes()))


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return a name for each output of a classifier whose weights have no names.

    1000 outputs are ImageNet's classes, 1001 have a "background" before them, as in TensorFlow, and 11821 are the
    classes of ImageNet-12k. Others are called "class 0", "class 1", ….
    """
    if num_classes == 1000:
        return imagenet1k()
    if num_classes == 1001:
        return ("background", *imagenet1k())
    if num_classes == 11821:
        return imagenet12k()
    return tuple(f"class {index}" for index in range(num_classes))


def are_named(labels: Sequence[str]) -> bool:
    """Return whether the outputs of a model have names, unlike "class 0", "class 1", …."""
    return not all(label == f"class {index}" for index, label in enumerate(labels))


def spellings(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the lists of names that data may use for a model's outputs: its labels; for ImageNet also others.

    These are the WordNet numbers and the full entries. Each list names every output, or all but a leading background.
    All are in Unicode's composed form, as are the names of data.
    """
    own = tuple(unicodedata.normalize("NFC", label) for label in labels)
    classes = own[1:] if len(own) == 1001 else own
    if classes != imagenet1k():
        return [own]
    return [own, classes, imagenet1k_wordnet_ids(), imagenet1k_lemmas()]


def first_numbered(names: Iterable[str], labels: Sequence[str]) -> int | None:
    """Return the output that data call class "0", if they number their classes and have as many as the model.

    It is 1 if the model has a background, else 0; None if the names are not all the numbers from 0.
    """
    names = set(names)
    offset = len(labels) - len(names)
    has_background = offset == 1 and labels[0] == "background"
    numbers = {str(index) for index in range(len(names))}
    # If the model's own names are numbers, names decide: fine-tuned on folders, its output 2 may be called "10".
    if names != numbers or numbers & set(labels) or not (offset == 0 or has_background):
        return None
    return offset


def class_orders(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the classes of folders in each order that programs train in, by its name.

    Folders called by numbers are in ``numeric`` order here and in timm (0, 1, 2, …, 10), and in ``lexicographic`` order
    in torchvision's ImageFolder and Keras (0, 1, 10, 2, …). Of all other names both are the order of their characters.
    """
    characters = tuple(sorted(set(names)))
    numbers = all(name.isascii() and name.isdigit() for name in characters)
    numeric = tuple(sorted(characters, key=lambda name: (int(name), name))) if numbers else characters
    return {"numeric": numeric, "lexicographic": characters}


def find_outputs(names: Iterable[str], labels: Sequence[str]) -> dict[str, int]:
    """Return the output of each name, by the spelling that knows most of them.

    Unknown names, and names that two classes share, are left out.
    """
    names = set(names)
    if not are_named(labels) and len(set(class_orders(names).values())) > 1:
        return {}  # the outputs may be in either order
    if (first := first_numbered(names, labels)) is not None:
        return {name: int(name) + first for name in names}
    found = []
    for spelling in spellings(labels):
        times, offset = Counter(spelling), len(labels) - len(spelling)
        places = {name: index + offset for index, name in enumerate(spelling) if times[name] == 1}
        found.append({name: places[name] for name in names & places.keys()})
    return max(found, key=len)


def _imagenet1k_table() -> list[list[str]]:
    text = files("effnets").joinpath("assets", "imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def _first_lemmas(table: bytes) -> tuple[str, ...]:
    return tuple(_first_lemma(line) for line in table.decode("utf-8").splitlines())


def _first_lemma(line: str) -> str:
    _wordnet_id, lemmas = line.split("\t")
    return lemmas.split(", ")[0]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class predicted for an image, with its softmax probability (0..1), or a label, with its sigmoid probability."""

    index: int
    label: str
    probability: float


def rank(logits: NDArray[np.float32], names: Sequence[str], topk: int) -> list[list[Prediction]]:
    """Return the `topk` likeliest classes of each row of logits ``[N, C]``, the likeliest first; all if C is less.

    Raises:
        ArgumentError: if `topk` is not positive, or `names` does not have one name for each class.
        WeightsError: if the logits are not all finite.
    """
    topk = check_integer("topk", topk, 1, "ask for at least 1 prediction")
    if len(names) != logits.shape[1]:
        raise ArgumentError(f"class_names has {len(names)} names for {logits.shape[1]} classes; give one for each")
    likely = probabilities(logits, "softmax")
    best = np.argsort(-likely, axis=1, kind="stable")[:, :topk]
    return [
        [Prediction(int(index), names[index], float(row[index])) for index in order]
        for row, order in zip(likely, best, strict=True)
    ]


def choose_labels(
    logits: NDArray[np.float32], names: Sequence[str], thresholds: Sequence[float] = ()
) -> list[list[Prediction]]:
    """Return the labels of each row of logits ``[N, C]`` whose probability reaches its threshold, the likeliest first.

    Raises:
        WeightsError: if the logits are not all finite.
    """
    likely = probabilities(logits, "sigmoid")
    least = np.asarray(thresholds) if len(thresholds) else np.full(len(names), HALF)
    found = []
    for row in likely:
        order = np.argsort(-row, kind="stable")
        found.append([Prediction(int(one), names[one], float(row[one])) for one in order if row[one] >= least[one]])
    return found


def probabilities(logits: NDArray[np.floating], activation: str) -> NDArray[np.float64]:
    """Return the probabilities of logits ``[N, C]``: of classes (``softmax``) or of labels (``sigmoid``).

    Raises:
        WeightsError: if the logits are not all finite.
    """
    if not np.isfinite(logits).all():
        raise WeightsError("the logits are not finite: the weights hold NaN or infinity, or the precision overflows")
    wide = logits.astype(np.float64)
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -wide))
    shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
