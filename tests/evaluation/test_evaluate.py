"""evaluate: the figures are those of the answers, whatever executes the model and however the images come."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.errors import ArgumentError, DataError, ImageError, MissingFileError, WeightsError
from effnets.evaluation import compare
from effnets.inference.labels import imagenet1k, imagenet1k_wordnet_ids
from tests.support import ROOT, SHARED, needs_shared, shake
from tests.support.evaluation_cases import (
    COLOURS,
    PicturesInMemory,
    coloured_folder,
    encoded,
    noise_source,
    patch,
    tell_apart,
)

NAMES = ("a", "b", "c", "d", "e", "f", "g")


@pytest.fixture(scope="module")
def source():
    return noise_source(45, NAMES)


@pytest.fixture(scope="module")
def model(source):
    network = shake(effnets.create_model("mobilenetv1_025", num_classes=7), size=64)
    network.class_names = NAMES
    return tell_apart(network, source)


@pytest.fixture(scope="module")
def colour_engine(tmp_path_factory):
    """An ONNX file that answers with the strongest mean colour, by hand."""
    from tests.support.exported import describe, write

    path = tmp_path_factory.mktemp("engine") / "colours.onnx"
    return effnets.load_engine(write(path, describe()))


def logits_of(model, source) -> np.ndarray:
    transform = effnets.create_transform(model)
    with torch.inference_mode():
        return torch.cat([model(transform(source.image(index))[None]) for index in range(len(source))]).numpy()


def test_the_figures_are_those_of_the_answers(model, source):
    found = effnets.evaluate(model, source, batch_size=8, topk=3, keep_logits=True)
    logits, labels = logits_of(model, source), source.labels
    np.testing.assert_allclose(found.logits, logits, atol=1e-3 * np.abs(logits).max())
    answers = logits.argmax(1)
    assert len(set(answers)) == 7  # not blind
    np.testing.assert_array_equal(found.answers, answers)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.indices, np.arange(45))
    assert found.count == 45
    assert found.top1 == pytest.approx(100 * np.mean(answers == labels))
    among = [label in row.argsort()[::-1][:3] for row, label in zip(logits, labels, strict=True)]
    assert found.topk_accuracy == pytest.approx(100 * np.mean(among))
    assert found.interval[0] < found.top1 < found.interval[1]
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    assert found.loss == pytest.approx(expected, rel=1e-3)
    softmax = torch.from_numpy(logits).softmax(1).max(1).values.numpy()
    np.testing.assert_allclose(found.confidences, softmax, atol=1e-3)
    matrix = np.zeros((7, 8), int)
    np.add.at(matrix, (labels, answers), 1)
    np.testing.assert_array_equal(found.confusion(), matrix)
    truth, answer, times = found.confused_pairs(1)[0]
    np.fill_diagonal(matrix, 0)
    assert times == matrix.max() == matrix[NAMES.index(truth), NAMES.index(answer)]
    assert (found.model, found.engine, found.split) == ("mobilenetv1_025", "torch", "given")
    assert found.decoding_speed > 0
    assert found.network_speed > 0


def test_batches_and_threads_do_not_matter(model, source):
    one = effnets.evaluate(model, source, batch_size=45, workers=1)
    other = effnets.evaluate(model, source, batch_size=7, workers=3)
    comparison = compare(one, other)
    assert comparison.changed == 0
    assert comparison.confidence_change < 1e-4
    assert comparison.agreement == 100
    assert other.logits is None


def test_an_engine_gives_what_the_network_gives(model, source, tmp_path):
    effnets.export_onnx(model, tmp_path / "model.onnx", engines=["onnxruntime"])
    network = effnets.evaluate(model, source)
    engine = effnets.evaluate(effnets.load_engine(tmp_path / "model.onnx", "onnxruntime"), source)
    rewritten = effnets.evaluate(effnets.load_engine(model, "torch"), source)
    assert engine.engine == "onnxruntime, rewritten"
    assert rewritten.engine == "torch, rewritten"
    for other in (engine, rewritten):
        assert compare(network, other).changed == 0
        assert other.loss == pytest.approx(network.loss, rel=1e-3)


def test_a_file_that_preprocesses_by_itself(model, tmp_path):
    pictures = [patch(colour, seed, size=(60 + seed, 50)) for seed in range(3) for colour in COLOURS]
    source = PicturesInMemory(pictures, [index % 4 for index in range(12)], NAMES)
    effnets.export_onnx(model, tmp_path / "model.onnx", preprocess=True, engines=["onnxruntime"])
    found = effnets.evaluate(effnets.load_engine(tmp_path / "model.onnx", "onnxruntime"), source)
    assert compare(effnets.evaluate(model, source), found).changed == 0


def test_folders_find_their_outputs_by_name(colour_engine, tmp_path):
    counts = {"red": 4, "green": 3, "blue": 2, "other": 5}
    found = effnets.evaluate(colour_engine, coloured_folder(tmp_path / "data", counts))
    assert (found.top1, found.count, found.split) == (100, 14, "all")
    assert found.class_names == ("red", "green", "blue", "other")
    assert [found.class_names[output] for output in found.classes] == ["blue", "green", "other", "red"]
    assert found.scores().support.tolist() == [4, 3, 2, 5]
    assert found.confusion()[:, :4].diagonal().tolist() == [2, 3, 5, 4]


def test_classes_called_by_numbers_of_a_network_without_names(tmp_path):
    """Class k is an image whose gray is k of 11, and output k the nearest: the network was trained in numeric order."""
    for number in range(12):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        shade = round(255 * number / 11)
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(tmp_path / "data" / str(number) / "0.png")
    model = effnets.create_model("mobilenetv1_025", num_classes=12)
    preprocess = model.spec.preprocess
    shades = (torch.arange(12) / 11 - preprocess.mean[0]) / preprocess.std[0]
    model.forward = lambda images: -((images[:, :1, 0, 0] - shades) ** 2)
    with pytest.raises(effnets.ArgumentError, match="the data's classes have two orders"):
        effnets.evaluate(model, tmp_path / "data")
    assert effnets.evaluate(model, tmp_path / "data", class_order="numeric").top1 == 100
    # Of 0, 1, 10, 11, 2, … only 0 and 1 stand where they do in 0, 1, 2, ….
    lexicographic = effnets.evaluate(model, tmp_path / "data", class_order="lexicographic")
    assert lexicographic.top1 == pytest.approx(100 * 2 / 12)
    with pytest.raises(effnets.ArgumentError, match="class_order is 'alphabetic'; choose 'numeric' or 'lexicographic'"):
        effnets.evaluate(model, tmp_path / "data", class_order="alphabetic")


def test_of_several_splits_the_test_images_count(colour_engine, tmp_path):
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        coloured_folder(tmp_path / "data" / split, {"red": count, "blue": count})
    found = effnets.evaluate(colour_engine, tmp_path / "data")
    assert (found.split, found.count) == ("test", 4)
    assert "2 of the model's 4 classes" in found.notes[-1]


def test_answers_that_are_no_class_of_the_data(colour_engine):
    source = PicturesInMemory([patch("green"), patch("red"), patch("blue")], [0, 0, 1], ("red", "blue"))
    found = effnets.evaluate(colour_engine, source)
    assert found.confusion().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert found.confused_pairs() == [("red", "green", 1)]


def test_other_classes_are_refused_before_any_work(colour_engine):
    source = PicturesInMemory([None], [0], ("purple",))
    with pytest.raises(ArgumentError, match=r"(?s)data:  1 \(purple\).*model: 4 \(red, green, blue, other\)"):
        effnets.evaluate(colour_engine, source)


def test_broken_images_are_named_and_count_nowhere(colour_engine):
    pictures = [patch("red"), None, patch("blue"), None, patch("red")]
    source = PicturesInMemory(pictures, [0, 0, 1, 1, 0], ("red", "blue"))
    source.pictures[3] = encoded(patch("blue"))[:200]
    found = effnets.evaluate(colour_engine, source, batch_size=2)
    assert found.count == 3
    assert found.indices.tolist() == [0, 2, 4]
    assert found.top1 == 100
    assert [broken.name for broken in found.broken] == ["blue/0003.png", "red/0001.png"]
    assert "damaged or cut short" in found.broken[0].reason
    with pytest.raises(ImageError, match=r"red/0001\.png is empty .*strict is on: fix or remove"):
        effnets.evaluate(colour_engine, source, batch_size=2, strict=True)


def test_a_whole_batch_may_be_broken(colour_engine):
    source = PicturesInMemory([None, None, patch("red")], [0, 0, 0], ("red",))
    assert effnets.evaluate(colour_engine, source, batch_size=2).top1 == 100


def test_nothing_readable(colour_engine):
    with pytest.raises(DataError, match=r"all 2 images are unreadable, the first because: red/0000\.png"):
        effnets.evaluate(colour_engine, PicturesInMemory([None, None], [0, 0], ("red",)))
    with pytest.raises(DataError, match="there is no image to evaluate on"):
        effnets.evaluate(colour_engine, PicturesInMemory([], [], ("red",)))


def test_the_mode_of_every_module_stays(model, source):
    model.train()
    model.stem.eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        effnets.evaluate(model, source.subset([0, 1]))
        assert {name: module.training for name, module in model.named_modules()} == before
        assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    finally:
        model.eval()


def test_progress_rises_to_the_end(model, source):
    shares: list[float] = []
    effnets.evaluate(model, source, batch_size=20, progress=shares.append)
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_logits_that_are_no_numbers(source):
    model = effnets.create_model("mobilenetv1_025", num_classes=7)
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    with pytest.raises(WeightsError, match="the logits are not finite: the weights hold NaN"):
        effnets.evaluate(model, source.subset([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"topk": 0}, "topk is 0; ask for at least 1"),
        ({"workers": -1}, "workers is -1"),
        ({"image_size": 0}, "image_size is 0|input_size is 0"),
    ],
)
def test_refusals(model, source, options, message):
    with pytest.raises(ArgumentError, match=message):
        effnets.evaluate(model, source, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "no classifier; build it without features_only"),
        ({"features_only": True}, "no classifier; build it without features_only"),
        ({"global_pool": "none"}, "classifies every place; pool to classify"),
    ],
)
def test_networks_that_classify_nothing(source, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        effnets.evaluate(effnets.create_model("mobilenetv1_025", **arguments), source)


def test_an_engine_of_another_size(colour_engine):
    source = PicturesInMemory([patch("red")], [0], ("red",))
    with pytest.raises(ArgumentError, match="image_size is 64, but mean was exported for 32×32; leave it out"):
        effnets.evaluate(colour_engine, source, image_size=64)


def test_no_such_data(colour_engine, tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        effnets.evaluate(colour_engine, tmp_path / "nowhere")


def test_everything_is_told_as_json(colour_engine):
    source = PicturesInMemory([patch("red"), patch("blue"), None], [0, 0, 1], ("red", "blue"))
    values = json.loads(json.dumps(effnets.evaluate(colour_engine, source).to_dict(per_image=True)))
    assert values["top1"] == 50
    assert values["top5"] == 100
    assert values["confusion"] == [[1, 1, 0], [0, 0, 0]]
    assert values["classes"][0] == {"class": "red", "images": 2, "precision": 1, "recall": 0.5, "f1": 2 / 3}
    assert values["classes"][1]["recall"] is None
    assert values["confused"] == [{"class": "red", "answer": "blue", "times": 1}]
    assert values["broken"][0]["name"] == "blue/0002.png"
    answers = [(row["name"], row["label"], row["answer"]) for row in values["answers"]]
    assert answers == [("red/0000.png", "red", "red"), ("red/0001.png", "red", "blue")]
    assert "answers" not in effnets.evaluate(colour_engine, source).to_dict()


def test_comparing(colour_engine, model, source):
    first = PicturesInMemory([patch("red"), patch("blue"), patch("green")], [0, 2, 2], ("red", "green", "blue"))
    found = effnets.evaluate(colour_engine, first)
    # The same images, their files brought by another order of classes.
    second = PicturesInMemory([patch("red"), patch("green"), patch("blue")], [0, 2, 2], ("red", "green", "blue"))
    comparison = compare(found, effnets.evaluate(colour_engine, second))
    assert (comparison.images, comparison.changed, comparison.gained, comparison.lost) == (3, 2, 1, 1)
    assert comparison.p_value == 1
    assert comparison.agreement == pytest.approx(100 / 3)
    with pytest.raises(ArgumentError, match="mean was evaluated on 3 images, mobilenetv1_025 on 45"):
        compare(found, effnets.evaluate(model, source))


def test_engines_need_no_torch(tmp_path):
    from tests.support.exported import describe, write

    write(tmp_path / "colours.onnx", describe())
    coloured_folder(tmp_path / "data", {"red": 2, "blue": 1})
    program = (
        "import sys, effnets\n"
        f"engine = effnets.load_engine({str(tmp_path / 'colours.onnx')!r}, 'onnxruntime')\n"
        f"print(effnets.evaluate(engine, {str(tmp_path / 'data')!r}).top1)\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'matplotlib', 'accelerate'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split("\n")[:2] == ["100.0", "[]"]


def real_labels(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture(scope="module")
def imagenet():
    """A network of ImageNet's classes, blind but for its answer 3, and four validation images by folder."""
    network = effnets.create_model("mobilenetv1_025", num_classes=1000)
    torch.nn.init.zeros_(network.classifier.weight)
    torch.nn.init.constant_(network.classifier.bias, 0)
    with torch.no_grad():
        network.classifier.bias[3] = 5
    folders = [imagenet1k_wordnet_ids()[index] for index in (0, 3, 9)]

    class Validation(PicturesInMemory):
        def name(self, index: int) -> str:
            # In another order than the files' numbers.
            return f"{self.class_names[self.labels[index]]}/ILSVRC2012_val_{4 - index:08d}.JPEG"

    return network, Validation([patch("red", seed) for seed in range(4)], [0, 1, 1, 2], folders)


def test_imagenets_folders(imagenet):
    network, source = imagenet
    found = effnets.evaluate(network, source, image_size=32)
    assert found.top1 == 50
    assert set(found.answers) == {3}
    assert [found.class_names[output] for output in found.classes] == [imagenet1k()[index] for index in (0, 3, 9)]


def test_reassessed_labels(imagenet, tmp_path):
    network, source = imagenet
    # Of images 4, 3, 2, 1 in the source's order: left out, right, right, wrong.
    path = real_labels(tmp_path / "real.json", [[7], [1, 3], [3], []])
    real = effnets.evaluate(network, source, image_size=32, real_labels=path).real
    assert real
    assert (real.right, real.count, real.left_out) == (2, 3, 1)
    assert real.top1 == pytest.approx(200 / 3)
    assert real.interval[0] < real.top1 < real.interval[1]


def test_reassessed_labels_by_order_of_file_names(imagenet, tmp_path):
    network, source = imagenet
    named = PicturesInMemory([patch("red", seed) for seed in range(3)], [2, 1, 0], source.class_names, prefix="x/")
    path = real_labels(tmp_path / "real.json", [[3], [1], [3]])
    real = effnets.evaluate(network, named, image_size=32, real_labels=path).real
    assert real
    assert (real.right, real.count) == (2, 3)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": [1]}, "expected a list of lists of class numbers from 0 to 999"),
        ([[1], [1000]], "list of lists of class numbers"),
        ([[1], ["cat"]], "list of lists of class numbers"),
        ([[1], [2]], "labels for 2 images, and the data have 4, such as n01440764/ILSVRC2012_val_00000004.JPEG"),
        ([[], [], [], []], "has no label for any of the 4 images"),
    ],
)
def test_reassessed_labels_of_something_else(imagenet, tmp_path, entries, message):
    network, source = imagenet
    with pytest.raises(ArgumentError, match=message):
        effnets.evaluate(network, source, image_size=32, real_labels=real_labels(tmp_path / "real.json", entries))


def test_reassessed_labels_that_are_not_there_or_not_for_this_model(imagenet, colour_engine, tmp_path):
    network, source = imagenet
    with pytest.raises(MissingFileError, match="no file of ReaL labels"):
        effnets.evaluate(network, source, real_labels=tmp_path / "none.json")
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(ArgumentError, match=r"text\.json: cannot be read as JSON"):
        effnets.evaluate(network, source, real_labels=tmp_path / "text.json")
    colours = PicturesInMemory([patch("red")], [0], ("red",))
    with pytest.raises(ArgumentError, match="ReaL labels are of ImageNet-1k's classes, and the model has 4 others"):
        effnets.evaluate(colour_engine, colours, real_labels=real_labels(tmp_path / "real.json", [[1]]))


@needs_shared
@pytest.mark.parametrize("outputs", [1000, 1001])
def test_real_weights_on_photographs_in_imagenets_folders(tmp_path, outputs):
    """Each photo lies in the folder of what an independent implementation answers, so that all answers are right."""
    name = "tf_mobilenetv1_025_128.timm.safetensors"
    golden = json.loads((SHARED / "golden" / "photos.json").read_text())
    answers = golden_answers(golden, name)
    assert len(answers) >= 8
    for photo, label in answers.items():
        folder = tmp_path / "val" / imagenet1k_wordnet_ids()[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / photo).write_bytes((SHARED / "data" / "photos" / photo).read_bytes())
    model = effnets.create_model("tf_mobilenetv1_025", weights=SHARED / "weights" / name)
    if outputs == 1001:
        old = model.classifier
        model.reset_classifier(1001)
        with torch.no_grad():
            model.classifier.weight[0], model.classifier.weight[1:] = 0, old.weight
            model.classifier.bias[0], model.classifier.bias[1:] = -50, old.bias
    found = effnets.evaluate(model, tmp_path / "val")
    assert (found.count, found.top1) == (len(answers), 100)


def golden_answers(golden: dict, name: str) -> dict[str, int]:
    """The class of each photo that is told clearly."""
    first_two = {photo: expected["top3"][:2] for photo, expected in golden[name].items()}
    return {photo: first[0] for photo, (first, second) in first_two.items() if first[2] - second[2] >= 0.03}
