from __future__ import annotations

from collections import Counter

from effnets.runtime.labels import class_names, imagenet1k


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


def test_labels_are_read_once():
    assert imagenet1k() is imagenet1k()


def test_class_names():
    assert class_names(1000) == imagenet1k()
    assert class_names(1001) == ("background", *imagenet1k())
    assert class_names(3) == ("class 0", "class 1", "class 2")
    assert class_names(0) == ()
