"""``effnets embed``, and what the commands that compare embeddings share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import (
    DrawnFile,
    batch_size_option,
    decode_option,
    ema_option,
    finish_journal,
    image_size_option,
    workers_option,
)
from effnets.cli.predict import data_settings, find_all, hash_model, is_complete, load_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from effnets.inference.image import PhotoResult
    from effnets.inference.pipeline import Pipeline
    from effnets.inference.predictor import Decode
    from effnets.nn.classifier import Classifier

model_option = click.option("--model", help="A model of the zoo, or a YAML file of your own; a whole model needs none.")
weights_option = click.option(
    "--weights",
    help="A weights file, a tag, a folder of a training, or a file of effnets export --output embedding "
    "[default: the published weights].",
)


def comparison_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that commands have in common which embed photos and compare them."""
    options = [model_option, weights_option, ema_option, batch_size_option, workers_option]
    options.append(click.option("--html", type=DrawnFile(".html"), metavar="FILE", help="Show them on a page, ….html."))
    options.append(click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."))
    for option in reversed(options):
        command = option(command)
    return command


@click.command(name="embed")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|FOLDER…")
@click.option("--output", metavar="FILE", required=True, help="The file to write: .parquet, .npy or .safetensors.")
@model_option
@weights_option
@ema_option
@click.option("--stage", type=int, help="Average this stage's feature map [default: the classifier's input].")
@click.option("--no-normalize", is_flag=True, help="Leave vectors as they are, instead of making their length 1.")
@image_size_option
@batch_size_option
@workers_option
@decode_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run with the same --output.")
def command(
    photos: tuple[str, ...],
    output: str,
    model: str | None,
    weights: str | None,
    ema: bool,
    stage: int | None,
    no_normalize: bool,
    image_size: int | None,
    batch_size: int | None,
    workers: int | None,
    decode: Decode,
    resume: bool,
) -> None:
    """Write a vector for each PHOTO, and for each photo in a FOLDER and its subfolders.

    Vectors of photos that show the same are near each other: effnets similar finds them. A photo that cannot be read is
    reported, the others are embedded all the same, and the exit status is 1. In Parquet it has a row with its error and
    without a vector; the other files hold the vectors that there are, and their paths.
    """
    # Imported here and below: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.bulk.journal import Journal
    from effnets.bulk.vectors import VECTOR_WRITERS

    if is_complete(output, VECTOR_WRITERS, resume=resume):
        return
    embedder = Embedder(model, weights, ema, stage, not no_normalize, image_size, decode)
    pipeline = embedder.pipeline(batch_size, workers)
    from effnets.embeddings.embed import embed_photos

    settings = embedder.settings | data_settings(photos)
    size = pipeline.predictor.embedding_size(stage)
    with Journal(Path(output), settings, resume=resume, vector_size=size) as journal:
        stream = embed_photos(pipeline, journal.pending(find_all(photos)), stage=stage, normalize=embedder.normalize)

        def take(result: tuple[PhotoResult, NDArray[np.float32] | None]) -> None:
            photo, vector = result
            journal.write({"path": photo.path} | ({"error": photo.error} if photo.error else {}), vector)

        status = finish_journal(stream, take, journal, "embedded")
    click.get_current_context().exit(status)


@dataclass(slots=True)
class Embedder:
    """A network, and how it is used, as options name them.

    Attributes:
        settings: all of it as plain values, with the hash of the network's weights.
    """

    model: str | None
    weights: str | None
    ema: bool = False
    stage: int | None = None
    normalize: bool = True
    image_size: int | None = None
    decode: Decode = "exact"
    settings: dict[str, Any] = field(init=False)
    _network: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._network = load_model(self.model, self.weights, self.ema, _load_backbone)
        if self._network is None:
            raise click.UsageError("--model is missing; name one of the zoo (effnets list), or an exported --weights")
        names = {name: _absolute(getattr(self, name)) for name in ("model", "weights")}
        plain = {name: getattr(self, name) for name in ("ema", "stage", "normalize", "image_size", "decode")}
        self.settings = {**names, **plain, "sha256": hash_model(self._network, self.weights)}

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], model: str | None, weights: str | None, ema: bool, source: str
    ) -> Embedder:
        """Load the network that embedded a file with these settings, or what the options name instead, if it is that.

        Raises:
            ArgumentError: if it is not, or the settings of the file `source` lack something.
        """
        from effnets.errors import ArgumentError, EffnetsError

        try:
            named = (
                (model, weights, ema)
                if model or weights
                else tuple(settings[key] for key in ("model", "weights", "ema"))
            )
            how = [settings[key] for key in ("stage", "normalize", "image_size", "decode")]
            expected = settings["sha256"]
        except KeyError as error:
            raise ArgumentError(
                f"{source}: does not say by which network it was made; embed the photos again"
            ) from error
        try:
            embedder = cls(*named, *how)
        except (EffnetsError, click.UsageError) as error:
            if model or weights:
                raise
            raise ArgumentError(
                f"{source}: its network cannot be loaded ({error}); name it by --model and --weights"
            ) from error
        if embedder.settings["sha256"] != expected:
            raise ArgumentError(
                f"{source}: was made with other weights than these; name them by --model and --weights, or embed the "
                "photos again"
            )
        return embedder

    def pipeline(self, batch_size: int | None = None, workers: int | None = None) -> Pipeline:
        """Return what reads and embeds photos."""
        from effnets.inference.pipeline import Pipeline
        from effnets.inference.predictor import create_predictor

        predictor = create_predictor(self._network, self.image_size, "--image-size", self.decode, classify=False)
        return Pipeline(predictor, batch_size=batch_size, workers=workers)


def _load_backbone(model: str, weights: str | None, ema: bool) -> Classifier:
    from effnets.factory import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the loader warns of is the classifier, which has no say here
        network = create_model(model, pretrained=weights is None, weights=weights, ema=ema)
    if network.classifier_activation != "l2":
        network.reset_classifier(0)
    return network


def _absolute(name: str | None) -> str | None:
    """Return a file's or folder's name as it is from any folder; other names as they are."""
    return os.path.abspath(name) if name and os.path.exists(name) else name  # noqa: PTH100, PTH110
