"""torch.jit, deprecated by torch and still in use: scripted and traced networks compute the same at every size."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

import effnets
from tests.support import shake

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecation, and that a trace holds a list

NETWORKS = [
    ("mobilenetv1_025", {}, {}),
    ("mobilenetv2_100", {"padding": "same"}, {"drop_path_rate": 0.2, "global_pool": "avgmax"}),
    ("mixnet_s", {"padding": "same"}, {}),
    ("rexnet_100", {}, {"num_classes": 0}),
    ("rexnet_lite_100", {"padding": "same"}, {"global_pool": "none"}),
    ("mnasnet_a1", {}, {"in_chans": 4}),
    ("mixnet_s", {}, {"features_only": True, "out_indices": (0, 2)}),
]


def equal(found, expected):
    pairs = zip(found, expected, strict=True) if isinstance(expected, list) else [(found, expected)]
    return all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)


@pytest.mark.parametrize(("name", "changes", "arguments"), NETWORKS)
@pytest.mark.parametrize("how", ["script", "trace"])
def test_networks(name, changes, arguments, how):
    spec = replace(effnets.load_spec(name), **changes)
    network = shake(effnets.create_model(spec, **arguments), size=64).eval()
    images = [torch.randn(shape[0], network.in_chans, *shape[1:]) for shape in ((2, 64, 64), (1, 75, 50))]
    compiled = torch.jit.script(network) if how == "script" else torch.jit.trace(network, images[0])
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    file.seek(0)
    with torch.inference_mode():
        for module in (compiled, torch.jit.load(file)):
            for batch in images:
                assert equal(module(batch), network(batch))
