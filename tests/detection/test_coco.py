"""COCO's JSON: every inconsistency is named with the place in the file's lists."""

from __future__ import annotations

import json

import pytest

from effnets.detection.annotations import open_boxes
from effnets.errors import DataError
from tests.support.boxed_sets import CLASSES, coco_content, coco_files, scenes, splits
from tests.support.data_sets import write

FILE = "annotations/instances_train2017.json"


def changed(change):
    """The content of a file of four images, after a change."""
    content = coco_content(scenes(4))
    change(content)
    return content


def setting(part, position, **values):
    return lambda content: content[part][position].update(values)


def removing(part, position, key):
    return lambda content: content[part][position].pop(key)


BAD = {
    "no images": (lambda c: c.update(images=[]), r"2017\.json: its list of images is empty"),
    "no list": (
        lambda c: c.pop("categories"),
        r"2017\.json: has no list 'categories', which COCO's files of boxes have",
    ),
    "two images of an id": (setting("images", 2, id=100), r"images\[2\]: has the id 100, as one before"),
    "one file twice": (
        setting("images", 2, file_name="scene000.png"),
        r"images\[2\]: is train2017/scene000\.png, as images\[0\] is; join them",
    ),
    "no file name": (removing("images", 1, "file_name"), r"images\[1\]: has no file_name"),
    "a missing file": (
        setting("images", 1, file_name="gone.png"),
        r"images\[1\]: there is no image gone\.png in .*; add it, or remove it here",
    ),
    "outside": (
        setting("images", 1, file_name="../../etc/passwd.png"),
        r"images\[1\]: '\.\./\.\./etc/passwd\.png' is no path within the data set",
    ),
    "absolute": (setting("images", 1, file_name="/etc/a.png"), r"'/etc/a\.png' is no path within the data set"),
    "windows": (setting("images", 1, file_name="C:\\a.png"), r"is no path within the data set"),
    "size": (setting("images", 0, width=640), r"says that train2017/scene000\.png has 640×48 pixels, but it has 64×48"),
    "no category": (
        setting("annotations", 1, category_id=5),
        r"annotations\[1\] \(id 2\): has the category 5, which the file does not list",
    ),
    "background": (
        setting("annotations", 1, category_id=0),
        r"has the category 0, which the file does not list; ids .* and 0 is no background here",
    ),
    "no image": (
        setting("annotations", 2, image_id=999),
        r"annotations\[2\] \(id 3\): belongs to the image 999, which the file does not list",
    ),
    "three numbers": (
        setting("annotations", 0, bbox=[1, 2, 3]),
        r"annotations\[0\] \(id 1\): its bbox is \[1, 2, 3\], not four numbers: left, top, width, height",
    ),
    "texts": (setting("annotations", 0, bbox=["1", 2, 3, 4]), r"its bbox is \['1', 2, 3, 4\], not four numbers"),
    "no box": (removing("annotations", 0, "bbox"), r"its bbox is None, not four numbers"),
    "no object": (lambda c: c["annotations"].append(7), r"annotations\[5\] \(id None\): is not an object"),
    "two categories of an id": (
        setting("categories", 1, id=3),
        r"categories\[1\]: has the id or the name of one before",
    ),
    "two categories of a name": (
        setting("categories", 1, name="cat"),
        r"has the id or the name of one before, 7, 'cat'",
    ),
    "no name": (removing("categories", 0, "name"), r"categories\[0\]: has no name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_inconsistent_file(tmp_path, kind):
    change, message = BAD[kind]
    files = coco_files({"train": scenes(4)}) | {FILE: json.dumps(changed(change)).encode()}
    with pytest.raises(DataError, match=message):
        open_boxes(write(tmp_path, files))


TEXTS = {
    "comma": (b'{"images": [],\n"annotations": [,]}', r"2017\.json, line 2, column 17: is not JSON"),
    "cut": (b'{"images": [\n{"id": 1', r"2017\.json, line 2, column 9: is not JSON"),
    "bytes": (b"\xff\xfe\xfd{}", r"2017\.json: is not JSON that can be read"),
    "depth": (b'{"images": ' + 200_000 * b"[", r"2017\.json: is not JSON that can be read"),
    "digits": (b'{"images": [' + 5_000 * b"9" + b"]}", r"2017\.json: is not JSON that can be read"),
    "empty": (b"", r"2017\.json, line 1, column 1: is not JSON"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_what_is_no_json(tmp_path, kind):
    text, message = TEXTS[kind]
    with pytest.raises(DataError, match=message):
        open_boxes(write(tmp_path, coco_files({"train": scenes(4)}) | {FILE: text}))


def test_a_list_is_no_coco_file(tmp_path):
    with pytest.raises(DataError, match="has no COCO file; it is JSON with images, annotations and categories"):
        open_boxes(write(tmp_path, {"a.json": b"[1, 2]", "a.png": scenes(1)[0].png()}))


def test_nan_and_huge_numbers_are_bad_boxes(tmp_path):
    content = json.dumps(coco_content(scenes(4))).replace('"bbox": [', '"bbox": [NaN, 1, 2, 3], "was": [', 1)
    content = content.replace('"bbox": [3', '"bbox": [1' + 400 * "0" + ', 1, 2, 3], "was": [3', 1)
    splits_of = open_boxes(write(tmp_path, coco_files({"train": scenes(4)}) | {FILE: content.encode()}), val_share=0)
    assert any("with NaN or infinity" in note and "annotations[0] (id 1)" in note for note in splits_of.notes)


def test_repeated_ids_of_annotations_are_noted(tmp_path):
    content = changed(setting("annotations", 1, id=1))
    splits_of = open_boxes(write(tmp_path, coco_files({"train": scenes(4)}) | {FILE: json.dumps(content).encode()}))
    assert f"{FILE}: 1 annotations have the id of another; all are read" in splits_of.notes


def test_crowds_and_a_category_of_number_0(tmp_path):
    content = changed(setting("annotations", 0, iscrowd=1))
    content["categories"][0]["id"] = 0
    for annotation in content["annotations"]:
        annotation["category_id"] = {3: 0, 7: 7}[annotation["category_id"]]
    train = open_boxes(
        write(tmp_path, coco_files({"train": scenes(4)}) | {FILE: json.dumps(content).encode()}), val_share=0
    ).train
    assert train.class_names == CLASSES
    assert train.box_labels(0).tolist() == [1, 2]
    assert train.crowd(0).tolist() == [True, False]


def test_the_group_of_all_categories_is_no_class(tmp_path):
    content = coco_content(scenes(4))
    content["categories"].insert(0, {"id": 0, "name": "pet", "supercategory": "none"})
    for category in content["categories"][1:]:
        category["supercategory"] = "pet"
    data = write(tmp_path, coco_files({"train": scenes(4)}) | {FILE: json.dumps(content).encode()})
    assert open_boxes(data, val_share=0).class_names == CLASSES


def test_other_layouts(tmp_path):
    by_folder, loose = {}, {}
    for split, listed in splits().items():
        word = {"val": "valid"}.get(split, split)
        by_folder[f"{word}/_annotations.coco.json"] = json.dumps(coco_content(listed)).encode()
        by_folder |= {f"{word}/{scene.name}.png": scene.png() for scene in listed}
        loose |= {f"pictures/{scene.name}.png": scene.png() for scene in listed}
        loose[f"{split}.json"] = json.dumps(coco_content(listed)).encode()
    for number, files in enumerate((by_folder, loose)):
        splits_of = open_boxes(write(tmp_path / str(number), files))
        assert [len(one) for one in (splits_of.train, splits_of.val, splits_of.test)] == [8, 4, 4]
    only = open_boxes(tmp_path / "1" / "train.json", val_share=0)
    assert (len(only.train), only.test) == (8, None)
    named = open_boxes(write(tmp_path / "2", coco_files(splits())) / FILE, val_share=0)
    assert len(named.train) == 8


def test_files_of_other_tasks_are_passed_over(tmp_path):
    files = coco_files(splits())
    files["annotations/captions_train2017.json"] = b"not read"
    assert len(open_boxes(write(tmp_path, files)).train) == 8


def test_two_files_of_a_split(tmp_path):
    files = coco_files({"train": scenes(4)})
    files["annotations/instances_train.json"] = files[FILE]
    with pytest.raises(DataError, match=r"instances_train\.json and .*instances_train2017\.json both mean train"):
        open_boxes(write(tmp_path, files))


def test_splits_of_other_categories(tmp_path):
    files = coco_files(splits())
    content = json.loads(files["annotations/instances_val2017.json"])
    content["categories"][1]["name"] = "wolf"
    files["annotations/instances_val2017.json"] = json.dumps(content).encode()
    with pytest.raises(DataError, match=r"val2017\.json: has 1 category \(wolf\) that .*train2017\.json lacks"):
        open_boxes(write(tmp_path, files))
