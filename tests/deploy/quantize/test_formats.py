"""int8 for every format: what is done to the network in torch, and the way from a network to each file."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import effnets
from effnets.cli import main
from effnets.deploy.export.litert import convert
from effnets.deploy.export.verify import probe_images
from effnets.deploy.optimize.rewrites import preset
from effnets.deploy.quantize import quantize as quantize_module
from effnets.deploy.quantize import torch_equalization
from effnets.deploy.quantize.accuracy_gate import Gate
from effnets.deploy.quantize.litert import LiteRTInt8
from effnets.deploy.quantize.network_search import NetworkSearch
from effnets.deploy.quantize.quantize import FORMATS
from effnets.deploy.quantize.rounding import (
    correct_biases,
    fit_biases,
    input_ranges,
    layers_of_network,
    logits_by_torch,
    round_weight,
    rounded_network,
)
from effnets.deploy.quantize.torch_equalization import equalize_network
from effnets.engines.base import EXPORTED
from tests.deploy.quantize.test_quantize_parts import photos
from tests.support import SHARED, needs_shared
from tests.support.tiny_network import REXNET_TABLE, TABLE, tiny

# ReLU6 and ReLU, linear bottlenecks with shortcuts, depthwise layers, TensorFlow's padding.
PLAIN = """
tiny:
  stem: 8
  padding: same
  activation: relu6
  num_classes: 6
  head: 16
  blocks:
    - ds_r1_k3_s1_c8
    - ir_r1_k3_s2_e3_c12
    - ir_r2_k3_s1_e2_c12_nre
"""
# Random networks are no measure of int8; what is tested is the way to the file.
EASY = Gate(lead=0.0, min_agreement=0.5, min_in_top5=0.5, min_images=12)


def rewritten(folder, table=PLAIN, seed=0, spread=0.0):
    """A rewritten network whose channels differ by up to 10^spread."""
    network = effnets.optimize(tiny(folder, seed=seed, table=table), preset("litert"))
    generator = torch.Generator().manual_seed(seed)
    for layer in layers_of_network(network).values():
        scale = 10 ** (spread * (2 * torch.rand(len(layer.weight), generator=generator) - 1))
        layer.weight.data *= scale.view(-1, *[1] * (layer.weight.ndim - 1))
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(probe_images(28, 40, 44, 3, seed=5)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("table", [PLAIN, TABLE, REXNET_TABLE], ids=["plain", "mixed", "partial shortcuts"])
def test_equalization_computes_the_same_for_every_image(table, seed, tmp_path):
    network = rewritten(tmp_path, table, seed, spread=1.0).double()
    equalized = copy.deepcopy(network)
    channels = equalize_network(equalized, (-1, 1))
    assert channels > (12 if table is PLAIN else 0)
    extremes = np.random.default_rng(seed).choice([-1.0, 1.0], (8, 3, 32, 32))
    with torch.inference_mode():
        for images in (torch.from_numpy(extremes), torch.rand(4, 3, 33, 20, dtype=torch.float64) * 2 - 1):
            expected = network(images)
            assert (equalized(images) - expected).abs().max() <= 1e-8 * expected.abs().max()


def test_equalization_evens_out_the_weights_of_a_stream(tmp_path):
    network = rewritten(tmp_path, spread=1.0)
    before = [layer for name, layer in layers_of_network(network).items() if name.endswith("project")]
    ranges = [layer.weight.abs().amax((1, 2, 3)).clone() for layer in before]
    equalize_network(network, (-1, 1))
    after = [layer.weight.abs().amax((1, 2, 3)) for layer in before]
    assert all((new.max() / new.min()) < (old.max() / old.min()) for old, new in zip(ranges, after, strict=True))


def test_equalization_that_forgot_the_clip_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(torch_equalization._CEILINGS, nn.ReLU6, np.inf)
    network = rewritten(tmp_path, spread=1.0)
    equalized = copy.deepcopy(network)
    equalize_network(equalized, (-1, 1))
    with torch.inference_mode():
        images = torch.from_numpy(next(photos(8).batches()))
        expected = network(images)
        assert (equalized(images) - expected).abs().max() > 1e-3 * expected.abs().max()


def test_bias_correction_reduces_the_mean_error(tmp_path):
    network, images = rewritten(tmp_path, spread=0.3), photos(32)
    ranges = input_ranges(network, images.batches())
    expected = logits_by_torch(network, images.batches())
    corrected = copy.deepcopy(network)
    correct_biases(corrected, ranges, images.batches())

    def mean_error(subject):
        found = logits_by_torch(rounded_network(subject, ranges), images.batches())
        return np.abs((found - expected).mean(0)).mean()

    assert mean_error(corrected) < 0.8 * mean_error(network)


def test_a_bias_without_weights_fits_into_32_bits(tmp_path):
    network, images = rewritten(tmp_path), photos(16)
    stem = network.stem.conv
    stem.weight.data[2] = 0
    stem.weight.data[3] *= 1e-12
    stem.bias.data[2:4] = torch.tensor([5.0, -3.0])
    ranges = input_ranges(network, images.batches())
    fitted = copy.deepcopy(network)
    fit_biases(fitted, ranges)
    for name, layer in layers_of_network(fitted).items():
        low, high = ranges[name]
        scale = layer.weight.abs().flatten(1).amax(1) / 127 * (high - low) / 255
        assert (layer.bias.abs() / scale).max() < 2**31, name
    expected = logits_by_torch(network, images.batches())
    assert np.abs(logits_by_torch(fitted, images.batches()) - expected).max() < 1e-3 * np.abs(expected).max()
    assert torch.equal(fitted.stem.conv.weight[4:], stem.weight[4:]), "other channels were changed"


def test_rounded_weights_have_255_levels_a_channel():
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 0.1, 0]).view(
        4, 1, 1, 1
    )
    rounded = round_weight(weight)
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((rounded - weight).abs() <= scale / 2 + 1e-7).all()
    levels = (rounded[:3] / scale[:3]).round()
    assert levels.abs().max() == 127
    assert torch.allclose(levels * scale[:3], rounded[:3], atol=1e-6)


def test_the_setting_with_the_least_error_is_chosen(tmp_path):
    search = NetworkSearch(rewritten(tmp_path, spread=0.7), photos(24))
    assert search.error == min(search.trials.values())
    assert len(search.trials) == 3
    best = min(search.trials, key=search.trials.__getitem__)
    assert search.bias_corrected == best.endswith("biases corrected")
    assert search.rank() == list(search.sensitivity)
    assert set(search.layers) == set(search.sensitivity)
    falls = list(search.sensitivity.values())
    assert falls == sorted(falls, reverse=True)
    assert falls[0] > 0


@pytest.mark.parametrize("suffix", [".tflite", ".pte", ".xml"])
def test_from_network_to_int8(suffix, folder, tmp_path):
    network = tiny(tmp_path, table=PLAIN)
    network.class_names = tuple("abcdef")
    target = tmp_path / f"small{suffix}"
    report = effnets.quantize(
        network, target, folder, image_size=32, gate=EASY, calibration_images=8, timing_seconds=0.1, smaller=True
    )
    (engine,) = EXPORTED[suffix][1]
    assert list(report.agreement) == [engine] == list(report.speed_ratios)
    assert report.size == sum(path.stat().st_size for path in tmp_path.glob("small.*") if path.suffix != ".json")
    assert json.loads(target.with_suffix(".json").read_text())["path"] == target.name
    loaded = effnets.load_engine(target)
    assert (loaded.name, loaded.description.precision, loaded.labels) == (engine, "int8", tuple("abcdef"))
    assert loaded.description.quantisation["agreement"][engine]["images"] == report.agreement[engine].images
    assert loaded.description.versions[FORMATS[suffix]]
    images = np.concatenate(list(photos(24).batches())).repeat(2, 2).repeat(2, 3)
    expected = logits_by_torch(network, [images])
    found = loaded(images)
    assert found.dtype == np.float32
    error = np.sqrt(((found - expected) ** 2).mean()) / expected.std()
    assert 1e-4 < error < 0.2, "as float, or nothing like it"
    shown = CliRunner().invoke(main, ["predict", str(folder / "0.png"), "--weights", str(target)])
    assert shown.exit_code == 0, shown.output


def test_layers_are_left_in_float(folder, tmp_path):
    network = tiny(tmp_path, table=PLAIN)
    gate = Gate(lead=0.0, min_agreement=1.0, min_in_top5=1.0, min_images=12)
    everything = Gate(lead=0.0, min_agreement=0.0, min_in_top5=0.0, min_images=12)
    options = {"image_size": 32, "calibration_images": 8, "timing_seconds": 0}
    small = effnets.quantize(network, tmp_path / "all.tflite", folder, gate=everything, **options)
    try:
        report = effnets.quantize(network, tmp_path / "part.tflite", folder, gate=gate, max_left=0.9, **options)
    except effnets.QuantizationError as refusal:
        report = refusal.report
    if report.attempts > 1:
        assert report.left == tuple(report.sensitivity)[: len(report.left)]
        assert report.size > small.size


@pytest.mark.parametrize("suffix", [".tflite", ".pte", ".xml", ".onnx"])
def test_what_is_slower_is_refused_and_nothing_written(suffix, folder, tmp_path, monkeypatch):
    network = tiny(tmp_path, table=PLAIN)
    (tmp_path / "tiny.yaml").unlink()

    def slow(*arguments, **_):
        return {name: {"float32": 1.5, "int8": 2.25} for name in arguments[3]}

    monkeypatch.setattr(quantize_module, "time_pair", slow)
    message = r"tiny: not written in int8.*slower than float here: 2\.25 ms an image instead of 1\.50 on .*smaller=True"
    with pytest.raises(effnets.QuantizationError, match=message):
        effnets.quantize(network, tmp_path / f"out{suffix}", folder, image_size=32, gate=EASY, calibration_images=8)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_the_gate_saw(folder, tmp_path, monkeypatch):
    """The file is made again, with the results of the gate in its metadata."""
    network, other = tiny(tmp_path, table=PLAIN), tiny(tmp_path, table=PLAIN, seed=1)
    (tmp_path / "tiny.yaml").unlink()
    plain = LiteRTInt8.build

    def build(self, metadata, float_layers=()):
        return plain(self, metadata, float_layers) if metadata.precision == "float32" else convert(other, metadata)

    monkeypatch.setattr(LiteRTInt8, "build", build)
    options = {"image_size": 32, "gate": EASY, "calibration_images": 8, "timing_seconds": 0}
    with pytest.raises(
        effnets.VerificationError, match="tiny: converted again it answers otherwise; nothing was written"
    ):
        effnets.quantize(network, tmp_path / "out.tflite", folder, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_in_capitals(folder, tmp_path):
    network = tiny(tmp_path, table=PLAIN)
    options = {"image_size": 32, "gate": EASY, "calibration_images": 8, "timing_seconds": 0}
    report = effnets.quantize(network, tmp_path / "out.XML", folder, **options)
    assert sorted(path.name for path in tmp_path.glob("out.*")) == ["out.XML", "out.bin", "out.json"]
    assert effnets.load_engine(report.path).name == "openvino"


@pytest.mark.parametrize("suffix", [".tflite", ".pte"])
def test_wrong_arguments(suffix, folder, tmp_path):
    network = tiny(tmp_path, table=PLAIN)
    target = tmp_path / f"out{suffix}"
    with pytest.raises(effnets.ArgumentError, match=r"give the network, from create_model, instead of a file"):
        effnets.quantize(tmp_path / "float.onnx", target, folder)
    with pytest.raises(effnets.ArgumentError, match=rf"topk is not possible for \{suffix} files"):
        effnets.quantize(network, target, folder, topk=2)
    with pytest.raises(effnets.ArgumentError, match=r"is executed by .*; leave engine and engines out"):
        effnets.quantize(network, target, folder, engine="onnxruntime")
    with pytest.raises(effnets.ArgumentError, match=r"files with the suffix \.onnx, \.xml, \.tflite"):
        effnets.quantize(network, tmp_path / "out.pt2", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_smaller_is_for_int8():
    result = CliRunner().invoke(main, ["export", "mobilenetv1_025", "out.onnx", "--smaller"])
    assert result.exit_code == 2
    assert "--smaller is for --int8" in result.stderr


@needs_shared
@pytest.mark.full
@pytest.mark.parametrize("suffix", [".tflite", ".pte"])
@pytest.mark.parametrize("name", ["mobilenetv1_100_224", "mobilenetv1_025_128", "mobilenetv2_100_224"])
def test_real_weights_pass_the_gate(name, suffix, tmp_path, grocery):
    weights = SHARED / "weights" / f"tf_{name}.timm.safetensors"
    model = effnets.create_model(name.rpartition("_")[0], weights=weights)
    report = effnets.quantize(
        model, tmp_path / f"int8{suffix}", grocery, calibration_images=64, held_out_images=300, timing_seconds=0
    )
    (found,) = report.agreement.values()
    assert found.clear > 50
    assert found.agreement >= 0.99
    assert found.in_top5 >= 0.99
    assert not report.left


@pytest.fixture(scope="module")
def grocery(tmp_path_factory):
    import tarfile

    folder = tmp_path_factory.mktemp("grocery")
    with tarfile.open(SHARED / "data" / "grocery20.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder
