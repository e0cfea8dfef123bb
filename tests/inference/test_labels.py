from __future__ import annotations

import gzip
import runpy
from collections import Counter

import pytest

from effnets.inference.labels import class_names, imagenet1k, imagenet12k
from tests.support import ROOT


def test_imagenet_labels():
    labels = imagenet1k()
    assert len(labels) == 1000
    assert labels[0] == "tench"
    assert labels[281] == "tabby"
    assert labels[934] == "hotdog"
    assert labels[999] == "toilet tissue"
    assert not [label for label in labels if not label or label != label.strip() or "," in label or "\t" in label]


def test_repeated_labels_are_wordnets_own():
    labels = imagenet1k()
    repeated = {label for label, times in Counter(labels).items() if times > 1}
    assert repeated == {"crane", "maillot"}
    assert (labels[134], labels[517]) == ("crane", "crane")
    assert (labels[638], labels[639]) == ("maillot", "maillot")


def test_imagenet12k_labels():
    labels = imagenet12k()
    assert len(labels) == 11821
    assert (labels[0], labels[1], labels[-1]) == ("benthos", "cell", "knothole")
    assert {"tabby", "hotdog", "toilet tissue"} <= set(labels)
    assert not [label for label in labels if not label or label != label.strip() or "," in label or "\t" in label]


def test_imagenet12k_is_timms():
    pytest.importorskip("timm")
    script = runpy.run_path(str(ROOT / "scripts" / "make_imagenet12k.py"))
    stored = (ROOT / "effnets" / "assets" / "imagenet12k.tsv.gz").read_bytes()
    assert gzip.decompress(stored).decode("utf-8") == script["make_table"](), "run scripts/make_imagenet12k.py"
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet12k")
    assert imagenet12k()[4321] == info.index_to_description(4321).split(", ")[0]


def test_labels_are_read_once():
    assert imagenet1k() is imagenet1k()
    assert imagenet12k() is imagenet12k()


def test_class_names():
    assert class_names(1000) == imagenet1k()
    assert class_names(1001) == ("background", *imagenet1k())
    assert class_names(11821) == imagenet12k()
    assert class_names(3) == ("class 0", "class 1", "class 2")
    assert class_names(0) == ()
