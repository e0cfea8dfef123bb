"""Files for OpenVINO, LiteRT and ExecuTorch: verified, with labels and preprocessing, or not written at all."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import io
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.deploy.export import base
from effnets.deploy.export.base import prepare, write_files
from effnets.deploy.export.export import FORMATS
from effnets.deploy.export.image_input import trace
from effnets.deploy.export.litert import add_metadata, task_metadata
from effnets.deploy.export.verify import Reference, normalized, probe_images, verify_file
from effnets.deploy.optimize.rewrites import PRESETS
from effnets.engines.base import ENGINES, EXPORTED, load_exported
from effnets.errors import ArgumentError, EngineError, ExportError, MissingFileError, VerificationError, WeightsError
from tests.support import SHARED, images, needs_shared, shake_gently
from tests.support.module_faults import MODULE_FAULTS
from tests.support.tiny_network import REXNET_TABLE, TABLE, tiny

ENGINE_OF = {".xml": "openvino", ".tflite": "litert", ".pte": "executorch"}
CONVERTED = {".tflite": "litert", ".pte": "executorch"}
FAMILIES = ("mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "rexnet_100")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = tiny(tmp_path_factory.mktemp("tiny"))
    model.class_names = (*(f"thing {index}" for index in range(10)), "two\nlines é", "thing 11")
    return model


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The file of each format, with its report."""
    folder = tmp_path_factory.mktemp("exported")
    return {suffix: effnets.export(network, folder / f"m{suffix}", image_size=(56, 64)) for suffix in ENGINE_OF}


def compare(engine, model, tolerance=1e-4):
    pixels = images(3, 3, *engine.description.image_size)
    with torch.inference_mode():
        expected = model(pixels).numpy()
    found = engine(pixels.numpy())
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() / np.abs(expected).max() < tolerance


@pytest.mark.parametrize("suffix", ENGINE_OF)
def test_a_file_is_whole(suffix, network, exported):
    report = exported[suffix]
    assert report.errors.keys() == {ENGINE_OF[suffix]}
    assert max(report.errors.values()) < 1e-4
    assert {path.name for path in report.path.parent.iterdir()} == {"m.xml", "m.bin", "m.tflite", "m.pte"}
    names = ["m.xml", "m.bin"] if suffix == ".xml" else [f"m{suffix}"]
    assert report.size == sum((report.path.parent / name).stat().st_size for name in names)
    engine = effnets.load_engine(report.path, threads=1)
    assert engine.name == ENGINE_OF[suffix]
    assert engine.labels == network.class_names
    assert engine.description == report.description
    assert engine.description.engine == ENGINE_OF[suffix]
    compare(engine, network)


@pytest.mark.parametrize("suffix", ENGINE_OF)
def test_predictions_are_the_networks(suffix, network, exported, tmp_path):
    photo = Image.fromarray(probe_images(1, 90, 70, 3, seed=4)[0])
    photo.save(tmp_path / "photo.png")
    expected = effnets.predict(network, tmp_path / "photo.png", input_size=(56, 64))[0]
    found = effnets.predict(effnets.load_engine(exported[suffix].path), tmp_path / "photo.png")[0]
    assert [one.label for one in found] == [one.label for one in expected]
    assert found[0].probability == pytest.approx(expected[0].probability, abs=1e-5)


@pytest.mark.parametrize("suffix", CONVERTED)
def test_normalization_and_probabilities_inside(suffix, network, tmp_path):
    report = effnets.export(network, tmp_path / f"m{suffix}", image_size=(56, 64), preprocess=True, softmax=True)
    engine = effnets.load_engine(report.path)
    assert engine.description.input_kind == "pixels"
    pixels = probe_images(2, 56, 64, 3, seed=1)
    outputs = engine.run(pixels)
    with torch.inference_mode():
        expected = network(torch.from_numpy(normalized(pixels, network.spec.preprocess))).softmax(1).numpy()
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    photo = Image.fromarray(probe_images(1, 90, 70, 3, seed=4)[0])
    ours = effnets.predict(network, photo, input_size=(56, 64))[0]
    assert [one.label for one in effnets.predict(engine, photo)[0]] == [one.label for one in ours]
    with pytest.raises(ArgumentError, match=r"takes uint8 of shape \[N, 56, 64, 3\]"):
        engine(pixels[:, :50])
    with pytest.raises(ArgumentError, match="uint8"):
        engine(pixels.astype(np.float32))


def test_openvino_takes_what_onnx_takes(network, tmp_path):
    report = effnets.export(network, tmp_path / "m.xml", preprocess=True, topk=3)
    outputs = effnets.load_engine(report.path).run(probe_images(2, 80, 70, 3, seed=1))
    assert outputs["top_indices"].shape == (2, 3)
    dynamic = effnets.export(network, tmp_path / "d.xml", dynamic_size=True)
    assert effnets.load_engine(dynamic.path)(images(2, 3, 40, 72).numpy()).shape == (2, 12)


@pytest.mark.parametrize("suffix", CONVERTED)
def test_rexnets_blocks(suffix, tmp_path):
    model = tiny(tmp_path, table=REXNET_TABLE)
    compare(effnets.load_engine(effnets.export(model, tmp_path / f"m{suffix}", image_size=48).path), model)


@pytest.mark.parametrize("suffix", ENGINE_OF)
def test_threads_get_their_own_answers(suffix, network, exported):
    engine = effnets.load_engine(exported[suffix].path, threads=1)
    batches = [images(2, 3, 56, 64, seed=seed) for seed in range(4)]
    with torch.inference_mode():
        expected = [network(batch).numpy() for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda batch: [engine(batch.numpy()) for _ in range(10)], batches))
    for wanted, found in zip(expected, answers, strict=True):
        assert all(np.abs(one - wanted).max() / np.abs(wanted).max() < 1e-4 for one in found)


def test_litert_files_need_no_torch(exported, tmp_path):
    Image.fromarray(probe_images(1, 90, 70, 3, seed=4)[0]).save(tmp_path / "photo.png")
    program = (
        "import sys, effnets; "
        f"engine = effnets.load_engine({str(exported['.tflite'].path)!r}); "
        f"print(effnets.predict(engine, {str(tmp_path / 'photo.png')!r}, topk=1)[0][0].label, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith(" False")
    assert result.stderr == ""


# --- faults


class Conversion:
    """A conversion of the tiny network, with what its verification needs."""

    def __init__(self, folder, suffix, table=TABLE):
        self.engine = CONVERTED[suffix]
        self.convert = importlib.import_module(f"effnets.deploy.export.{self.engine}").convert
        model = tiny(folder, table=table)
        self.made = prepare(model, folder / f"m{suffix}", suffix, image_size=48, optimize=True, engine=self.engine)
        program = trace(self.made.module, self.made.metadata)
        self.reference = Reference(program, self.made.original, self.made.module, folded=True)
        self.data = self.convert(self.made.module, self.made.metadata)

    def verify(self, data, required=None, metadata=None):
        engine = load_exported(data, self.engine)
        return verify_file(engine, data, self.reference, metadata or self.made.metadata, required or {})


@pytest.fixture(scope="module")
def litert(tmp_path_factory):
    return Conversion(tmp_path_factory.mktemp("litert"), ".tflite")


@pytest.fixture(scope="module")
def executorch(tmp_path_factory):
    return Conversion(tmp_path_factory.mktemp("executorch"), ".pte")


CHEAP = ("one_weight_changed", "padded_on_the_other_side", "clip_forgotten")
FAULTS = [pytest.param(name, marks=[] if name in CHEAP else [pytest.mark.full]) for name in MODULE_FAULTS]


def test_faults_are_many():
    assert len(MODULE_FAULTS) >= 20


@pytest.mark.parametrize("engine", CONVERTED.values())
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_a_conversion_is_caught(fault, engine, request):
    case = request.getfixturevalue(engine)
    assert case.verify(case.data) < 1e-4
    faulty = copy.deepcopy(case.made.module)
    MODULE_FAULTS[fault](faulty)
    with pytest.raises(VerificationError, match="tiny: not exported: "):
        case.verify(case.convert(faulty, case.made.metadata))


METADATA_FAULTS = {
    "mean": lambda m: dataclasses.replace(m, preprocess=dataclasses.replace(m.preprocess, mean=(0.485, 0.456, 0.5))),
    "std": lambda m: dataclasses.replace(m, preprocess=dataclasses.replace(m.preprocess, std=(0.229, 0.225, 0.224))),
    "order of labels": lambda m: dataclasses.replace(m, labels=m.labels[::-1]),
    "two labels": lambda m: dataclasses.replace(m, labels=(*m.labels[1::-1], *m.labels[2:])),
    "crop": lambda m: dataclasses.replace(m, preprocess=dataclasses.replace(m.preprocess, crop_pct=0.8)),
    "interpolation": lambda m: dataclasses.replace(
        m, preprocess=dataclasses.replace(m.preprocess, interpolation="bilinear")
    ),
}


@pytest.mark.parametrize("engine", CONVERTED.values())
@pytest.mark.parametrize("fault", METADATA_FAULTS)
def test_every_fault_of_the_metadata_is_caught(fault, engine, request):
    case = request.getfixturevalue(engine)
    wanted = METADATA_FAULTS[fault](case.made.metadata)
    assert wanted != case.made.metadata
    with pytest.raises(VerificationError, match=r"its metadata differs in effnets\.(preprocess|labels)"):
        case.verify(case.data, metadata=wanted)


def edited(data, change):
    """Change the model in a LiteRT file."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    end = zipfile.ZipFile(io.BytesIO(data)).infolist()[0].header_offset
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    packed = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(packed, "a") as archive, zipfile.ZipFile(io.BytesIO(data)) as before:
        for name in before.namelist():
            archive.writestr(name, before.read(name))
    assert end
    return packed.getvalue()


def options_of(graph, kind, number=0):
    found = [one for one in graph.operators if type(one.builtinOptions).__name__ == kind]
    return found[number].builtinOptions


def set_option(kind, name, value, number=0):
    def change(_, graph):
        options = options_of(graph, kind, number)
        assert getattr(options, name) != value
        setattr(options, name, value)

    return change


def constants(model, graph, dims):
    tensors = [
        one
        for one in graph.tensors
        if one.shape is not None and len(one.shape) == dims and model.buffers[one.buffer].data is not None
    ]
    return [model.buffers[one.buffer].data.view(np.float32) for one in tensors if one.type == 0]


def scaled(dims, number, factor):
    def change(model, graph):
        graph_values = [values for values in constants(model, graph, dims) if len(values) > 1]
        values = graph_values[number].copy()
        values[np.abs(values).argmax()] *= factor
        place = next(
            one
            for one in graph.tensors
            if model.buffers[one.buffer].data is not None
            and np.array_equal(model.buffers[one.buffer].data.view(np.float32), graph_values[number])
        )
        model.buffers[place.buffer].data = values.view(np.uint8)

    return change


# SAME is 0 and VALID 1, the fused activations are NONE 0, RELU 1, RELU6 3.
FILE_FAULTS = {
    "a convolution has no activation": set_option("Conv2DOptionsT", "fusedActivationFunction", 0),
    "a depthwise convolution has no activation": set_option("DepthwiseConv2DOptionsT", "fusedActivationFunction", 0),
    "a depthwise convolution has other strides": set_option("DepthwiseConv2DOptionsT", "strideW", 2),
    "a depthwise convolution is dilated": set_option("DepthwiseConv2DOptionsT", "dilationHFactor", 2),
    "a weight by one percent": scaled(4, 3, 1.01),
    "another weight by one percent": scaled(4, -1, 1.01),
    "a bias by one percent": scaled(1, 1, 1.01),
    "the classifier's weight by one percent": scaled(2, 0, 1.01),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_every_fault_of_a_litert_file_is_caught(fault, litert):
    assert litert.verify(edited(litert.data, lambda *_: None)) < 1e-4
    with pytest.raises(VerificationError, match="tiny: not exported: "):
        litert.verify(edited(litert.data, FILE_FAULTS[fault]))


@pytest.mark.parametrize("engine", CONVERTED.values())
def test_one_bit_of_a_weight_is_caught(engine, request):
    case = request.getfixturevalue(engine)
    weight = next(iter(case.reference.weights().values()))
    layouts = [np.ascontiguousarray(weight.transpose(order)).tobytes() for order in ((0, 2, 3, 1), (1, 2, 3, 0))]
    start = next(case.data.index(one) for one in layouts if one in case.data)
    data = bytearray(case.data)
    data[start] ^= 1
    with pytest.raises(VerificationError, match=r"the file does not contain the weight stem\.conv\.weight"):
        case.verify(bytes(data))


def test_the_task_librarys_normalization_and_labels_are_checked(litert):
    metadata = litert.made.metadata
    blob = task_metadata(metadata, softmax=False)
    assert litert.verify(litert.data, {"the metadata": blob})
    for fault in ("mean", "std"):
        other = task_metadata(METADATA_FAULTS[fault](metadata), softmax=False)
        with pytest.raises(VerificationError, match="does not contain the metadata"):
            litert.verify(litert.data, {"the metadata": other})


def test_probabilities_that_a_converter_forgot(network, tmp_path, monkeypatch):
    module = importlib.import_module("effnets.deploy.export.executorch")
    convert = module.convert
    monkeypatch.setattr(module, "convert", lambda *arguments, **_: convert(*arguments))
    with pytest.raises(VerificationError, match="executorch: there is no output named probabilities"):
        effnets.export(network, tmp_path / "m.pte", image_size=48, softmax=True)
    assert not list(tmp_path.iterdir())


def test_an_output_that_openvino_lost(network, tmp_path, monkeypatch):
    module = importlib.import_module("effnets.deploy.export.openvino")
    convert = module._convert

    plain = effnets.export_onnx(network, tmp_path / "plain.onnx", image_size=48, engine="openvino")
    monkeypatch.setattr(module, "_convert", lambda *_: convert(plain.path, plain.description))
    with pytest.raises(VerificationError, match="the conversion lost the output probabilities"):
        effnets.export(network, tmp_path / "m.xml", image_size=48, softmax=True)
    assert not (tmp_path / "m.xml").exists()


@pytest.mark.parametrize("suffix", CONVERTED)
def test_without_folding_the_converter_folds(suffix, network, tmp_path):
    report = effnets.export(network, tmp_path / f"m{suffix}", image_size=48, optimize=PRESETS["none"])
    compare(effnets.load_engine(report.path), network)


# --- metadata of other programs


def test_litert_metadata_as_the_task_library_reads_it(exported):
    """Read by the numbers of the schema's fields, as generated code does."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import number_types, table

    data = exported[".tflite"].path.read_bytes()
    with zipfile.ZipFile(exported[".tflite"].path) as packed:
        labels = packed.read("labels.txt").decode().split("\n")
        assert json.loads(packed.read("effnets.json"))["effnets.model"] == '"tiny"'
    assert labels[:2] == ["thing 0", "thing 1"]
    assert labels[10:] == ["two lines é", "thing 11", ""]
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    entry = next(one for one in model.metadata if one.name == b"TFLITE_METADATA")
    blob = bytes(model.buffers[entry.buffer].data)
    assert blob[4:8] == b"M001"

    def follow(at, field):
        return at.Offset(4 + 2 * field)

    root = table.Table(blob, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, blob, 0))
    assert root.String(root.Pos + follow(root, 0)) == b"tiny"

    def first(at, field):
        start = at.Vector(follow(at, field))
        return table.Table(blob, at.Indirect(start))

    graph = first(root, 3)
    image, logits = first(graph, 2), first(graph, 3)
    unit = first(image, 4)
    options = table.Table(blob, unit.Indirect(unit.Pos + follow(unit, 1)))
    numbers = [
        [options.Get(number_types.Float32Flags, options.Vector(follow(options, field)) + 4 * i) for i in range(3)]
        for field in (0, 1)
    ]
    np.testing.assert_allclose(numbers[0], np.multiply(255, exported[".tflite"].description.preprocess.mean), rtol=1e-6)
    np.testing.assert_allclose(numbers[1], np.multiply(255, exported[".tflite"].description.preprocess.std), rtol=1e-6)
    file = first(logits, 6)
    assert file.String(file.Pos + follow(file, 0)) == b"labels.txt"
    assert file.Get(number_types.Int8Flags, file.Pos + follow(file, 2)) == 2  # TENSOR_AXIS_LABELS


def test_constants_are_aligned(exported):
    from ai_edge_litert import schema_py_generated as schema

    data = exported[".tflite"].path.read_bytes()
    model = schema.Model.GetRootAs(data, 0)
    starts = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(starts) > 10
    assert all(start % 16 == 0 for start in starts)


def test_executorch_labels_are_a_method(exported, network):
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(exported[".pte"].path)
    assert program.load_method("labels").execute([])[0].split("\n") == [
        name.replace("\n", " ") for name in network.class_names
    ]


def test_openvino_information_for_the_model_api(exported):
    import openvino

    information = openvino.Core().read_model(exported[".xml"].path).rt_info["model_info"]
    assert information["model_type"].astype(str) == "Classification"
    assert information["labels"].astype(str).split(" ")[0] == "thing_0"
    means = [float(text) for text in information["mean_values"].astype(str).split(" ")]
    np.testing.assert_allclose(means, np.multiply(255, exported[".xml"].description.preprocess.mean), rtol=1e-6)


def test_an_executorch_programs_labels_are_one_a_line(exported):
    engine = effnets.load_engine(exported[".pte"].path)
    (labels,) = engine._program.load_method("labels").execute([])
    assert labels.split("\n") == [*(f"thing {index}" for index in range(10)), "two lines é", "thing 11"]


def test_the_same_network_gives_the_same_litert_file(litert):
    assert litert.convert(litert.made.module, litert.made.metadata) == litert.data


# --- errors


def test_every_format_has_an_engine():
    assert FORMATS.keys() == EXPORTED.keys()
    assert [suffix for suffix, (_, engines) in EXPORTED.items() if not engines] == [".mlpackage"]
    assert {engine for _, engines in EXPORTED.values() for engine in engines} <= ENGINES.keys()


def test_unknown_suffix(network, tmp_path):
    with pytest.raises(ArgumentError, match=r"m\.h5'; give the file one of the suffixes \.onnx, \.xml, \.tflite"):
        effnets.export(network, tmp_path / "m.h5")


@pytest.mark.parametrize("suffix", CONVERTED)
@pytest.mark.parametrize(("option", "value"), [("topk", 3), ("dynamic_size", True)])
def test_options_that_a_format_does_not_have(suffix, option, value, network, tmp_path):
    with pytest.raises(ArgumentError, match=rf"{option} is not possible for {suffix} files; leave it out, or export"):
        effnets.export(network, tmp_path / f"m{suffix}", **{option: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "package"), [(".tflite", "litert_torch"), (".pte", "executorch")])
def test_a_missing_package_names_the_extra(suffix, package, network, tmp_path, monkeypatch):
    find = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(EngineError, match=rf"needs {package}; install .*effnets\[{CONVERTED[suffix]}\]"):
        effnets.export(network, tmp_path / f"m{suffix}")


def test_a_package_that_only_the_module_needs(tmp_path):
    program = (
        "import sys; sys.modules['flatbuffers'] = None; "
        "from effnets.cli import main; "
        f"main(['export', 'mixnet_xs_32px', {str(tmp_path / 'm.tflite')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Error: .tflite files need flatbuffers; install with: pip install 'effnets[litert]'" in result.stderr


@pytest.mark.parametrize("suffix", ENGINE_OF)
def test_files_of_others_and_damaged_files(suffix, exported, tmp_path):
    with pytest.raises(MissingFileError, match=rf"gone{suffix}: no such exported model"):
        effnets.load_engine(tmp_path / f"gone{suffix}")
    path = tmp_path / f"m{suffix}"
    path.with_suffix(".bin").write_bytes(b"weights of an .xml file")
    for content in (b"", b"nothing that an engine reads" * 10, exported[suffix].path.read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises((WeightsError, EngineError), match=rf"m{suffix}: "):
            effnets.load_engine(path)


@pytest.mark.parametrize("suffix", ENGINE_OF)
def test_labels_of_another_number(suffix, network, tmp_path):
    """Its metadata have other labels than the file has outputs."""
    engine = ENGINE_OF[suffix]
    module = importlib.import_module(f"effnets.deploy.export.{engine}")
    made = prepare(network, tmp_path / f"m{suffix}", suffix, image_size=48, optimize=True, engine=engine)
    metadata = dataclasses.replace(made.metadata, labels=("a",) * 20)
    if suffix == ".xml":
        onnx = effnets.export_onnx(network, tmp_path / "m.onnx", image_size=48, engines=["onnxruntime"])
        module._convert(onnx.path, metadata)
    else:
        made.path.write_bytes(module.convert(made.module, metadata))
    with pytest.raises(WeightsError, match=rf"m\{suffix}: .*effnets\.labels has 20 names for 12 classes; export"):
        effnets.load_engine(made.path)


def test_an_openvino_file_with_weights_of_another_network(exported, tmp_path):
    other = effnets.export(tiny(tmp_path, seed=1), tmp_path / "other.xml", image_size=(56, 64))
    path = tmp_path / "m.xml"
    path.write_bytes(exported[".xml"].path.read_bytes())
    with pytest.raises(MissingFileError, match=r"m\.bin: no such file, with the weights of .*m\.xml; copy or"):
        effnets.load_engine(path)
    weights, ours, theirs = (one.with_suffix(".bin") for one in (path, exported[".xml"].path, other.path))
    for content in (theirs.read_bytes(), ours.read_bytes()[:-4]):
        weights.write_bytes(content)
        with pytest.raises(WeightsError, match=r"m\.bin: does not belong to .*m\.xml, or is cut short; copy or export"):
            effnets.load_engine(path)
    assert theirs.stat().st_size == ours.stat().st_size, "so that OpenVINO takes it"
    weights.write_bytes(ours.read_bytes())
    assert effnets.load_engine(path).name == "openvino"


def test_a_litert_file_without_our_metadata(litert, tmp_path):
    end = zipfile.ZipFile(io.BytesIO(litert.data)).infolist()[0].header_offset
    (tmp_path / "other.tflite").write_bytes(litert.data[:end])
    with pytest.raises(WeightsError, match=r"other\.tflite: was not exported by effnets, or is cut short"):
        effnets.load_engine(tmp_path / "other.tflite")


@pytest.mark.parametrize("suffix", CONVERTED)
def test_engines_state_what_they_do_not_do(suffix, exported):
    path = exported[suffix].path
    with pytest.raises(ArgumentError, match="computes in the precision it was made for"):
        effnets.load_engine(path, precision="bfloat16")
    with pytest.raises(ArgumentError, match=f"is executed by {CONVERTED[suffix]}, not by onnxruntime"):
        effnets.load_engine(path, "onnxruntime")


def test_of_two_files_none_is_left_if_one_cannot_be_written(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"before")
    (tmp_path / "m.xml").mkdir()
    with pytest.raises(ExportError, match=r"m\.xml: cannot be written"):
        write_files({tmp_path / "m.bin": b"after", tmp_path / "m.xml": b"after"})
    assert (tmp_path / "m.bin").read_bytes() == b"before"
    with pytest.raises(ExportError):
        write_files({tmp_path / "new.bin": b"after", tmp_path / "m.xml": b"after"})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.bin", "m.xml"]


def test_what_is_not_verified_is_not_written(network, tmp_path, monkeypatch):
    """A converter that returns the file of another network."""
    module = importlib.import_module("effnets.deploy.export.litert")
    other = effnets.export(tiny(tmp_path, seed=1), tmp_path / "other.tflite", image_size=48)
    data = other.path.read_bytes()
    monkeypatch.setattr(module, "convert", lambda *_, **__: data)
    with pytest.raises(VerificationError, match="tiny: not exported: "):
        effnets.export(network, tmp_path / "m.tflite", image_size=48)
    assert not (tmp_path / "m.tflite").exists()


# --- real networks


@pytest.mark.parametrize("suffix", CONVERTED)
@pytest.mark.parametrize("name", [FAMILIES[0], *(pytest.param(name, marks=pytest.mark.full) for name in FAMILIES[1:])])
def test_one_of_each_family(name, suffix, tmp_path, capfd):
    torch.manual_seed(0)
    model = shake_gently(effnets.create_model(name))
    report = effnets.export(model, tmp_path / f"m{suffix}")
    assert capfd.readouterr() == ("", "")
    compare(effnets.load_engine(report.path), model)


@needs_shared
@pytest.mark.full
@pytest.mark.parametrize("suffix", ENGINE_OF)
@pytest.mark.parametrize("file", sorted(path.name for path in SHARED.glob("weights/*.safetensors")))
def test_photographs_through_real_networks(file, suffix, tmp_path):
    name = file.removeprefix("tf_").rpartition("_")[0]
    model = effnets.create_model(name, weights=SHARED / "weights" / file)
    photos = sorted(path for path in (SHARED / "data" / "photos").iterdir() if path.suffix in (".bmp", ".jpg", ".png"))
    report = effnets.export(model, tmp_path / f"m{suffix}")
    expected = effnets.predict(model, photos)
    found = effnets.predict(effnets.load_engine(report.path), photos)
    assert len(photos) >= 10
    for ours, theirs in zip(expected, found, strict=True):
        assert [one.index for one in ours] == [one.index for one in theirs]
        assert theirs[0].probability == pytest.approx(ours[0].probability, abs=1e-4)


def test_add_metadata_keeps_the_model(litert):
    again = add_metadata(litert.data, litert.made.metadata, softmax=False)
    assert litert.verify(again) < 1e-4
