"""Heads of torchvision on the feature pyramid: Faster R-CNN and DeepLab train, every parameter with a gradient."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import effnets
from tests.support import images
from tests.support.networks import create_features

# The kernel studies differ in depthwise kernels alone, and are many; those for small images have no stride 32.
EVERY_MODEL = [
    pytest.param(name, marks=pytest.mark.full if "_k" in name else ())
    for name in effnets.list_models()
    if not name.endswith("_32px")
]


class PyramidBackbone(nn.Module):
    """A backbone as torchvision's detectors want it: maps of equal width by name."""

    out_channels = 16

    def __init__(self, name: str) -> None:
        super().__init__()
        torchvision_ops = pytest.importorskip(
            "torchvision.ops", reason="torchvision, whose heads are tried, is missing"
        )
        self.body = create_features(name, out_indices=(1, 2, 3, 4))
        channels = self.body.feature_info.channels()
        self.fpn = torchvision_ops.FeaturePyramidNetwork(channels, self.out_channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(index), level) for index, level in enumerate(self.body(x))))


def assert_all_learn(model: nn.Module, loss: Tensor) -> None:
    assert loss.isfinite()
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), key


def check_faster_rcnn(name: str) -> None:
    detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is missing")
    ops = pytest.importorskip("torchvision.ops")
    anchors = detection.anchor_utils.AnchorGenerator(tuple((size,) for size in (8, 16, 32, 64)), ((1.0,),) * 4)
    backbone = PyramidBackbone(name)
    model = detection.FasterRCNN(
        backbone,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=anchors,
        box_roi_pool=ops.MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=3, sampling_ratio=2),
        box_head=detection.faster_rcnn.TwoMLPHead(16 * 9, 32),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(32, 3),
    )
    pictures = [images(3, 64, 80, seed=1).sigmoid(), images(3, 70, 64, seed=2).sigmoid()]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 60.0, 60.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in pictures]
    losses = model.train()(pictures, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert_all_learn(backbone, sum(losses.values()))
    with torch.no_grad():
        found = model.eval()(pictures)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_faster_rcnn_trains_on_the_pyramid(name):
    check_faster_rcnn(name)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_deeplab_trains_on_the_dilated_map(name):
    segmentation = pytest.importorskip("torchvision.models.segmentation.deeplabv3", reason="torchvision is missing")
    body = create_features(name, out_indices=(-1,), output_stride=8).train()
    (channels,), (reduction,) = body.feature_info.channels(), body.feature_info.reduction()
    assert reduction == 8
    head = segmentation.DeepLabHead(channels, 4, atrous_rates=(1, 2, 3))
    model = nn.ModuleList([body, head])
    (features,) = body(images(2, 3, 48, 65))
    logits = head(features)
    assert logits.shape == (2, 4, 6, 9)
    assert_all_learn(model, nn.functional.cross_entropy(logits, torch.arange(108).reshape(2, 6, 9) % 4))
