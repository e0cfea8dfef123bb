"""embed, similar and duplicates: from photos to files, tables and pages, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.bulk.vectors import read_vectors
from effnets.cli import main
from effnets.deploy.export.verify import probe_images
from effnets.embeddings.neighbors import nearest
from tests.support import SHARED, needs_shared

COLORS = {"red": (200, 30, 30), "red2": (190, 40, 35), "green": (30, 200, 30), "blue": (20, 30, 210)}


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (60, 50), color).save(folder / f"{name}.png")
    return folder


def embed(weights, *arguments: object, status: int = 0):
    options = ("--model", "mobilenetv1_025", "--weights", weights, "--image-size", "64")
    return run("embed", *arguments, *options, status=status)


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".safetensors"])
def test_a_folder_becomes_a_file(photos, weights, tmp_path, suffix):
    target = tmp_path / f"v{suffix}"
    embed(weights, photos, "--output", target)
    found = read_vectors(target)
    paths = sorted(photos.iterdir())
    assert found.paths == [str(path) for path in paths]
    model = effnets.create_model("mobilenetv1_025", weights=weights)
    np.testing.assert_allclose(found.values, effnets.embed(model, paths, input_size=64), atol=1e-4)


def test_stage_and_length(photos, weights, tmp_path):
    embed(weights, photos, "--output", tmp_path / "v.npy", "--stage", "-2", "--no-normalize")
    model = effnets.create_model("mobilenetv1_025", weights=weights)
    expected = effnets.embed(model, sorted(photos.iterdir()), input_size=64, stage=-2, normalize=False)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-3)


def test_what_cannot_be_read_is_a_row_and_an_exit_status(photos, weights, tmp_path):
    (photos / "notes.jpg").write_text("not a picture")
    result = embed(weights, photos, tmp_path / "gone.jpg", "--output", tmp_path / "v.parquet", status=1)
    assert f"not embedded: {photos / 'notes.jpg'} is not an image" in result.stderr
    assert "2 of 6 could not be embedded" in result.stderr
    rows = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert len(rows) == 6
    for row in rows:
        assert (row["vector"] is None) == (row["error"] is not None)
    assert sum(row["error"] is not None for row in rows) == 2


def test_a_killed_run_goes_on_where_it_was(weights, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number, image in enumerate(probe_images(40, 50, 60, 3, seed=1)):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    target = tmp_path / "v.npy"
    options = ("--model", "mobilenetv1_025", "--weights", weights, "--image-size", "64")
    words = ["embed", folder, "--output", target, *options, "--workers", 1, "--batch-size", 1]
    process = subprocess.Popen([sys.executable, "-m", "effnets", *map(str, words)])
    journal = tmp_path / "v.npy.part"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") > 5:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()
    if not target.exists():  # else it was quicker than the kill
        assert "is of an interrupted run; continue it with --resume" in run(*words, status=1).stderr
        other = [*words, "--no-normalize", "--resume"]
        assert "is of a run with normalize True, now False" in run(*other, status=1).stderr
        run(*words, "--resume")
    found = read_vectors(target)
    assert found.paths == sorted(map(str, folder.iterdir()))
    model = effnets.create_model("mobilenetv1_025", weights=weights)
    np.testing.assert_allclose(found.values, effnets.embed(model, sorted(folder.iterdir()), input_size=64), atol=1e-4)
    assert "is complete; delete it to start over" in run(*words, "--resume").stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "v.npy", "v.npy.paths.json"]


def test_mistakes_are_told_before_the_work(photos, weights, tmp_path):
    assert "must end in .parquet, .npy or .safetensors" in embed(weights, photos, "--output", "v.csv", status=1).stderr
    result = run("embed", photos, "--output", tmp_path / "v.npy", status=2)
    assert "--model is missing; name one of the zoo" in result.stderr
    assert (
        "has the stages 0 to 4" in embed(weights, photos, "--output", tmp_path / "v.npy", "--stage", 9, status=1).stderr
    )
    assert not list(tmp_path.glob("v.npy*"))


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_similar_photos_come_first(photos, weights, tmp_path, suffix):
    index = tmp_path / f"v{suffix}"
    embed(weights, photos, "--output", index)
    (row,) = json.loads(run("similar", index, photos / "red.png", "-k", 2, "--json").stdout)
    assert row["similar"][0]["path"] == str(photos / "red2.png")
    assert len(row["similar"]) == 2
    assert 1 >= row["similar"][0]["similarity"] >= row["similar"][1]["similarity"]
    table = run("similar", index, photos / "red.png").stdout
    assert "red2.png" in table.splitlines()[2]


def test_a_folder_is_embedded_on_the_spot(photos, weights, tmp_path):
    options = ("--model", "mobilenetv1_025", "--weights", weights, "--image-size", 64, "--json")
    (row,) = json.loads(run("similar", photos, photos / "red.png", *options).stdout)
    assert row["similar"][0]["path"].endswith("red2.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no photo to compare with" in run("similar", empty, photos / "red.png", *options, status=1).stderr


def test_the_network_must_be_the_one_of_the_index(photos, weights, tmp_path):
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    index = tmp_path / "v.npy"
    embed(moved, photos, "--output", index)
    effnets.save_weights(effnets.create_model("mobilenetv1_025"), moved)
    result = run("similar", index, photos / "red.png", status=1)
    assert "was made with other weights than these; name them by --model and --weights" in result.stderr
    run("similar", index, photos / "red.png", "--model", "mobilenetv1_025", "--weights", weights)
    result = run("similar", index, photos / "red.png", "--image-size", 32, status=2)
    assert f"--image-size and --decode are those of {index}" in " ".join(result.stderr.split())


def test_an_index_that_its_network_does_not_fit(photos, weights, tmp_path):
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    index = tmp_path / "v.npy"
    embed(moved, photos, "--output", index)
    np.save(index, np.load(index)[:, :7])
    result = run("similar", index, photos / "red.png", status=1)
    assert f"{index}: has vectors of 7 numbers, and its network makes 256; embed the photos again" in result.stderr
    moved.unlink()
    result = run("similar", index, photos / "red.png", status=1)
    assert f"{index}: its network cannot be loaded (" in result.stderr
    assert "name it by --model and --weights" in result.stderr


def test_an_exported_file_embeds(photos, weights, tmp_path):
    pytest.importorskip("onnxruntime")
    model = effnets.create_model("mobilenetv1_025", weights=weights)
    effnets.export_onnx(model, tmp_path / "m.onnx", image_size=64, embedding=True, engines=["onnxruntime"])
    run("embed", photos, "--weights", tmp_path / "m.onnx", "--output", tmp_path / "v.npy")
    expected = effnets.embed(model, sorted(photos.iterdir()), input_size=64)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-4)
    (row,) = json.loads(run("similar", tmp_path / "v.npy", photos / "red.png", "--json").stdout)
    assert row["similar"][0]["path"].endswith("red2.png")


def test_pages_hold_all_they_show(photos, weights, tmp_path):
    embed(weights, photos, "--output", tmp_path / "v.npy")
    (photos / "blue.png").unlink()
    page = tmp_path / "similar.html"
    run("similar", tmp_path / "v.npy", photos / "red.png", "--html", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 3
    assert "cannot be read" in text
    assert 'src="http' not in text
    other = run("similar", tmp_path / "v.npy", photos / "red.png", "--html", tmp_path / "page.txt", status=2)
    assert "is not the name of an HTML file; it must end in .html" in other.stderr


def test_duplicates(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in zip("ab", map(Image.fromarray, probe_images(2, 240, 320, 3, seed=3)), strict=True):
        image.save(folder / f"{name}.png")
    Image.open(folder / "a.png").resize((160, 120)).save(folder / "a2.jpg")
    (group,) = json.loads(run("duplicates", folder, "--json").stdout)
    assert group["keep"]["path"] == str(folder / "a.png")
    assert [(copy["path"], copy["kind"]) for copy in group["copies"]] == [(str(folder / "a2.jpg"), "resized")]
    (folder / "c.jpg").write_text("not a picture")
    result = run("duplicates", folder, "--html", tmp_path / "d.html", status=1)
    assert "1 of 3 photos are copies, in 1 group" in result.stdout
    assert "not compared: " in result.stderr
    assert (tmp_path / "d.html").read_text(encoding="utf-8").count("<figure>") == 2
    os.remove(folder / "c.jpg")  # noqa: PTH107
    assert "no copies in 1 photos" in run("duplicates", folder / "b.png").stdout


@needs_shared
def test_a_photo_of_the_same_kind_comes_first_as_often_as_by_timms_features(tmp_path):
    pytest.importorskip("timm")
    from scripts.similar_study import neighbors, timm_features

    subprocess.run(["tar", "xf", SHARED / "data" / "grocery20.tar", "-C", tmp_path], check=True)
    photos = sorted(tmp_path.glob("grocery20/test/*/*.jpg"))[::8]
    weights = SHARED / "weights" / "tf_mobilenetv1_025_128.timm.safetensors"
    names = [str(photo) for photo in photos]
    run("embed", *names, "--model", "tf_mobilenetv1_025", "--weights", weights, "--output", tmp_path / "v.npy")
    vectors = np.asarray(read_vectors(tmp_path / "v.npy").values)
    classes = np.array([photo.parent.name for photo in photos])
    own = neighbors(vectors)
    peer = neighbors(timm_features("tf_mobilenetv1_025", weights, 128, photos))
    assert np.mean(classes[own] == classes) >= np.mean(classes[peer] == classes)
    (row,) = json.loads(run("similar", tmp_path / "v.npy", names[0], "-k", 1, "--json").stdout)
    assert row["similar"][0]["path"] == names[own[0]]
    assert nearest(vectors, vectors[:1], 1)[1][0, 0] == 0
