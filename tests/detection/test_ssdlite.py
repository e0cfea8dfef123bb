"""SSDLite beside torchvision's: anchors, predictors, extras, losses and postprocessing on the same tensors."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssdlite import SSDLiteHead as TorchvisionHead
from torchvision.models.detection.ssdlite import _extra_block

import effnets
from effnets.detection.ssdlite import SSDAnchors
from tests.support.detectors import pictures, shaken_detector, small_detector, targets
from tests.support.networks import create


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy weights between modules of one order and other names."""
    values = list(source.state_dict().values())
    assert [value.shape for value in values] == [value.shape for value in target.state_dict().values()]
    target.load_state_dict(dict(zip(target.state_dict(), values, strict=True)))


def randomize(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


@pytest.fixture(scope="module")
def theirs():
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()


def test_the_predictors_compute_what_torchvisions_do():
    ours = small_detector(image_size=320)
    channels = ours.backbone.out_channels
    norm = partial(nn.BatchNorm2d, eps=ours.spec.bn_eps)
    head = randomize(TorchvisionHead(channels, ours.anchor_generator.num_anchors_per_location(), 4, norm))
    copy_in_order(head, ours.head)
    maps = [torch.randn(2, count, side, side) for count, side in zip(channels, (20, 10, 5, 3, 2, 1), strict=True)]
    for name, value in ours.head.eval()(maps).items():
        torch.testing.assert_close(value, head(maps)[name])


def test_the_extras_compute_what_torchvisions_do():
    ours = small_detector(image_size=320)
    channels = ours.backbone.out_channels
    norm = partial(nn.BatchNorm2d, eps=ours.spec.bn_eps)
    x = torch.randn(2, channels[1], 10, 10)
    for extra, inputs, outputs in zip(ours.backbone.extras, channels[1:], channels[2:], strict=False):
        block = randomize(_extra_block(inputs, outputs, norm))
        copy_in_order(block, extra)
        expected = block(x)
        torch.testing.assert_close(extra.eval()(x), expected)
        x = expected
    assert x.shape[-1] == 1


def test_anchors_of_the_tf_object_detection_api():
    scales = [0.2 + 0.15 * index for index in range(6)] + [1.0]
    generator = SSDAnchors(6)
    assert generator.num_anchors_per_location() == [3, 6, 6, 6, 6, 6]
    sides = [20, 10, 5, 3, 2, 1]
    maps = [torch.zeros(1, 1, side, side) for side in sides]
    (anchors,) = generator(ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)]), maps)
    assert len(anchors) == 400 * 3 + (100 + 25 + 9 + 4 + 1) * 6
    first = 0
    for index, side in enumerate(sides):
        if index == 0:
            shapes = {(0.1, 1.0), (0.2, 2.0), (0.2, 0.5)}
        else:
            shapes = {(scales[index], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)}
            shapes |= {(math.sqrt(scales[index] * scales[index + 1]), 1.0)}
        expected = sorted((320 * scale * math.sqrt(ratio), 320 * scale / math.sqrt(ratio)) for scale, ratio in shapes)
        here = anchors[first : first + len(shapes)]  # of the place at the top left
        found = sorted((float(box[2] - box[0]), float(box[3] - box[1])) for box in here)
        assert [pytest.approx(pair, abs=1e-2) for pair in expected] == found
        centers = (here[:, :2] + here[:, 2:]) / 2
        torch.testing.assert_close(centers, torch.full_like(centers, 160 / side), atol=1e-2, rtol=0)
        first += len(shapes) * side**2


def test_anchors_beyond_the_finest_map_are_torchvisions(theirs):
    ours = SSDAnchors(6)
    unclipped = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95, clip=False)
    assert theirs.anchor_generator.scales == ours.scales == unclipped.scales
    assert theirs.anchor_generator.aspect_ratios == ours.aspect_ratios
    image = ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)])
    maps = [torch.zeros(1, 1, side, side) for side in (20, 10, 5, 3, 2, 1)]
    (mine,), (other,) = ours(image, maps), unclipped(image, maps)
    torch.testing.assert_close(mine[400 * 3 :], other[400 * 6 :])


def test_losses_and_postprocessing_are_torchvisions(theirs):
    ours = small_detector(image_size=320)
    assert ours.box_coder.weights == theirs.box_coder.weights
    anchors = ours.anchor_generator(
        ImageList(torch.zeros(2, 3, 320, 320), [(320, 320)] * 2),
        [torch.zeros(1, 1, side, side) for side in (20, 10, 5, 3, 2, 1)],
    )
    count = len(anchors[0])
    outputs = {"bbox_regression": torch.randn(2, count, 4), "cls_logits": 3 * torch.randn(2, count, 4)}
    goals = targets()
    losses, detections = [], []
    for model in (ours, theirs):
        matched = [torch.full((count,), -1)] * 2
        matched[0] = matched[0].clone()
        matched[0][:40] = torch.arange(40) % 2
        losses.append(model.compute_loss(goals, outputs, anchors, matched))
        detections.append(model.postprocess_detections(outputs, anchors, [(320, 320)] * 2))
    assert losses[0].keys() == losses[1].keys()
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=0, atol=0)
    for mine, other in zip(*detections, strict=True):
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(mine[name], other[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mobilenetv1_025", "mobilenetv2_035", "tf_mixnet_s", "rexnet_100", "rexnet_lite_100"])
def test_the_maps_are_those_of_the_classifier(name):
    classifier = create(name).eval()
    detector = effnets.create_detector(classifier, "ssdlite", num_classes=3).eval()
    x = torch.rand(1, 3, 97, 130)
    with torch.inference_mode():
        fine, coarse = detector.body(x)
        torch.testing.assert_close(coarse, classifier.forward_features(x), rtol=0, atol=0)
        seen: list[torch.Tensor] = []
        block = classifier.stages[detector.body.tap][0]
        source = getattr(block, "expand", None)
        if source is not None:
            source.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
        else:
            block.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].clone()))
        classifier(x)
    torch.testing.assert_close(fine, seen[0], rtol=0, atol=0)
    assert fine.shape[-2:] == (7, 9)


def test_same_padding_of_tensorflow_holds_in_extras_and_head():
    detector = small_detector(backbone="tf_mobilenetv1_025", image_size=320)
    strided = [part for part in detector.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    assert len(strided) == 5 + 4
    assert all(part.pads_by_size for part in strided)


def test_trains_a_step_and_finds_boxes():
    detector = small_detector().train()
    losses = detector(pictures(), targets())
    assert set(losses) == {"bbox_regression", "classification"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    with torch.no_grad():
        found = shaken_detector()(pictures())
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
    assert all(len(one["boxes"]) and one["labels"].min() >= 1 for one in found)
    assert all(one["boxes"][:, 2].max() <= 110 for one in found)
