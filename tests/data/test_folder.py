from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.errors import ArgumentError, DataError, ImageError, MissingFileError
from tests.support.data_sets import by_class, picture, write


def test_a_folder_by_class_is_divided(tmp_path):
    splits = open_data(DataConfig(write(tmp_path, by_class(20)), val_share=0.25))
    assert splits.class_names == ("cat", "dog")
    assert np.bincount(splits.train.labels).tolist() == [15, 15]
    assert np.bincount(splits.val.labels).tolist() == [5, 5]
    assert splits.test is None
    assert splits.notes == ()
    for source in (splits.train, splits.val):
        for index in range(len(source)):
            assert Path(source.name(index)).parent.name == splits.class_names[source.labels[index]]
    assert splits.train.image(0).mode == "RGB"


def test_validation_is_taken_from_train_where_only_test_is_there(tmp_path):
    write(tmp_path, by_class(10, folder="train/") | by_class(4, folder="test/", seed=500))
    splits = open_data(DataConfig(tmp_path, val_share=0.2))
    assert [len(source) for source in (splits.train, splits.val, splits.test)] == [16, 4, 8]
    assert all(f"{os.sep}train{os.sep}" in splits.val.name(index) for index in range(4))


def test_validation_that_is_there_is_taken(tmp_path):
    write(tmp_path, by_class(4, folder="train/") | by_class(2, folder="valid/", seed=500))
    splits = open_data(tmp_path)
    assert [len(splits.train), len(splits.val), splits.test] == [8, 4, None]


def test_what_is_measured_on(tmp_path):
    write(tmp_path / "a", by_class(2, folder="train/") | by_class(1, folder="val/", seed=100))
    write(tmp_path / "a", by_class(1, folder="test/", seed=200))
    write(tmp_path / "b", by_class(3))
    write(tmp_path / "c", by_class(3, folder="train/"))
    assert open_evaluation_data(tmp_path / "a").split == "test"
    whole = open_evaluation_data(tmp_path / "b")
    assert (whole.split, len(whole.source)) == ("all", 6)
    with pytest.raises(DataError, match="training images only"):
        open_evaluation_data(tmp_path / "c")


def test_spaces_and_unicode(tmp_path):
    names = ("chien d'été 犬", "Katze (süß) 🐈")
    splits = open_data(DataConfig(write(tmp_path, by_class(3, names)), val_share=0))
    assert splits.class_names == tuple(sorted(names))
    assert splits.train.image(0).size == (16, 16)


def test_links_are_followed_and_loops_named(tmp_path):
    write(tmp_path / "elsewhere", {"1.jpg": picture(1), "2.jpg": picture(2)})
    data = write(tmp_path / "data", by_class(2, ("cat",)))
    (data / "dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (data / "cat" / "back").symlink_to(data, target_is_directory=True)
    splits = open_data(DataConfig(data, val_share=0))
    assert np.bincount(splits.train.labels).tolist() == [2, 2]
    assert splits.notes == ("passed over 1 link (cat/back) to a folder around it",)


def test_a_link_to_nowhere_is_a_corrupt_image(tmp_path):
    data = write(tmp_path, by_class(2))
    (data / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    splits = open_data(DataConfig(data, val_share=0))
    assert len(splits.train) == 4
    assert splits.notes == (f"left out of train: 1 corrupt image ({data / 'cat' / 'gone.jpg'})",)


def test_images_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it
    write(tmp_path, by_class(1))
    Image.new("RGB", (30, 20)).save(tmp_path / "cat" / "turned.jpg", exif=exif)
    source = open_data(DataConfig(tmp_path, val_share=0)).train
    turned = next(index for index in range(len(source)) if "turned" in source.name(index))
    assert source.image(turned).size == (20, 30)


def test_an_image_that_vanishes_is_named(tmp_path):
    source = open_data(DataConfig(write(tmp_path, by_class(1)), val_share=0)).train
    (tmp_path / "cat" / "0.jpg").unlink()
    with pytest.raises(ImageError, match=r"cat.0\.jpg cannot be read"):
        source.image(0)


def test_what_does_not_exist(tmp_path):
    with pytest.raises(MissingFileError, match="nothing does not exist; check its spelling"):
        open_data(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"cannot be read .*too long"):
        open_data("x" * 300)
    (tmp_path / "data.xyz").write_bytes(b"")
    with pytest.raises(DataError, match="is not a known kind of data set; give a folder by class"):
        open_data(tmp_path / "data.xyz")


def test_other_class_names(tmp_path):
    write(tmp_path, by_class(2, ("0", "1")))
    assert open_data(DataConfig(tmp_path, class_names=["cat", "dog"])).class_names == ("cat", "dog")
    with pytest.raises(ArgumentError, match="class_names has empty names, or one twice"):
        open_data(DataConfig(tmp_path, class_names=["cat", "cat"]))
    with pytest.raises(
        ArgumentError, match=r"class_names has 1 names, but .* has 2 classes \(0, 1\); give one for each"
    ):
        open_data(DataConfig(tmp_path, class_names=["cat"]))
    with pytest.raises(ArgumentError, match=r"image_column is 'img', but .* is a folder by class without columns"):
        open_data(DataConfig(tmp_path, image_column="img"))


def test_names_of_numbers_that_do_not_all_occur(tmp_path):
    splits = open_data(
        DataConfig(write(tmp_path, by_class(2, ("0", "3"))), class_names=["cat", "dog", "hen", "pig"], val_share=0)
    )
    assert splits.class_names == ("cat", "dog", "hen", "pig")
    assert splits.train.labels.tolist() == [0, 0, 3, 3]
    assert splits.notes == ("train has no image of 2 classes (dog, hen)",)
    with pytest.raises(ArgumentError, match=r"class_names has 3 names, but .* has 2 classes"):
        open_data(DataConfig(tmp_path, class_names=["cat", "dog", "hen"]))
