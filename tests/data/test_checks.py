from __future__ import annotations

import re
import shutil
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from effnets.data import DataConfig, checks, open_data, open_evaluation_data
from effnets.errors import ArgumentError, DataError
from tests.support.data_sets import by_class, picture, truncated, write


def test_corrupt_images_are_left_out_and_named(tmp_path):
    files = by_class(10)
    files |= {"cat/cut.jpg": truncated(picture(1)), "dog/empty.png": b"", "dog/text.jpg": b"no picture"}
    splits = open_data(DataConfig(write(tmp_path, files), val_share=0))
    assert np.bincount(splits.train.labels).tolist() == [10, 10]
    (note,) = splits.notes
    assert note.startswith("left out of train: 3 corrupt images (")
    assert all(name in note for name in ("cut.jpg", "empty.png", "text.jpg"))


def test_too_many_corrupt_images(tmp_path):
    files = by_class(10) | {f"cat/cut{number}.jpg": truncated(picture(number)) for number in range(4)}
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"train: 4 of 24 images cannot be read, and 3 may be left out") as caught:
        open_data(tmp_path)
    assert "cut0.jpg cannot be read as an image" in str(caught.value)
    assert len(open_data(DataConfig(tmp_path, corrupt_limit=0.2, val_share=0)).train) == 20
    with pytest.raises(ArgumentError, match="corrupt_limit is 2"):
        open_data(DataConfig(tmp_path, corrupt_limit=2))


def test_strict_allows_none(tmp_path):
    write(tmp_path, by_class(10) | {"cat/cut.jpg": truncated(picture(1))})
    with pytest.raises(DataError, match=r"train: 1 of 21 images cannot be read, and 0 may.*leave strict out"):
        open_data(DataConfig(tmp_path, strict=True))
    with pytest.raises(DataError, match="all: 1 of 21"):
        open_evaluation_data(DataConfig(tmp_path, strict=True))


def test_full_decodes_what_quick_takes_for_whole(tmp_path):
    spoilt = bytearray(picture(1, size=64, kind="PNG"))
    spoilt[len(spoilt) // 2] ^= 255
    write(tmp_path, by_class(3) | {"cat/spoilt.png": bytes(spoilt)})
    assert open_data(DataConfig(tmp_path, val_share=0)).notes == ()
    assert "spoilt.png" in open_data(DataConfig(tmp_path, check="full", val_share=0)).notes[0]
    with pytest.raises(ArgumentError, match="check is 'some'; choose one of none, quick, full"):
        open_data(DataConfig(tmp_path, check="some"))


def test_jpegs_filled_up_with_zeros_and_other_formats_are_whole(tmp_path):
    files = by_class(1) | {"cat/filled.jpg": picture(1) + bytes(100), "dog/old.bmp": picture(2, kind="BMP")}
    assert open_data(DataConfig(write(tmp_path, files), val_share=0)).notes == ()


def test_a_class_of_corrupt_images(tmp_path):
    files = by_class(5, ("cat", "dog")) | {"bird/cut.jpg": truncated(picture(1))}
    splits = open_data(DataConfig(write(tmp_path, files), val_share=0))
    assert "train has no image of 1 class (bird)" in splits.notes


def test_one_class(tmp_path):
    with pytest.raises(DataError, match="has only one class, cat, and training needs two"):
        open_data(write(tmp_path, by_class(5, ("cat",))))


def test_an_empty_class(tmp_path):
    write(tmp_path, by_class(5))
    (tmp_path / "bird").mkdir()
    with pytest.raises(
        DataError, match=r"1 class \(bird\) without an image, but training needs one of each; remove the"
    ):
        open_data(tmp_path)
    with pytest.raises(DataError, match=r"1 class \(bird\) without an image, but evaluation needs one of each; remove"):
        open_evaluation_data(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_measured_may_have_classes_that_training_has_no_image_of(tmp_path, packed):
    data = write(tmp_path / "set", by_class(2, folder="train/") | by_class(3, ("bird", "cat"), "test/", seed=50))
    (data / "train" / "bird").mkdir()
    (data / "train" / "cow").mkdir()
    if packed:
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            archive.add(data, "set")
        data = tmp_path / "set.tar"
    measured = open_evaluation_data(data)
    assert (measured.split, len(measured.source)) == ("test", 6)
    assert measured.source.class_names == ("bird", "cat", "dog")
    assert measured.notes == ("test has no image of 1 class (dog)",)
    assert np.bincount(measured.source.labels).tolist() == [3, 3]
    with pytest.raises(DataError, match=r"2 classes \(bird, cow\) without an image, but training needs one"):
        open_data(data)
    renamed = open_evaluation_data(DataConfig(data, class_names=["a", "b", "c", "d"])).source  # c is the cow
    assert (renamed.class_names, renamed.labels.tolist()) == (("a", "b", "d"), [0] * 3 + [1] * 3)


def test_duplicates_between_splits_are_told(tmp_path):
    files = by_class(4, folder="train/") | by_class(3, folder="test/", seed=500)
    files["test/cat/copy.jpg"] = files["train/cat/1.jpg"]
    splits = open_data(DataConfig(write(tmp_path, files), val_share=0))
    (note,) = splits.notes
    assert note.startswith("1 of the 7 images of test are in train as well, which inflates the accuracy: ")
    assert re.search(r"copy\.jpg = .*1\.jpg$", note)


def test_duplicates_with_the_drawn_validation_are_told(tmp_path):
    content = picture(1)
    files = {f"{name}/{number}.jpg": content for name in ("cat", "dog") for number in range(4)}
    (note,) = open_data(DataConfig(write(tmp_path, files), val_share=0.5)).notes
    assert "4 of the 4 images of val are in train as well" in note


def test_an_image_of_one_pixel(tmp_path):
    files = by_class(2)
    write(tmp_path, files)
    Image.new("RGB", (1, 1)).save(tmp_path / "cat" / "dot.png")
    splits = open_data(DataConfig(tmp_path, val_share=0))
    assert splits.notes == ()
    assert (1, 1) in {splits.train.image(index).size for index in range(len(splits.train))}


def test_hidden_and_unknown_files(tmp_path):
    files = by_class(2) | {".DS_Store": b"x", "cat/._1.jpg": b"x", "cat/Thumbs.db": b"x", "cat/note.txt": b"x"}
    splits = open_data(DataConfig(write(tmp_path, files), val_share=0))
    assert len(splits.train) == 4
    assert splits.notes == ("passed over 1 file (cat/note.txt) without an image extension",)


def test_ten_thousand_classes(tmp_path):
    content = picture(1, size=1)
    for number in range(10_000):
        (tmp_path / f"class {number}").mkdir()
        (tmp_path / f"class {number}" / "1.jpg").write_bytes(content)
    begin = time.process_time()
    splits = open_data(tmp_path)
    assert time.process_time() - begin < 20
    assert len(splits.class_names) == 10_000
    assert splits.val is None
    assert splits.notes[0].startswith("10000 classes (class 0, ")
    shutil.rmtree(tmp_path)


def test_very_many_images_are_not_looked_at(tmp_path, monkeypatch):
    assert checks.MANY == 200_000
    monkeypatch.setattr(checks, "MANY", 5)
    files = by_class(4) | {"cat/cut.jpg": truncated(picture(1))}
    splits = open_data(DataConfig(write(tmp_path, files), val_share=0))
    assert len(splits.train) == 9
    assert splits.notes == ("more than 5 images: not checked for corrupt ones or for duplicates between splits",)
