"""When launches are recorded and replayed, by a recorder that is none of CUDA's; and the engine without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import effnets
from effnets.engines.cuda_graph import CudaGraphs
from effnets.errors import EngineError
from tests.support import images


class OnGPU(Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


def image(*shape: int) -> Tensor:
    return images(*shape).as_subclass(OnGPU)


class Recorder:
    def __init__(self, error: Exception | None = None) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.replayed = 0
        self.error = error

    def __call__(self, forward, images):
        self.recorded.append(tuple(images.shape))
        if self.error:
            raise self.error

        def replay(images):
            self.replayed += 1
            return forward(images)

        return replay


def test_a_single_image_is_recorded_when_its_shape_comes_again():
    recorder = Recorder()
    graphs = CudaGraphs(torch.relu, record=recorder)
    x = image(1, 3, 8, 8)
    for turn in range(4):
        assert torch.equal(graphs(x), torch.relu(x))
        assert recorder.replayed == max(0, turn)
    assert recorder.recorded == [(1, 3, 8, 8)]


def test_batches_and_the_cpu_are_not_recorded():
    recorder = Recorder()
    graphs = CudaGraphs(torch.relu, record=recorder)
    for x in (image(2, 3, 8, 8), images(1, 3, 8, 8)):
        for _ in range(3):
            graphs(x)
    assert not recorder.recorded


def test_ever_new_shapes_are_not_recorded():
    recorder = Recorder()
    graphs = CudaGraphs(torch.relu, shapes=2, record=recorder)
    for side in range(1, 100):
        graphs(image(1, 3, side, 8))
    assert not recorder.recorded
    for side in (1, 2, 3, 1, 2, 3):
        graphs(image(1, 3, side, 8))
    assert recorder.recorded == [(1, 3, 1, 8), (1, 3, 2, 8)]


def test_what_cannot_be_recorded_is_executed():
    recorder = Recorder(RuntimeError("operation not permitted when stream is capturing\nmore"))
    graphs = CudaGraphs(torch.relu, record=recorder)
    x = image(1, 3, 8, 8)
    graphs(x)
    with pytest.warns(RuntimeWarning, match="no CUDA graph is used: operation not permitted when stream is capturing$"):
        assert torch.equal(graphs(x), torch.relu(x))
    assert torch.equal(graphs(x), torch.relu(x))
    assert len(recorder.recorded) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_engine_needs_a_gpu():
    model = effnets.create_model("mobilenetv1_025", num_classes=3)
    with pytest.raises(
        EngineError, match=r"torch-cuda: torch .* finds no GPU; install its build for CUDA, or use torch"
    ):
        effnets.load_engine(model, "torch-cuda")
