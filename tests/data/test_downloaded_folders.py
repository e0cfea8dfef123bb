"""Folders and archives as people download them: splits by many names, litter, composed and decomposed letters."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.errors import DataError
from tests.support.data_sets import by_class, pack, picture, write

LITTER = [
    *("cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x/1.jpg", ".ipynb_checkpoints/0-checkpoint.jpg"),
    *("cat/.ipynb_checkpoints/0-checkpoint.jpg", "__MACOSX/cat/._0.jpg", "cat/._0.jpg", "Thumbs.db", "cat/Thumbs.db"),
    *("cat/ehthumbs.db", "cat/.DS_Store", "desktop.ini", "$RECYCLE.BIN/S-1/1.jpg", "lost+found/1.jpg"),
    *("System Volume Information/1.jpg", "#recycle/cat/1.jpg", ".git/1.jpg", "cat/~$0.jpg", "__pycache__/1.jpg"),
]


def divided(train: str, test: str, val: str = "") -> dict[str, bytes]:
    """Five training images of each class, two to test, and one to validate, if that has a folder."""
    files = by_class(5, folder=train) | by_class(2, folder=test, seed=300)
    return files | (by_class(1, folder=val, seed=600) if val else {})


LAYOUTS = {
    "Training and Testing": ("Training/", "Testing/", ""),
    "Train, Test and Val": ("Train/", "Test/", "Val/"),
    "upper case": ("TRAIN/", "TEST/", "VALIDATION/"),
    "images": ("train_images/", "test_images/", ""),
    "sets": ("train_set/", "test_set/", "validation_set/"),
    "sets in a word": ("trainset/", "testset/", "valset/"),
    "twice": ("training_set/training_set/", "test_set/test_set/", ""),
    "Intel": ("seg_train/seg_train/", "seg_test/seg_test/", ""),
    "dev": ("train/", "test/", "dev/"),
    "eval": ("train/", "test/", "eval/"),
    "a folder around": ("archive/Train/", "archive/Test/", ""),
    "a folder around, called like a split": ("Training/train/", "Training/test/", ""),
    "two folders around": ("dataset/data/train/train/", "dataset/data/test/test/", ""),
    "a folder around each split": ("archive/train/", "archive-2/test/", ""),
    "a folder around the classes": ("train/images/", "test/images/", "val/images/"),
    "a folder around the classes of one split": ("train/", "test/pictures/", ""),
}


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_by_other_names(tmp_path, layout, kind):
    files = divided(*LAYOUTS[layout])
    data = write(tmp_path / "data", files) if kind == "folder" else pack(tmp_path / "data.tar", files)
    splits = open_data(DataConfig(data, val_share=0))
    assert splits.class_names == ("cat", "dog")
    assert np.bincount(splits.train.labels).tolist() == [5, 5]
    assert np.bincount(splits.test.labels).tolist() == [2, 2]
    assert (splits.val is None) if layout not in ("dev",) and not LAYOUTS[layout][2] else len(splits.val) == 2
    test = open_evaluation_data(data)
    assert (test.split, test.source.read(0)) == ("test", picture(300))
    plain = {name.strip("/").split("/")[0] for name in LAYOUTS[layout] if name} <= {"train", "test", "val"}
    assert any("is taken as" in note for note in splits.notes) is (
        not plain and not layout.startswith(("a folder around, called", "two folders"))
    ), splits.notes


def test_names_of_splits_are_said(tmp_path):
    splits = open_data(write(tmp_path, divided("Training/", "Testing/")))
    assert splits.notes == ("Testing/ is taken as test, Training/ is taken as train",)


def test_splits_within_classes(tmp_path):
    files = {}
    for name, seed in (("cat", 0), ("dog", 1000)):
        files |= {f"{name}/train/{n}.jpg": picture(seed + n) for n in range(4)}
        files |= {f"{name}/test/{n}.jpg": picture(seed + 300 + n) for n in range(2)}
    splits = open_data(DataConfig(write(tmp_path, files), val_share=0))
    assert (splits.class_names, len(splits.train), len(splits.test)) == (("cat", "dog"), 8, 4)
    assert splits.notes == ("the splits are within the classes: cat/test/ is taken as test/cat/",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["train/cat/1.jpg", "test/cat/2.jpg", "bus/3.jpg"],
            "holds test/, train/ and also 1 folder (bus). If the first are splits, put every class into train/, val/ "
            "or test/, or move the others away; if all are classes, rename test/, train/",
        ),
        (["trains/1.jpg", "test/cat/2.jpg"], "holds test/ and also 1 folder (trains). If the first are splits, put"),
        (
            ["train/cat/1.jpg", "train/dog/1.jpg", "test/left/2.jpg", "test/right/2.jpg"],
            "test has 2 classes (left, right) that train lacks, so they cannot be learned; rename or remove them "
            "there, or add them to train. Train and test share no class: if they are classes themselves, rename their",
        ),
        (
            ["a/train/cat/1.jpg", "a/test/cat/2.jpg", "b/1.jpg"],
            "a/ holds test/, train/, and beside it is 1 folder (b). If the first are splits, give ",
        ),
        (
            ["train/cat/1.jpg", "train_images/1.jpg"],
            "train_images/ with images, but without folders named like classes",
        ),
        (
            ["train/cat.1.jpg", "train/dog.1.jpg", "test1/1.jpg"],
            "test1/, train/ with images, but without folders named",
        ),
        (
            ["val/cat/1.jpg", "dev/cat/1.jpg", "train/cat/1.jpg"],
            "holds dev/, val/, several of which mean val; merge them",
        ),
    ],
)
def test_what_has_two_readings_is_an_error(tmp_path, files, message):
    write(tmp_path, {name: picture(number) for number, name in enumerate(files)})
    for read in (open_data, open_evaluation_data):
        with pytest.raises(DataError, match=re.escape(message)):
            read(tmp_path)


def test_train_is_still_a_class_beside_others(tmp_path):
    splits = open_data(DataConfig(write(tmp_path, by_class(2, ("Train", "bus", "test"))), val_share=0))
    assert splits.class_names == ("Train", "bus", "test")


@pytest.mark.parametrize(
    "flat",
    [
        "test/{}.jpg",
        "test/test/{}.jpg",
        "seg_pred/seg_pred/{}.jpg",
        "single_prediction/{}.jpg",
        "test1/images/{}.jpg",
        "test/unknown/{}.jpg",
    ],
)
def test_images_to_predict_beside_splits(tmp_path, flat):
    files = by_class(5, folder="train/") | {flat.format(n): picture(900 + n) for n in range(4)}
    write(tmp_path, files)
    note = f"{flat.split('/')[0]}/ has 4 images without class folders: not measured; predict classifies them"
    splits = open_data(tmp_path)
    assert splits.test is None
    assert (len(splits.train), len(splits.val), splits.notes) == (8, 2, (note,))
    with pytest.raises(DataError, match=f"has training images only; .*into test/ or val/. {note}"):
        open_evaluation_data(tmp_path)
    write(tmp_path, by_class(3, folder="val/", seed=500))
    measured = open_evaluation_data(tmp_path)
    assert (measured.split, len(measured.source), measured.notes) == ("val", 6, (note,))


def test_folders_without_images_beside_splits(tmp_path):
    write(tmp_path, divided("train/", "test/") | {"runs/log.txt": b"", "README.md": b""})
    splits = open_data(tmp_path)
    assert splits.class_names == ("cat", "dog")
    assert "passed over 1 folder (runs) without images" in splits.notes


def test_a_stray_image_beside_classes(tmp_path):
    write(tmp_path, divided("train/", "test/") | {"train/cover.jpg": picture(77)})
    splits = open_data(DataConfig(tmp_path, val_share=0))
    assert len(splits.train) == 10
    assert splits.notes == ("passed over 1 image (train/cover.jpg) outside of the class folders",)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_litter_is_no_class_and_no_image(tmp_path, kind):
    files = by_class(3) | {name: picture(70 + number) for number, name in enumerate(LITTER)}
    data = write(tmp_path / "data", files) if kind == "folder" else pack(tmp_path / "data.tar", files)
    splits = open_data(DataConfig(data, val_share=0))
    assert (splits.class_names, len(splits.train), splits.notes) == (("cat", "dog"), 6, ())
    assert len(open_evaluation_data(data).source) == 6


def test_litter_beside_splits_and_around(tmp_path):
    files = divided("chest/train/", "chest/test/") | {
        "__MACOSX/chest/._a.jpg": b"",
        "chest/.ipynb_checkpoints/a.jpg": b"",
    }
    splits = open_data(write(tmp_path, files))
    assert (splits.class_names, len(splits.test), splits.notes) == (("cat", "dog"), 4, ())


def test_litter_among_shards_and_samples(tmp_path):
    files = {f"{n}.jpg": picture(n) for n in range(4)} | {f"{n}.cls": str(n % 2).encode() for n in range(4)}
    files |= {f"._{n}.jpg": b"\0\5\26\7" for n in range(4)} | {f"._{n}.cls": b"\0\5\26\7" for n in range(4)}
    pack(tmp_path / "part-0.tar", files)
    (tmp_path / "._part-0.tar").write_bytes(b"\0\5\26\7")
    for data in (tmp_path, tmp_path / "part-0.tar"):
        assert open_data(DataConfig(data, val_share=0)).train.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_composed_and_decomposed_names_are_one_class(tmp_path, kind):
    composed, decomposed = (unicodedata.normalize(form, "café ü") for form in ("NFC", "NFD"))
    files = by_class(3, (composed, "tea"), folder="train/") | by_class(2, (decomposed, "tea"), folder="test/", seed=400)
    files |= {f"train/{decomposed}/other.jpg": picture(50)}
    data = write(tmp_path / "data", files) if kind == "folder" else pack(tmp_path / "data.tar", files)
    splits = open_data(DataConfig(data, val_share=0))
    assert splits.class_names == (composed, "tea")
    assert np.bincount(splits.train.labels).tolist() == [4, 3]
    assert np.bincount(splits.test.labels).tolist() == [2, 2]
    assert {splits.train.image(index).size for index in range(7)} == {(16, 16)}  # by their real names


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz", "data.7z"])
def test_archives_are_to_be_unpacked(tmp_path, name):
    write(tmp_path, {name: b"PK"})
    with pytest.raises(DataError, match=f"{name}: is compressed, .*; unpack it, and give its folder"):
        open_data(tmp_path / name)
    with pytest.raises(DataError, match=rf"has no images; it holds only 1 other file \({name}\); unpack {name}"):
        open_data(tmp_path)


def test_a_table_beside_flat_folders_is_named(tmp_path):
    write(tmp_path, {"train_images/1.jpg": picture(1), "train.csv": b"id,label\n1,cat\n"})
    with pytest.raises(DataError, match=r"train_images/ with images, .* If .*train.csv has the labels, give that file"):
        open_data(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_an_archive_of_windows_with_backslashes_in_names(tmp_path, kind):
    files = {name.replace("/", "\\"): content for name, content in divided("Training/", "Testing/").items()}
    data = write(tmp_path / "data", files) if kind == "folder" else pack(tmp_path / "data.tar", files)
    splits = open_data(DataConfig(data, val_share=0))
    assert (splits.class_names, len(splits.train), splits.test.read(0)) == (("cat", "dog"), 10, picture(300))
