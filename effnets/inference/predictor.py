"""Predict with networks and exported models alike: image → input → logits → named predictions.

torch is imported for networks alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.engines.base import Engine
from effnets.errors import ArgumentError, ImageError, MissingFileError
from effnets.inference.arrays import is_array, size_of
from effnets.inference.image import ImageSource, crop_pixels, fast_side, image_to_array, load_image
from effnets.inference.labels import Prediction, are_named, choose_labels, class_names, rank
from effnets.inference.pipeline import Pipeline
from effnets.spec.specs import ClassifierActivation
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.threads import shared_context

if TYPE_CHECKING:
    from torch import Tensor, nn

Decode: TypeAlias = Literal["exact", "fast"]

# Images at a time that are fast (docs/throughput.md), and pixels of inputs that fit into memory.
_CPU_BATCH, _GPU_BATCH = (4, 1 << 20), (64, 1 << 23)


class Predictor:
    """A model with the preprocessing of its weights.

    Attributes:
        model: its name. engine: what executes it: ``torch``, or an engine with its precision.
        channels: of the images that it takes, as of `effnets.inference.image.load_image`.
        min_side: of JPEGs, as of the same, in fast decoding; None decodes exactly.
        batch_size: images at a time that are fast on the model's device.
        concurrent: whether several threads may call `logits` at a time and gain by it.
        in_order: whether somebody watches what goes in, by hooks, and is to see it in the order of the images.
        class_names: of the outputs. named: whether they belong to the weights; else they are numbers.
        activation, thresholds: as of `Classifier.classifier_activation`.
    """

    channels: int
    min_side: float | None = None
    batch_size: int
    concurrent: bool = False
    in_order: bool = False
    model: str
    engine: str
    class_names: tuple[str, ...]
    named: bool
    activation: ClassifierActivation = "softmax"
    thresholds: tuple[float, ...] = ()

    def prepare(self, image: ImageSource) -> Any:
        """Return the model's input for an image, without N."""
        raise NotImplementedError

    def logits(self, batch: Sequence[Any]) -> NDArray[np.float32]:
        """Return logits ``[N, C]`` of prepared images."""
        raise NotImplementedError

    def embed(self, batch: Sequence[Any], stage: int | None = None) -> NDArray[np.float32]:
        """Return embeddings ``[N, D]`` of prepared images: the classifier's input, or the means of a stage's map.

        Of networks trained to embed they are the output, of length 1.

        Raises:
            ArgumentError: if the model has no such stage, or was exported without an embedding.
        """
        raise NotImplementedError

    def predictions(self, logits: NDArray[np.float32], topk: int) -> list[list[Prediction]]:
        """Return for each row of `logits` the `topk` likeliest classes, or all labels that reach their thresholds."""
        if self.activation == "sigmoid":
            return choose_labels(logits, self.class_names, self.thresholds)
        return rank(logits, self.class_names, topk)

    def embedding_size(self, stage: int | None = None) -> int:
        """Return D, by embedding an image; raises as `embed`."""
        gray = np.full((1, 1, self.channels), 128, np.uint8)
        return self.embed([self.prepare(gray)], stage).shape[1]

    def shared_by(self, threads: int) -> AbstractContextManager[None]:
        """Divide the cores among so many threads that call `logits` or `embed` at a time."""
        raise NotImplementedError

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        topk: int,
        batch_size: int | None,
        on_error: Literal["raise", "skip"] = "raise",
        workers: int | None = None,
    ) -> Iterator[list[Prediction] | str]:
        """Yield for each image, in order, its predictions, or with "skip" the reason why it cannot be read."""
        for logits in self.outputs(images, self.logits, batch_size, on_error, workers):
            if isinstance(logits, str):
                yield logits
            else:
                yield from self.predictions(logits[None], topk)

    def outputs(
        self,
        images: ImageSource | Iterable[ImageSource],
        infer: Callable[[Sequence[Any]], NDArray[np.float32]],
        batch_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        workers: int | None = None,
    ) -> Iterator[NDArray[np.float32] | str]:
        """Yield for each image, in order, its row of what `infer` returns, or with "skip" why it cannot be read.

        Args:
            images, batch_size, on_error, workers: as of `predict`.
            infer: returns outputs ``[N, D]`` of N prepared images.

        Raises as `predict`.
        """
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None:
                check_integer(name, value, 1, "it must be at least 1")
        if on_error not in ("raise", "skip"):
            raise ArgumentError(f"on_error is {on_error!r}; choose 'raise' or 'skip'")
        pipeline = Pipeline(self, batch_size=batch_size, workers=workers)
        taken = map(self._taken, _split(images))
        for number, (image, values, error) in enumerate(pipeline.run(taken, self._load, infer)):
            if error is None:
                assert values is not None
                yield values
                continue
            # A path names itself; the others are known by their number.
            named = str(error) if isinstance(image, str | os.PathLike) else f"images[{number}]: {error}"
            if on_error == "raise" or isinstance(error, ArgumentError):
                raise type(error)(named) from error
            yield named

    def _taken(self, image: ImageSource) -> Any:
        """Return a path or bytes as they are; prepare what the caller may close, read on or overwrite."""
        if isinstance(image, str | os.PathLike | bytes):
            return image
        try:
            return _Prepared(self.prepare(image))
        except (ImageError, MissingFileError, ArgumentError) as error:
            return _Prepared(error)

    def _load(self, image: Any) -> Any:
        """Return the prepared image, or the error."""
        return image.value if isinstance(image, _Prepared) else self.prepare(image)


class _Prepared(NamedTuple):
    value: Any


def _batch_size(size: int | tuple[int, int], *, on_gpu: bool) -> int:
    """Return how many inputs of that size are fast at a time, and fit into memory."""
    images, pixels = _GPU_BATCH if on_gpu else _CPU_BATCH
    return max(1, min(images, pixels // prod(check_size(size))))


def _require_predictions(activation: ClassifierActivation, model: str) -> None:
    if activation == "l2":
        raise ArgumentError(
            f"{model} was trained to embed and predicts no classes; compare its vectors: effnets.embed, or effnets "
            "similar on the command line"
        )


class TorchPredictor(Predictor):
    """A classifier, also inside of torch.compile or DataParallel, on the device and in the precision it is in.

    Raises:
        ArgumentError: if it has no classifier, unless it need not `classify`, no pooling, no values (meta tensors), or
            another number of class names than outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        input_size: int | tuple[int, int] | None,
        decode: Decode = "exact",
        *,
        classify: bool = True,
    ) -> None:
        from effnets.inference.transform import create_transform
        from effnets.nn.classifier import network_of, require_values
        from effnets.nn.features import FeaturePyramid

        network = network_of(model)
        if classify and not isinstance(network, FeaturePyramid):  # first, as an embedding may need no classifier
            _require_predictions(network.classifier_activation, network.spec.name)
        if isinstance(network, FeaturePyramid) or (classify and not network.num_classes):
            classes = " and with num_classes above 0" if classify else ""
            raise ArgumentError(f"this model has no classifier; build it without features_only{classes}")
        if network.pool.kind == "none":
            raise ArgumentError(
                "this model has global_pool='none' and classifies every place; pool to classify an image"
            )
        require_values(network)
        self._transform = create_transform(network, input_size=input_size)
        self.channels = network.in_chans
        self.model, self.engine = network.spec.name, "torch"
        self.activation, self.thresholds = network.classifier_activation, network.thresholds or ()
        self.class_names = network.class_names or (class_names(network.num_classes) if network.num_classes else ())
        self.named = network.class_names is not None or are_named(self.class_names)
        if len(self.class_names) != network.num_classes:
            raise ArgumentError(
                f"class_names has {len(self.class_names)} names for {network.num_classes} classes; give one for each"
            )
        self._module, self._network = model, network
        if decode == "fast":
            self.min_side = fast_side(self._transform.preprocess, self._transform.size)
        # Other devices take one batch at a time; what wraps a network may not expect several threads.
        on_cpu = next(network.parameters()).device.type == "cpu"
        self.concurrent = on_cpu and model is network
        self.in_order = any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        self.batch_size = _batch_size(self._transform.size, on_gpu=not on_cpu)

    def prepare(self, image: ImageSource) -> Tensor:
        """Return float32 ``[C, H, W]``."""
        return self._transform(load_image(image, self.channels, min_side=self.min_side))

    @contextmanager
    def shared_by(self, threads: int) -> Iterator[None]:
        from effnets.nn.utils import evaluating

        with _cores_divided_by(threads), evaluating(self._module):  # which none of them then has to change
            yield

    def logits(self, batch: Sequence[Any]) -> NDArray[np.float32]:
        return self._infer(self._module, batch)

    def embed(self, batch: Sequence[Any], stage: int | None = None) -> NDArray[np.float32]:
        network = self._network
        if stage is None:
            return self._infer(network.forward_embedding, batch)
        count = len(network.stages)
        if isinstance(stage, bool) or not isinstance(stage, int) or not -count <= stage < count:
            raise ArgumentError(
                f"stage is {stage!r}; {self.model} has the stages 0 to {count - 1}, or -1, -2, … from the end"
            )
        layers = [network.stem, *network.stages[: stage % count + 1]]
        return self._infer(lambda x: reduce(lambda y, layer: layer(y), layers, x).mean((2, 3)), batch)

    def _infer(self, function: Callable[[Tensor], Tensor], batch: Sequence[Any]) -> NDArray[np.float32]:
        import torch

        from effnets.nn.utils import evaluating

        weight = next(self._module.parameters())
        # channels_last computes the same function, up to twice as fast on CPUs for depthwise convolutions.
        images = torch.stack(list(batch)).to(weight.device, weight.dtype, memory_format=torch.channels_last)
        with evaluating(self._module), torch.inference_mode():
            values: NDArray[np.float32] = function(images).float().cpu().numpy()
        return values


@shared_context
@contextmanager
def _cores_divided_by(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // threads))  # of every thread that is started from here on
    try:
        yield
    finally:
        torch.set_num_threads(before)


class EnginePredictor(Predictor):
    """An engine of `effnets.load_engine`, with the preprocessing in its file's metadata.

    Raises:
        ArgumentError: if the exported model takes images of another size, or no images, or is to `classify` and makes
            embeddings, or is a detector.
    """

    def __init__(
        self,
        engine: Engine,
        input_size: int | tuple[int, int] | None,
        argument: str = "input_size",
        decode: Decode = "exact",
        *,
        classify: bool = True,
    ) -> None:
        metadata = engine.description
        if metadata.detector:
            raise ArgumentError(
                f"{metadata.model}: is a detector ({metadata.detector}), which answers with boxes; name the folder "
                "that it was exported from, effnets predict --model RUN, or call load_engine(file).run"
            )
        if classify:
            _require_predictions(metadata.classifier_activation, metadata.model)
        if metadata.input_kind == "normalised":
            metadata.preprocess.for_channels(metadata.channels)  # to refuse other numbers at once
        self.channels = metadata.channels
        self._size = metadata.image_size if input_size is None else check_size(input_size, argument)
        if metadata.size not in (None, self._size):
            height, width = metadata.size
            raise ArgumentError(
                f"{argument} is {input_size!r}, but {metadata.model} was exported for {height}×{width}; "
                "leave it out, or export with dynamic_size"
            )
        self._engine, self._raw = engine, metadata.input_kind == "uint8"
        self.min_side = fast_side(metadata.preprocess, self._size) if decode == "fast" else None
        self.concurrent = engine.concurrent
        self.batch_size = _batch_size(self._size, on_gpu=engine.on_gpu)
        precision = engine.precision if engine.precision != "float32" else metadata.precision
        self.model = metadata.model
        self.engine = engine.name + (", rewritten" if any(metadata.rewrites.values()) else "")
        self.engine += f", {precision}" if precision != "float32" else ""
        self.activation, self.thresholds = metadata.classifier_activation, metadata.thresholds
        self.class_names = engine.labels
        self.named = are_named(engine.labels)

    def prepare(self, image: ImageSource) -> NDArray[Any]:
        """Return float32 ``[C, H, W]``, or uint8 ``[H, W, C]`` where the file normalizes."""
        metadata = self._engine.description
        loaded = load_image(image, self.channels, min_side=self.min_side)
        if self._raw:
            width, height = size_of(loaded)
            return np.asarray(loaded).reshape(height, width, self.channels)
        if metadata.input_kind == "pixels":
            return crop_pixels(loaded, metadata.preprocess, self._size)
        return image_to_array(loaded, metadata.preprocess, self._size)

    def shared_by(self, threads: int) -> AbstractContextManager[None]:
        return self._engine.shared_by(threads)

    def logits(self, batch: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        return self._infer("logits", batch)

    def embed(self, batch: Sequence[Any], stage: int | None = None) -> NDArray[np.float32]:
        if stage is not None:
            raise ArgumentError(
                f"stage is {stage!r}, but {self.model} is exported, without its stages; leave stage out, or embed with "
                "the network that it was made from"
            )
        if self.activation == "l2":
            outputs = self._infer("logits", batch)
            return outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        if not self._engine.description.embedding:
            raise ArgumentError(
                f"{self.model} was exported without an embedding; export it with embedding=True (effnets export MODEL "
                "OUT --output embedding), or embed with the network itself"
            )
        return self._infer("embedding", batch)

    def _infer(self, output: str, batch: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        # Raw images differ in size, so that they go one by one.
        inputs = [image[None] for image in batch] if self._raw else [np.stack(batch)]
        return np.concatenate([self._engine.run(images)[output] for images in inputs])


def create_predictor(
    model: nn.Module | Engine,
    input_size: int | tuple[int, int] | None = None,
    argument: str = "input_size",
    decode: Decode = "exact",
    *,
    classify: bool = True,
) -> Predictor:
    """Return the predictor of a network or an engine; `argument` is what errors call the size.

    Unless it is to `classify`, a network may be without classes.

    Raises:
        ArgumentError: if the model takes no images of that size, or `decode` is neither "exact" nor "fast".
    """
    if decode not in get_args(Decode):
        raise ArgumentError(f"decode is {decode!r}; choose 'exact' or 'fast'")
    if isinstance(model, Engine):
        return EnginePredictor(model, input_size, argument, decode, classify=classify)
    return TorchPredictor(model, input_size, decode, classify=classify)


def predict(
    model: nn.Module | Engine,
    images: ImageSource | Iterable[ImageSource],
    topk: int = 5,
    input_size: int | tuple[int, int] | None = None,
    *,
    batch_size: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    decode: Decode = "exact",
    workers: int | None = None,
) -> list[list[Prediction]]:
    """Classify images with the preprocessing that belongs to the model's weights.

    Args:
        model: a classifier, also inside of torch.compile or DataParallel, or an engine from `effnets.load_engine`. A
            classifier is run in evaluation mode, and each of its modules left in the mode it was in; threads may share
            it only if that is the evaluation mode.
        images: one of these, or several, also of different kinds:

            - a path, or a binary file, read from where it stands and left open;
            - the content of an image file: bytes, bytearray or memoryview;
            - a PIL image;
            - a NumPy array ``[H, W]``, ``[H, W, C]`` or a batch ``[N, H, W, C]``, or a tensor ``[C, H, W]`` or a batch
              ``[N, C, H, W]`` on any device, with C 1, 3 (RGB) or 4 (RGBA); not normalized: uint8 in 0..255, uint16 in
              0..65535, or floats in 0..1. OpenCV's arrays are BGR: pass ``image[..., ::-1]``.

            Networks of 2 or more than 4 channels take arrays and tensors of so many (floats as the weights' mean and
            std have them), ``.npy`` files of them, and TIFF files with a page for each channel.
        topk: predictions for each image; of a model of labels all that reach their thresholds, however many.
        input_size: side of the input in pixels, or (height, width); None takes the model's own.
        batch_size: images at a time in each thread; None takes what is fast on the model's device.
        on_error: "raise" at the first image that cannot be read, or "skip" it with a warning.
        decode: "exact" answers bit for bit as timm's transform; "fast" decodes JPEGs at the smallest scale that leaves
            the resize at least twice the pixels that it needs, several times as fast for large photographs.
        workers: threads that decode and infer; None takes one for each core, up to 16.

    Returns:
        For each image its predictions, the most likely first; an empty list for a skipped image, or one that has none
        of a model's labels.

    Raises:
        ImageError, MissingFileError: if an image cannot be read and on_error is "raise"; the message names it.
        ArgumentError: if the model has no classifier or was trained to embed, a number is out of range, or an image has
            another type, shape or range; among several, the message has its number.
    """
    predictor = create_predictor(model, input_size, decode=decode)
    found: list[list[Prediction]] = []
    for result in predictor.stream(images, topk, batch_size, on_error, workers):
        if isinstance(result, str):
            warnings.warn(f"skipped: {result}", stacklevel=2)
        found.append([] if isinstance(result, str) else result)
    return found


def _split(images: Any) -> Iterable[ImageSource]:
    """Return the single images of what `predict` was given."""
    is_file = isinstance(images, bytes | bytearray | memoryview) or hasattr(images, "read")
    if is_file or isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if is_array(images):
        return images if len(images.shape) == 4 else [images]  # iterated, a batch is its images
    if isinstance(images, Iterable):
        return images
    raise ArgumentError(f"images is {images!r}; give a path, a PIL image, an array, or several of them")
