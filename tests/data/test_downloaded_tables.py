"""Tables as people download them: by Windows, by Excel, by Kaggle, of another machine."""

from __future__ import annotations

import re
import unicodedata

import pytest

from effnets.data import DataConfig, open_data, open_evaluation_data
from effnets.errors import DataError
from tests.support.data_sets import by_class, picture, write


def read(folder, text, files=None, encoding="utf-8", name="data.csv", **settings):
    """The content and class of every image in the order of the table, and the notes."""
    write(folder, by_class(2) if files is None else files)
    (folder / name).write_bytes(text.encode(encoding))
    splits = open_data(DataConfig(folder / name, val_share=0, **settings))
    train = splits.train
    assert len(open_evaluation_data(DataConfig(folder / name, **settings)).source) == len(splits.test or train)
    return [(train.read(i), splits.class_names[train.labels[i]]) for i in range(len(train))], splits.notes


CATS_AND_DOGS = [(picture(0), "cat"), (picture(1000), "dog"), (picture(1), "cat")]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\ncat\\0.jpg,cat\ndog\\0.jpg,dog\n.\\cat\\1.jpg,cat\n", "utf-8"),
        ("path,label\n\ncat/0.jpg,cat\n\n\ndog/0.jpg,dog\n\ncat/1.jpg,cat\n\n", "utf-8"),
        ("\n\npath,label\r\ncat/0.jpg,cat\r\ndog/0.jpg,dog\r\ncat/1.jpg,cat\r\n", "utf-8"),
        ("path,label\ncat/0.jpg,cat\ndog/0.jpg,dog\ncat/1.jpg,cat\n,\n,,\n", "utf-8-sig"),
        ("path;label\ncat/0.jpg;cat\ndog/0.jpg;dog\ncat/1.jpg;cat\n", "utf-16"),
        ("path\tlabel\ncat/0.jpg\tcat\ndog/0.jpg\tdog\ncat/1.jpg\tcat\n", "utf-16-le-bom"),
        ("path|label|\ncat/0.jpg|cat|\ndog/0.jpg|dog|\ncat/1.jpg|cat|\n", "utf-8"),
        ('"path","label"\n"cat/0.jpg","cat"\n"dog/0.jpg","dog"\n"cat/1.jpg","cat"\n', "utf-8"),
        ("path,label\ncat/0,cat\ndog/0,dog\ncat/1,cat\n", "utf-8"),
        ("path,label\nCat/0.JPG,cat\nDOG/0.jpg,dog\ncat/1.Jpg,cat\n", "utf-8"),
    ],
)
def test_texts_of_other_programs(tmp_path, text, encoding):
    if encoding == "utf-16-le-bom":
        text, encoding = "\ufeff" + text, "utf-16-le"
    assert read(tmp_path, text, encoding=encoding) == (CATS_AND_DOGS, ())


def test_a_tsv_file(tmp_path):
    text = "path\tlabel\ncat/0.jpg\tcat\ndog/0.jpg\tdog\ncat/1.jpg\tcat\n"
    assert read(tmp_path, text, name="data.tsv") == (CATS_AND_DOGS, ())


def test_ids_without_extension_in_the_folder_of_their_split(tmp_path):
    files = {"train_images/000bec.jpg": picture(1), "train_images/000c0a.png": picture(2, kind="PNG")}
    files |= {"test_images/1.jpg": picture(3), "train_images/Thumbs.db": b""}
    found, notes = read(tmp_path, "id_code,diagnosis\n000bec,2\n000c0a,0\n", files, name="train.csv")
    assert found == [(picture(1), "2"), (picture(2, kind="PNG"), "0")]
    assert notes == (
        "of train.csv, id_code is taken for the images, diagnosis for their classes",
        f"2 paths of train.csv are found in {tmp_path / 'train_images'}",
    )


def test_ids_that_are_in_two_folders(tmp_path):
    files = {
        f"{folder}/{n}.jpg": picture(100 * k + n)
        for k, folder in enumerate(("train/train", "test/test"))
        for n in (1, 2)
    }
    text = "image_id,label\n1,cat\n2,dog\n"
    assert read(tmp_path / "a", text, files, name="train.csv")[0] == [(picture(1), "cat"), (picture(2), "dog")]
    with pytest.raises(DataError, match=re.escape("2 paths are of several files (line 2: 1 is ")):
        read(tmp_path / "b", text, files, name="labels.csv")
    rows = "image_id,label,split\n1,cat,train\n2,dog,train\n1,cat,test\n"
    assert read(tmp_path / "c", rows, files, name="labels.csv")[0] == [(picture(1), "cat"), (picture(2), "dog")]
    with pytest.raises(
        DataError, match=r"1 paths are of several files \(line 2: 7 is 7.jpg or 7.png\); write the folder and"
    ):
        read(tmp_path / "d", "id,label\n7,a\n", {"7.jpg": picture(7), "7.png": picture(8, kind="PNG")})


def test_paths_of_another_machine(tmp_path):
    text = "path,label\n/home/me/set/cat/0.jpg,cat\n/home/me/set/dog/0.jpg,dog\n/home/me/set/cat/1.jpg,cat\n"
    note = f"3 paths of data.csv without the beginning /home/me/set/ are found in {tmp_path}"
    assert read(tmp_path, text) == (CATS_AND_DOGS, (note,))
    text = text.replace("/home/me", "D:\\data").replace("/", "\\")
    note = f"3 paths of data.csv without the beginning D:/data/set/ are found in {tmp_path}"
    assert read(tmp_path, text) == (CATS_AND_DOGS, (note,))


def test_paths_that_would_be_of_one_file(tmp_path):
    text = "path,label\n/a/train/0.jpg,cat\n/a/test/0.jpg,dog\n"
    with pytest.raises(DataError, match=r"1 paths are of a file that another line has \(/a/test/0.jpg and .*; correct"):
        read(tmp_path, text, {"0.jpg": picture(0)})


def test_missing_files_stay_an_error(tmp_path):
    with pytest.raises(
        DataError, match=re.escape("2 files do not exist (line 3: dog/9, line 4: /x/none.jpg); paths are")
    ):
        read(tmp_path, "path,label\ncat/0,cat\ndog/9,dog\n/x/none.jpg,cat\n")


def test_composed_paths_of_decomposed_files(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    files = {f"{decomposed}/{decomposed}.jpg": picture(1), "b.jpg": picture(2)}
    found, _ = read(tmp_path, f"path,label\n{composed}/{composed}.jpg,{decomposed}\nb.jpg,b\n", files)
    assert found == [(picture(1), composed), (picture(2), "b")]


def test_rows_of_litter_are_passed_over(tmp_path):
    text = "path,label\ncat/0.jpg,cat\ncat/._0.jpg,cat\ndog/0.jpg,dog\n/x/Thumbs.db,dog\ncat/1.jpg,cat\n"
    found, notes = read(tmp_path, text, by_class(2) | {"cat/._0.jpg": b"\0\5"})
    assert found == CATS_AND_DOGS
    assert notes == ("passed over 2 rows (line 3, line 5) of files that systems leave behind",)


@pytest.mark.parametrize(
    "image", ["image", "image_path", "filepath", "filename", "file", "File_Name", "img", "id", "image_id"]
)
@pytest.mark.parametrize("label", ["label", "class", "Category", "target", "class_name", "breed"])
def test_usual_names_of_columns(tmp_path, image, label):
    text = f"{image},{label}\ncat/0.jpg,cat\ndog/0.jpg,dog\ncat/1.jpg,cat\n"
    note = f"of data.csv, {image.lower()} is taken for the images, {label.lower()} for their classes"
    assert read(tmp_path, text) == (CATS_AND_DOGS, (note,))


def test_columns_among_others(tmp_path):
    text = ",id,filename,label,width\n0,7,cat/0.jpg,cat,3\n1,8,dog/0.jpg,dog,\n2,9,cat/1.jpg,cat,5\n"
    found, notes = read(tmp_path, text)
    assert found == CATS_AND_DOGS
    assert notes == (
        "of data.csv, filename is taken for the images, label for their classes",
        "passed over 3 columns (without a name, id, width) of data.csv",
    )


@pytest.mark.parametrize(
    "header", ["image,file,label", "path,class,category", "path,species,sex", "a,b", "path,path,label"]
)
def test_columns_that_are_ambiguous(tmp_path, header):
    with pytest.raises(
        DataError, match=rf"line 1: has the columns {header.replace(',', ', ')}; needed are path, label"
    ):
        read(tmp_path, f"{header}\n" + "cat/0.jpg,cat,x\n")


@pytest.mark.parametrize("column", ["split", "subset", "Data set"])
def test_splits_by_other_names(tmp_path, column):
    text = f"path,label,{column}\ncat/0.jpg,cat,Training\ndog/0.jpg,dog,TRAIN\ndog/1.jpg,dog,testing\n"
    assert read(tmp_path, text)[0] == CATS_AND_DOGS[:2]


def test_a_column_that_is_no_split(tmp_path):
    text = "path,label,set\ncat/0.jpg,cat,1\ndog/0.jpg,dog,2\ncat/1.jpg,cat,1\n"
    assert read(tmp_path, text) == (CATS_AND_DOGS, ("passed over 1 column (set) of data.csv",))
