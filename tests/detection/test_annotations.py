"""Data sets of boxes in every form are the same data set; what is wrong with boxes is said, or left out and counted."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from effnets.detection.annotations import open_boxes, open_evaluation_boxes, turn_boxes
from effnets.errors import ArgumentError, DataError, MissingFileError
from tests.support import SHARED, needs_shared
from tests.support.boxed_sets import CLASSES, FORMS, Scene, coco_content, draw_scene, scenes, splits, xml, yolo_line
from tests.support.data_sets import pack, write

BCCD = SHARED / "data" / "bccd.tar"


def described(dataset):
    """Everything about a data set but where its files are."""
    return [
        (dataset.name(index).rpartition("/")[2], dataset.box_labels(index).tolist(), dataset.boxes(index).tolist())
        for index in range(len(dataset))
    ]


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def test_every_form_is_the_same_data_set(tmp_path):
    opened = {name: open_boxes(write(tmp_path / name, files(splits()))) for name, files in FORMS.items()}
    for split, listed in splits().items():
        expected = [
            (f"{scene.name}.png", [CLASSES.index(item[0]) + 1 for item in scene.objects], scene.objects)
            for scene in listed
        ]
        for name, found in opened.items():
            dataset = getattr(found, split)
            assert dataset.class_names == CLASSES, name
            for (file, labels, boxes), (wanted, classes, objects) in zip(described(dataset), expected, strict=True):
                assert (file, labels) == (wanted, classes), name
                np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), np.reshape([o[1:] for o in objects], (-1, 4)),
                                           atol=1e-3)  # fmt: skip
    assert opened["voc"].train.digest() == opened["coco"].train.digest()
    assert opened["voc"].train.digest() != opened["voc"].val.digest()


def test_an_archive_is_read_packed(tmp_path, form):
    folder = open_boxes(write(tmp_path / "data", form(splits())))
    archive = open_boxes(pack(tmp_path / "data.tar", {f"pets/{name}": one for name, one in form(splits()).items()}))
    for split in ("train", "val", "test"):
        assert described(getattr(archive, split)) == described(getattr(folder, split))
        assert getattr(archive, split).image(0).size == (64, 48)
    assert archive.train.digest() == folder.train.digest()


def test_boxes_are_where_the_colors_are(tmp_path, form):
    dataset = open_boxes(write(tmp_path, form(splits()))).train
    for index in range(len(dataset)):
        pixels = np.asarray(dataset.image(index))
        for box, label in zip(dataset.boxes(index), dataset.box_labels(index), strict=True):
            x1, y1, x2, y2 = np.round(box).astype(int)
            inside = pixels[y1:y2, x1:x2].reshape(-1, 3)
            assert (inside == inside[0]).all()
            assert inside[0].argmax() == {1: 0, 2: 2}[label]


def test_images_without_boxes_are_counted(tmp_path, form):
    splits_of = open_boxes(write(tmp_path, form(splits())))
    assert "train has 2 images without boxes: taken as showing nothing" in splits_of.notes
    assert [len(splits_of.train.boxes(index)) for index in range(4)] == [2, 1, 0, 2]
    assert splits_of.train.boxes(2).shape == (0, 4)
    assert splits_of.train.boxes(2).dtype == np.float32


def test_validation_is_drawn_from_training_images(tmp_path):
    data = write(tmp_path, FORMS["voc"]({"train": scenes(20), "test": scenes(4, 5, "test")}))
    whole, first, again, other = (
        open_boxes(data, val_share=0),
        open_boxes(data, val_share=0.25, seed=1),
        open_boxes(data, val_share=0.25, seed=1),
        open_boxes(data, val_share=0.25, seed=2),
    )
    assert (len(whole.train), whole.val, len(whole.test)) == (20, None, 4)
    assert (len(first.train), len(first.val)) == (15, 5)
    assert described(first.val) == described(again.val)
    assert described(first.val) != described(other.val)
    names = {first.train.name(index) for index in range(15)} | {first.val.name(index) for index in range(5)}
    assert len(names) == 20
    assert first.val.box_counts().all(), "every class is in it"
    with pytest.raises(ArgumentError, match="val_share is 1"):
        open_boxes(data, val_share=1)


def test_what_is_measured_on(tmp_path, form):
    assert open_evaluation_boxes(write(tmp_path / "a", form(splits()))).split == "test"
    without = {split: listed for split, listed in splits().items() if split != "test"}
    assert open_evaluation_boxes(write(tmp_path / "b", form(without))).split == "val"
    with pytest.raises(DataError, match="has training images only"):
        open_evaluation_boxes(write(tmp_path / "c", form({"train": scenes(4)})))


def with_boxes(tmp_path, boxes):
    """A VOC data set of one good box in each of ten images, and more boxes, x1, y1, x2, y2, in the first."""
    listed = [Scene(f"s{number}", [("cat", 4, 4, 20, 20)]) for number in range(10)]
    listed[0].objects += [("cat", *box) for box in boxes]
    files = FORMS["voc"]({"train": [Scene(scene.name, scene.objects[:1]) for scene in listed]})
    files["Annotations/s0.xml"] = xml(listed[0]).encode()
    return write(tmp_path, files)


BAD = {
    "outside": ((70, 4, 80, 9), "outside of the 64×48 pixels"),
    "no width": ((10, 4, 10, 9), "without area"),
    "negative": ((30, 9, 20, 4), "without area"),
    "NaN": ((float("nan"), 4, 20, 9), "with NaN or infinity"),
    "infinite": ((1, 4, float("inf"), 9), "with NaN or infinity"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_box_is_left_out_or_an_error(tmp_path, kind):
    box, reason = BAD[kind]
    data = with_boxes(tmp_path, [box])
    splits_of = open_boxes(data, val_share=0)
    assert len(splits_of.train.boxes(0)) == 1
    (note,) = splits_of.notes
    assert note.startswith("left out of train: 1 box (1 ")
    assert f"{data}/Annotations/s0.xml, line 8: the box (" in note
    assert reason in note
    with pytest.raises(DataError, match=r"s0\.xml, line 8: the box .* correct or remove it, or leave strict out"):
        open_boxes(data, val_share=0, strict=True)


def test_too_many_bad_boxes_are_an_error(tmp_path):
    data = with_boxes(tmp_path, [(70, 4, 80, 9)] * 4)
    with pytest.raises(
        DataError, match=r"train: 4 of 14 boxes are bad, and 3 may be left out; correct or remove them:"
    ):
        open_boxes(data)


def test_a_box_over_the_edge_is_cut(tmp_path):
    data = with_boxes(tmp_path, [(50, 40, 70, 55), (50, -1, 65, 20)])
    splits_of = open_boxes(data, val_share=0)
    assert splits_of.train.boxes(0).tolist() == [[4, 4, 20, 20], [50, 40, 64, 48], [50, 0, 64, 20]]
    (note,) = splits_of.notes  # the second is over by a pixel only, as of programs that count otherwise
    assert note.startswith("cut at the image's edge in train: 1 box; ")
    with pytest.raises(DataError, match="is over the edge of the 64×48 pixels; correct or remove it"):
        open_boxes(data, strict=True)


def test_boxes_of_a_photo_that_the_camera_turned(tmp_path):
    stored = draw_scene([("cat", 4, 6, 24, 16)])
    for orientation, turn in ((6, Image.Transpose.ROTATE_270), (8, Image.Transpose.ROTATE_90)):
        upright = stored.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        stored.save(file, "PNG", exif=exif)
        expected = turn_boxes(np.array([[4.0, 6, 24, 16]]), turn, stored.size)
        name, x1, y1, x2, y2 = "cat", *(int(value) for value in expected[0])
        assert (np.asarray(upright)[y1:y2, x1:x2] == np.asarray(stored)[6, 4]).all()
        as_stored = Scene("photo", [("cat", 4, 6, 24, 16)])
        as_seen = Scene("photo", [(name, x1, y1, x2, y2)], upright.size)
        for number, scene in enumerate((as_stored, as_seen)):
            files = FORMS["voc"]({"train": [scene]}) | {"JPEGImages/photo.png": file.getvalue()}
            dataset = open_boxes(write(tmp_path / f"{orientation}{number}", files), val_share=0).train
            assert dataset.image(0).size == upright.size
            assert dataset.boxes(0).tolist() == expected.tolist()


@pytest.mark.parametrize("turn", list(Image.Transpose))
def test_boxes_turn_with_their_image(turn):
    stored = draw_scene([("cat", 4, 6, 24, 16)])
    turned = np.asarray(stored.transpose(turn))
    x1, y1, x2, y2 = turn_boxes(np.array([[4.0, 6, 24, 16]]), turn, stored.size)[0].astype(int)
    colored = (turned == np.asarray(stored)[6, 4]).all(axis=2)
    assert colored[y1:y2, x1:x2].all()
    assert colored.sum() == (x2 - x1) * (y2 - y1) == 200


def test_a_corrupt_image_is_left_out_with_its_boxes(tmp_path, form):
    files = form(splits())
    broken = next(name for name in files if name.endswith("train001.png"))
    files[broken] = files[broken][: len(files[broken]) // 2]
    data = write(tmp_path, files)
    splits_of = open_boxes(data)
    assert any(note.startswith("left out of train: 1 corrupt image") for note in splits_of.notes)
    assert [name for name, *_ in described(splits_of.train)] == [f"train{n:03}.png" for n in range(8) if n != 1]
    assert [len(boxes) for *_, boxes in described(splits_of.train)] == [2, 0, 2, 2, 1, 0, 2]
    with pytest.raises(DataError, match="train: 1 of 8 images cannot be read"):
        open_boxes(data, strict=True)


def test_the_same_image_in_two_splits_is_noted(tmp_path):
    parts = splits()
    parts["test"][0] = Scene("test000", parts["train"][0].objects)
    notes = open_boxes(write(tmp_path, FORMS["voc"](parts))).notes
    assert any("of the 4 images of test are in train as well" in note for note in notes)


def test_subsets_and_channels(tmp_path):
    dataset = open_boxes(write(tmp_path, FORMS["coco"](splits()))).train
    chosen = dataset.subset([5, 2, 0]).subset([2, 0])
    assert described(chosen) == [described(dataset)[0], described(dataset)[5]]
    assert chosen.image_sizes.tolist() == [[64, 48]] * 2
    gray = chosen.with_channels(1)
    assert gray.image(0).mode == "L"
    assert described(gray) == described(chosen)
    small = dataset.cached(24)
    assert small.image(0).size == (32, 24)
    assert described(small) == described(dataset)
    assert small.digest() == dataset.digest()
    assert small.boxes(0) * small.scale(0, (32, 24)) == pytest.approx(small.boxes(0) / 2)


def test_labels_of_images_keep_rare_classes(tmp_path):
    parts = {
        "train": [Scene(f"s{n}", [("cat", 1, 1, 9, 9)] * 3 + [("dog", 20, 1, 29, 9)] * (n == 7)) for n in range(9)]
    }
    dataset = open_boxes(write(tmp_path, FORMS["voc"](parts)), val_share=0).train
    assert dataset.labels.tolist() == [0] * 7 + [1, 0]
    assert dataset.box_counts().tolist() == [27, 1]


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist; check its spelling"):
        open_boxes(tmp_path / "nothing")
    (tmp_path / "a.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"a\.csv: is not a known kind of data set; give a folder or a \.tar of COCO's"):
        open_boxes(tmp_path / "a.csv")
    write(tmp_path / "images", {"a.png": Scene("a", []).png()})
    with pytest.raises(DataError, match="images: has no annotations"):
        open_boxes(tmp_path / "images")
    both = FORMS["voc"]({"train": scenes(2)}) | FORMS["yolo"]({"train": scenes(2)})
    with pytest.raises(DataError, match="holds annotations of YOLO's and Pascal VOC's form; move those of one away"):
        open_boxes(write(tmp_path / "both", both))


def test_nothing_to_learn(tmp_path, form):
    data = write(tmp_path, form({"train": [Scene("a", []), Scene("b", [])]}))
    with pytest.raises(DataError, match="has no box in train, so that there is nothing to learn; label its images"):
        open_boxes(data)


def test_a_split_of_its_own_class(tmp_path):
    cats, dogs = Scene("a", [("cat", 1, 1, 9, 9)]), Scene("b", [("dog", 1, 1, 9, 9)])
    with pytest.raises(DataError, match=r"test has 1 class \(dog\) that train lacks"):
        open_boxes(write(tmp_path, FORMS["voc"]({"train": [cats], "test": [dogs]})))


@pytest.mark.parametrize("form_name", FORMS)
def test_a_million_boxes_are_refused_in_time(tmp_path, form_name):
    scene = Scene("a", [("cat", 1, 1, 9, 9)])
    files = FORMS[form_name]({"train": [scene]})
    count = 12_000  # the limit is 10,000; a million would be read no further
    if form_name == "voc":
        head, item, tail = xml(scene).partition("<object>")[0], xml(scene), "</annotation>"
        item = item[item.index("<object>") : item.index("</annotation>")]
        files["Annotations/a.xml"] = (head + count * item + tail).encode()
    elif form_name == "yolo":
        files["labels/train/a.txt"] = (f"{yolo_line(scene.objects[0])}\n" * count).encode()
    else:
        content = coco_content([scene])
        content["annotations"] *= count
        files["annotations/instances_train2017.json"] = json.dumps(content).encode()
    with pytest.raises(DataError, match=r"has over 10,000 boxes for one image, which cannot be right; split or fix it"):
        open_boxes(write(tmp_path, files))


@pytest.mark.parametrize(
    ("form_name", "file"), [("voc", "Annotations/train000.xml"), ("yolo", "labels/train/train000.txt")]
)
def test_a_huge_file_of_annotations_is_not_read(tmp_path, form_name, file):
    data = write(tmp_path, FORMS[form_name](splits()))
    with (data / file).open("wb") as huge:
        huge.truncate(1 << 34)
    with pytest.raises(DataError, match=r"has over 16,777,216 bytes, too many for a file of annotations"):
        open_boxes(data)


@needs_shared
def test_blood_cells():
    splits_of = open_boxes(BCCD)
    assert [len(getattr(splits_of, split)) for split in ("train", "val", "test")] == [205, 87, 72]
    assert splits_of.class_names == ("Platelets", "RBC", "WBC")
    tables = [getattr(splits_of, split).table for split in ("train", "val", "test")]
    assert sum(len(table.labels) for table in tables) > 4_800
    for dataset in (splits_of.train, splits_of.val, splits_of.test):
        assert (dataset.image_sizes == [640, 480]).all()
        boxes = dataset.table.boxes
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [640, 480]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
