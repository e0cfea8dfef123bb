"""The program that puts a trained network into the package, on a training of its own of a few pictures."""

from __future__ import annotations

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import effnets
from effnets.errors import EffnetsError
from effnets.spec.weights import read_pins
from effnets.train.recipe import read_recipe
from tests.support import ROOT

NAME = "mixnet_xs_32px.cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = (f"{NAME}.safetensors", f"{NAME}.json", "pins.yaml")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return runpy.run_path(str(ROOT / "scripts" / "make_demo_weights.py"))
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise, four pictures of each class to learn and two to test by."""
    folder = tmp_path_factory.mktemp("cifar10")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                picture = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(picture).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    recipe = ROOT / "configs" / "recipes" / "cifar10_demo.yaml"
    effnets.finetune(read_recipe(recipe, {"epochs": 1, "batch_size": 8}), data, folder)
    return folder


@pytest.fixture
def package(tmp_path, monkeypatch, script):
    """A folder in the place of the package's."""
    shutil.copy(ROOT / "configs" / "weights" / "pins.yaml", tmp_path / "pins.yaml")
    monkeypatch.setitem(script["install"].__globals__, "packaged_weights_dir", lambda: tmp_path)
    monkeypatch.setitem(script["install"].__globals__, "shipped_pins_path", lambda: tmp_path / "pins.yaml")
    read_pins.cache_clear()
    yield tmp_path
    read_pins.cache_clear()


def test_the_same_run_gives_the_same_files(script, package, run, data):
    script["install"]([run], data)
    first = [(package / name).read_bytes() for name in FILES]
    script["install"]([run], data)
    assert [(package / name).read_bytes() for name in FILES] == first
    assert sorted(path.name for path in package.iterdir()) == sorted(FILES)


def test_weights_and_record_are_those_of_the_run(script, package, run, data):
    script["install"]([run], data)
    path = package / FILES[0]
    record = json.loads((package / FILES[1]).read_text(encoding="utf-8"))
    packaged = effnets.create_model("mixnet_xs_32px", weights=path)
    trained = effnets.create_model(run, pretrained=True).state_dict()
    for name, value in packaged.state_dict().items():
        assert value.equal(trained[name].half().to(value.dtype) if value.is_floating_point() else trained[name]), name
    assert packaged.class_names == CLASSES
    evaluation = effnets.evaluate(packaged.eval(), data)
    assert (record["top1"], record["test_images"]) == (evaluation.top1, 20)
    assert record["bytes"] == path.stat().st_size
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert [taken["epochs"] for taken in record["runs"]] == [metrics["epochs"]]
    assert record["float32_top1"] == metrics["test_top1"]
    assert str(data.parent) not in json.dumps(record)
    read_pins.cache_clear()
    assert read_pins(package / FILES[2])[NAME].sha256 == record["sha256"] == packaged.load_report.sha256


def test_a_run_that_went_on_with_another(script, package, run, data):
    script["install"]([run, run], data)
    record = json.loads((package / FILES[1]).read_text(encoding="utf-8"))
    assert [taken["recipe"]["weights"] for taken in record["runs"]] == ["random", "run1"]


def test_runs_that_divide_the_pictures_differently(script, package, run, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics["recipe"]["seed"] = 5
    (other / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    with pytest.raises(
        EffnetsError, match=r"other: seed is 5, and 0 in .*run, whose .*; train it again with --set seed=0"
    ):
        script["install"]([run, other], data)
    assert not (package / FILES[0]).exists()


def test_a_run_that_is_not_finished(script, package, run, data, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    with pytest.raises(EffnetsError, match=r"cut: no finished training; name a folder of 'effnets train cifar10_demo'"):
        script["install"]([tmp_path / "cut"], data)
    assert not (package / FILES[0]).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": 256}, "is no mixnet_xs_32px: it has head 256, not 512"),
        ({"mean": 0.4}, r"it has mean \[0\.4, 0\.4, 0\.4\], not \[0\.5, 0\.5, 0\.5\]"),
        ({"num_classes": 9}, "num_classes 9, not 10"),
    ],
)
def test_another_network(script, tmp_path, change, message):
    table = tmp_path / "mine.yaml"
    table.write_text(json.dumps({"mine": {"base": "mixnet_xs_32px", **change}}))
    effnets.save_pretrained(effnets.create_model(table), tmp_path / "mine")
    with pytest.raises(EffnetsError, match=message):
        script["encode"](tmp_path / "mine")


def test_other_classes(script, tmp_path):
    model = effnets.create_model("mixnet_xs_32px")
    model.class_names = tuple("abcdefghij")
    effnets.save_pretrained(model, tmp_path / "mine")
    with pytest.raises(EffnetsError, match=r"was trained on other classes than CIFAR-10's: a, b, c"):
        script["encode"](tmp_path / "mine")


def test_a_file_that_is_too_large(script, package, run, data, monkeypatch):
    monkeypatch.setitem(script["encode"].__globals__, "MAX_BYTES", 1_000_000)
    with pytest.raises(EffnetsError, match=r"makes a file of 1,4\d\d,\d+ bytes; at most 1,000,000 go into the package"):
        script["install"]([run], data)
    assert not (package / FILES[0]).exists()


def test_data_without_test_pictures(script, package, run, data, tmp_path):
    shutil.copytree(data / "val", tmp_path / "data" / "val")
    with pytest.raises(EffnetsError, match=r"data: has no test pictures, only val; name the whole of CIFAR-10"):
        script["install"]([run], tmp_path / "data")
    assert not (package / FILES[0]).exists()
