"""Data sets as people download them, through `effnets finetune`, `eval`, `predict` and the calibration of `export`."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.deploy.quantize.calibration import split_images
from effnets.engines.base import load_file
from tests.cli.test_data_abuse import QUICK, TABLE
from tests.support.data_sets import by_class, picture, write

# Each as a network may know it: a number in words or not, signs of other formats, spaces, lines, letters in two forms.
NAMES = (
    *("007", "7", "1e3", "nan", "None", "true", "-1", "a, b", 'say "yes"', "it's", " padded ", "two\nlines", "🐈‍⬛"),
    *("{x: 1}", "<b>&amp;", "a\\b", "50 %", "café"),
)


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def model(tiny):
    model = effnets.create_model(tiny, num_classes=2)
    model.class_names = ("cat", unicodedata.normalize("NFD", "café"))  # as trained by an earlier version on a Mac
    effnets.save_pretrained(model, tiny.parent / "model")
    return tiny.parent / "model"


def finetune(tiny, data, output, *more, status=0):
    return run(
        "finetune", data, "--model", tiny, "--weights", "random", "--output", output, *QUICK, *more, status=status
    )


def test_splits_by_other_names_are_trained_and_measured(tiny, tmp_path):
    files = by_class(4, folder="seg_train/seg_train/") | by_class(3, folder="seg_test/seg_test/", seed=500)
    files |= {f"seg_pred/seg_pred/{n}.jpg": picture(900 + n) for n in range(5)} | {"__MACOSX/._seg_train": b""}
    said = finetune(tiny, write(tmp_path / "data", files), tmp_path / "run")
    assert "note: seg_test/ is taken as test, seg_train/ is taken as train" in said
    assert "note: seg_pred/ has 5 images without class folders: not measured; predict classifies them" in said
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["classes"] == ["cat", "dog"]
    assert "6 test images of 2 classes" in run("eval", tmp_path / "data", "--weights", tmp_path / "run")


def test_two_readings_stop_a_training(tiny, tmp_path):
    write(tmp_path / "data", by_class(2, folder="train/") | by_class(2, folder="test/", seed=9) | by_class(1, ("bus",)))
    assert "rename test/, train/" in finetune(tiny, tmp_path / "data", tmp_path / "run", status=1)
    assert not (tmp_path / "run").exists()


def test_a_flat_test_folder(tiny, model, tmp_path):
    names = ("cat", "café")
    write(tmp_path, by_class(4, names, folder="train/") | {f"test/{n}.jpg": picture(n + 50) for n in range(40)})
    note = "test/ has 40 images without class folders: not measured; predict classifies them"
    assert f"note: {note}" in finetune(tiny, tmp_path, tmp_path.parent / "run")
    said = run("eval", tmp_path, "--weights", model, status=1)
    assert f"has training images only; put images that no network was trained on into test/ or val/. {note}" in said
    write(tmp_path, by_class(2, names, folder="val/", seed=300))
    said = run("eval", tmp_path, "--weights", model)
    assert "4 val images of 2 classes" in said
    assert note in said
    assert len(json.loads(run_predict(model, tmp_path / "test"))) == 40


def run_predict(model, *paths, status=0):
    arguments = ["predict", "--model", str(model), "--json", *map(str, paths)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == status, result.output
    return result.stdout


def test_predict_passes_over_litter(model, tmp_path):
    litter = ("@eaDir/1.jpg/SYNO_THUMB.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", "._1.jpg", "__MACOSX/._1.jpg")
    write(tmp_path, {"1.jpg": picture(1), "a/2.jpg": picture(2)} | dict.fromkeys(litter, b"\x00\x05\x16\x07"))
    write(tmp_path, {"a/Thumbs.db": b"", ".DS_Store": b"", "$RECYCLE.BIN/3.jpg": picture(3)})
    found = json.loads(run_predict(model, tmp_path))
    assert [result["path"] for result in found] == [str(tmp_path / "1.jpg"), str(tmp_path / "a" / "2.jpg")]
    # What is named by itself is looked at.
    assert json.loads(run_predict(model, tmp_path / "._1.jpg", status=1))[0]["error"]


def test_calibration_passes_over_litter_and_knows_both_forms_of_letters(model, tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    files = by_class(3, ("cat", decomposed)) | by_class(2, (composed,), seed=5000)
    write(tmp_path / "photos", files | {"@eaDir/1.jpg": picture(8), "cat/._1.jpg": b"", "cat/Thumbs.db": b""})
    export = effnets.export_onnx(effnets.create_model(model, pretrained=True), tmp_path / "model.onnx")
    metadata = load_file(str(export.path)).description
    split = split_images(tmp_path / "photos", metadata, calibration_images=4, held_out_images=4, min_held_out=2, seed=0)
    assert split.broken == split.unknown_folders == ()
    labels = np.concatenate([split.calibration.labels, split.held_out.labels])
    assert np.bincount(labels).tolist() == [3, 5]


def test_a_model_of_decomposed_names_is_measured(model, tmp_path):
    write(tmp_path, by_class(2, ("café", "cat"), folder="test/"))
    assert "4 test images of 2 classes" in run("eval", tmp_path, "--weights", model)


def test_unlabeled_rows_and_strict(tiny, model, tmp_path):
    write(tmp_path, by_class(4))
    rows = [
        f"{name}\\{n}.jpg;{label}"
        for name, label in (("cat", "cat"), ("dog", "café"))
        for n, label in enumerate([label] * 4)
    ]
    (tmp_path / "data.csv").write_text(
        "\n".join(["file;class", *rows[:-1], rows[-1].partition(";")[0] + ";"]), "utf-8-sig"
    )
    note = "left out of all: 1 image without a label, line 9 first"
    said = finetune(tiny, tmp_path / "data.csv", tmp_path / "run")
    assert f"note: {note}" in said
    assert "note: of data.csv, file is taken for the images, class for their classes" in said
    assert note in run("eval", tmp_path / "data.csv", "--weights", model)
    strict = "all has 1 image without a label, line 9 first; label or remove them, or leave strict out"
    assert strict in finetune(tiny, tmp_path / "data.csv", tmp_path / "other", "--strict", status=1)
    assert strict in run("eval", tmp_path / "data.csv", "--weights", model, "--strict", status=1)


def test_zip_archives_are_to_be_unpacked(tiny, model, tmp_path):
    write(tmp_path, {"data.zip": b"PK"})
    message = "data.zip: is compressed, so single images cannot be read; unpack it, and give its folder"
    assert message in finetune(tiny, tmp_path / "data.zip", tmp_path / "run", status=1)
    assert message in run("eval", tmp_path / "data.zip", "--weights", model, status=1)


def test_names_survive_from_folders_to_every_file(tiny, tmp_path):
    """By one training, its report, an evaluation as JSON, a prediction, and an export to ONNX."""
    names = tuple(sorted(unicodedata.normalize("NFC", name) for name in NAMES))
    data, output = tmp_path / "data", tmp_path / "run"
    write(data, by_class(3, names, folder="train/") | by_class(1, names, folder="test/", seed=500))
    finetune(tiny, data, output)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert tuple(metrics["classes"]) == names
    model = effnets.create_model(output, pretrained=True)
    assert model.class_names == names
    report = (output / "report.html").read_text(encoding="utf-8")
    for name in ("🐈‍⬛", "café", "007", "&lt;b&gt;&amp;amp;", "say &quot;yes&quot;"):
        assert name in report or name.replace("&quot;", "&#34;") in report or name.replace("&quot;", '"') in report, (
            name
        )
    run("eval", data, "--weights", output, "--json", tmp_path / "eval.json")
    written = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert {row["class"] for row in classes_of(written)} == set(names)
    predicted = json.loads(run_predict(output, data / "test"))
    assert {row["label"] for result in predicted for row in result["predictions"]} <= set(names)
    export = effnets.export_onnx(model, tmp_path / "model.onnx")
    assert load_file(str(export.path)).labels == names
    exported = effnets.evaluate(load_file(str(export.path)), data)
    assert exported.class_names == names
    assert exported.top1 == effnets.evaluate(model, data).top1


def test_names_survive_from_a_table(tiny, tmp_path):
    numbers = ("007", "10", "7")
    data, output = tmp_path / "labels.csv", tmp_path / "run"
    write(tmp_path, {f"{k}-{n}.jpg": picture(10 * k + n) for k in range(4) for n in range(3)})
    data.write_text(
        "\n".join(["path,label", *(f"{k}-{n}.jpg,{name}" for k, name in enumerate(numbers) for n in range(3))])
    )
    finetune(tiny, data, output)
    # Numbers in their order; "007" is another class than "7".
    assert json.loads((output / "metrics.json").read_text())["classes"] == ["007", "7", "10"]
    assert effnets.create_model(output, pretrained=True).class_names == ("007", "7", "10")
    slashes = ("../up", "a/b", "x\\y")
    data.write_text(
        "\n".join(["path,label", *(f"{k}-{n}.jpg,{name}" for k, name in enumerate(slashes) for n in range(3))])
    )
    finetune(tiny, data, tmp_path / "other")
    assert effnets.create_model(tmp_path / "other", pretrained=True).class_names == slashes
    run("eval", data, "--weights", tmp_path / "other", "--json", tmp_path / "eval.json")
    assert {row["class"] for row in classes_of(json.loads((tmp_path / "eval.json").read_text()))} == set(slashes)


def classes_of(written):
    """The rows for each class, wherever the file has them."""
    if isinstance(written, dict):
        if isinstance(written.get("classes"), list):
            return written["classes"]
        return next((rows for value in written.values() if (rows := classes_of(value))), [])
    return next((rows for value in written if (rows := classes_of(value))), []) if isinstance(written, list) else []
