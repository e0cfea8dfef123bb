"""YOLO's text files: every mistake is named with its line."""

from __future__ import annotations

import pytest

from effnets.detection.annotations import open_boxes
from effnets.errors import ConfigError, DataError
from tests.support.boxed_sets import CLASSES, scenes, splits, yolo_files, yolo_line
from tests.support.data_sets import pack, write

GOOD = yolo_line(("cat", 4, 6, 24, 16))

BAD = {
    "four": ("0 0.5 0.5 0.1", r"train000\.txt, line 2: has 4 values; a box is class, x, y, width, height$"),
    "polygon": ("0 0.1 0.1 0.2 0.1 0.2 0.2", r"line 2: has 7 values; .*; of a polygon write the box around it"),
    "words": ("cat 0.5 0.5 0.1 0.1", r"line 2: 'cat 0\.5 0\.5 0\.1 0\.1' are not five numbers"),
    "class": ("2 0.5 0.5 0.1 0.1", r"line 2: has the class 2; there are 0 to 1"),
    "negative class": ("-1 0.5 0.5 0.1 0.1", r"line 2: has the class -1; there are 0 to 1"),
    "part of a class": ("0.5 0.5 0.5 0.1 0.1", r"line 2: has the class 0\.5; there are 0 to 1"),
    "nan": ("nan 0.5 0.5 0.1 0.1", r"line 2: has the class nan; there are 0 to 1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_line(tmp_path, kind):
    line, message = BAD[kind]
    files = yolo_files(splits()) | {"labels/train/train000.txt": f"{GOOD}\n{line}\n{GOOD}\n".encode()}
    with pytest.raises(DataError, match=message):
        open_boxes(write(tmp_path, files))


def test_bytes_that_are_no_text(tmp_path):
    files = yolo_files(splits()) | {"labels/train/train000.txt": b"\xff\xfe\x00"}
    with pytest.raises(DataError, match=r"train000\.txt: is not UTF-8 text"):
        open_boxes(write(tmp_path, files))


@pytest.mark.parametrize("values", ["nan 0.5 0.1 0.1", "0.5 0.5 0 0.1", "0.5 0.5 -0.1 0.1", "1.5 0.5 0.1 0.1"])
def test_bad_boxes_are_left_out(tmp_path, values):
    files = yolo_files(splits()) | {"labels/train/train000.txt": f"{GOOD}\n0 {values}\n".encode()}
    splits_of = open_boxes(write(tmp_path, files))
    assert len(splits_of.train.boxes(0)) == 1
    assert any("train000.txt, line 2: the box (" in note for note in splits_of.notes)


def test_pixels_instead_of_parts_are_an_error(tmp_path):
    files = yolo_files(splits())
    for name in files:
        if name.startswith("labels/train"):
            files[name] = b"0 20 20 10 10\n1 40 20 9 9\n"
    with pytest.raises(DataError, match=r"train: 16 of 16 boxes are bad, and 3 may be left out"):
        open_boxes(write(tmp_path, files))


YAMLS = {
    "no names": ("nc: 2\n", DataError, r"data\.yaml: has no names; list the classes there, names: \[cat, dog\]"),
    "count": ("nc: 3\nnames: [cat, dog]\n", DataError, r"data\.yaml, line 1: nc is 3, but there are 2 names"),
    "twice": ("names: [cat, cat]\n", DataError, r"line 1: names must be a list of different names"),
    "empty": ("names: []\n", DataError, r"line 1: names must be a list of different names"),
    "gap": ("names: {0: cat, 2: dog}\n", DataError, r"line 1: names must be numbered 0, 1, …, each once"),
    "damaged": ("names: [cat, dog\n", ConfigError, r"data\.yaml:\d+:\d+: not valid YAML"),
    "bomb": ("a: &a [x, x]\nb: [*a, *a]\nnames: [cat, dog]\n", ConfigError, r"anchors \(&name\) are not read here"),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_a_damaged_list_of_classes(tmp_path, kind):
    text, error, message = YAMLS[kind]
    with pytest.raises(error, match=message):
        open_boxes(write(tmp_path, yolo_files(splits()) | {"data.yaml": text.encode()}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\ndog\n"),
        ("labels/classes.txt", "cat\r\ndog\r\n"),
        ("data.yaml", "names:\n  0: cat\n  1: dog\n"),
        ("data.yml", "names: ['cat', 'dog']\ndownload: |\n  import os\n  pass\n"),
    ],
)
def test_where_names_may_be(tmp_path, name, text):
    files = yolo_files(splits())
    del files["data.yaml"]
    files[name] = text.encode()
    for data in (write(tmp_path / "data", files), pack(tmp_path / "data.tar", files)):
        splits_of = open_boxes(data)
        assert splits_of.class_names == CLASSES
        assert [len(one) for one in (splits_of.train, splits_of.val, splits_of.test)] == [8, 4, 4]


def test_labels_without_names_of_classes(tmp_path):
    files = yolo_files(splits())
    del files["data.yaml"]
    with pytest.raises(DataError, match=r"has no annotations .*; add data\.yaml or classes\.txt with the names"):
        open_boxes(write(tmp_path, files))


def test_split_around_images_and_no_split(tmp_path):
    around, flat, beside = {}, {}, {}
    for name, content in yolo_files({"train": scenes(8), "val": scenes(4, 2, "val")}).items():
        kind, _, rest = name.partition("/")
        split, _, file = rest.partition("/")
        if not rest:
            around[name], flat[name], beside[name] = content, b"names: [cat, dog]\n", content
            continue
        around[f"{split.replace('val', 'valid')}/{kind}/{file}"] = content
        flat[f"{kind}/{file}"] = content
        beside[f"{split}/{file}"] = content
    splits_of = open_boxes(write(tmp_path / "around", around))
    assert (len(splits_of.train), len(splits_of.val)) == (8, 4)
    splits_of = open_boxes(write(tmp_path / "beside", beside))
    assert (len(splits_of.train), len(splits_of.val)) == (8, 4)
    splits_of = open_boxes(write(tmp_path / "flat", flat), val_share=0.25)
    assert (len(splits_of.train), len(splits_of.val)) == (9, 3)


def test_splits_that_only_the_yaml_file_knows(tmp_path):
    files = {name.replace("/train/", "/a/").replace("/val/", "/b/"): one for name, one in yolo_files(splits()).items()}
    files = {name: one for name, one in files.items() if "/test/" not in name}
    files["data.yaml"] = b"train: images/a\nval: images/b\nnames: [cat, dog]\n"
    with pytest.raises(DataError, match=r"data\.yaml: has train: images/a, val: images/b, and splits are found by"):
        open_boxes(write(tmp_path, files))


def test_files_without_an_image(tmp_path):
    """Boxes would be lost: an image was forgotten, or has another name."""
    files = yolo_files(splits())
    del files["images/train/train001.png"], files["images/val/val000.png"]
    with pytest.raises(
        DataError,
        match=r"2 label files \(labels/train/train001\.txt, labels/val/val000\.txt\) without an image of that",
    ):
        open_boxes(write(tmp_path, files))


def test_two_images_of_one_file(tmp_path):
    files = yolo_files(splits())
    files["images/train/train001.jpg"] = files["images/train/train002.png"]
    with pytest.raises(
        DataError, match=r"train001\.txt: is of images/train/train001\.jpg and of images/train/train001\.png; give"
    ):
        open_boxes(write(tmp_path, files))


def test_images_without_a_file_show_nothing(tmp_path):
    files = yolo_files(splits())
    del files["labels/train/train001.txt"]
    splits_of = open_boxes(write(tmp_path, files))
    assert "1 image (images/train/train001.png) without a file of boxes: taken as showing nothing" in splits_of.notes
    assert len(splits_of.train.boxes(1)) == 0
    lonely = {name: one for name, one in files.items() if not name.startswith("labels/")} | {"readme.txt": b"hello"}
    with pytest.raises(DataError, match=r"has no image with a file of boxes: labels/test/test000\.txt of images/test"):
        open_boxes(write(tmp_path / "other", lonely))
