"""What the demo does with networks, each step a function that returns what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from effnets.errors import ImageError, MissingFileError
from effnets.inference.predictor import classifier_of

if TYPE_CHECKING:
    from effnets.inference.labels import Prediction
    from effnets.nn.classifier import Classifier
    from effnets.train.callbacks import Callback
    from effnets.train.run import TrainedModel

__all__ = ["COUNTS", "MODEL", "SETTINGS", "Answer", "classify", "finetune_head", "missing"]

MODEL = "mixnet_xs_32px"

# Pictures of each class of the small data set. Enough for a network that can see; a head learns from them in seconds.
COUNTS: Mapping[str, int] = {"train": 60, "val": 15, "test": 25}

# What is not the recipe's default: so few pictures are not worth processes that load them.
SETTINGS: Mapping[str, str | int] = {"model": MODEL, "freeze": "backbone", "epochs": 20, "workers": 0}

# What a step needs beyond the core, by the extra that brings it.
_EXTRAS: Mapping[str, Sequence[str]] = {
    "train": ("accelerate", "matplotlib", "timm", "torchvision"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the network says of one picture.

    Attributes:
        path: of the picture. meant: what was drawn; None where nobody says.
        prediction: the likeliest class; None where the picture could not be read, and `error` says why.
    """

    path: str
    meant: str | None = None
    prediction: Prediction | None = None
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether the answer is what was meant."""
        return self.prediction is not None and self.prediction.label == self.meant


def missing(extra: str) -> list[str]:
    """The packages of an extra, ``train`` or ``export``, that are not installed."""
    return [package for package in _EXTRAS[extra] if not find_spec(package)]


def classify(network: Classifier, path: str, meant: str | None = None) -> Answer:
    """The network's answer for one picture; one that cannot be read is an answer too."""
    classifier = classifier_of(network)
    try:
        ((prediction,),) = classifier.classify([classifier.prepare(path)], 1)
    except (ImageError, MissingFileError) as error:
        return Answer(path=path, meant=meant, error=str(error))
    return Answer(path=path, meant=meant, prediction=prediction)


def finetune_head(
    data: Path, output: Path, *, callbacks: Sequence[Callback], command: str | None = None
) -> TrainedModel:
    """Train a new head for the classes of `data` on the frozen network, into the folder `output`.

    Arguments and errors are as of `effnets.finetune`.
    """
    from effnets.train.recipe import find_recipe, read_recipe
    from effnets.train.run import finetune

    recipe = read_recipe(find_recipe("finetune"), SETTINGS)
    return finetune(recipe, data, output, callbacks=callbacks, command=command)
