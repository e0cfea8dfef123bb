"""Use a network as the backbone of a segmentation model: Lite R-ASPP, Howard et al. 2019, arXiv:1905.02244, figure 10.

python examples/segmentation.py

`features_only=True` turns any classifier into a pyramid of feature maps, `output_stride` keeps the last ones large by
dilation, and `feature_info` tells the channels and strides that a head needs. This trains four steps on noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import effnets


class LiteRASPP(nn.Module):
    """Segment images [N, 3, H, W] to logits [N, classes, H, W]."""

    def __init__(self, backbone: str, num_classes: int, channels: int = 128) -> None:
        super().__init__()
        self.backbone = effnets.create_model(backbone, features_only=True, out_indices=(2, 4), output_stride=16)
        low, high = self.backbone.feature_info.channels()
        self.project = nn.Sequential(nn.Conv2d(high, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, channels, 1, bias=False), nn.Sigmoid())
        self.classify_low = nn.Conv2d(low, num_classes, 1)
        self.classify_high = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.backbone(x)
        high = self.project(high) * self.gate(high)
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=False)
        logits = self.classify_low(low) + self.classify_high(high)
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


torch.manual_seed(0)
model = LiteRASPP("mobilenetv2_100", num_classes=21)
effnets.freeze(model.backbone, until=2)  # stem and two stages; batch normalization stays in evaluation mode there
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
images, masks = torch.randn(2, 3, 128, 160), torch.randint(21, (2, 128, 160))
for step in range(4):
    loss = F.cross_entropy(model.train()(images), masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")
print("output:", tuple(model.eval()(images).shape))
