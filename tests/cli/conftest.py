"""What tests of several commands share."""

from __future__ import annotations

import pytest

import effnets
from tests.support import shake


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    effnets.save_weights(shake(effnets.create_model("mobilenetv1_025"), size=64), path)
    return path
