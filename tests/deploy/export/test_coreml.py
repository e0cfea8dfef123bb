"""Core ML packages: what they say, hold and compute, and that verification sees every fault."""

from __future__ import annotations

import copy
import hashlib
import subprocess

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from coremltools.proto import Model_pb2
from torch import nn

import effnets
from effnets.cli import main
from effnets.deploy.export import base, coreml
from effnets.deploy.export.base import prepare
from effnets.deploy.export.coreml import export_coreml, unique_labels, verify
from effnets.deploy.export.export import export
from effnets.deploy.export.mil_program import MILProgram, _conv
from effnets.deploy.export.verify import normalized, probe_images, relative_error
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, ExportError, VerificationError
from effnets.nn.layers import Conv2d
from tests.support import SHARED, needs_shared, shake, shake_gently
from tests.support.package_faults import FAULTS, numbers, operations
from tests.support.tiny_network import REXNET_TABLE, TABLE, tiny

SIZE = (48, 64)
NOTE = "not executed by Core ML, which this system does not have"
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


def made_of(model, path, **options):
    options = {"image_size": SIZE, "optimize": True, **options}
    return prepare(model, path, ".mlpackage", input_kind="pixels", engine="coreml", is_folder=True, **options)


def read(path):
    """Return the model and the program of a package."""
    spec = Model_pb2.Model.FromString((path / MODEL).read_bytes())
    return spec, MILProgram(spec, (path / WEIGHTS).read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coreml")
    return made_of(tiny(folder), folder / "tiny.mlpackage")


@pytest.fixture(scope="module")
def files(made):
    return coreml.convert(made.module, made.metadata)


@pytest.mark.parametrize("table", [TABLE, REXNET_TABLE], ids=["mixnet", "rexnet"])
def test_a_package(table, tmp_path, capfd):
    model, path = tiny(tmp_path, table=table), tmp_path / "tiny.mlpackage"
    model.class_names = tuple(f"kind {index}" for index in range(12))
    report = export(model, path, image_size=SIZE, preprocess=True, softmax=True)
    assert capfd.readouterr() == ("", "")
    assert report.path == path
    assert list(report.errors) == ["MIL program"]
    assert 0 < report.errors["MIL program"] < 1e-6
    assert report.notes == (NOTE,)
    names = ["Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json"]
    assert sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()) == names
    assert report.size == sum((path / name).stat().st_size for name in names)
    lines = subprocess.run(["sha256sum", *(f"./{name}" for name in names)], cwd=path, capture_output=True, check=True)
    assert report.sha256 == hashlib.sha256(lines.stdout).hexdigest()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tiny.mlpackage", "tiny.yaml"]

    spec, program = read(path)
    image = spec.description.input[0].type.imageType
    assert (spec.description.input[0].name, image.height, image.width, image.colorSpace) == ("image", *SIZE, 20)  # RGB
    assert [one.name for one in spec.description.output] == ["classLabel", "probabilities"]
    assert program.classes == list(model.class_names)
    properties = dict(spec.description.metadata.userDefined)
    assert properties == report.description.to_properties()
    assert ModelMetadata.from_properties(properties, "it").rewrites == PRESETS["coreml"].to_dict()
    assert report.description.input_kind == "pixels"

    images = probe_images(2, *SIZE, 3, seed=7)
    with torch.inference_mode():
        expected = model.double()(torch.from_numpy(normalized(images, model.spec.preprocess)).double()).numpy()
    assert relative_error(program.run(images)["logits"], expected) < 1e-6


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, made, files, tmp_path):
    change, message = FAULTS[name]
    spec, weights = Model_pb2.Model.FromString(files[MODEL]), bytearray(files[WEIGHTS])
    change(spec, weights)
    write(tmp_path, {**files, MODEL: spec.SerializeToString(), WEIGHTS: bytes(weights)})
    with pytest.raises(VerificationError, match=f"^tiny: not exported: .*{message}"):
        verify(tmp_path, made)


def test_without_a_fault_there_is_no_error(made, files, tmp_path):
    spec = Model_pb2.Model.FromString(files[MODEL])  # written by protobuf again, as with a fault
    write(tmp_path, {**files, MODEL: spec.SerializeToString()})
    assert verify(tmp_path, made)["MIL program"] < 1e-6


def test_what_is_no_model_is_found(made, files, tmp_path):
    write(tmp_path, {**files, MODEL: b"no model"})
    with pytest.raises(VerificationError, match="the package holds no Core ML model"):
        verify(tmp_path, made)


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_equal_networks_give_equal_packages(made, files):
    assert coreml.convert(made.module, made.metadata) == files


def test_a_package_is_replaced_only_by_a_verified_one(tmp_path, monkeypatch):
    model, path = tiny(tmp_path), tmp_path / "tiny.mlpackage"
    before = export_coreml(model, path, image_size=SIZE)
    (path / "note.txt").write_text("of the first")

    plain = coreml.convert

    def convert(network, metadata):
        """Lose a bias."""
        network = copy.deepcopy(network)  # the package is compared with the network itself
        nn.init.zeros_(network.classifier.bias)
        return plain(network, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(coreml, "convert", convert)
        with pytest.raises(VerificationError, match=r"does not contain the weight classifier\.bias"):
            export_coreml(model, path, image_size=SIZE)
    assert (path / "note.txt").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tiny.mlpackage", "tiny.yaml"]
    link = tmp_path / "link.mlpackage"
    link.symlink_to(path)
    after = export_coreml(model, link, image_size=SIZE)
    assert (after.sha256, after.size) == (before.sha256, before.size)
    assert link.is_symlink()
    assert not (path / "note.txt").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.mlpackage", "tiny.mlpackage", "tiny.yaml"]


def test_what_is_no_package_is_not_replaced(tmp_path):
    model = tiny(tmp_path)
    for name in ("folder", "file", "dangling"):
        path = tmp_path / f"{name}.mlpackage"
        if name == "folder":
            path.mkdir()
            (path / "thesis.txt").write_text("for years")
        elif name == "file":
            path.write_text("for years")
        else:
            path.symlink_to(tmp_path / "gone")
        with pytest.raises(ExportError, match=rf"{name}\.mlpackage: exists, and is not a Core ML package; remove it"):
            export_coreml(model, path, image_size=SIZE)
    assert (tmp_path / "folder.mlpackage" / "thesis.txt").read_text() == "for years"
    with pytest.raises(ExportError, match="gone is not a folder; make it first"):
        export_coreml(model, tmp_path / "gone" / "tiny.mlpackage", image_size=SIZE)


def test_a_gray_network_with_its_own_normalization(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TABLE)
    model = shake(effnets.create_model(tmp_path / "tiny.yaml", in_chans=1, mean=0.25, std=0.5), size=64)
    path = tmp_path / "gray.mlpackage"
    export_coreml(model, path, image_size=SIZE)
    spec, _ = read(path)
    assert spec.description.input[0].type.imageType.colorSpace == 10  # GRAYSCALE
    assert list(numbers(spec, operations(spec, "mul")[0], "y")) == [np.float32(1 / (255 * 0.5))]
    assert list(numbers(spec, operations(spec, "add")[0], "y")) == [np.float32(-0.25 / 0.5)]


def test_normalization_by_channel(made, files):
    spec = Model_pb2.Model.FromString(files[MODEL])
    mean, std = (np.array(values) for values in (made.metadata.preprocess.mean, made.metadata.preprocess.std))
    assert list(numbers(spec, operations(spec, "mul")[0], "y")) == list((1 / (255 * std)).astype(np.float32))
    assert list(numbers(spec, operations(spec, "add")[0], "y")) == list((-mean / std).astype(np.float32))


@pytest.mark.parametrize("optimize", [False, Rewrites(), PRESETS["none"]], ids=["as it is", "usual", "none"])
def test_other_rewrites(optimize, tmp_path):
    report = export_coreml(tiny(tmp_path), tmp_path / "tiny.mlpackage", image_size=SIZE, optimize=optimize)
    assert report.errors["MIL program"] < 1e-6


def test_other_pooling(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TABLE)
    model = shake(effnets.create_model(tmp_path / "tiny.yaml", global_pool="avgmax"), size=64)
    assert export_coreml(model, tmp_path / "tiny.mlpackage", image_size=SIZE).errors["MIL program"] < 1e-6


def test_labels_tell_classes_apart():
    assert unique_labels(("crane", "tench", "crane", "", " ")) == ["crane (0)", "tench", "crane (2)", "(3)", "(4)"]
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # equal in Swift
    assert unique_labels((composed, decomposed)) == [f"{composed} (0)", f"{decomposed} (1)"]
    with pytest.raises(ArgumentError, match=r"model.class_names has 'a \(1\)' twice, also with numbers behind; rename"):
        unique_labels(("a", "a", "a (1)"))


def test_equal_labels_have_numbers_in_the_package_alone(tmp_path):
    model = tiny(tmp_path)
    model.class_names = ("crane",) * 2 + tuple("abcdefghij")
    report = export_coreml(model, tmp_path / "tiny.mlpackage", image_size=SIZE)
    assert read(report.path)[1].classes[:3] == ["crane (0)", "crane (1)", "a"]
    assert report.description.labels == model.class_names


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "size"),
    [(3, 2, 1, (7, 8)), (5, 2, 1, (8, 9)), (3, 1, 2, (5, 6)), (5, 3, 1, (9, 4)), (3, 2, 2, (9, 8))],
)
def test_same_padding_is_tensorflows(kernel, stride, dilation, size):
    layer = Conv2d(
        in_channels=4,
        out_channels=6,
        kernel_size=kernel,
        stride=stride,
        dilation=dilation,
        groups=2,
        bias=True,
        padding="same",
    )
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    same = {"pad_type": "same", "pad": [0] * 4}
    sizes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "groups": 2}
    torch.testing.assert_close(_conv(x=x, weight=layer.weight, bias=layer.bias, **sizes, **same), layer(x))


def test_mistakes(tmp_path, monkeypatch):
    model = tiny(tmp_path)
    with pytest.raises(ArgumentError, match=r"give the file the suffix \.mlpackage"):
        export_coreml(model, tmp_path / "tiny.mlmodel")
    with pytest.raises(ArgumentError, match=r"dynamic_size is not possible for \.mlpackage files; leave it out"):
        export(model, tmp_path / "tiny.mlpackage", dynamic_size=True)
    for channels in (2, 4):
        other = effnets.create_model(tmp_path / "tiny.yaml", in_chans=channels)
        with pytest.raises(ArgumentError, match=f"have 3 channels or 1, and this model takes {channels}; export it"):
            export_coreml(other, tmp_path / "tiny.mlpackage")
        with pytest.raises(ArgumentError, match=f"have 3 channels or 1, and this model takes {channels}; export it"):
            export_coreml(nn.DataParallel(other), tmp_path / "tiny.mlpackage")
    with pytest.raises(EngineError, match=r"tiny\.mlpackage: a Core ML package is executed by Core ML"):
        effnets.load_engine(tmp_path / "tiny.mlpackage")
    (tmp_path / "tiny.mlpackage").mkdir()
    shown = CliRunner().invoke(main, ["predict", "photo.jpg", "--weights", str(tmp_path / "tiny.mlpackage")])
    assert "a Core ML package is executed by Core ML, in programs of Apple's systems" in shown.stderr
    (tmp_path / "tiny.mlpackage").rmdir()
    monkeypatch.setattr(base, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"needs coremltools; install with: pip install 'effnets\[coreml\]'"):
        export_coreml(model, tmp_path / "tiny.mlpackage")
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_rewrite_that_core_ml_has_no_known_operator_for_is_named(tmp_path):
    model = tiny(tmp_path, table=REXNET_TABLE)
    with pytest.raises(VerificationError, match="its program has the operator scatter"):
        export_coreml(model, tmp_path / "tiny.mlpackage", image_size=SIZE, optimize=PRESETS["torch"])


def test_a_network_of_the_zoo(tmp_path):
    model = shake_gently(effnets.create_model("mobilenetv1_025"))
    report = export_coreml(model, tmp_path / "m.mlpackage", image_size=96)
    assert report.errors["MIL program"] < 1e-4
    labels = read(report.path)[1].classes
    assert len(set(labels)) == 1000
    assert (labels[134], labels[517]) == ("crane (134)", "crane (517)")


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["mobilenetv1_100", "mobilenetv2_100", "mixnet_s", "mixnet_m", "rexnet_100", "tf_mixnet_s"]
)
def test_every_family(name, tmp_path):
    model = shake_gently(effnets.create_model(name))
    report = export_coreml(model, tmp_path / "m.mlpackage")
    assert report.errors["MIL program"] < 2e-4  # float32 itself rounds a shaken MixNet by 1e-4


@needs_shared
def test_published_weights(tmp_path):
    weights = SHARED / "weights" / "tf_mobilenetv1_025_128.timm.safetensors"
    model = effnets.create_model("tf_mobilenetv1_025", weights=weights)
    report = export_coreml(model, tmp_path / "m.mlpackage")
    assert report.errors["MIL program"] < 1e-5
    assert read(report.path)[0].description.metadata.license == report.description.weights.get("licence", "not stated")
