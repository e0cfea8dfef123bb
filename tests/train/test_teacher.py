"""Teachers of every kind: what the student learns of them, exact resumption, and what they cannot give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import timm
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

import effnets
from effnets.data import open_data
from effnets.engines.metadata import ModelMetadata
from effnets.inference.transform import create_transform
from effnets.spec.specs import PreprocessSpec
from effnets.train.checkpoint import load_state
from effnets.train.model import build_model
from effnets.train.recipe import Recipe
from effnets.train.teacher import ProjectedStudent, load_teacher
from tests.support import images, shake
from tests.support.drawn_classes import CLASSES
from tests.support.interrupting import Interrupting

WIDE = """
wide:
  stem: 8
  activation: relu
  num_classes: 3
  input_size: 32
  head: 40
  blocks:
    - ds_r1_k3_s1_e1_c12
    - ir_r1_k3_s2_e2_c20
    - ir_r1_k3_s2_e2_c24
"""
TIMM = "timm:test_efficientnet"  # of 0.36 M parameters


@pytest.fixture(scope="module")
def wide(folder):
    """A folder with a network that has other widths than the student."""
    (folder / "wide.yaml").write_text(WIDE)
    torch.manual_seed(3)
    network = shake(effnets.create_model(folder / "wide.yaml"), size=32, seed=3)
    network.class_names = CLASSES
    network.spec = replace(network.spec, preprocess=replace(network.spec.preprocess, mean=(0.5,) * 3, std=(0.25,) * 3))
    effnets.save_pretrained(network, folder / "wide")
    return folder / "wide"


@pytest.fixture
def student(recipe):
    torch.manual_seed(0)
    student = shake(effnets.create_model(recipe.model), size=32, seed=1)
    student.class_names = CLASSES
    return student


def write_onnx(path, outputs, size=32):
    """An ONNX file that puts out parts of its pooled input, with effnets' metadata."""
    nodes = [helper.make_node("GlobalAveragePool", ["images"], ["pooled"])]
    nodes += [helper.make_node("Flatten", ["pooled"], [name]) for name in outputs]
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, size, size])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in outputs]
    graph = helper.make_graph(nodes, "pooling", [taken], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    preprocess = PreprocessSpec(mean=(0.0,) * 3, std=(1.0,) * 3)
    metadata = ModelMetadata(model="x", family="x", labels=CLASSES[::-1], preprocess=preprocess, size=(size, size))
    helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, path)
    return str(path)


def cosine(network, projection, teacher, source):
    """Mean cosine of the projected embeddings with the teacher's, each less its mean: a constant learns nothing."""
    transform = create_transform(network)
    batch = torch.stack([transform(source.image(index)) for index in range(len(source))])
    with torch.no_grad():
        ours, theirs = projection(network.eval().hidden(network.pool(network.forward_features(batch)))), teacher(batch)
    return F.cosine_similarity(ours - ours.mean(0), theirs - theirs.mean(0)).mean().item()


@pytest.mark.usefixtures("wide")
def test_an_embedding_is_learned_and_no_trace_of_it_is_saved(folder, trained, recipe, tmp_path):
    taught = replace(recipe, model=str(folder / "wide.yaml"), teacher=str(trained.folder), teacher_share=0.9)
    taught = replace(taught, distillation_type="embedding", distillation_normalize=True)
    run = effnets.finetune(taught, folder / "data", tmp_path / "run")
    losses = [row["train_loss"] for row in run.metrics["epochs"][1:]]
    assert losses[-1] < 0.6 * losses[0]
    state, source, network = load_state(run.folder / "last"), open_data(folder / "data").val, run.load()
    names = set(network.state_dict())
    assert names == set(effnets.create_model(taught.model).state_dict())
    assert names == set(state["network"]) == set(state["average"]) == set(state["best"])
    shapes = {name: tuple(value.shape) for name, value in state["projection"].items()}
    assert shapes == {"1.weight": (24, 40), "1.bias": (24,)}
    torch.manual_seed(0)
    teacher = load_teacher(taught, network)
    untrained = cosine(effnets.create_model(taught.model), teacher.projection, teacher, source)
    network.load_state_dict(state["network"])
    teacher.projection.load_state_dict(state["projection"])
    assert cosine(network, teacher.projection, teacher, source) > untrained + 0.4


@pytest.mark.parametrize("kind", ["embedding", "features"])
def test_a_resumed_training_with_a_projection_ends_with_the_same_bits(folder, recipe, wide, tmp_path, kind):
    stage = 1 if kind == "features" else None
    taught = replace(
        recipe,
        teacher=str(wide),
        distillation_type=kind,
        distillation_stage=stage,
        clip_grad=1.0,
        epochs=3,
        epoch_repeats=1,
    )
    undisturbed = effnets.finetune(taught, folder / "data", tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        effnets.finetune(taught, folder / "data", tmp_path / "run", callbacks=[Interrupting()])
    resumed = effnets.finetune(taught, folder / "data", tmp_path / "run", resume=True)
    states = [load_state(run.folder / "last") for run in (undisturbed, resumed)]
    for part in ("network", "average", "projection", "best"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items()), part
    moments = [state["optimizer"]["state"] for state in states]
    assert len(moments[0]) == len(moments[1]) > 0
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])


def test_a_students_embedding_is_that_before_dropout_and_its_stage_that_of_the_module(student, wide):
    x = images(2, 3, 32, 32)
    recipe = Recipe(model="tiny", teacher=str(wide), distillation_type="embedding")
    teacher = load_teacher(recipe, student)
    student.dropout.p = 0.9
    student.eval()
    student.dropout.train()
    logits, projected = ProjectedStudent(student, teacher)(x)
    pooled = student.pool(student.forward_features(x)).flatten(1)
    assert torch.equal(projected, teacher.projection(pooled))
    assert logits.shape == (2, 3)
    teacher = load_teacher(replace(recipe, distillation_type="features", distillation_stage=1), student)
    maps = student.stages[1](student.stages[0](student.stem(x)))
    assert torch.equal(ProjectedStudent(student, teacher)(x)[1], teacher.projection(maps))
    assert not any(module._forward_hooks for module in student.modules())
    network = effnets.create_model(wide, pretrained=True).eval()
    seen = x * teacher.scale + teacher.shift
    assert torch.allclose(teacher(x), network.stages[1](network.stages[0](network.stem(seen))))


def save_timm(folder):
    torch.manual_seed(5)
    network = timm.create_model(TIMM.removeprefix("timm:"), num_classes=3).eval()
    torch.save(network.state_dict(), folder / "timm.pth")
    return network, str(folder / "timm.pth")


def test_a_timm_network_teaches(folder, recipe, student, tmp_path):
    network, file = save_timm(tmp_path)
    x = images(2, 3, 32, 32)
    ours = student.spec.preprocess
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    seen = (x * torch.tensor(ours.std).view(-1, 1, 1) + torch.tensor(ours.mean).view(-1, 1, 1) - mean) / std
    base = Recipe(model="tiny", teacher=TIMM, teacher_weights=file)
    expected = {
        "logits": network(seen),
        "embedding": network.forward_head(network.forward_features(seen), pre_logits=True),
        "features": network.forward_intermediates(seen, intermediates_only=True)[2],
    }
    for kind, wanted in expected.items():
        teacher = load_teacher(replace(base, distillation_type=kind), student)
        assert torch.allclose(teacher(x), wanted, atol=1e-4), kind
    taught = replace(recipe, teacher=TIMM, teacher_weights=file, distillation_type="features", epochs=1)
    run = effnets.finetune(taught, folder / "data", tmp_path / "run")
    assert 0 <= run.best_top1 <= 100


def test_an_onnx_file_teaches(folder, recipe, student, tmp_path):
    x = images(2, 3, 32, 32)
    base = Recipe(model="tiny", teacher=write_onnx(tmp_path / "t.onnx", ("logits", "embedding")))
    ours = student.spec.preprocess
    pixels = x * torch.tensor(ours.std).view(-1, 1, 1) + torch.tensor(ours.mean).view(-1, 1, 1)
    assert torch.allclose(load_teacher(base, student)(x), pixels.mean((2, 3)).flip(1), atol=1e-5)  # by the labels
    teacher = load_teacher(replace(base, distillation_type="embedding"), student)
    assert torch.allclose(teacher(x), pixels.mean((2, 3)), atol=1e-5)
    assert teacher.projection[1].weight.shape == (3, 24)
    taught = replace(recipe, teacher=base.teacher, distillation_type="embedding", epochs=1)
    run = effnets.finetune(taught, folder / "data", tmp_path / "run")
    assert np.isfinite(run.metrics["epochs"][1]["train_loss"])


def test_a_gray_student_has_a_teacher_of_colors(wide, recipe):
    student = effnets.create_model(recipe.model, in_chans=1)
    student.class_names = CLASSES
    network = effnets.create_model(wide, pretrained=True).eval()
    gray = torch.rand(2, 1, 32, 32)
    ours = student.spec.preprocess.for_channels(1)
    seen = (gray - ours.mean[0]) / ours.std[0]
    answer = load_teacher(Recipe(model="tiny", teacher=str(wide)), student)(seen)
    assert torch.allclose(answer, network((gray.expand(-1, 3, -1, -1) - 0.5) / 0.25), atol=1e-4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with an exported file, and weights of timm's networks."""
    folder = tmp_path_factory.mktemp("files")
    write_onnx(folder / "logits.onnx", ("logits",))
    for name, classes in (("test_efficientnet", 5), ("test_vit", 3)):
        torch.save(timm.create_model(name, num_classes=classes).state_dict(), folder / f"{name}.pth")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "timm:nope"}, r"teacher timm:nope: timm cannot load its published weights \(Unknown model"),
        ({"teacher": TIMM, "teacher_weights": "test_vit.pth"}, r"timm cannot load .*test_vit.pth \(Error\(s\) in"),
        (
            {"teacher": TIMM, "teacher_weights": "none.pth"},
            r"timm cannot load .*none.pth \(FileNotFoundError\); check its name",
        ),
        (
            {"teacher": TIMM, "teacher_weights": "test_efficientnet.pth"},
            "has 5 outputs without names for 3 classes; fine-tune it",
        ),
        (
            {"teacher": "timm:test_vit", "teacher_weights": "test_vit.pth", "distillation_type": "features"},
            "gives maps of the reductions 16, .* and stage 2 of .*tiny.yaml has the reduction 8; set another",
        ),
        (
            {"distillation_type": "features", "distillation_stage": 3},
            "distillation_stage is 3, .* has the stages 0 to 2",
        ),
        (
            {"distillation_type": "features", "distillation_stage": 1, "freeze": "2"},
            "freeze is 2, so that nothing learns",
        ),
        ({"in_chans": 4}, "takes images of 3 channels, and the student of 4; name another"),
        (
            {"teacher": "logits.onnx", "distillation_type": "embedding"},
            "has the outputs logits, and no embedding; export",
        ),
        ({"teacher": "logits.onnx", "distillation_type": "features"}, "exported file, which has no feature maps; name"),
        ({"teacher": "logits.onnx", "teacher_weights": "x"}, "exported file, which takes no teacher_weights; name"),
        (
            {"teacher": "logits.onnx", "image_size": 48},
            r"cannot process what the student sees, images of 48 x 48 pixels \(images is .*\); set image_size to what",
        ),
    ],
)
def test_what_a_teacher_cannot_give_is_refused(wide, recipe, files, changes, message):
    taught = replace(recipe, **{"teacher": str(wide), **changes})
    for name in ("teacher", "teacher_weights"):
        if (file := files / str(getattr(taught, name))).suffix in (".pth", ".onnx"):
            taught = replace(taught, **{name: str(file)})
    student, _ = build_model(taught, CLASSES)
    with pytest.raises(effnets.TrainingError, match=message):
        load_teacher(taught, student)


def test_refusals_leave_no_folder(folder, recipe, files, tmp_path):
    taught = replace(recipe, teacher=str(files / "logits.onnx"), distillation_type="embedding")
    with pytest.raises(effnets.TrainingError, match="no embedding"):
        effnets.finetune(taught, folder / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()
