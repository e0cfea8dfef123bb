"""Real weights on real photographs give the values that an independent implementation recorded."""

from __future__ import annotations

import json

import pytest
import torch

import effnets
from tests.support import SHARED, needs_shared

pytestmark = needs_shared

FILES = [
    "tf_mobilenetv1_025_128",
    "tf_mobilenetv1_050_160",
    "tf_mobilenetv1_075_192",
    "tf_mobilenetv1_100_224",
    "tf_mobilenetv2_100_224",
]


@pytest.mark.parametrize("file", FILES)
def test_photographs(file):
    name, size = file.rsplit("_", 1)
    path = SHARED / "weights" / f"{file}.timm.safetensors"
    golden = json.loads((SHARED / "golden" / "photos.json").read_text())[path.name]
    assert len(golden) == 10
    model = effnets.create_model(name, weights=path).eval()
    transform = effnets.create_transform(model)
    assert transform.size == int(size)
    for photo, expected in golden.items():
        image = SHARED / "data" / "photos" / photo
        with torch.inference_mode():
            logits = model(transform(image)[None])[0]
        torch.testing.assert_close(logits[:8], torch.tensor(expected["logits_first8"]), rtol=0, atol=1e-3)
        assert logits.sum().item() == pytest.approx(expected["logits_sum"], abs=1e-2)
        assert logits.norm().item() == pytest.approx(expected["logits_l2"], abs=1e-3)
        first, second = (probability for _, _, probability in expected["top3"][:2])
        predictions = effnets.predict(model, image, topk=3)[0]
        assert predictions[0].probability == pytest.approx(first, abs=1e-3)
        if first - second >= 0.03:
            assert [predictions[0].index, predictions[0].label] == expected["top3"][0][:2]
