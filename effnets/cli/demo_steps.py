"""The steps of ``effnets demo`` that compute: images, answers, fine-tuning, and speeds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from effnets.errors import ArgumentError, EffnetsError, ImageError, MissingFileError

if TYPE_CHECKING:
    from effnets.inference.labels import Prediction
    from effnets.nn.classifier import Classifier

MODEL = "mixnet_xs_32px"
# Beside the recipe's defaults: so few images are not worth loader processes.
SETTINGS: Mapping[str, str | int] = {"model": MODEL, "freeze": "backbone", "epochs": 20, "workers": 0}
PLAIN = "PyTorch, as built"

_EXTRAS: Mapping[str, Sequence[str]] = {
    "train": ("accelerate", "matplotlib", "timm", "torchvision"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}


def missing(extra: str) -> list[str]:
    """Return the packages of an extra, ``train`` or ``export``, that are not installed."""
    return [package for package in _EXTRAS[extra] if not find_spec(package)]


def make_folder(wanted: Path) -> Path:
    """Make a new folder: `wanted`, or, where that holds something, the same name with a number.

    Raises:
        ArgumentError: if it cannot be made or written, is a file, or is ``.`` or ``..`` and not empty.
    """
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with writing(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not folder.is_dir():
                    raise ArgumentError(f"{folder}: is a file; name a folder, --output DIR") from None
                if any(folder.iterdir()):
                    if wanted.name in ("", ".."):
                        raise ArgumentError(f"{folder}: holds something already; name a folder, --output DIR") from None
                    continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        raise ArgumentError(f"{folder}: cannot be written (Permission denied); name another folder, --output DIR")
    raise AssertionError("numbers do not end")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError while writing to `folder` into an ArgumentError that names the folder."""
    try:
        yield
    except EffnetsError:  # some are OSErrors too, and say what they mean
        raise
    except OSError as error:
        raise ArgumentError(
            f"{folder}: cannot be written ({error.strerror or error}); name another folder, --output DIR"
        ) from None


def extract_images(folder: Path, part: str) -> list[Path]:
    """Write a part of the packaged images into `folder`, and return its files.

    Args:
        part: ``drawings``: one image of each of eight classes that the network knows, named by its class; or
            ``drawn-objects``: train/, val/ and test/ with four classes that it does not know.
    """
    with files("effnets").joinpath("assets", "demo_images.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{part}/")]
        archive.extractall(folder, names)
    return [folder / name for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The network's answer for one image.

    Attributes:
        path: of the image. meant: the class that was drawn; None for a user's image.
        prediction: the most likely class; None if the image could not be read, and `error` says why.
    """

    path: str
    meant: str | None = None
    prediction: Prediction | None = None
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether the answer is the class that was meant."""
        return self.prediction is not None and self.prediction.label == self.meant


def classify(network: Classifier, path: str, meant: str | None = None) -> Answer:
    """Classify one image; an image that cannot be read gives an answer with its error."""
    from effnets.inference.predictor import predict

    try:
        return Answer(path=path, meant=meant, prediction=predict(network, path, topk=1)[0][0])
    except (ImageError, MissingFileError) as error:
        return Answer(path=path, meant=meant, error=str(error))


def compare_engines(
    network: Classifier,
    exported: Path | None,
    *,
    batches: Sequence[int] = (1, 16),
    rounds: int = 9,
    seconds: float = 3.0,
    progress: Callable[[str, float], object] | None = None,
) -> dict[str, dict[int, float]]:
    """Time a network as it is, rewritten by `effnets.optimize`, and its exported file on the engines that read it.

    All take turns, and all use every core.

    Args:
        network: in evaluation mode. exported: its ONNX file; or None.
        batches: images at a time. rounds: samples of each engine at each. seconds: no round begins after this time.
        progress: called with a description and the fraction done, 0 to 1.

    Returns:
        Median milliseconds per image, by engine and number of images at a time.
    """
    import numpy as np
    import torch

    from effnets.deploy.engine import load_engine
    from effnets.engines.base import available_engines
    from effnets.utils.machine import describe_machine
    from effnets.utils.timing import interleave

    threads, before = describe_machine().cores, torch.get_num_threads()
    torch.set_num_threads(threads)
    found: dict[str, dict[int, float]] = {}
    try:
        calls = {
            PLAIN: torch.inference_mode()(lambda images: network(torch.from_numpy(images))),
            "PyTorch, effnets.optimize": load_engine(network, "torch", threads=threads),
        }
        for engine, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
            if exported is not None and engine in available_engines():
                calls[title] = load_engine(exported, engine, threads=threads)
        side = network.spec.input_size
        for turn, batch in enumerate(batches):

            def report(done: float, turn: int = turn, batch: int = batch) -> None:
                if progress is not None:
                    progress(f"measuring, {batch} at a time", (turn + done) / len(batches))

            images = np.random.default_rng(0).standard_normal((batch, network.in_chans, side, side), np.float32)
            timed = {name: (lambda call=call, images=images: call(images)) for name, call in calls.items()}
            for name, timing in interleave(timed, rounds=rounds, seconds=seconds, progress=report).items():
                found.setdefault(name, {})[batch] = timing.median / batch
    finally:
        torch.set_num_threads(before)
    return found
