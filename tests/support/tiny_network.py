"""A small network that has every operator of the large ones, in a YAML file of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import effnets
from tests.support import shake

# Uneven kernel groups, squeeze-and-excite, a shortcut, TensorFlow's padding, every activation.
TABLE = """
tiny:
  stem: 8
  padding: same
  activation: relu6
  num_classes: 12
  head: 24
  blocks:
    - dsa_r1_k3_s1_c8
    - ir_r1_k3.5_a1.1_p1.1_s2_e3_c16_nre
    - ir_r2_k3.5.7_p1.1_s1_e2_c16_se0.5_nsw
    - ir_r1_k3_s2_e2_c24_nhs
"""
# ReXNet's blocks: partial shortcuts, batch normalization within squeeze-and-excite, odd channels.
REXNET_TABLE = """
tiny:
  stem: 8
  activation: silu
  divisor: 1
  num_classes: 12
  head: 24
  blocks:
    - lb_r1_k3_s1_e1_c11
    - lb_r1_k3_s2_e3_c14_se1/4
    - lb_r1_k3_s1_e3_c19_se1/4
    - lb_r1_k3_s2_e2_c24_se1/4
"""


def tiny(folder: Path, *, seed: int = 0, fresh: bool = False, table: str = TABLE) -> effnets.Classifier:
    """Return the network, shaken unless `fresh`."""
    path = folder / "tiny.yaml"
    path.write_text(table)
    torch.manual_seed(seed)
    model = effnets.create_model(path)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, 0.0, 0.1)  # zeros would not be missed
    return model.eval() if fresh else shake(model, size=64)
