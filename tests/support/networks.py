"""The networks that several tests of this folder try: fresh, shaken, or as a feature pyramid."""

from __future__ import annotations

import torch

import effnets
from tests.support import shake

ONE_A_FAMILY = (
    *("mobilenetv1_025", "mobilenetv2_035", "mixnet_s", "tf_mixnet_s", "rexnet_100", "rexnet_lite_100"),
    *("mnasnet_a1", "fbnet_c", "proxylessnas_mobile", "efficientnet_lite0"),
)


def create(name: str = "mobilenetv1_025", **arguments):
    torch.manual_seed(0)
    return effnets.create_model(name, **arguments)


def shaken(name: str = "mobilenetv1_025", **arguments):
    return shake(create(name, **arguments), size=96)


def create_features(name: str, **arguments):
    torch.manual_seed(0)
    return effnets.create_model(name, features_only=True, **arguments)
