"""The pipeline: outputs in order, whatever batches and threads; decoding; what is taken when."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import effnets
from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import decode_image, fast_side, image_to_array, load_image
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import create_predictor
from tests.support import shake
from tests.support.exported import describe, write


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = effnets.create_model("mobilenetv1_025", num_classes=5).eval()
    shake(network, size=32)
    return network


def photo(seed: int, size=(48, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def photos():
    return [photo(seed) for seed in range(23)]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (4, 2), (5, 3), (64, 2), (3, 16)])
def test_answers_do_not_depend_on_batches_and_threads(network, photos, batch_size, workers):
    expected = effnets.predict(network, photos, topk=5, input_size=32, batch_size=23, workers=1)
    threads = torch.get_num_threads()
    found = effnets.predict(network, photos, topk=5, input_size=32, batch_size=batch_size, workers=workers)
    for row, other in zip(found, expected, strict=True):
        probabilities = {one.index: one.probability for one in other}
        assert {one.index: one.probability for one in row} == pytest.approx(probabilities, abs=1e-3)
    assert torch.get_num_threads() == threads
    assert not network.training


def test_a_network_in_training_mode_is_left_in_it(network, photos):
    network.train()
    try:
        effnets.predict(network, photos, input_size=32, batch_size=2, workers=2)
        assert all(module.training for module in network.modules())
    finally:
        network.eval()


def test_a_hook_sees_images_in_order(network, photos):
    seen = []
    handle = network.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits))
    try:
        found = effnets.predict(network, photos, topk=1, input_size=32, batch_size=1, workers=3)
    finally:
        handle.remove()
    assert [int(logits.argmax()) for logits in seen] == [row[0].index for row in found]


def test_an_engine_answers_in_threads_as_alone(tmp_path):
    engine = effnets.load_engine(write(tmp_path / "mean.onnx", describe()))
    sent = [photo(seed) for seed in range(40)]
    alone = [effnets.predict(engine, one)[0] for one in sent]
    assert effnets.predict(engine, sent, batch_size=3, workers=4) == alone


def test_errors_keep_their_places(network, photos):
    mixed = [*photos[:5], b"no image", *photos[5:9], b"", *photos[9:]]
    with pytest.warns(UserWarning, match="skipped: images"):
        found = effnets.predict(network, mixed, input_size=32, on_error="skip", batch_size=2, workers=3)
    assert [index for index, row in enumerate(found) if not row] == [5, 10]
    with pytest.raises(ImageError, match=r"images\[5\]: .* is not an image that Pillow can read"):
        effnets.predict(network, mixed, input_size=32, batch_size=2, workers=3)


def test_an_overwritten_array_counts_as_it_was_when_it_was_taken(network):
    frame = np.zeros((40, 40, 3), np.uint8)

    def frames():
        for level in range(0, 250, 10):
            frame[:] = level
            yield frame

    copies = [np.full((40, 40, 3), level, np.uint8) for level in range(0, 250, 10)]
    options = {"input_size": 32, "batch_size": 2, "workers": 2}
    assert effnets.predict(network, frames(), **options) == effnets.predict(network, copies, **options)


def test_images_that_are_closed_when_the_next_is_taken(network, photos):
    def opened():
        for data in photos:
            with Image.open(io.BytesIO(data)) as image:
                yield image

    options = {"input_size": 32, "batch_size": 2, "workers": 2}
    assert effnets.predict(network, opened(), **options) == effnets.predict(network, photos, **options)


class Watched:
    """A predictor that records how many threads are in it."""

    batch_size = 2
    in_order = False

    def __init__(self, concurrent):
        self.concurrent, self.inside, self.most, self.shared = concurrent, 0, 0, None
        self._lock = threading.Lock()

    def shared_by(self, threads):
        from contextlib import nullcontext

        self.shared = threads
        return nullcontext()

    def logits(self, batch):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.01)
        with self._lock:
            self.inside -= 1
        return np.array(batch, np.float32)[:, None]


@pytest.mark.parametrize(("concurrent", "most"), [(False, 1), (True, 3)])
def test_threads_enter_the_network_as_it_allows(concurrent, most):
    predictor = Watched(concurrent)
    pipeline = Pipeline(predictor, workers=3)
    outputs = list(pipeline.run(range(60), float))
    assert [output.values[0] for output in outputs] == list(range(60))
    assert predictor.most <= most
    assert (predictor.most > 1) == concurrent
    assert predictor.shared == most
    assert pipeline.timing.images == 60


def test_few_images_have_all_cores():
    predictor = Watched(concurrent=True)
    list(Pipeline(predictor, workers=3).run(range(4), float))
    assert predictor.shared is None


def test_memory_is_bounded():
    taken = []

    def items():
        for number in range(10_000):
            taken.append(number)
            yield number

    outputs = Pipeline(Watched(concurrent=False), workers=2).run(items(), float)
    for number in range(10):
        assert next(outputs).item == number
        assert len(taken) <= number + 2 * (2 * 2 + 2)
    outputs.close()


def test_pillows_memory_setting_is_restored(network, photos):
    before = Image.core.get_blocks_max()
    effnets.predict(network, photos, input_size=32, workers=2, batch_size=2)
    assert Image.core.get_blocks_max() == before


def test_threads_that_predict_at_a_time_leave_settings_as_they_were(network, tmp_path):
    engine = effnets.load_engine(write(tmp_path / "mean.onnx", describe()))

    def settings():
        with ThreadPoolExecutor(1) as fresh:
            threads = fresh.submit(torch.get_num_threads).result()
        return threads, Image.core.get_blocks_max(), engine._session, engine._sharing

    before = settings()
    for model in (network, engine):
        inside = threading.Barrier(2)

        def images(first, inside=inside):
            for number in range(6):
                if number == 5 and first:
                    inside.wait(20)  # until the other one is at work
                yield np.full((32, 32, 3), number, np.uint8)
            if not first:
                inside.wait(20)
                time.sleep(0.2)  # and leaves after the first

        with ThreadPoolExecutor(2) as callers:
            options = {"input_size": 32, "batch_size": 1, "workers": 2}
            list(callers.map(lambda first: effnets.predict(model, images(first), **options), (True, False)))  # noqa: B023
        assert settings() == before


def test_fast_decoding_keeps_twice_the_pixels(network):
    predictor = create_predictor(network, 32, decode="fast")
    assert (
        predictor.min_side == fast_side(network.spec.preprocess, 32) == 2 * int(32 / network.spec.preprocess.crop_pct)
    )
    y, x = np.mgrid[:600, :800]
    file = io.BytesIO()
    Image.fromarray(np.stack([x / 4, y / 3, (x + y) / 6], 2).astype(np.uint8)).save(file, "JPEG", quality=95)
    data = file.getvalue()
    assert decode_image(data, "photo", min_side=predictor.min_side).size == (100, 75)
    assert decode_image(data, "photo", min_side=76).size == (200, 150)
    assert decode_image(data, "photo", min_side=301).size == (800, 600)
    for power, size in ((8, (126, 84)), (4, (251, 167)), (2, (501, 334))):  # sides that no power divides
        odd = photo(0, size=(1001, 667))
        assert decode_image(odd, "photo", min_side=667 / power).size == size
    exact = create_predictor(network, 32).prepare(data)
    assert torch.equal(exact, effnets.create_transform(network, input_size=32)(data))
    fast = predictor.prepare(data)
    assert not torch.equal(fast, exact)
    assert (fast - exact).abs().max() < 0.1


def test_decoding_of_an_unknown_kind(network):
    with pytest.raises(ArgumentError, match="decode is 'quick'; choose 'exact' or 'fast'"):
        effnets.predict(network, photo(0), decode="quick")


@pytest.mark.parametrize("argument", ["batch_size", "workers"])
def test_numbers_out_of_range(network, argument):
    with pytest.raises(ArgumentError, match=f"{argument} is 0; it must be at least 1"):
        effnets.predict(network, photo(0), **{argument: 0})


def test_an_image_without_conversion_is_the_same(network):
    for mode in ("RGB", "L", "CMYK"):
        file = io.BytesIO()
        Image.fromarray(np.arange(48 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 48, 3)).convert(mode).save(
            file, "JPEG"
        )
        with Image.open(io.BytesIO(file.getvalue())) as image:
            expected = image.convert("RGB")
        found = load_image(file.getvalue())
        assert np.array_equal(found, expected)
        assert type(found) is Image.Image or mode != "RGB"
        preprocess = network.spec.preprocess
        assert np.array_equal(image_to_array(found, preprocess, 32), image_to_array(expected, preprocess, 32))
