"""What the registry says of others' weights is what those others say: timm, torchvision, transformers, Keras."""

from __future__ import annotations

import math
from unittest.mock import Mock

import pytest

import effnets
from effnets.spec.models import list_models, load_spec
from effnets.spec.specs import WeightsSpec
from effnets.spec.weights import find_weights, list_weights
from tests.support import error_between, images, shake

WEIGHTS = [find_weights(name) for name in list_models(pretrained=True)]


def of(dialect: str) -> list[WeightsSpec]:
    return [weights for weights in WEIGHTS if weights.dialect == dialect]


def timm_name(weights: WeightsSpec) -> str:
    assert weights.repo is not None
    assert weights.repo.startswith("timm/")
    return weights.repo.removeprefix("timm/")


def test_every_dialect_is_compared():
    counts = {dialect: len(of(dialect)) for dialect in {weights.dialect for weights in WEIGHTS}}
    assert counts == {"timm": 28, "torchvision": 2, "transformers": 6, "keras": 38, "effnets": 1}


@pytest.mark.parametrize("weights", of("timm"), ids=timm_name)
def test_timm_says_the_same(weights):
    timm_models = pytest.importorskip("timm.models")
    cfg = timm_models.get_pretrained_cfg(timm_name(weights))
    assert cfg.hf_hub_id == weights.repo
    assert weights.file == "model.safetensors"
    assert (cfg.num_classes, cfg.license) == (weights.num_classes, weights.licence)
    assert (cfg.crop_mode, cfg.fixed_input_size, cfg.custom_load) == ("center", False, False)
    preprocess = weights.preprocess
    sides = [None if size is None else (3, size, size) for size in (preprocess.input_size, preprocess.test_input_size)]
    assert [cfg.input_size, cfg.test_input_size] == sides
    assert (cfg.crop_pct, cfg.test_crop_pct) == (preprocess.crop_pct, preprocess.test_crop_pct)
    assert (cfg.interpolation, cfg.mean, cfg.std) == (preprocess.interpolation, preprocess.mean, preprocess.std)
    assert not weights.background


def test_every_timm_checkpoint_of_these_families_is_registered():
    timm = pytest.importorskip("timm")
    families = ("mixnet*", "tf_mixnet*", "rexnet*", "mobilenetv1*", "mobilenetv2*")
    published = {name for family in families for name in timm.list_pretrained(family)}
    assert len(published) == 24
    assert published == {timm_name(weights) for weights in of("timm")} & published
    assert published == {weights.name for weights in of("timm")} & published


def test_timms_default_is_the_default():
    timm_models = pytest.importorskip("timm.models")
    for weights in of("timm"):
        architecture = timm_name(weights).partition(".")[0]
        if architecture == weights.model:
            assert find_weights(weights.model).tag == timm_models.get_pretrained_cfg(architecture).tag


@pytest.mark.parametrize("weights", of("timm"), ids=timm_name)
def test_timm_builds_the_same_network_for_them(weights, monkeypatch):
    """Epsilon, padding and activation, as timm makes them when it is asked for pretrained weights."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    monkeypatch.setattr("timm.models._builder.load_pretrained", Mock())
    with torch.device("meta"):
        model = timm.create_model(timm_name(weights), pretrained=True)
    spec = load_spec(weights.name)
    modules = list(model.modules())
    assert {module.eps for module in modules if isinstance(module, torch.nn.BatchNorm2d)} == {spec.bn_eps}
    assert (spec.padding == "same") == any(type(module).__name__ == "Conv2dSame" for module in modules)
    if spec.activation == "relu6":
        assert any(isinstance(module, torch.nn.ReLU6) for module in modules)
    assert model.num_classes == spec.num_classes


@pytest.mark.parametrize("name", ["efficientnet_lite0.tf_in1k", "fbnet_c.rmsp_in1k", "rexnetr_200.sw_in12k"])
def test_overrides_give_timms_logits(name, monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    monkeypatch.setattr("timm.models._builder.load_pretrained", Mock())
    theirs = shake(timm.create_model(timm_name(find_weights(name)), pretrained=True), size=128)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = effnets.create_model(load_spec(name), weights=tmp_path / "w.pth").eval()
    x = images(1, 3, 161, 160)
    with torch.no_grad():
        assert error_between(theirs(x), ours(x)) <= 1e-4
    bare = effnets.create_model(load_spec(name).name, weights=tmp_path / "w.pth").eval()
    with torch.no_grad():  # without the tag's overrides the network is another, where there are any
        seen = error_between(theirs(x), bare(x)) > 1e-3
    assert seen == (find_weights(name).bn_eps is not None)


@pytest.mark.parametrize(("tag", "member"), [("tv_in1k", "IMAGENET1K_V1"), ("tv2_in1k", "IMAGENET1K_V2")])
def test_torchvision_says_the_same(tag, member):
    models = pytest.importorskip("torchvision.models")
    theirs, weights = models.MobileNet_V2_Weights[member], find_weights(f"mobilenetv2_100.{tag}")
    assert theirs.url == weights.source
    assert weights.sha256_prefix == weights.file.removesuffix(".pth").rpartition("-")[2]
    metrics = theirs.meta["_metrics"]["ImageNet-1K"]
    assert (metrics["acc@1"], metrics["acc@5"]) == (weights.top1, weights.top5)
    transforms, preprocess = theirs.transforms(), weights.preprocess
    assert transforms.crop_size == [preprocess.input_size]
    assert transforms.resize_size == [math.floor(preprocess.input_size / preprocess.crop_pct)]
    assert transforms.interpolation.value == preprocess.interpolation
    assert (tuple(transforms.mean), tuple(transforms.std)) == (preprocess.mean, preprocess.std)
    assert len(theirs.meta["categories"]) == weights.num_classes


@pytest.mark.parametrize("weights", of("transformers"), ids=lambda weights: weights.source)
def test_transformers_says_the_same(weights):
    pytest.importorskip("torchvision")
    transformers = pytest.importorskip("transformers")
    _, version, width, size = weights.source.rpartition("/")[2].split("_")
    assert weights.model == f"tf_mobilenet{version}_{round(100 * float(width)):03}"
    preprocess = weights.preprocess
    assert preprocess.input_size == int(size)
    # transformers' conversion script: MobileNetV1ImageProcessor(crop_size=image_size, size=image_size + 32).
    assert math.floor(preprocess.input_size / preprocess.crop_pct) == int(size) + 32
    processor = getattr(transformers, f"MobileNet{version.upper()}ImageProcessor")
    assert processor.resample.name.lower() == preprocess.interpolation
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == (preprocess.mean, preprocess.std)
    config = getattr(transformers, f"MobileNet{version.upper()}Config")()
    assert config.layer_norm_eps == load_spec(weights.name).bn_eps == 1e-3
    assert config.tf_padding
    assert (config.hidden_act, load_spec(weights.name).padding, load_spec(weights.name).activation) == (
        "relu6",
        "same",
        "relu6",
    )
    assert (weights.num_classes, weights.background) == (1001, True)


# As keras/src/applications/mobilenet.py and mobilenet_v2.py put their URLs together.
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
KERAS_URLS = {
    f"tf_mobilenetv1_{round(100 * alpha):03}.keras_r{rows}_in1k": f"{KERAS}/mobilenet/mobilenet_{text}_{rows}_tf.h5"
    for alpha, text in ((0.25, "2_5"), (0.50, "5_0"), (0.75, "7_5"), (1.0, "1_0"))
    for rows in (128, 160, 192, 224)
} | {
    f"tf_mobilenetv2_{round(100 * alpha):03}.keras_r{rows}_in1k": (
        f"{KERAS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_{rows}.h5"
    )
    for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
    for rows in ((96, 128, 160, 192, 224) if alpha <= 1 else (224,))
}


def test_the_whole_grid_of_keras_is_there():
    assert {weights.name: weights.source for weights in of("keras")} == KERAS_URLS


@pytest.mark.parametrize("name", KERAS_URLS)
def test_keras_weights_are_tensorflows(name):
    spec = load_spec(name)
    assert (spec.padding, spec.bn_eps, spec.activation, spec.num_classes) == ("same", 1e-3, "relu6", 1000)
    assert spec.preprocess.mean == spec.preprocess.std == (0.5,) * 3
    assert f"_r{spec.input_size}_" in name


def test_keras_pads_like_same_at_every_size_it_publishes():
    """Its stride-2 layers pad (0, 1), which SAME does at even sizes only."""
    for name in KERAS_URLS:
        size = load_spec(name).input_size
        assert all(size // stride % 2 == 0 for stride in (1, 2, 4, 8, 16)), name


def test_what_needs_no_extra_dependency_comes_first():
    for weights in of("transformers"):
        if weights.preprocess.input_size == 224:
            assert list_weights(weights.model)[0] == weights.tag
