"""Data that made other libraries stumble, imitated from the public reports that each test names."""

from __future__ import annotations

import re

import numpy as np
import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.errors import DataError
from effnets.evaluation.labels import match_classes
from tests.support.data_sets import by_class, picture, write


def whole(data):
    return open_data(DataConfig(data, val_share=0))


def test_checkpoints_of_notebooks_are_no_class(tmp_path):
    """open-mmlab/mmpretrain#507, bytedance/Next-ViT#25."""
    files = by_class(2, ("true", "false"), folder="train/") | by_class(1, ("true", "false"), folder="val/", seed=90)
    files |= {f"{split}/.ipynb_checkpoints/0-checkpoint.jpg": picture(7) for split in ("train", "val")}
    splits = open_data(write(tmp_path, files))
    assert (splits.class_names, len(splits.train), len(splits.val)) == (("false", "true"), 4, 2)


def test_thumbnails_of_windows_are_no_images(tmp_path):
    """meetps/pytorch-semseg#83, d8ahazard/sd_dreambooth_extension#64."""
    write(tmp_path, by_class(2) | {"cat/Thumbs.db": b"\xd0\xcf", "Thumbs.db": b"\xd0\xcf"})
    assert (len(whole(tmp_path).train), whole(tmp_path).notes) == (4, ())


def test_a_second_tree_of_a_zip_from_a_mac(tmp_path):
    """ImageMarkup/isic-challenge-scoring#15, udacity/deep-learning-v2-pytorch#217."""
    write(tmp_path, by_class(2, folder="set/") | {f"__MACOSX/set/cat/._{n}.jpg": b"\0\5\26\7" for n in range(2)})
    assert (whole(tmp_path).class_names, len(whole(tmp_path).train)) == (("cat", "dog"), 4)


def test_a_flat_test_folder_is_no_class(tmp_path):
    """fastai/fastai#1552."""
    names = ("nok", "ok", "unsure")
    splits = whole(write(tmp_path, by_class(2, names, folder="train/") | {"test/1.jpg": picture(1)}))
    assert (splits.class_names, splits.test) == (names, None)
    assert splits.notes == ("test/ has 1 image without class folders: not measured; predict classifies them",)


def test_the_flat_validation_images_of_imagenet(tmp_path):
    """huggingface/pytorch-image-models#1081."""
    files = by_class(3, ("n01440764", "n01443537"), folder="train/")
    files |= {f"val/ILSVRC2012_val_{n:08}.JPEG": picture(50 + n) for n in range(1, 4)}
    splits = open_data(write(tmp_path, files))
    assert (len(splits.train), len(splits.val)) == (4, 2)
    assert splits.notes == ("val/ has 3 images without class folders: not measured; predict classifies them",)


def test_outputs_of_a_program_beside_the_splits(tmp_path):
    """ultralytics/ultralytics#4310."""
    files = by_class(2, folder="train/") | by_class(1, folder="validation/", seed=70) | {"runs/classify/args.yaml": b""}
    splits = open_data(write(tmp_path, files))
    assert (splits.class_names, len(splits.val)) == (("cat", "dog"), 2)


def test_a_class_that_the_test_lacks_moves_no_other(tmp_path):
    """ultralytics/ultralytics#13936, ultralytics/ultralytics#26192."""
    files = by_class(2, ("0", "90", "180", "270"), folder="train/") | by_class(1, ("0", "90", "270"), folder="test/")
    measured = open_evaluation_data(write(tmp_path, files))
    assert [measured.source.class_names[label] for label in measured.source.labels] == ["0", "270", "90"]
    outputs, _ = match_classes(measured.source.class_names, ("0", "180", "270", "90"))
    assert outputs[measured.source.labels].tolist() == [0, 2, 3]


def test_more_classes_to_validate_than_to_train(tmp_path):
    """ultralytics/ultralytics#9135."""
    write(tmp_path, by_class(2, folder="train/") | by_class(1, ("cat", "dog", "a", "b"), folder="val/", seed=50))
    with pytest.raises(
        DataError, match=r"val has 2 classes \(a, b\) that train lacks, so they cannot be learned; rename"
    ):
        open_data(tmp_path)


def test_words_for_splits_in_the_names_of_images(tmp_path):
    """huggingface/datasets#5021, huggingface/datasets#8238."""
    files = {f"cat/photo of {what}.jpg": picture(n) for n, what in enumerate(("a train", "test tubes", "validation"))}
    splits = whole(write(tmp_path, files | {"dog/train.png": picture(9), "dog/test.jpg": picture(8)}))
    assert np.bincount(splits.train.labels).tolist() == [3, 2]
    assert splits.test is None


def test_numbers_of_classes_keep_their_order_and_zeros(tmp_path):
    """pytorch/vision#714, modestyachts/ImageNetV2#10, tensorflow/tensorflow#50124."""
    names = tuple(str(n) for n in range(1, 12))
    assert whole(write(tmp_path / "a", by_class(1, names))).class_names == names
    names = tuple(f"{n:04}" for n in range(12))
    assert whole(write(tmp_path / "b", by_class(1, names))).class_names == names


def test_ids_of_a_table_beside_a_folder(tmp_path):
    """keras-team/keras-preprocessing#88, #164 and #169, fastai/fastai#1169."""
    files = {f"train/000bec18{n}.jpg": picture(n) for n in range(2)} | {"test/000fff.jpg": picture(9)}
    write(tmp_path, files | {"labels.csv": b"id,breed\n000bec180,boston_bull\n000bec181,dingo\n"})
    splits = whole(tmp_path / "labels.csv")
    assert (splits.class_names, splits.train.read(1)) == (("boston_bull", "dingo"), picture(1))
    write(tmp_path / "b", {"train/n03706229/1.JPEG": picture(1), "train/n01440764/2.JPEG": picture(2)})
    write(tmp_path / "b", {"train.csv": b"filenames,cats\nn03706229/1.JPEG,352\nn01440764/2.JPEG,7\n"})
    found = open_data(
        DataConfig(tmp_path / "b" / "train.csv", val_share=0, image_column="filenames", label_column="cats")
    )
    assert [found.class_names[label] for label in found.train.labels] == ["352", "7"]


def test_paths_written_on_windows(tmp_path):
    """abbyy/barcode_detection_benchmark#2, CellProfiler/CellProfiler#1385."""
    write(tmp_path, by_class(1) | {"dataset.csv": b"path,label\r\ncat\\0.jpg,cat\r\ndog\\0.jpg,dog\r\n"})
    assert whole(tmp_path / "dataset.csv").train.read(1) == picture(1000)


def test_labels_that_begin_with_one(tmp_path):
    """BVLC/caffe#6318, EricFillion/happy-transformer#248."""
    write(tmp_path, by_class(2) | {"a.csv": b"path,label\ncat/0.jpg,1\ncat/1.jpg,2\ndog/0.jpg,-1\n"})
    splits = whole(tmp_path / "a.csv")
    assert (splits.class_names, splits.train.labels.tolist()) == (("1", "2"), [0, 1])
    assert splits.notes == ("left out of all: 1 image without a label, line 4 first",)


def test_a_list_of_files_without_names_of_columns(tmp_path):
    """NVIDIA/DIGITS#81."""
    write(tmp_path, by_class(1) | {"list.csv": b"cat/0.jpg\t1\ndog/0.jpg\t2\n"})
    with pytest.raises(
        DataError, match=re.escape("has the columns cat/0.jpg, 1; needed are path, label[, split]; write")
    ):
        open_data(tmp_path / "list.csv")


def test_a_table_with_a_column_of_splits_among_many(tmp_path):
    """liaopeiyuan/artbench#2."""
    rows = [b"name,artist,label,split,image", b"x,a,cat,train,cat/0.jpg", b"y,b,dog,train,dog/0.jpg"]
    write(tmp_path, by_class(2) | {"ArtBench.csv": b"\n".join([*rows, b"z,,dog,test,dog/1.jpg"])})
    splits = whole(tmp_path / "ArtBench.csv")
    assert (len(splits.train), len(splits.test)) == (2, 1)
    assert "passed over 2 columns (name, artist) of ArtBench.csv" in splits.notes


def test_images_of_no_class_in_two_splits(tmp_path):
    """As Tiny ImageNet comes, of which the labels to validate with are in a text file."""
    files = {
        f"train/{name}/images/{n}.JPEG": picture(9 * k + n) for k, name in enumerate(("n01", "n02")) for n in range(3)
    }
    files |= {
        f"{split}/images/{n}.JPEG": picture(50 * k + n) for k, split in enumerate(("val", "test"), 1) for n in range(2)
    }
    splits = open_data(write(tmp_path, files | {"val/val_annotations.txt": b""}))
    assert (splits.class_names, len(splits.train), len(splits.val), splits.test) == (("n01", "n02"), 4, 2, None)
    assert [note for note in splits.notes if "without class folders" in note] == [
        f"{split}/ has 2 images without class folders: not measured; predict classifies them"
        for split in ("test", "val")
    ]
