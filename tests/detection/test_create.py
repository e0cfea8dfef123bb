"""`create_detector`: every kind, backbones of all sorts, what is frozen, and what is refused."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

import effnets
from effnets.detection.detector import detector_of
from effnets.errors import ArgumentError, EngineError, UnknownModelError
from effnets.nn.freeze import FrozenBatchNorm2d
from tests.support import SHARED, needs_shared
from tests.support.detectors import CLASSES, KINDS, pictures, small_detector, targets
from tests.support.networks import ONE_A_FAMILY, create, create_features

BASES = {"ssdlite": SSD, "faster_rcnn": FasterRCNN, "retinanet": RetinaNet}


@pytest.mark.parametrize("kind", KINDS)
def test_torchvisions_interface(kind):
    detector = small_detector(kind)
    assert isinstance(detector, BASES[kind])
    assert isinstance(detector, effnets.Detector)
    assert detector.training
    losses = detector(pictures(), targets())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    with torch.no_grad():
        found = detector.eval()(pictures())
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*ONE_A_FAMILY, "tf_mobilenetv2_100"])
@pytest.mark.full
def test_every_family_trains_a_step(name, kind):
    detector = small_detector(kind, name)
    losses = detector(pictures(), targets())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in detector.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_boxes_trains(kind):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = small_detector(kind)(pictures(), [targets()[0], empty])
    assert all(loss.isfinite() for loss in losses.values())


def test_images_are_normalized_as_the_backbone_wants():
    assert small_detector(backbone="tf_mobilenetv1_025").transform.image_mean == [0.5, 0.5, 0.5]
    detector = effnets.create_detector(create("mobilenetv1_025", mean=0.25, std=0.2), "ssdlite", num_classes=2)
    assert detector.transform.image_mean == [0.25] * 3
    assert detector.transform.image_std == [0.2] * 3


def test_sizes():
    assert small_detector(image_size=None).transform.fixed_size == (320, 320)
    detector = small_detector("retinanet", image_size=320)
    assert (detector.transform.min_size, detector.transform.max_size) == ((320,), 533)
    assert small_detector("faster_rcnn", image_size=None).settings.max_size == 1333


def test_thresholds_reach_torchvision():
    given = {"score_threshold": 0.3, "nms_threshold": 0.4, "max_detections": 7}
    ssd = small_detector(**given)
    assert (ssd.score_thresh, ssd.nms_thresh, ssd.detections_per_img) == (0.3, 0.4, 7)
    heads = small_detector("faster_rcnn", **given).roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.3, 0.4, 7)


def test_a_network_becomes_part_of_it():
    pyramid = create_features("mobilenetv2_035", out_indices=(1, 2, 3, 4))
    detector = small_detector("faster_rcnn", pyramid)
    assert detector.body is pyramid
    assert detector.settings.reductions == (4, 8, 16, 32)
    assert detector.eval()(pictures())[0].keys() == {"boxes", "labels", "scores"}


def test_a_pyramid_without_head_convolution():
    detector = small_detector("ssdlite", create_features("mobilenetv2_035"))
    assert isinstance(detector.body.head, nn.Identity)
    assert detector.backbone.out_channels[1] == 112
    assert detector.spec.head == 0
    assert detector.eval()(pictures())


def test_class_names_and_num_classes():
    detector = small_detector(class_names=list(CLASSES))
    assert detector.class_names == CLASSES
    assert detector.num_classes == 4
    assert small_detector().class_names is None


def test_freeze():
    detector = small_detector(backbone="mobilenetv2_035", freeze="backbone")
    assert not any(parameter.requires_grad for parameter in detector.body.parameters())
    assert all(parameter.requires_grad for parameter in detector.backbone.extras.parameters())
    norms = [part for part in detector.body.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)
    before = [norm.running_mean.clone() for norm in norms]
    detector.train()(pictures(), targets())
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    partly = small_detector("retinanet", freeze=2)
    assert not partly.body.stages[1][0].project.conv.weight.requires_grad
    assert partly.body.stages[2][0].project.conv.weight.requires_grad


def test_fixed_statistics():
    body = small_detector(bn="eval").body
    norms = [part for part in body.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(isinstance(norm, FrozenBatchNorm2d) and norm.weight.requires_grad for norm in norms)
    assert not any(isinstance(part, FrozenBatchNorm2d) for part in small_detector().modules())


@needs_shared
def test_weights_without_statistics_keep_their_function():
    weights = SHARED / "weights" / "tf_mobilenetv1_025_128.timm.safetensors"
    detector = small_detector(backbone="tf_mobilenetv1_025", weights=weights)
    assert detector.body.load_report is not None
    norms = [part for part in detector.body.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)
    released = small_detector(backbone="tf_mobilenetv1_025", weights=weights, bn="train")
    assert not any(isinstance(part, FrozenBatchNorm2d) for part in released.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "yolo"}, "kind is 'yolo'; choose one of ssdlite, faster_rcnn, retinanet"),
        ({"num_classes": 1}, "num_classes is 1; as in torchvision it includes the background"),
        ({"image_size": 16}, "image_size is 16"),
        ({"image_size": 10_000}, "image_size is 10000; it must lie in 32..8192"),
        ({"image_size": (320, 320)}, "image_size is .*; give a side"),
        ({"score_threshold": 1.5}, "score_threshold is 1.5; it must lie in 0..1"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"fpn_channels": 4}, "fpn_channels is 4"),
        (
            {"class_names": ["background", *CLASSES]},
            "class_names has 4 names for 3 classes; .* none for the background",
        ),
        ({"class_names": "cat"}, "class_names has 3 names for 3 classes; give one text"),
        ({"bn": "frozen"}, "bn is 'frozen'; choose train or eval"),
        ({"freeze": 99}, "until is 99"),
        ({"backbone": "mobilenetv2_100_32px"}, "SSDLite needs 16 and 32"),
        ({"backbone": nn.Identity()}, "backbone is a Identity; give a name, or a network that create_model built"),
    ],
)
def test_refusals(arguments, message):
    given = {"kind": "ssdlite", "backbone": "mobilenetv1_025", **arguments}
    with pytest.raises(ArgumentError, match=message):
        small_detector(given.pop("kind"), given.pop("backbone"), **given)


def test_refused_networks():
    with pytest.raises(ArgumentError, match="retinanet needs one built with features_only=True"):
        small_detector("retinanet", create("mobilenetv1_025"))
    with pytest.raises(ArgumentError, match="leave pretrained and weights out"):
        small_detector("ssdlite", create("mobilenetv1_025"), pretrained=True)
    with pytest.raises(ArgumentError, match="takes 1 channels, and detectors take RGB"):
        small_detector("ssdlite", create("mobilenetv1_025", in_chans=1))
    with pytest.raises(ArgumentError, match="the maps have the reductions 4, 16, and a detector needs two or more"):
        small_detector("retinanet", create_features("mobilenetv1_025", out_indices=(1, 3)))
    with pytest.raises(UnknownModelError, match="mobilenetv9"):
        small_detector("ssdlite", "mobilenetv9_100")
    with pytest.raises(ArgumentError, match="model is a Classifier; give a detector that create_detector built"):
        detector_of(create("mobilenetv1_025"))


def test_without_torchvision(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "effnets.detection.create.find_spec", lambda name: None if name == "torchvision" else found(name)
    )
    with pytest.raises(EngineError, match=r"detectors need torchvision; install with: pip install 'effnets\[train\]'"):
        small_detector()
