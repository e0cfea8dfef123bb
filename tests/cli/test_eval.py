"""effnets eval: a table, JSON, comparisons, a page; and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

import effnets
from effnets.cli import main
from tests.support import shake
from tests.support.evaluation_cases import coloured_folder, noise_source, tell_apart

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set with a broken picture, a model in a folder that knows its classes, and the model exported."""
    place = tmp_path_factory.mktemp("eval")
    source = noise_source(24, NAMES)
    for index in range(len(source)):
        folder = place / "data" / "val" / NAMES[source.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(source.read(index))
    (place / "data" / "val" / "a" / "broken.png").write_bytes(b"no picture")
    model = shake(effnets.create_model("mobilenetv1_025", num_classes=3), size=64)
    model.class_names = NAMES
    effnets.save_pretrained(tell_apart(model, source), place / "model")
    effnets.export_onnx(model, place / "model.onnx", engines=["onnxruntime"])
    return place


def run(*arguments: object):
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def test_a_table(place):
    result = run(place / "data", "--weights", place / "model", "--batch-size", 5)
    assert result.exit_code == 0, result.output
    expected = effnets.evaluate(effnets.create_model(place / "model", pretrained=True), place / "data")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{place / 'data'}: 24 val images of 3 classes"
    assert [line.split()[:2] for line in lines if line[:2] in ("a ", "b ", "c ")] == [
        ["a", "8"],
        ["b", "8"],
        ["c", "8"],
    ]
    assert f"{expected.top1:.2f}" in lines[-1]
    assert "broken.png" in result.stderr
    assert "1 of 25 images could not be read and count nowhere" in result.stderr


def test_several_are_compared(place, tmp_path):
    weights = ["--weights", place / "model", "--weights", place / "model.onnx"]
    result = run(place / "data", *weights, "--engine", "auto", "--engine", "onnxruntime", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "against model in torch" in result.stdout
    values = json.loads((tmp_path / "a.json").read_text())
    rows = values["evaluations"]
    assert [row["engine"] for row in rows] == ["torch", *["onnxruntime, rewritten"] * 3]
    assert [row["compared_with_first"]["changed"] for row in rows[1:]] == [0, 0, 0]
    assert "compared_with_first" not in rows[0]
    assert len({row["top1"] for row in rows}) == 1
    assert values["machine"]["cores"] > 0


def test_a_model_without_class_names_is_compared_by_the_classes_of_the_data(place, tmp_path):
    network = effnets.create_model(place / "model", pretrained=True)
    torch.save(dict(network.state_dict()), tmp_path / "plain.pth")
    weights = ["--weights", place / "model.onnx", "--weights", tmp_path / "plain.pth", "--model", "mobilenetv1_025"]
    result = run(place / "data", *weights, "--json", "-")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["evaluations"]
    assert second["compared_with_first"]["changed"] == 0
    note = "the model does not name its 3 outputs"
    assert note not in " ".join(first["notes"])
    assert note in " ".join(second["notes"])
    assert note in result.stderr


def test_pictures_that_the_run_learned_from_are_no_measure(place, tmp_path):
    shutil.copytree(place / "data" / "val", tmp_path / "photos")
    shutil.copytree(place / "model", tmp_path / "run")
    metrics = {"data": str(tmp_path / "photos"), "images": {"train": 21, "val": 3, "test": 0}}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    warning = f"{tmp_path / 'run'} was trained on 21 of these images, so this says little about others"
    assert warning in run(tmp_path / "photos", "--weights", tmp_path / "run").stderr
    printed = run(tmp_path / "photos", "--weights", tmp_path / "run", "--json", "-").stdout
    assert warning in " ".join(json.loads(printed)["evaluations"][0]["notes"])
    assert "was trained on" not in run(tmp_path / "photos", "--weights", place / "model").stderr
    # A path that was typed in another folder.
    metrics |= {"data": "photos", "data_path": str(tmp_path / "photos")}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    assert warning in run(tmp_path / "photos", "--weights", tmp_path / "run").stderr
    (tmp_path / "photos").rename(tmp_path / "others")
    assert "was trained on" not in run(tmp_path / "others", "--weights", tmp_path / "run").stderr


def test_json_instead_of_a_table(place):
    result = run(place / "data", "--weights", place / "model.onnx", "--json", "-", "--per-image", "--topk", 2)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)["evaluations"][0]
    assert len(row["answers"]) == row["images"] == 24
    assert row["top2"] >= row["top1"]


def test_a_temperature_from_elsewhere(place, tmp_path):
    # By the model's own answers, and each fourth wrongly: where all are right, or no more than chance, none is best.
    weights = ["--weights", place / "model.onnx"]
    said = json.loads(run(place / "data", *weights, "--json", "-", "--per-image").stdout)["evaluations"][0]["answers"]
    for number, answer in enumerate(said):
        folder = tmp_path / "data" / NAMES[(NAMES.index(answer["answer"]) + (number % 4 == 0)) % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "data" / "val" / answer["name"].removeprefix("val/"), folder)
    row = [tmp_path / "data", *weights, "--json", "-"]
    own = run(*row)
    assert json.loads(own.stdout)["evaluations"][0]["temperature_fitted_on_these_pictures"] is True
    assert "the temperature was fitted on the same images that measure calibration" in " ".join(own.stderr.split())
    given = run(*row, "--temperature", 2)
    values = json.loads(given.stdout)["evaluations"][0]
    assert (values["temperature"], values["temperature_fitted_on_these_pictures"]) == (2, False)
    assert "the temperature was fitted" not in given.stderr
    wrong = run(*row, "--temperature", 0)
    assert wrong.exit_code == 1
    assert "temperature is 0.0; give a number from 0.01 to 100" in wrong.output


def test_a_page(place, tmp_path):
    result = run(place / "data", "--weights", place / "model", "--report", tmp_path / "out")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "What it looks at" in page
    assert f"report: {tmp_path / 'out' / 'report.html'}" in result.stderr


def test_a_page_that_cannot_be_written_costs_no_result(place, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(
        place / "data", "--weights", place / "model.onnx", "--json", tmp_path / "a.json", "--report", tmp_path / "file"
    )
    assert result.exit_code == 1
    assert "24 val images of 3 classes" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["evaluations"][0]["images"] == 24
    assert f"{tmp_path / 'file'}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing; only an exported model or a folder"),
        (["--weights", "x.safetensors"], "--weights x.safetensors: which network are they of? Add --model"),
        (["--model", "mobilenetv1_025", "--engine", "tpu"], "--engine tpu: choose among auto, onnxruntime"),
        (["--weights", "x.onnx", "--engine", "torch"], "x.onnx is executed by auto, onnxruntime"),
        (["--weights", "x.onnx", "--engine", "auto", "--engine", "torch"], "--engine torch executes none of the"),
        (["--weights", "x.onnx", "--per-image"], "--per-image is for the JSON; add --json FILE"),
        (["--weights", "x.onnx", "--json", "no/such/a.json"], "there is no folder no/such"),
        (["--weights", "x.onnx", "--json", "/dev/null"], "/dev/null: cannot be written there (it is a pipe or"),
    ],
)
def test_refusals(arguments, message):
    result = run("data", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("\n", " ").split())


def test_failures_are_told_in_one_line(place, tmp_path):
    missing = run(tmp_path / "nowhere", "--weights", place / "model")
    assert missing.exit_code == 1
    assert "nowhere" in missing.output
    coloured_folder(tmp_path / "colours", {"red": 1, "blue": 1})
    other = run(tmp_path / "colours", "--weights", place / "model")
    assert other.exit_code == 1
    assert "the data's classes are not the model's" in other.output
    strict = run(place / "data", "--weights", place / "model", "--strict")
    assert strict.exit_code == 1
    assert "broken.png" in strict.output
    fresh = run(place / "data", "--model", "mobilenetv1_050", "--weights", place / "model" / "model.safetensors")
    assert fresh.exit_code == 1
    assert "Traceback" not in fresh.output
