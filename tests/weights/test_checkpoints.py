"""Weights as training programs leave them: found with certainty, by every way in, with the same logits."""

from __future__ import annotations

import json
import os
import zipfile
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import effnets
from effnets.cli import main
from effnets.deploy.engine import load_engine
from effnets.errors import ArgumentError, WeightsError
from effnets.weights import inert
from effnets.weights.files import read_checkpoint
from effnets.weights.load import convert_weights
from tests.support import images, shake
from tests.support.checkpoints import (
    ARGUMENTS,
    averaged,
    foreign,
    framework_network,
    harmless,
    save_by_lightning,
    save_by_timm,
    save_by_torchvision,
    state_of,
    trained_optimizer,
    under,
)

NAME = "mobilenetv2_035"


@pytest.fixture(scope="module")
def networks():
    """A network and another, which stands for its average."""
    made = [shake(effnets.create_model(NAME, num_classes=5), size=64, seed=seed) for seed in (1, 2)]
    for seed, model in enumerate(made):
        torch.manual_seed(seed)
        nn.init.normal_(model.classifier.weight)
        model.class_names = ("a", "b", "c", "d", "e")
    return made


def saved(folder, content, name="w.pth"):
    (torch.save if name.endswith(".pth") else save_file)(content, folder / name)
    return folder / name


def compiled(model):
    """torchvision's network compiled within another module, and that in DataParallel."""
    return nn.DataParallel(nn.ModuleDict({"net": torch.compile(framework_network(model, "torchvision"))})).state_dict()


def sharded(model):
    """FSDP's names, where it wraps the whole and every block."""
    names = {name: name.replace("stages.", "stages._fsdp_wrapped_module.") for name in state_of(model)}
    return {f"_fsdp_wrapped_module.{names[name]}": tensor for name, tensor in state_of(model).items()}


def profiled(model):
    """What thop leaves in every module."""
    network = framework_network(model, "timm")
    for module in list(network.modules()):
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    return network.state_dict()


def beside_ema_hook(model):
    """mmcv's EMAHook: averages as buffers of the whole, dots in their names made underscores."""
    state = under("backbone.timm_model.", state_of(model, "timm"))
    return state | {f"ema_{name.replace('.', '_')}": tensor for name, tensor in state.items()}


def lightning_old(folder, model):
    """Lightning's before 1.5: callbacks by class, hyper-parameters of a class, a score at the top."""
    callback_name = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    attributes_name = "pytorch_lightning.utilities.parsing.AttributeDict"
    with foreign(callback_name) as (callback,), foreign(attributes_name, bases=(dict,)) as (attributes,):
        content = {
            "epoch": 1,
            "callbacks": {callback: {"best_model_score": torch.tensor(0.5)}},
            "checkpoint_callback_best_model_score": torch.tensor(0.5),
            "state_dict": under("model.", state_of(model, "timm")),
            "hyper_parameters": attributes(lr=1.0),
        }
        return saved(folder, content)


def lightning_by_hydra(folder, model):
    """Hyper-parameters as Hydra's classes."""
    names = ("omegaconf.dictconfig.DictConfig", "omegaconf.base.ContainerMetadata", "omegaconf.nodes.AnyNode")
    with foreign(*names) as (configuration, metadata, node):
        made = configuration()
        inner, value = metadata(), node()
        inner.__dict__.update(ref_type=Any, object_type=dict, optional=True)
        value.__dict__.update(_val=0.1, _parent=made)
        made.__dict__.update(_metadata=inner, _content={"lr": value}, _flags_cache=None)
        return save_by_lightning(folder, under("net.", state_of(model)), datamodule_hyper_parameters=made)


def lightning_beside(model):
    """A Lightning module with a loss and a metric."""
    beside = {"criterion.weight": torch.ones(5), "train_acc.tp": torch.zeros(5), "train_acc.fp": torch.zeros(5)}
    return under("net.", state_of(model, "timm")) | beside


def whole_floats(model):
    return {name: tensor.float() for name, tensor in state_of(model, "torchvision").items()}


# Each writes a file to a folder, given a network and its average.
CASES = {
    "timm_train": save_by_timm,
    "torchvision_reference": save_by_torchvision,
    "lightning_model": lambda f, m, _: save_by_lightning(f, under("model.", state_of(m, "timm"))),
    "lightning_any_name": lambda f, m, _: save_by_lightning(f, under("my_net.", state_of(m))),
    "lightning_loss_and_metric": lambda f, m, _: save_by_lightning(f, lightning_beside(m)),
    "lightning_compiled": lambda f, m, _: save_by_lightning(f, under("model._orig_mod.", state_of(m, "torchvision"))),
    "compile": lambda f, m, _: saved(f, torch.compile(m).state_dict()),
    "compile_in_ddp": lambda f, m, _: saved(f, {"state_dict": compiled(m), "epoch": 1}),
    "ddp_compile": lambda f, m, _: saved(f, under("module._orig_mod.", state_of(m, "timm"))),
    "ddp": lambda f, m, _: saved(f, nn.DataParallel(m).state_dict()),
    "fsdp": lambda f, m, _: saved(f, {"model": sharded(m)}),
    "profiler": lambda f, m, _: saved(f, profiled(m)),
    "float_counters": lambda f, m, _: saved(f, {"state_dict": whole_floats(m)}),
    "harmless_metadata": lambda f, m, _: saved(f, {"kept": harmless(), "state_dict": state_of(m), **harmless()}),
    "nested_wrappers": lambda f, m, _: saved(f, {"checkpoint": {"network": {"params": state_of(m)}}, "step": 1}),
    "safetensors": lambda f, m, _: saved(f, under("model.net.", state_of(m)), "w.safetensors"),
    # Imitations of files in public reports.
    "huggingface/pytorch-image-models#2003": lambda f, m, _: saved(
        f, {"arch": "x", "state_dict": under("_orig_mod.", state_of(m, "timm")), "args": ARGUMENTS, "metric": 1.0}
    ),
    "huggingface/pytorch-image-models#1349": lambda f, m, _: save_by_lightning(
        f, under("model.model.backbone.", state_of(m, "timm")) | {"model.model.box_net.weight": torch.ones(3)}
    ),
    "karpathy/nanoGPT#325": lambda f, m, _: saved(
        f, {"model": torch.compile(m).state_dict(), "iter_num": 3, "best_val_loss": torch.tensor(1.0)}
    ),
    "Lightning-AI/pytorch-lightning#4542": lambda f, m, _: lightning_old(f, m),
    "Lightning-AI/pytorch-lightning#20058": lambda f, m, _: lightning_by_hydra(f, m),
    "open-mmlab/mmdetection#4667": lambda f, m, _: saved(f, {"meta": {"epoch": 1}, "state_dict": beside_ema_hook(m)}),
    "deepmodeling/deepmd-kit#4147": lambda f, m, _: saved(
        f, {"model": state_of(m) | {"_extra_state": {"lr": np.float64(0.1)}}, "optimizer": {}}
    ),
    "Lyken17/pytorch-OpCounter#168": lambda f, m, _: saved(f, {"state_dict": under("module.", profiled(m))}),
} | {
    f"wrapper_{wrapper}": lambda f, m, _, wrapper=wrapper: saved(f, {wrapper: state_of(m, "timm"), "epoch": 1})
    for wrapper in ("model_state", "model_state_dict", "net", "network", "weights", "params", "teacher", "student")
}  # fmt: skip
AVERAGES = {
    "timm_train": save_by_timm,
    "torchvision_reference": save_by_torchvision,
    "averaged_model": lambda f, m, a: saved(f, {"net": state_of(m, "timm"), "x": averaged(m, a, "timm").state_dict()}),
    "sming256/OpenTAD#44": lambda f, m, a: saved(
        f, {"state_dict": under("module.", state_of(m)), "state_dict_ema": under("module.", state_of(a)), "epoch": 37}
    ),
    "lightning_attribute": lambda f, m, a: save_by_lightning(
        f, under("model.", state_of(m)) | under("model_ema.module.", state_of(a))
    ),
    "lightning_averaging": lambda f, m, a: save_by_lightning(
        f, under("net.", state_of(a)), current_model_state=under("net.", state_of(m)), averaging_state={"n_averaged": 3}
    ),
} | {
    wrapper: lambda f, m, a, wrapper=wrapper: saved(f, {"model": state_of(m), wrapper: under("module.", state_of(a))})
    for wrapper in ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "averaged_model")
}


def by_create_model(path, ema=False):
    return effnets.create_model(NAME, weights=path, ema=ema)


def by_load_weights(path, ema=False):
    model = effnets.create_model(NAME, num_classes=5)
    effnets.load_weights(model, path, ema=ema)
    return model


def by_convert_weights(path, ema=False):
    out = path.with_name("out.safetensors")
    convert_weights(path, out, model=NAME, to="effnets", ema=ema)
    return effnets.create_model(NAME, weights=out)


def by_cli_convert(path, ema=False):
    out = path.with_name("out.pth")
    arguments = ["convert", str(path), str(out), "--model", NAME, "--to", "timm", *(["--ema"] if ema else [])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return effnets.create_model(NAME, weights=out)


WAYS = pytest.mark.parametrize("way", [by_create_model, by_load_weights, by_convert_weights, by_cli_convert])


def require_same(loaded, model):
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(x), model(x), rtol=0, atol=0)


@WAYS
@pytest.mark.parametrize("case", CASES)
def test_loads(tmp_path, networks, case, way):
    require_same(way(CASES[case](tmp_path, *networks)), networks[0])


@WAYS
@pytest.mark.parametrize("case", AVERAGES)
def test_averaged(tmp_path, networks, case, way):
    path = AVERAGES[case](tmp_path, *networks)
    require_same(way(path), networks[0])
    require_same(way(path, ema=True), networks[1])


@pytest.fixture
def photos(tmp_path):
    draw = np.random.default_rng(0)
    for name in "abcde":
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        pixels = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "val" / name / "0.png")
    return tmp_path / "data"


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("case", ["timm_train", "torchvision_reference"])
def test_cli_predict(tmp_path, networks, photos, case, ema):
    path = AVERAGES[case](tmp_path, *networks)
    options = ["--model", NAME, "--weights", path, "--image-size", 64, "--json", *(["--ema"] if ema else [])]
    result = run("predict", photos / "val" / "a" / "0.png", *options)
    expected = effnets.predict(networks[ema], photos / "val" / "a" / "0.png", input_size=64)[0]
    first = json.loads(result.stdout)[0]["predictions"][0]
    assert first["probability"] == pytest.approx(expected[0].probability, abs=1e-6)
    note = "averaged weights chosen" if ema else "also holds averaged weights ("
    assert note in result.stderr


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("case", ["timm_train", "torchvision_reference"])
def test_cli_eval(tmp_path, networks, photos, case, ema):
    path = AVERAGES[case](tmp_path, *networks)
    options = ["--model", NAME, "--weights", path, "--image-size", 64, "--json", "-", *(["--ema"] if ema else [])]
    result = run("eval", photos, *options)
    expected = effnets.evaluate(networks[ema], photos, image_size=64)
    assert json.loads(result.stdout)["evaluations"][0]["loss"] == pytest.approx(expected.loss, abs=1e-5)
    assert ("averaged weights chosen" if ema else "also holds averaged weights (") in result.stderr


def test_cli_export_and_tune_take_ema(tmp_path, networks):
    path = save_by_timm(tmp_path, *networks)
    options = [NAME, tmp_path / "m.onnx", "--weights", path, "--image-size", 64, "--ema", "--engine", "onnxruntime"]
    run("export", *options)
    x = images(1, 3, 64, 64)
    answer = load_engine(tmp_path / "m.onnx", "onnxruntime")(x.numpy())
    np.testing.assert_allclose(answer, networks[1](x).detach().numpy(), rtol=1e-3, atol=1e-2)
    assert "ema=True chooses" in str(run("tune", NAME, "--ema", status=1).output)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "a.png", "--model", NAME, "--ema"),
        ("predict", "a.png", "--weights", "m.onnx", "--ema"),
        ("eval", "data", "--model", NAME, "--ema"),
        ("tune", NAME, "--weights", "random", "--ema"),
    ],
)
def test_cli_ema_needs_a_file(arguments):
    assert "--ema chooses among the weights in a file; give" in run(*arguments, status=2).output


def test_ema_needs_a_file():
    with pytest.raises(ArgumentError, match="ema=True chooses among the weights in a file; give one with weights="):
        effnets.create_model(NAME, pretrained=True, ema=True)
    with pytest.raises(ArgumentError, match=r"mixnet_s\.ft_in1k is published with one set of weights; leave ema out"):
        effnets.create_model("mixnet_s", weights="ft_in1k", ema=True)


def test_ema_of_a_file_without_averages(tmp_path, networks):
    path = saved(tmp_path, {"model": state_of(networks[0])})
    with pytest.raises(WeightsError, match=r"w\.pth: holds no averaged weights, only those at 'model'; leave ema"):
        effnets.create_model(NAME, weights=path, ema=True)


def test_only_averaged_weights_are_taken_with_a_note(tmp_path, networks):
    for content in ({"ema": state_of(networks[1])}, averaged(*networks, "timm").state_dict()):
        model = effnets.create_model(NAME, weights=saved(tmp_path, content))
        assert "averaged weights taken, as the file holds no others" in model.load_report.notes
        require_same(model, networks[1])


def test_the_report_says_where_and_what_was_left_out(tmp_path, networks):
    notes = effnets.create_model(
        NAME, weights=CASES["lightning_loss_and_metric"](tmp_path, *networks)
    ).load_report.notes
    assert "weights taken from 'state_dict' of the file" in notes
    assert "prefix 'net.' taken off their names" in notes
    assert "left out, as no part of the network: criterion.weight, train_acc.tp, train_acc.fp" in notes
    notes = effnets.create_model(NAME, weights=saved(tmp_path, profiled(networks[0]))).load_report.notes
    assert any("counts of a profiler (total_ops, total_params) left out" in note for note in notes)
    notes = effnets.create_model(NAME, weights=CASES["lightning_compiled"](tmp_path, *networks)).load_report.notes
    assert "'_orig_mod' taken out of the names" in notes


def test_two_networks_are_listed_rather_than_chosen(tmp_path, networks):
    states = [state_of(model, "timm") for model in networks]
    path = saved(tmp_path, {"student": states[0], "teacher": states[1]})
    message = (
        r"w\.pth: the file holds two networks, at 'student' and 'teacher'; save the one you want .*"
        r"torch\.save\(torch\.load\('.*w\.pth', weights_only=False\)\['teacher'\], \"plain\.pth\"\)"
    )
    with pytest.raises(WeightsError, match=message):
        effnets.create_model(NAME, weights=path)
    path = save_by_lightning(tmp_path, under("student.", states[0]) | under("net.teacher.", states[1]))
    with pytest.raises(WeightsError, match=r"at 'state_dict\.student' and 'state_dict\.net\.teacher'") as caught:
        effnets.create_model(NAME, weights=path)
    # The advice is a program that does what it says.
    line = str(caught.value).rpartition("trust this one: ")[2].replace("plain.pth", str(tmp_path / "plain.pth"))
    with foreign("lightning.fabric.utilities.data.AttributeDict", bases=(dict,)):
        exec(line, {"torch": torch})
    require_same(effnets.create_model(NAME, weights=tmp_path / "plain.pth"), networks[1])


def test_one_network_under_two_names_is_one(tmp_path, networks):
    state = state_of(networks[0])
    path = save_by_lightning(tmp_path, under("model.", state) | under("backbone.", state))
    require_same(effnets.create_model(NAME, weights=path), networks[0])


def test_a_fraction_is_no_counter(tmp_path, networks):
    state = whole_floats(networks[0])
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    for value in (1.5, float("nan"), 1e30):
        state[counter] = torch.tensor(value)
        with pytest.raises(WeightsError, match=r"num_batches_tracked is float32; .* counters whole numbers"):
            effnets.create_model(NAME, weights=saved(tmp_path, state))


def test_two_names_that_become_one(tmp_path, networks):
    state = state_of(networks[0]) | {"stem._orig_mod.conv.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"w\.pth: two of its tensors are stem\.conv\.weight; the file is a mixture"):
        effnets.create_model(NAME, weights=saved(tmp_path, state))


def refused(path, *, found, way):
    """The refusal's text, once its line has made a plain file, which is loaded."""
    with pytest.raises(WeightsError) as caught:
        effnets.create_model(NAME, weights=path)
    message = str(caught.value)
    assert f"{path}: refused: it holds {found}, and its code will not be run; where you trust the file, make" in message
    line = message.rpartition("make a plain one of it: ")[2]
    assert line == f'torch.save({way.format(f"{str(path)!r}")}, "plain.pth")'
    plain = path.with_name("plain.pth")
    exec(line.replace("plain.pth", str(plain)), {"torch": torch})
    return effnets.create_model(NAME, weights=plain)


def test_whole_modules_are_refused_with_the_line_that_helps(tmp_path, networks):
    network = framework_network(networks[0], "torchvision")
    module = partial(refused, found="a torchvision.models.mobilenetv2.MobileNetV2, a whole module")
    path = saved(tmp_path, network)
    require_same(module(path, way="torch.load({}, weights_only=False).state_dict()"), networks[0])
    path = saved(tmp_path, {"epoch": 3, "model": network, "optimizer": None})
    require_same(module(path, way='torch.load({}, weights_only=False)["model"].state_dict()'), networks[0])


def test_a_loss_among_the_hyper_parameters_is_refused_with_the_line_that_helps(tmp_path, networks):
    state = under("model.", state_of(networks[0]))
    path = saved(tmp_path, {"state_dict": state, "hyper_parameters": {"criterion": nn.MSELoss()}})
    found = "a torch.nn.modules.loss.MSELoss, a whole module"
    require_same(refused(path, found=found, way='torch.load({}, weights_only=False)["state_dict"]'), networks[0])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda n: {"optimizer": trained_optimizer(n)}, "torch.optim.adamw.AdamW"),
        (lambda _: {"pipeline": os.path.join}, "posixpath.join"),
    ],
    ids=["materialyzeai/matgl#802", "function"],
)
def test_objects_of_other_types_are_refused_with_the_line_that_helps(tmp_path, networks, content, found):
    network = framework_network(networks[0], "timm")
    path = saved(tmp_path, {"hyper_parameters": content(network), "state_dict": network.state_dict()})
    way = 'torch.load({}, weights_only=False)["state_dict"]'
    require_same(refused(path, found=found, way=way), networks[0])


def test_programs_permissions_are_kept_and_not_used(tmp_path, networks):
    """What a program lets torch construct is constructed in no file of ours, and allowed to it again afterwards."""

    class Trap:
        def __new__(cls, *_arguments):
            raise AssertionError("constructed")

    torch.serialization.add_safe_globals([(Trap, "argparse.Namespace")])
    try:
        before = set(torch.serialization.get_safe_globals())
        path = CASES["harmless_metadata"](tmp_path, *networks)
        assert len(read_checkpoint(path).tensors) == 314
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before - {(Trap, "argparse.Namespace")}))


def test_every_stub_stands_for_its_type(tmp_path):
    """Types of all packages and Pythons that are known to be harmless, called and filled as pickles do."""
    names = [name for table in (inert._LISTS, inert._MAPPINGS, inert._OBJECTS) for name in table]
    assert {"argparse.Namespace", "pathlib._local.PosixPath", "numpy.core.multiarray.scalar"} <= set(names)
    given = b""
    for name in [*names, "numpy.dtypes.Float64DType"]:
        module, _, attribute = name.rpartition(".")
        type_ = f"c{module}\n{attribute}\n".encode()
        fill = b"" if name in inert._LISTS else b"}X\x01\x00\x00\x00bK\x01sb"
        given += type_ + type_ + b"K\x01\x85R" + fill + type_ + b")\x81" + fill
    path = saved(tmp_path, {"model": {"a.weight": torch.ones(3)}, "more": "here"})
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    place = next(name for name in records if name.endswith("data.pkl"))
    assert b"X\x04\x00\x00\x00here" in records[place]
    records[place] = records[place].replace(b"X\x04\x00\x00\x00here", b"](" + given + b"e")
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert torch.equal(read_checkpoint(path).tensors["a.weight"], torch.ones(3))
