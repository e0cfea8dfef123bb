"""What torch does to the classifier: bfloat16, copies, saved states, compilation and export keep its values."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import pytest
import torch
from torch import nn

import effnets
from tests.support import error_between, images
from tests.support.networks import ONE_A_FAMILY, create, shaken


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_bfloat16_is_close_to_float32(name):
    """Block by block, each on float32's input; over the whole network the roundings add up."""
    model = create(name)
    for bn in model.modules():
        if isinstance(bn, nn.BatchNorm2d):
            bn.momentum = 1.0  # the statistics are those of the next batch
    half = create(name, dtype=torch.bfloat16).eval()
    x = images(4, 3, 96, 96)
    with torch.no_grad():
        model.train()(images(16, 3, 96, 96, seed=2))
        half.load_state_dict(model.eval().state_dict())
        expected, actual = model(x), half(x.bfloat16())
        assert {tensor.dtype for tensor in half.parameters()} == {actual.dtype} == {torch.bfloat16}
        assert torch.corrcoef(torch.stack([expected.flatten(), actual.float().flatten()]))[0, 1] > 0.95
        steps = zip(model.stages.modules(), half.stages.modules(), strict=True)
        blocks = [(model.stem, half.stem), *(pair for pair in steps if hasattr(pair[0], "shortcut"))]
        for index, (block, half_block) in enumerate(blocks):
            y = block(x)
            assert (half_block(x.bfloat16()).float() - y).norm() <= 0.05 * y.norm(), f"block {index}"
            x = y


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_copies_and_saved_states_are_the_same_network(name, tmp_path):
    model = shaken(name)
    x = images(1, 3, 64, 96)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
        restored = effnets.create_model(name).eval()
        assert error_between(expected, restored(x)) > 0.1
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
        assert torch.equal(restored(x), expected)
        model.classifier.weight.zero_()
        assert torch.equal(twin(x), expected), "the copy shares nothing with its model"
    assert (twin.spec, twin.plan, twin.feature_info) == (model.spec, model.plan, model.feature_info)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["mobilenetv1_025", "mobilenetv2_035", "tf_mixnet_s", "rexnet_100", "rexnet_lite_100"])
def test_compiles_as_one_graph(name):
    model = shaken(name)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compiles_to_machine_code():
    """Two rows of tf_mixnet_s: TensorFlow's padding, mixed kernels, squeeze-and-excite."""
    spec = effnets.load_spec("tf_mixnet_s")
    model = shaken(dataclasses.replace(spec, blocks=(spec.blocks[0], spec.blocks[3]), head=0, num_classes=10))
    compiled = torch.compile(model, fullgraph=True, backend="inductor")
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        assert error_between(model(x), compiled(x)) <= 1e-4


@pytest.mark.parametrize("name", ["tf_mixnet_s", "rexnet_100"])
def test_exports_with_dynamic_batch_and_size(name):
    model = shaken(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = torch.export.Dim("height", min=33, max=512), torch.export.Dim("width", min=33, max=512)
    shapes = [{0: batch, 2: height, 3: width}]
    exported = torch.export.export(model, (images(2, 3, 64, 96),), dynamic_shapes=shapes).module()
    for shape in ((1, 3, 224, 224), (3, 3, 225, 225), (1, 3, 256, 320), (2, 3, 97, 161)):
        with torch.no_grad():
            assert error_between(model(images(*shape)), exported(images(*shape))) <= 1e-5, shape
