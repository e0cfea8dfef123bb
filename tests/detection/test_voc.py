"""Pascal VOC's XML: what is wrong with a file is said with its line, and nothing in it can do harm."""

from __future__ import annotations

import pytest

from effnets.detection.annotations import open_boxes
from effnets.detection.voc import parse_annotation
from effnets.errors import DataError
from tests.support.boxed_sets import Scene, scenes, voc_files, xml
from tests.support.data_sets import write

SCENE = Scene("a", [("cat", 4, 6, 24, 16)])

BOMB = """<?xml version="1.0"?>
<!DOCTYPE bomb [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
OUTSIDE = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY file SYSTEM "file:///etc/passwd">]>
<annotation><filename>&file;</filename></annotation>"""


def broken(text, old, new):
    assert old in text
    return text.replace(old, new)


BAD = {
    "bomb": (BOMB, r"a\.xml, line 2: has a DOCTYPE, which is not read"),
    "a file from outside": (OUTSIDE, r"a\.xml, line 2: has a DOCTYPE, which is not read"),
    "cut": (xml(SCENE)[:-30], r"a\.xml, line 6: is not XML \(unclosed token\)"),
    "empty": ("", r"a\.xml, line 1: is not XML \(no element found\)"),
    "tags": (broken(xml(SCENE), "</object>", ""), r"a\.xml, line 8: is not XML \(mismatched tag\)"),
    "another root": ("<svg></svg>", r"a\.xml, line 1: is not a Pascal VOC annotation: it begins with <svg>"),
    "no name": (broken(xml(SCENE), "<name>cat</name>", ""), r"a\.xml, line 4: the object has no <name>"),
    "no edge": (broken(xml(SCENE), "<xmax>24</xmax>", ""), r"a\.xml, line 4: the object has no <xmax> in its <bndbox>"),
    "words": (
        broken(xml(SCENE), "<xmax>24</xmax>", "<xmax>wide</xmax>"),
        r"a\.xml, line 6: <xmax> is 'wide', not a number",
    ),
    "deep": ("<annotation>" + 100 * "<a>", r"a\.xml, line 1: is nested deeper than 64 elements"),
    "size": (
        broken(xml(SCENE), "<width>64</width>", "<width>640</width>"),
        r"a\.xml: says that JPEGImages/a\.png has 640×48 pixels, but it has 64×48",
    ),
    "outside": (
        broken(xml(SCENE), "a.png", "../../../etc/passwd"),
        r"a\.xml: '\.\./\.\./\.\./etc/passwd' is no path within the data set",
    ),
    "encoding": (
        '<?xml version="1.0" encoding="klingon"?>' + xml(SCENE),
        r"a\.xml, line 1: is not XML \(unknown encoding\)|a\.xml: cannot be read",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_file(tmp_path, kind):
    text, message = BAD[kind]
    data = write(tmp_path, voc_files({"train": [SCENE]}) | {"Annotations/a.xml": text.encode()})
    with pytest.raises(DataError, match=message):
        open_boxes(data)


def test_what_may_be_absent_or_more():
    text = (
        "<annotation><size><width>0</width><height>0</height></size><object><name> Katze (süß) </name>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><truncated>1</truncated><difficult>1</difficult>"
        "<bndbox><xmin> 5.5 </xmin><ymin>7</ymin><xmax>24</xmax><ymax>16</ymax></bndbox></object></annotation>"
    )
    found = parse_annotation(text.encode(), "a.xml")
    assert (found.filename, found.size) == ("", None)
    (row,) = found.rows
    assert (row.label, row.difficult, row.box) == ("Katze (süß)", True, (4.5, 6, 24, 16))


def test_other_encodings():
    text = f'<?xml version="1.0" encoding="latin-1"?>{xml(Scene("a", [("cat", 1, 1, 5, 5)]))}'.replace("cat", "süß")
    assert parse_annotation(text.encode("latin-1"), "a.xml").rows[0].label == "süß"
    assert parse_annotation(text.replace("latin-1", "utf-16").encode("utf-16"), "a.xml").rows[0].label == "süß"


def test_lists(tmp_path):
    files = voc_files({"train": scenes(4)})
    listed = tmp_path / "ImageSets/Main/train.txt"
    write(tmp_path, files)
    listed.write_text("scene000\nscene003\n\n")
    splits = open_boxes(tmp_path, val_share=0)
    assert len(splits.train) == 2
    named = "passed over 2 annotations (Annotations/scene001.xml, Annotations/scene002.xml) that no list in"
    assert splits.notes == (f"{named} ImageSets/Main names",)
    for text, message in {
        "scene000\nscene009\n": r"train\.txt, line 2: there is no .*scene009\.xml; add it, or remove the line",
        "scene000\nscene003\nscene000\n": r"train\.txt, line 3: scene000 was listed in line 1; remove one of them",
        "../../x\n": r"train\.txt, line 1: '\.\./\.\./x' is no path within the data set",
        "/etc/passwd\n": r"train\.txt, line 1: '/etc/passwd' is no path within the data set",
    }.items():
        listed.write_text(text)
        with pytest.raises(DataError, match=message):
            open_boxes(tmp_path)
    listed.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"train\.txt: is not UTF-8 text"):
        open_boxes(tmp_path)


def test_trainval_is_train_where_there_is_no_other(tmp_path):
    files = voc_files({"trainval": scenes(6), "test": scenes(2, 4, "test")})
    splits = open_boxes(write(tmp_path / "a", files), val_share=0)
    assert (len(splits.train), splits.val, len(splits.test)) == (6, None, 2)
    files |= {"ImageSets/Main/train.txt": b"scene000\nscene001\n", "ImageSets/Main/val.txt": b"scene003\n"}
    splits = open_boxes(write(tmp_path / "b", files))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2, 1, 2)


def test_xml_beside_its_image_in_folders_of_splits(tmp_path):
    files = {}
    for split, listed in {"train": scenes(4), "valid": scenes(2, 2, "val")}.items():
        for scene in listed:
            files |= {f"{split}/{scene.name}.png": scene.png(), f"{split}/{scene.name}.xml": xml(scene).encode()}
    splits = open_boxes(write(tmp_path, files))
    assert (len(splits.train), len(splits.val)) == (4, 2)


def test_an_image_is_found_by_what_the_file_says(tmp_path):
    files = {"Annotations/1.xml": xml(SCENE, filename="odd name.png").encode(), "JPEGImages/odd name.png": SCENE.png()}
    assert len(open_boxes(write(tmp_path, files), val_share=0).train) == 1
    (tmp_path / "JPEGImages/odd name.png").unlink()
    with pytest.raises(DataError, match=r"1\.xml: its image is missing, JPEGImages/1\.jpg or images/1\.jpg; add it"):
        open_boxes(tmp_path)


def test_two_data_sets_in_one(tmp_path):
    files = {f"VOC{year}/{name}": one for year in (2007, 2012) for name, one in voc_files({"train": scenes(2)}).items()}
    with pytest.raises(DataError, match=r"holds 2 data sets \(VOC2007, VOC2012\); give one of them"):
        open_boxes(write(tmp_path, files))
    assert len(open_boxes(tmp_path / "VOC2007", val_share=0).train) == 2
