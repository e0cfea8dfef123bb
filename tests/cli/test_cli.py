"""The commands, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.cli import main
from tests.support import SHARED, needs_shared, shake


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_list_shows_names_and_costs():
    output = run("list", "mixnet_?").stdout
    assert [line.split()[0] for line in output.splitlines()[1:]] == ["mixnet_l", "mixnet_m", "mixnet_s"]
    assert "4.13 M" in output
    assert "239.17 M" in output


def test_list_as_json():
    rows = json.loads(run("list", "--json").stdout)
    assert [row["model"] for row in rows] == effnets.list_models()
    assert next(row for row in rows if row["model"] == "rexnet_090")["params"] == 4_091_257


def test_list_of_nothing():
    assert "no model matches 'resnet*'" in run("list", "resnet*", status=1).stderr


def test_list_pretrained_shows_weights_and_where_they_are_from():
    lines = run("list", "--pretrained", "mobilenetv2_100").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "mobilenetv2_100.ra_in1k",
        "mobilenetv2_100.tv2_in1k",
        "mobilenetv2_100.tv_in1k",
    ]
    assert lines[1].split()[1:] == ["73.0", "224×224", "apache-2.0", "hf-hub:timm/mobilenetv2_100.ra_in1k"]


def test_list_pretrained_without_a_figure():
    assert run("list", "--pretrained", "rexnetr_200.sw_in12k").stdout.splitlines()[1].split()[1] == "–"


def test_list_pretrained_as_json():
    rows = json.loads(run("list", "--pretrained", "--json").stdout)
    assert [row["name"] for row in rows] == effnets.list_models(pretrained=True)
    row = next(row for row in rows if row["name"] == "rexnetr_200.sw_in12k_ft_in1k")
    assert (row["top1"], row["accuracy_size"], row["preprocess"]["test_input_size"]) == (83.136, 288, 288)


def test_list_pretrained_of_nothing():
    assert "no published weights match 'mixnet_xxl'" in run("list", "--pretrained", "mixnet_xxl", status=1).stderr


def test_show_is_the_table_of_the_network():
    output = run("show", "mixnet_m").stdout
    assert "ir_r1_k3.5.7.9_s2_e6_c40_se0.5_nsw" in output
    assert "3×3:48 5×5:48 7×7:48 9×9:48" in output
    assert "40×28×28" in output
    total = output.splitlines()[-1]
    assert "5.01 M" in total
    assert "339.17 M" in total


def test_show_as_json_at_another_size(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("tiny: {stem: 8, blocks: [dsa_r1_k3.5_s2_c16]}\n")
    shown = json.loads(run("show", path, "--image-size", "32", "--json").stdout)
    cost = effnets.count(str(path), 32)
    assert (shown["params"], shown["madds"]) == (cost.params, cost.madds)
    assert shown["stages"][1]["output"] == [16, 8, 8]
    assert shown["stages"][1]["rows"] == [{"block": "dsa_r1_k3.5_s2_c16", "kernel_groups": "3×3:4 5×5:4"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "mixnet_z"), "Error: no model named 'mixnet_z' in effnets; did you mean"),
        (("prefetch", "resnet*"), "Error: no published weights match 'resnet*'"),
        (("predict", "a.jpg", "--model", "mixnet_s", "--weights", "gone.pth"), "gone.pth: no such weights file"),
    ],
)
def test_mistakes_end_in_a_line_not_a_traceback(arguments, message):
    assert message in run(*arguments, status=1).stderr


@pytest.mark.parametrize("arguments", [("predict",), ("list", "a", "b"), ("shw", "mixnet_s")])
def test_usage(arguments):
    assert "Usage:" in run(*arguments, status=2).stderr


def test_help_names_every_command():
    output = run("--help").stdout
    for command in ("convert", "list", "predict", "show"):
        assert command in output
        assert "Usage:" in run(command, "--help").stdout


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    Image.new("RGB", (60, 50), "red").save(folder / "red.png")
    Image.new("L", (60, 50), 90).save(folder / "inner" / "grey.jpg")
    return folder


def predict(*arguments: object, status: int = 0):
    return run("predict", *arguments, "--model", "mobilenetv1_025", "--image-size", "64", status=status)


def test_predict_a_folder(photos, weights):
    output = predict(photos, "--weights", weights, "--topk", "2").stdout
    lines = [line for line in output.splitlines() if "%" in line]
    assert len(lines) == 4
    assert "red.png" in lines[0]
    assert "grey.jpg" in lines[2]


def test_predict_as_json_equals_python(photos, weights):
    rows = json.loads(predict(photos / "red.png", photos / "inner", "--weights", weights, "--json").stdout)
    assert [row["path"] for row in rows] == [str(photos / "red.png"), str(photos / "inner" / "grey.jpg")]
    model = effnets.create_model("mobilenetv1_025", weights=weights)
    expected = effnets.predict(model, photos / "red.png", input_size=64)[0]
    assert [p["label"] for p in rows[0]["predictions"]] == [p.label for p in expected]
    assert rows[0]["predictions"][0]["probability"] == pytest.approx(expected[0].probability, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_unreadable_photos_are_reported_and_the_rest_classified(photos, weights, batch_size):
    (photos / "notes.jpg").write_text("not a picture")
    (photos / "empty.png").write_bytes(b"")
    Image.new("RGB", (1, 40_000)).save(photos / "strip.png")
    gone = photos / "gone.jpg"
    result = predict(photos, gone, "--weights", weights, "--json", "--batch-size", batch_size, status=1)
    rows = {row["path"].rsplit("/", 1)[1]: row for row in json.loads(result.stdout)}
    assert {name for name, row in rows.items() if "error" in row} == {"notes.jpg", "empty.png", "strip.png", "gone.jpg"}
    assert len(rows["red.png"]["predictions"]) == 5
    assert "4 of 6 could not be classified" in result.stderr
    for name in ("notes.jpg", "empty.png", "strip.png", "gone.jpg"):
        assert f"not classified: {photos / name}" in result.stderr


def test_without_a_model_the_demonstration_network_answers_and_says_so(photos):
    result = run("predict", photos / "red.png", "--topk", "10", "--json")
    model = effnets.create_model("mixnet_xs_32px.cifar10", pretrained=True)
    expected = effnets.predict(model, photos / "red.png", topk=10)[0]
    predictions = json.loads(result.stdout)[0]["predictions"]
    assert [p["label"] for p in predictions] == [p.label for p in expected]
    assert {p["label"] for p in predictions} == set(model.class_names)
    said = " ".join(result.stderr.split())
    assert "No model is named, so the demonstration network answers, mixnet_xs_32px.cifar10." in said
    assert "CIFAR-10's images of 32 pixels and knows only 10 classes: airplane, automobile, bird, cat" in said
    assert "For ImageNet's 1,000 name a model: --model mobilenetv2_100" in said


def test_a_named_model_is_no_demonstration(photos, weights):
    assert "demonstration" not in predict(photos, "--weights", weights).stderr
    result = run("predict", photos, "--weights", weights, status=2)
    assert "which network are they of? Add --model (FILE.onnx needs none)" in result.stderr


def test_other_files_in_a_folder_are_mentioned(photos, weights):
    (photos / "LICENCE").write_text("free")
    assert (
        "passed over 1 that are no image files by their names: LICENCE" in predict(photos, "--weights", weights).stderr
    )


def test_what_a_folder_may_hold_besides(photos, weights):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "broken.jpg").symlink_to(photos / "gone")
    (photos / "again").symlink_to(photos / "inner")
    for name in ("paper.pdf", "film.mpg", "w.h5"):
        (photos / name).write_bytes(b"x")
    result = predict(photos, "--weights", weights, "--json", status=1)
    rows = {row["path"].rsplit("/", 1)[1]: row.get("error", "") for row in json.loads(result.stdout)}
    assert rows["pipe.jpg"].endswith("pipe.jpg is not a regular file; name an image file")
    assert "broken.jpg" in rows["broken.jpg"]
    assert rows["red.png"] == rows["grey.jpg"] == ""
    assert "passed over 4 that are no image files by their names: again (a link to a folder), " in result.stderr


def test_odd_names(photos, weights):
    """A file name steers no terminal, becomes no emoji, and comes back from JSON as it is."""
    odd = os.fsdecode(b"\xff :cat: \x1b[31m\n.png")
    Image.new("RGB", (60, 50)).save(photos / odd)
    path = str(photos / odd)
    output = predict(path, "--weights", weights, "--topk", 1).stdout
    assert ":cat: \\x1b[31m\\n.png" in output
    rows = json.loads(predict(path, "--weights", weights, "--json").stdout)
    assert rows[0]["path"] == path


def test_a_folder_with_a_network_needs_no_model(photos, tmp_path):
    model = shake(effnets.create_model("mobilenetv1_025", num_classes=3), size=32)
    model.class_names = ("a", "b", "c")
    effnets.save_pretrained(model, tmp_path / "saved")
    result = run("predict", photos / "red.png", "--weights", tmp_path / "saved", "--image-size", 32, "--json")
    assert {prediction["label"] for prediction in json.loads(result.stdout)[0]["predictions"]} == {"a", "b", "c"}


@pytest.mark.parametrize("path", ["", "a" * 300 + ".jpg"])
def test_paths_that_no_file_has(weights, path):
    assert "not classified: " in predict(path, "--weights", weights, status=1).stderr


def test_weights_without_classifier_predict_nothing(photos, tmp_path):
    path = tmp_path / "body.safetensors"
    effnets.save_weights(effnets.create_model("mobilenetv1_025", features_only=True), path)
    assert (
        "has no classifier, so that predictions would be chance" in predict(photos, "--weights", path, status=1).stderr
    )


def test_export_then_predict_without_a_model(photos, tmp_path):
    table = tmp_path / "my.yaml"
    table.write_text("tiny: {stem: 8, num_classes: 10, blocks: [dsa_r1_k3.5_s2_c16]}\n")
    effnets.save_weights(shake(effnets.create_model(table), size=32), tmp_path / "w.safetensors")
    target = tmp_path / "tiny.onnx"
    options = ("--weights", tmp_path / "w.safetensors", "--image-size", "32", "--preprocess", "--topk", "3")
    assert "tiny.onnx: 0.0 MB, logits within onnxruntime" in run("export", table, target, *options).stdout
    rows = json.loads(run("predict", photos, "--weights", target, "--json").stdout)
    model = effnets.create_model(table, weights=tmp_path / "w.safetensors")
    for row in rows:
        expected = effnets.predict(model, row["path"], input_size=32)[0]
        assert [p["label"] for p in row["predictions"]] == [p.label for p in expected]
    refused = run("export", table, tmp_path / "t.pb", *options, status=1)
    assert "give the file one of the suffixes .onnx" in refused.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_output_is_a_line():
    command = f"{sys.executable} -m effnets list > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_slips_of_the_pen():
    assert "did you mean 'list'?" in run("lst", status=2).stderr
    assert "no model matches 'mixnet'; try '*mixnet*'" in run("list", "mixnet", status=1).stderr


def test_a_folder_without_photos(tmp_path, weights):
    assert "no image file in this folder" in predict(tmp_path, "--weights", weights, status=1).stderr


@needs_shared
def test_real_photographs_as_a_process():
    command = [sys.executable, "-m", "effnets", "predict", SHARED / "data" / "photos", "--model", "tf_mobilenetv1_050"]
    command += ["--weights", SHARED / "weights" / "tf_mobilenetv1_050_160.timm.safetensors", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "its header sets input_size to 160" in done.stderr
    found = {row["path"].rsplit("/", 1)[1]: row["predictions"][0]["label"] for row in json.loads(done.stdout)}
    golden = json.loads((SHARED / "golden" / "photos.json").read_text())["tf_mobilenetv1_050_160.timm.safetensors"]
    assert len(found) == 10
    for photo, expected in golden.items():
        if expected["top3"][0][2] - expected["top3"][1][2] >= 0.03:
            assert found[photo] == expected["top3"][0][1], photo


def test_list_needs_neither_torch_nor_rich():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from effnets.cli import main\n"
        "result = CliRunner().invoke(main, ['list'])\n"
        "assert result.exit_code == 0, result.output\n"
        "assert not {'torch', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
