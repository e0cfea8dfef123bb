"""What the workers of a cluster do, without a cluster: each chunk's rows, and what is counted of it."""

from __future__ import annotations

import json
import pickle
from functools import partial

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import effnets
from effnets.bulk.cluster import check_address
from effnets.bulk.distributed import Measure, WriteParts
from effnets.bulk.model import pack_model
from effnets.bulk.parts import PartFolder
from effnets.bulk.photos import classify_photos
from effnets.bulk.sources import find_images
from effnets.bulk.table import prediction_columns
from effnets.cli import main
from effnets.engines.base import load_file
from effnets.errors import ArgumentError, EngineError
from effnets.evaluation import evaluate
from effnets.inference.pipeline import Pipeline
from tests.support import exported
from tests.support.data_sets import by_class, pack, write


@pytest.fixture
def model(tmp_path):
    return exported.write(tmp_path / "model.onnx", exported.describe())


@pytest.fixture
def photos(tmp_path):
    return write(tmp_path / "photos", {**by_class(70), "cat/bad.jpg": b"no image"})


def test_parts_have_the_rows_of_the_command(tmp_path, model, photos):
    target = tmp_path / "single.parquet"
    arguments = ["predict", str(photos), "--weights", str(model), "--topk", "2", "--output", str(target)]
    assert CliRunner().invoke(main, arguments).exit_code == 1
    expected = pq.read_table(target)
    folder = PartFolder(str(tmp_path / "out"))
    folder.begin({}, resume=False)
    work = WriteParts(partial(classify_photos, topk=2), prediction_columns(2), folder)
    chunks = find_images([str(photos)], print).chunks()
    work, packed, chunks = pickle.loads(pickle.dumps((work, pack_model(model), chunks)))
    pipeline = Pipeline(packed.open(), workers=1)
    written = [work(pipeline, number, chunk) for number, chunk in enumerate(chunks)]
    again = work(pipeline, 1, chunks[1])  # as of a worker that was thought to be lost
    assert again == written[1]
    assert [(one.images, one.failed) for one in written] == [(64, 0), (64, 1), (13, 0)]
    assert "bad.jpg" in written[1].errors[0]
    folder.finish({number: len(chunk) for number, chunk in enumerate(chunks)})
    found = pyarrow.dataset.dataset(folder.target).to_table()
    assert found.equals(expected)


def test_archives_have_the_same_predictions(tmp_path, model):
    files = by_class(4)
    folder, archive = write(tmp_path / "photos", files), pack(tmp_path / "photos.tar", files)
    pipeline = Pipeline(pack_model(model).open(), workers=1)
    here, there = (
        [list(classify_photos(pipeline, chunk.photos(), 3)) for chunk in find_images([str(data)], print).chunks()]
        for data in (folder, archive)
    )
    assert [one.predictions for one in here[0]] == [one.predictions for one in there[0]]


def test_a_network_is_packed_as_it_is(tmp_path):
    network = effnets.create_model("mixnet_xs_32px", pretrained=True)
    photos = [str(path) for path in write(tmp_path, by_class(2)).rglob("*.jpg")]
    predictor = pickle.loads(pickle.dumps(pack_model(network))).open()
    logits = predictor.logits([predictor.prepare(photo) for photo in photos])
    assert [predictor.class_names[row.argmax()] for row in logits] == [
        found[0].label for found in effnets.predict(network, photos, topk=1)
    ]


def test_an_evaluation_of_parts_is_that_of_the_whole(tmp_path, model):
    data = write(tmp_path / "data", {**by_class(9, ("blue", "green", "red")), "red/bad.jpg": b""})
    engine = load_file(model)
    whole = evaluate(engine, data)

    def distribute(measurement, _progress):
        work = pickle.loads(pickle.dumps(Measure(measurement)))
        tally = measurement.tally()
        for number, start in enumerate(range(0, len(measurement.dataset), 8)):
            chunk = range(start, min(start + 8, len(measurement.dataset)))
            done = work(Pipeline(pack_model(model).open(), workers=1), number, chunk)
            tally.merge(pickle.loads(pickle.dumps(done)))
        return tally, 3

    parts = evaluate(engine, data, distribute=distribute)
    assert parts.workers == 3
    np.testing.assert_array_equal(parts.answers, whole.answers)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    one, other = (json.loads(json.dumps(found.to_dict(per_image=True))) for found in (parts, whole))
    for name in ("top1", "top5", "broken", "confusion", "answers"):
        assert one[name] == other[name]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-12)
    assert one["temperature"] == other["temperature"]


@pytest.mark.parametrize("address", ["auto", "local", "10.0.0.1:6379", "head.example.org:6379", "ray://head:10001"])
def test_addresses(address):
    pytest.importorskip("ray")
    check_address(address)


@pytest.mark.parametrize("address", ["ray://head:port", "a..b:6379", "127.0.0.1:1"])
def test_a_run_whose_cluster_is_not_there_leaves_nothing(tmp_path, model, photos, address):
    pytest.importorskip("ray")
    arguments = ["predict", str(photos), "--weights", str(model), "--output", str(tmp_path / "out"), "--ray", address]
    for _ in range(2):
        result = CliRunner().invoke(main, arguments)
        assert f"--ray {address}: the cluster cannot be reached (" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_what_is_no_address(monkeypatch):
    with pytest.raises(ArgumentError, match=r"--ray photos: is not the address .* write --ray after the data"):
        check_address("photos")
    monkeypatch.setattr("effnets.bulk.cluster.find_spec", lambda _name: None)
    with pytest.raises(EngineError, match=r"pip install 'effnets\[ray\]'"):
        check_address("auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray"], "name it with --output"),
        (["--ray", "--output", "out", "--batch-size", "4"], "leave --batch-size out"),
        (["--ray", "nowhere", "--output", "out"], "is not the address"),
        (["--image-column", "img"], "is of tables, which --ray reads"),
    ],
)
def test_options_that_do_not_fit(options, message):
    result = CliRunner().invoke(main, ["predict", "photo.jpg", *options])
    assert result.exit_code in (1, 2)
    assert message in result.stderr


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_an_address_that_is_the_data(command):
    result = CliRunner().invoke(main, [command, "--ray", "photos"])
    assert "--ray photos: is not the address of a cluster" in result.stderr
    assert "write --ray after the data" in result.stderr


def test_a_name_that_is_too_long(tmp_path):
    for suffix in (".jpg", ".tar"):
        (found,) = find_images([str(tmp_path / (300 * "a" + suffix))], print).files
        assert found[0].endswith(f"/{300 * 'a'}{suffix}")
