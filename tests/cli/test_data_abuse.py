"""Data sets as they should not be, through the command line: what is said, and that it is one message."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.cli import main
from tests.support.data_sets import by_class, pack, picture, truncated, write

TABLE = """
tiny:
  stem: 8
  input_size: 16
  crop_pct: 1.0
  blocks: [ds_r1_k3_s1_e1_c8]
"""
QUICK = ["--epochs", "1", "--batch-size", "4", "--workers", "0", "--precision", "float32", "--set", "ema_decay=0"]


def divided(train: int = 4, test: int = 3) -> dict[str, bytes]:
    return by_class(train, folder="train/") | by_class(test, folder="test/", seed=500)


def empty_class(folder: Path) -> Path:
    write(folder, divided())
    (folder / "train" / "bird").mkdir()
    return folder


def empty_class_in_test(folder: Path) -> Path:
    write(folder, divided())
    for path in (folder / "test" / "dog").iterdir():
        path.unlink()
    return folder


def one_class(folder: Path) -> Path:
    return write(folder, by_class(5, ("cat",)))


def duplicate(folder: Path) -> Path:
    files = divided()
    return write(folder, files | {"test/cat/copy.jpg": files["train/cat/1.jpg"]})


def one_pixel(folder: Path) -> Path:
    write(folder, divided())
    for split in ("train", "test"):
        Image.new("RGB", (1, 1)).save(folder / split / "cat" / "dot.png")
    return folder


def corrupt_parquet(folder: Path) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    images = pa.array([{"bytes": picture(n), "path": None} for n in range(8)])
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": images, "label": [0, 1] * 4}).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, folder / "data.parquet")
    whole = (folder / "data.parquet").read_bytes()
    (folder / "data.parquet").write_bytes(truncated(whole))
    return folder / "data.parquet"


def interrupted_tar(folder: Path) -> Path:
    folder.mkdir()
    path = pack(folder / "data.tar", divided())
    path.write_bytes(path.read_bytes()[:5000])
    return path


def corrupt_images(folder: Path) -> Path:
    files = divided(8, 8)
    cut = {f"{split}/cat/{n}.jpg": truncated(picture(n)) for split in ("train", "test") for n in range(5)}
    return write(folder, files | cut)


def strange_names(folder: Path) -> Path:
    names = {f"{name} ü 日本 #%.jpg": picture(number) for number, name in enumerate("abcd")}
    folder = folder / "mine, ünd yours 写真"
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            write(folder / split / label, names)
    return folder


@dataclass(frozen=True)
class Case:
    """A data set, and the exit status and a message of `effnets finetune` and `effnets eval`."""

    make: Callable[[Path], Path]
    training: tuple[int, str]
    evaluation: tuple[int, str]


CASES = [
    Case(
        empty_class,
        (1, "1 class (bird) without an image, but training needs one of each; remove the empty folder, or add"),
        (0, "6 test images of 2 classes"),  # of which test/ has no bird: only what is measured matters
    ),
    Case(
        empty_class_in_test,
        (0, "note: test has no image of 1 class (dog)"),
        (0, "test has no image of 1 class (dog)"),
    ),
    Case(
        one_class,
        (1, "has only one class, cat, and training needs two; add images of others"),
        (0, "the data have 1 of the model's 2 classes; an answer among the others counts as wrong"),
    ),
    Case(
        duplicate,
        (0, "1 of the 7 images of test are in train as well, which inflates the accuracy: "),
        (0, "7 test images of 2 classes"),
    ),
    Case(one_pixel, (0, "test top-1"), (0, "7 test images of 2 classes")),
    Case(
        corrupt_parquet,
        (1, "data.parquet: cannot be read as parquet ("),
        (1, "data.parquet: cannot be read as parquet ("),
    ),
    Case(
        interrupted_tar,
        (1, "bytes; copy or download it again"),
        (1, "bytes; copy or download it again"),
    ),
    Case(
        corrupt_images,
        (1, "test: 5 of 16 images cannot be read, and 3 may be left out; fix or remove them:"),
        (0, "5 of 16 images could not be read and count nowhere"),
    ),
    Case(strange_names, (0, "test top-1"), (0, "8 test images of 2 classes")),
]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    text = result.output if result.exception is None or isinstance(result.exception, SystemExit) else ""
    assert text, f"no message: {result.exception!r}"
    return result.exit_code, " ".join(text.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small network's table, and the same with weights that knows cats and dogs."""
    place = tmp_path_factory.mktemp("abuse")
    (place / "tiny.yaml").write_text(TABLE)
    model = effnets.create_model(place / "tiny.yaml", num_classes=2)
    model.class_names = ("cat", "dog")
    effnets.save_pretrained(model, place / "model")
    return place


def finetune(place, data, output):
    return run("finetune", data, "--model", place / "tiny.yaml", "--weights", "random", "--output", output, *QUICK)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)
def test_messages(place, tmp_path, case):
    data = case.make(tmp_path / "data")
    status, said = finetune(place, data, tmp_path / "run")
    assert (status, case.training[1] in said) == (case.training[0], True), said
    assert (tmp_path / "run").exists() is (status == 0)
    status, said = run("eval", data, "--weights", place / "model")
    assert (status, case.evaluation[1] in said) == (case.evaluation[0], True), said


@pytest.mark.parametrize("kind", ["file in the way", "folder without permission"])
def test_an_output_that_cannot_be_written(place, tmp_path, kind):
    data = write(tmp_path / "data", divided())
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o500)
    if kind == "folder without permission" and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    output = tmp_path / ("file" if kind == "file in the way" else "closed") / "run"
    status, said = finetune(place, data, output)
    assert status == 1
    assert f"{output}: cannot be written (" in said
    assert "name a folder that you may write to" in said
    status, said = run("eval", data, "--weights", place / "model", "--report", output)
    assert (status, str(output) in said) == (1, True), said
    status, said = run("eval", data, "--weights", place / "model", "--json", tmp_path / "closed")
    assert (status, f"{tmp_path / 'closed'}: cannot be written there (Is a directory)" in said) == (2, True), said
    assert "test images" not in said  # told before anything is measured


@pytest.mark.full
def test_ten_thousand_classes(place, tmp_path):
    """One image of each, of one pixel: nothing to validate with, and a classifier of 10,000 outputs."""
    content = picture(1, size=1)
    write(tmp_path / "data", {f"class {number}/1.jpg": content for number in range(10_000)})
    status, said = run(
        "finetune", tmp_path / "data", "--model", place / "tiny.yaml", "--weights", "random", "--output",
        tmp_path / "run", *QUICK, "--batch-size", "500",
    )  # fmt: skip
    assert status == 0, said
    assert "10000 classes (class 0, class 1, class 10, class 100, class 1000, …) with a single image" in said
    model = effnets.create_model(tmp_path / "run", pretrained=True)
    assert len(model.class_names) == model.num_classes == 10_000
    assert model.classifier.weight.isfinite().all()
