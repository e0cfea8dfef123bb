from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.data.folder import arrange
from effnets.data.open import open_data
from effnets.errors import DataError
from effnets.utils.junk import is_junk
from tests.support.boxed_sets import splits, voc_files
from tests.support.data_sets import write

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: not name.startswith(".") and not is_junk(name) and unicodedata.is_normalized("NFC", name)
)


def classes_of(files: list[str], folders: tuple[str, ...] = ()) -> dict[str, dict[str, list[str]]]:
    layout = arrange(files, folders, "data")
    found: dict[str, dict[str, list[str]]] = {}
    for split, images in layout.splits.items():
        for position, label in images:
            found.setdefault(split, {}).setdefault(layout.class_names[label], []).append(files[position])
    return found


def test_folders_are_classes():
    assert classes_of(["cat/a.jpg", "dog/b.PNG", "cat/deeper/c.webp"]) == {
        "all": {"cat": ["cat/a.jpg", "cat/deeper/c.webp"], "dog": ["dog/b.PNG"]}
    }


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_splits_are_known_by_their_usual_words(word):
    found = classes_of(["train/cat/a.jpg", "train/dog/a.jpg", f"{word}/cat/b.jpg", "test/dog/c.jpg"])
    assert found.keys() == {"train", "val", "test"}
    assert found["val"] == {"cat": [f"{word}/cat/b.jpg"]}


def test_folders_around_everything_are_looked_through():
    assert classes_of(["outer/inner/train/cat/a.jpg", "outer/inner/train/dog/b.jpg"]).keys() == {"train"}
    assert classes_of(["outer/cat/a.jpg", "outer/dog/b.jpg"])["all"].keys() == {"cat", "dog"}


def test_train_is_a_class_where_it_holds_images():
    assert classes_of(["train/a.jpg", "bus/b.jpg"])["all"].keys() == {"train", "bus"}


def test_splits_beside_classes_are_ambiguous():
    with pytest.raises(
        DataError,
        match=r"holds train/ and also 1 folder \(bus\)\. If the first are splits, .*; if all are classes, rename",
    ):
        arrange(["train/cat/a.jpg", "bus/b.jpg"], (), "data")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a.jpg", "b.jpg"],
            r"data: 2 images \(a.jpg, b.jpg\) outside of class folders; put images into",
        ),
        (
            ["train/a.jpg"],
            "data: train/ with images, but without folders named like classes; put images",
        ),
        (["train/a.jpg", "test/b.jpg"], "data: test/, train/ with images, but without folders named like classes"),
    ],
)
def test_images_without_class_folders(files, message):
    with pytest.raises(DataError, match=message):
        arrange(files, (), "data")


def test_two_words_for_one_split():
    with pytest.raises(DataError, match="several of which mean val; merge them"):
        arrange(["train/cat/a.jpg", "val/cat/a.jpg", "valid/cat/a.jpg"], (), "data")


def test_classes_that_training_lacks():
    with pytest.raises(DataError, match=r"test has 1 class \(bird\) that train lacks"):
        arrange(["train/cat/a.jpg", "train/dog/a.jpg", "test/bird/a.jpg"], (), "data")


def test_a_class_without_images_is_named():
    assert arrange(["cat/a.jpg", "dog/b.jpg"], ["cat", "dog", "bird"], "data").empty == ("bird",)
    # Where nothing is learned from it, it does no harm.
    files = ["train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg"]
    layout = arrange(files, ["train", "train/cat", "train/dog", "test", "test/cat", "test/dog"], "data")
    assert (layout.empty, layout.notes) == ((), ())


def test_what_is_passed_over_is_named():
    layout = arrange(
        ["cat/a.jpg", "dog/b.jpg", "dog/notes.txt", "cover.jpg", "cat/.DS_Store", ".git/x.jpg"], (), "data"
    )
    assert layout.notes == (
        "passed over 1 file (dog/notes.txt) without an image extension",
        "passed over 1 image (cover.jpg) outside of the class folders",
    )


def test_no_picture():
    with pytest.raises(DataError, match=r"data: has no images; it holds only 1 other file \(cat/a.txt\)"):
        arrange(["cat/a.txt"], (), "data")


def test_numbers_are_sorted_as_numbers():
    assert arrange([f"{number}/a.jpg" for number in range(11)], (), "data").class_names[-2:] == ("9", "10")


@given(st.dictionaries(NAMES, st.integers(1, 3), min_size=2, max_size=6), st.sampled_from(["", "outer/"]))
def test_every_image_is_of_the_class_of_its_folder(counts, around):
    files = [f"{around}{name}/{number}.png" for name, count in counts.items() for number in range(count)]
    layout = arrange(files, (), "data")
    (images,) = layout.splits.values()
    assert set(layout.class_names) == counts.keys()
    assert [position for position, _ in images] == list(range(len(files)))
    assert [layout.class_names[label] for _, label in images] == [file.split("/")[-2] for file in files]


PARTS = st.sampled_from(["train", "Test", "val", "dev", "cat", "dog", "outer", "train_images", "seg_pred", "images"])


@given(st.lists(st.tuples(st.lists(PARTS, max_size=4), st.integers(0, 3)), min_size=1, max_size=6, unique_by=str))
def test_no_image_is_lost_in_silence(places):
    files = sorted("/".join([*folders, f"{number}.jpg"]) for folders, number in places)
    try:
        layout = arrange(files, (), "data")
    except DataError:
        return
    placed = [position for images in layout.splits.values() for position, _ in images]
    assert len(set(placed)) == len(placed)
    assert len(placed) + sum(int(n) for n in re.findall(r"(\d+) images?\b", " ".join(layout.notes))) == len(files)


def test_a_folder_with_boxes_is_no_folder_by_class(tmp_path):
    folder = write(tmp_path / "data", voc_files(splits()))
    hint = r"; if Annotations/\S+\.xml describes boxes, train a detector on them with --task detect"
    with pytest.raises(DataError, match=f"2 classes .Annotations, ImageSets. without an image, .*{hint}"):
        open_data(folder)
