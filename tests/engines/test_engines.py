"""Engines execute exported models without torch, and say what is wrong with files and images."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

import effnets
from effnets.cli import main
from effnets.engines import base as engine_module
from effnets.engines import onnxruntime as onnxruntime_engine
from effnets.engines.metadata import ModelMetadata, read_onnx_header
from effnets.errors import ArgumentError, EngineError, MissingFileError, WeightsError
from tests.support.exported import MATRIX, describe, write

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "mean.onnx", describe())


@pytest.mark.parametrize("name", [*ENGINES, "auto"])
def test_logits(name, path):
    engine = effnets.load_engine(path, name, threads=1)
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    logits = engine(images)
    np.testing.assert_allclose(logits, images.mean((2, 3)) @ MATRIX, atol=1e-6)
    kept = logits.copy()
    engine(images[:1] * 2)
    assert (logits == kept).all()
    assert logits.dtype == np.float32
    assert engine.labels == ("red", "green", "blue", "other")
    assert engine.description == describe()
    assert engine.name == ("onnxruntime" if name == "auto" else name)


@pytest.mark.parametrize("name", ENGINES)
def test_threads_get_their_own_answers(name, path):
    engine = effnets.load_engine(path, name, threads=1)
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(2, 3, 32, 32)).astype(np.float32) for _ in range(4)]

    def ask(images):
        return [engine(images) for _ in range(200)]

    with ThreadPoolExecutor(len(batches)) as threads:
        for images, answers in zip(batches, threads.map(ask, batches), strict=True):
            expected = images.mean((2, 3)) @ MATRIX
            assert all(np.abs(answer - expected).max() < 1e-5 for answer in answers)


SIGNAL_STACKS = """
import ctypes
import sys

import effnets


class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def address():
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.address


engines = [effnets.load_engine(sys.argv[1], "openvino", threads=1)]
first = address()
engines += [effnets.load_engine(sys.argv[1], "openvino", threads=1) for _ in range(2)]
while engines:
    del engines[0]
    assert address() == first
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the signal stack")
def test_openvino_leaves_no_signal_stack_that_is_freed(path):
    result = subprocess.run([sys.executable, "-c", SIGNAL_STACKS, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_memory_in_any_order_is_taken(path):
    engine = effnets.load_engine(path, threads=1)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(engine(images), engine(images.copy()))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 32, 32)),
        np.zeros((3, 32, 32), np.float32),
        np.zeros((1, 3, 33, 32), np.float32),
        np.zeros((1, 1, 32, 32), np.float32),
        np.zeros((0, 3, 32, 32), np.float32),
        np.zeros((1, 32, 32, 3), np.uint8),
        [[1.0]],
    ],
)
def test_images_of_another_kind(images, path):
    with pytest.raises(ArgumentError, match=r"this model takes float32 of shape \[N, 3, 32, 32\]"):
        effnets.load_engine(path, threads=1)(images)


def test_foreign_and_damaged_files(path, tmp_path):
    whole = path.read_bytes()
    foreign = write(tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match="was not exported by effnets"):
        effnets.load_engine(foreign)
    with pytest.raises(MissingFileError, match="no such exported model"):
        effnets.load_engine(tmp_path / "gone.onnx")
    with pytest.raises(WeightsError, match="not a regular file"):
        effnets.load_engine(tmp_path)
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"\x00", b"not a model at all", whole[: len(whole) // 2], whole + b"\xff", b"\xff" * 99):
        broken.write_bytes(content)
        with pytest.raises(WeightsError, match=r"broken.onnx: (is not an ONNX file|was not exported)"):
            effnets.load_engine(broken)


def test_damaged_metadata():
    properties = describe().to_properties()
    for key, value in (
        ("effnets.labels", "{"),
        ("effnets.labels", "[1]"),
        ("effnets.preprocess", "{}"),
        ("effnets.input_kind", '"png"'),
        ("effnets.size", "7"),
        ("effnets.usual_size", "7"),
    ):
        with pytest.raises(WeightsError, match=f"x: its metadata is damaged: {key} .*; export the model again"):
            ModelMetadata.from_properties({**properties, key: value}, "x")
    with pytest.raises(WeightsError, match="another version of effnets"):
        ModelMetadata.from_properties({**properties, "effnets.format": "99"}, "x")
    assert ModelMetadata.from_properties({**properties, "other": "?"}, "x") == describe()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "7", "is 7, not text"),
        ("labels", "{}", "is {}, not a list of names"),
        ("labels", "[]", "is [], not a list of names"),
        ("labels", '["a", 1]', "is ['a', 1], not a list of names"),
        ("labels", '["red", "green"]', "has 2 names for 4 classes"),
        ("input_kind", "[]", "is [], not normalised, uint8 or pixels"),
        ("classifier_activation", '"tanh"', "is 'tanh', not softmax, sigmoid or l2"),
        ("thresholds", "[0.5, 2]", "is [0.5, 2], not a list of numbers from 0 to 1"),
        ("thresholds", "[0.5]", "has 1 numbers for 4 labels"),
        ("channels", '"x"', "is 'x', not a number of channels"),
        ("channels", "0", "is 0, not a number of channels"),
        ("channels", "true", "is True, not a number of channels"),
        ("size", '["a", "b"]', "is ['a', 'b'], not a height and a width in pixels, or null"),
        ("size", "[32]", "is [32], not a height and a width"),
        ("size", "32", "is 32, not a height and a width"),
        ("size", "[32, 1e3]", "is [32, 1000.0], not a height and a width"),
        ("size", "[32, 10000]", "is [32, 10000], not a height and a width"),
        ("usual_size", "[0, 32]", "is [0, 32], not a height and a width"),
        ("weights", "[]", "is [], not a mapping"),
        ("engine", "null", "is None, not text"),
        ("size", "[32, 32", "is not JSON"),
        ("weights", "[" * 100_000, "is not JSON"),
        ("size", None, "is missing"),
        ("preprocess", "[]", "is [], not a mapping"),
        ("preprocess", "{}", "has no 'mean'"),
        ("preprocess", {"input_size": 32.5}, "has the input_size 32.5, not a number of pixels"),
        ("preprocess", {"crop_pct": 0}, "is invalid (crop_pct is 0; it must lie in "),
        ("preprocess", {"mean": 0.5}, "is invalid ("),
        ("preprocess", {"colour": 1}, "is invalid ("),
        ("preprocess", {"mean": [0.5, 0.5]}, "is invalid (mean has 2 numbers and std 3;"),
    ],
)
def test_damaged_metadata_names_file_and_key(key, value, message, path):
    properties = describe().to_properties()
    if value is None:
        del properties[f"effnets.{key}"]
    elif isinstance(value, dict):
        properties[f"effnets.{key}"] = json.dumps({**json.loads(properties[f"effnets.{key}"]), **value})
    else:
        properties[f"effnets.{key}"] = value
    model = onnx.load(path)
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    with pytest.raises(WeightsError) as refusal:
        effnets.load_engine(path)
    assert str(refusal.value).startswith(f"{path}: its metadata is damaged: effnets.{key} {message}")
    assert str(refusal.value).endswith("; export the model again")


def test_damaged_metadata_end_a_command_in_one_line(tmp_path):
    path = write(tmp_path / "mean.onnx", describe(size=("a", "b")))
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "photo.png"), "--weights", str(path)])
    assert result.exit_code == 1
    assert "its metadata is damaged: effnets.size is ['a', 'b']" in " ".join(result.stderr.split())


def test_outputs_are_counted_as_far_as_the_shape_says(path):
    assert read_onnx_header(path)[1] == 4
    model = onnx.load(path)
    for name in ("name of a dimension", ""):
        dimension = model.graph.output[0].type.tensor_type.shape.dim[1]
        dimension.Clear()
        if name:
            dimension.dim_param = name
        onnx.save(model, path)
        assert read_onnx_header(path)[1] is None
        assert effnets.load_engine(path).labels == describe().labels
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert read_onnx_header(path)[1] is None


def test_properties_are_read_as_onnx_reads_them(path):
    assert read_onnx_header(path)[0] == describe().to_properties()


def test_mistakes(path, monkeypatch):
    with pytest.raises(ArgumentError, match="engine is 'tvm'; choose auto or one of onnxruntime"):
        effnets.load_engine(path, "tvm")
    with pytest.raises(ArgumentError, match=r"an ONNX file is executed by .* not by torch"):
        effnets.load_engine(path, "torch")
    with pytest.raises(ArgumentError, match="onnxruntime has no bfloat16; use the engine openvino"):
        effnets.load_engine(path, "onnxruntime", precision="bfloat16")
    with pytest.raises(ArgumentError, match="precision is 'int4'"):
        effnets.load_engine(path, precision="int4")
    with pytest.raises(ArgumentError, match="threads is 0"):
        effnets.load_engine(path, threads=0)
    with pytest.raises(EngineError, match="this onnxruntime has no CUDAExecutionProvider"):
        effnets.load_engine(path, "onnxruntime-cuda")
    monkeypatch.setattr(engine_module, "find_spec", lambda _: None)
    with pytest.raises(
        EngineError, match=r"onnxruntime is not installed; install it with: pip install 'effnets\[export"
    ):
        effnets.load_engine(path)


def test_a_gpu_that_fails_leaves_the_cpu(path, monkeypatch):
    monkeypatch.setattr(onnxruntime_engine, "has_gpu", lambda: True)  # a device, but no CUDA that starts
    with pytest.warns(RuntimeWarning, match="the GPU is not used: onnxruntime-cuda: this onnxruntime has no CUDA"):
        engine = effnets.load_engine(path)
    assert engine.name == "onnxruntime"
    assert engine(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 4)
    with pytest.raises(EngineError, match="this onnxruntime has no CUDAExecutionProvider"):
        effnets.load_engine(path, "onnxruntime-cuda")


class Session:
    """A session of ONNX Runtime on a GPU, which starts the providers that it is given, or drops the first."""

    starts = True

    def __init__(self, _model, _options, providers):
        self.asked = providers

    def get_providers(self):
        return [name for name, _ in self.asked][0 if self.starts else 1 :]

    def get_inputs(self):
        return [SimpleNamespace(name="images")]

    get_outputs = get_inputs


@pytest.mark.parametrize(
    ("name", "providers"),
    [
        ("onnxruntime-cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        ("onnxruntime-tensorrt", ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_engines_of_a_gpu_ask_for_its_providers(path, monkeypatch, name, providers):
    monkeypatch.setattr(onnxruntime_engine.onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime_engine.onnxruntime, "InferenceSession", Session)
    engine = effnets.load_engine(path, name)
    assert (engine.name, engine.on_gpu, engine.concurrent) == (name, True, False)
    assert [provider for provider, _ in engine._session.asked] == providers
    assert dict(engine._session.asked)["CUDAExecutionProvider"] == {"use_tf32": "0"}
    monkeypatch.setattr(Session, "starts", False)
    with pytest.raises(EngineError, match=f"{name}: onnxruntime could not start {providers[0]}; check that CUDA"):
        effnets.load_engine(path, name)
    monkeypatch.setattr(onnxruntime_engine.onnxruntime, "get_available_providers", lambda: providers[1:])
    with pytest.raises(EngineError, match=f"{name}: this onnxruntime has no {providers[0]}; install onnxruntime-gpu"):
        effnets.load_engine(path, name)


def test_predict_with_an_engine(path, tmp_path):
    Image.new("RGB", (60, 50), (0, 255, 0)).save(tmp_path / "green.png")
    engine = effnets.load_engine(path, threads=1)
    predictions = effnets.predict(engine, [tmp_path / "green.png", np.full((40, 40, 3), (0, 0, 255), np.uint8)], topk=2)
    assert [row[0].label for row in predictions] == ["green", "blue"]
    with pytest.raises(ArgumentError, match="input_size is 64, but mean was exported for 32×32"):
        effnets.predict(engine, tmp_path / "green.png", input_size=64)
    free = effnets.load_engine(write(tmp_path / "free.onnx", describe(size=None)), threads=1)
    assert effnets.predict(free, tmp_path / "green.png", input_size=64)[0][0].label == "green"


def test_a_file_for_any_size_states_the_usual_one(tmp_path):
    path = write(tmp_path / "free.onnx", describe(size=None, usual_size=(48, 40)))
    engine, shapes = effnets.load_engine(path, threads=1), []
    assert engine.description.image_size == (48, 40)
    run = engine._run
    engine._run = lambda images: shapes.append(images.shape) or run(images)
    effnets.predict(engine, np.zeros((60, 50, 3), np.uint8))
    assert shapes == [(1, 3, 48, 40)]
    # Files of old have no such property.
    properties = describe(size=None).to_properties()
    del properties["effnets.usual_size"]
    assert ModelMetadata.from_properties(properties, "x") == describe(size=None)


def test_the_command_needs_no_torch(path, tmp_path):
    Image.new("RGB", (60, 50), (0, 255, 0)).save(tmp_path / "green.png")
    program = (
        "import sys; from effnets.cli import main; main(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'torch', 'timm', 'onnx', 'huggingface_hub'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program, "predict", tmp_path / "green.png", "--weights", path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)
    assert rows[0]["predictions"][0]["label"] == "green"
    assert done.stderr.count("AssertionError") == 0


def test_labels_steer_no_terminal(tmp_path):
    path = write(tmp_path / "mean.onnx", describe(labels=("\x1b[2J", "green", "blue", "other")))
    Image.new("RGB", (60, 50), (255, 0, 0)).save(tmp_path / "red.png")
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "red.png"), "--weights", str(path)])
    assert "\\x1b[2J" in result.stdout
    assert "\x1b[2J" not in result.stdout


def test_usage_of_predict(path):
    result = CliRunner().invoke(main, ["predict", "a.jpg", "--weights", str(path), "--model", "mixnet_s"])
    assert (result.exit_code, "leave --model out" in result.stderr) == (2, True)
    result = CliRunner().invoke(main, ["predict", "a.jpg", "--model", str(path)])
    assert (result.exit_code, "an exported model goes to --weights" in " ".join(result.stderr.split())) == (2, True)
    result = CliRunner().invoke(main, ["predict", "a.jpg", "--weights", "w.safetensors"])
    assert (result.exit_code, "which network are they of? Add --model" in result.stderr) == (2, True)
