"""What a command evaluates or classifies with: a network, a run, an exported file, or the demonstration network."""

from __future__ import annotations

import json
import tempfile
import textwrap
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnets.engines.base import ENGINES, FOR_ONNX

if TYPE_CHECKING:
    from effnets.engines.base import Engine
    from effnets.nn.classifier import Classifier


DEMONSTRATION = "mixnet_xs_32px.cifar10"


def load_demonstration() -> Classifier:
    """Load the demonstration network with its weights, which are in the package.

    Raises:
        MissingFileError, WeightsError: if the installation is incomplete.
    """
    # Imported here, like every use of torch by a command.
    from effnets.factory import create_model

    return create_model(DEMONSTRATION, pretrained=True)


def notice(network: Classifier) -> str:
    """What a user must know who named no model: how little this one knows, and how to get another."""
    names = network.class_names or ()
    return textwrap.fill(
        f"No model is named, so the demonstration network answers, {DEMONSTRATION}. It was trained on CIFAR-10's "
        f"pictures of {network.spec.input_size} pixels and knows only {len(names)} classes: {', '.join(names)}. "
        "For ImageNet's 1,000 name a model: --model mobilenetv2_100, for example.",
        width=100,
    )


_AUTO = "auto"
_FOR_NETWORKS = (_AUTO, "torch", "torch-compile", *FOR_ONNX)


@dataclass(slots=True)
class Subject:
    """Weights and the engine that executes them.

    Attributes:
        weights: a file, a folder or a tag; None for the published ones of `model`.
        notes: what loading has to say.
    """

    model: str | None
    weights: str | None
    engine: str
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What was measured, in a table."""
        return self.weights or str(self.model)

    def load(self, stack: ExitStack, image_size: int | None) -> Classifier | Engine:
        """The model, ready to be evaluated at `image_size`; what it needs on disk lives as long as `stack`."""
        from effnets.deploy.engine import load_engine

        if _is_exported(self.weights):
            return load_engine(str(self.weights), self.engine)
        network = self._load_network()
        if self.engine == _AUTO:
            return network
        if self.engine not in FOR_ONNX:
            return load_engine(network, self.engine)
        from effnets.deploy.export.onnx import export_onnx

        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.onnx"
        export_onnx(network, path, image_size=image_size)
        return load_engine(path, self.engine)

    def learned_from(self, data: str) -> str | None:
        """What to say where `data`, of which nothing is set apart, are the pictures that a run here was trained on."""
        from effnets.train.checkpoint import METRICS

        try:
            metrics = json.loads((Path(str(self.weights)) / METRICS).read_text(encoding="utf-8"))
            trained_on, pictures = metrics.get("data_path") or metrics["data"], metrics["images"]["train"]
        except (OSError, ValueError, KeyError, TypeError):  # no run of ours
            return None
        if not Path(trained_on).exists() or Path(trained_on).resolve() != Path(data).resolve():
            return None
        return (
            f"{self.weights} was trained on {pictures:,} of these pictures, so this says little about others; "
            "set some apart, in test/, before training"
        )

    def _load_network(self) -> Classifier:
        # Imported here: torch takes seconds, and exported models do without.
        from effnets.factory import create_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the loader warns of is an error here
            if self.model is None:
                network = create_model(str(self.weights), pretrained=True)
            else:
                network = create_model(self.model, pretrained=self.weights is None, weights=self.weights)
        report = network.load_report
        if report and report.reinitialised:
            raise click.ClickException(f"{report.source}: has no classifier, so that answers would be chance")
        self.notes += [f"{self.name}: {note}" for note in report.notes] if report else []
        return network


def subjects_of(model: str | None, weights: tuple[str, ...], engines: tuple[str, ...]) -> list[Subject]:
    """Every one of `weights` in each of `engines` that can execute it.

    Raises:
        click.UsageError: something cannot be executed, or needs a model's name.
    """
    for engine in engines:
        if engine not in (_AUTO, *ENGINES):
            raise click.UsageError(f"--engine {engine}: choose among {', '.join((_AUTO, *ENGINES))}")
    subjects: list[Subject] = []
    for one in weights or (None,):
        if one is None and model is None:
            raise click.UsageError(
                "--model is missing; only an exported model or a folder, --weights, needs none "
                "(--model mixnet_xs_32px is the demonstration network, for CIFAR-10)"
            )
        if one is not None and model is None and not (_is_exported(one) or is_whole(one)):
            raise click.UsageError(f"--weights {one}: which network are they of? Add --model")
        possible = _possible(one)
        fitting = [engine for engine in engines or (_AUTO,) if engine in possible]
        if not fitting:
            raise click.UsageError(
                f"{one or model} is executed by {', '.join(possible)}, not by {' or '.join(engines)}"
            )
        subjects += [Subject(model, one, engine) for engine in dict.fromkeys(fitting)]
    unused = set(engines) - {subject.engine for subject in subjects}
    if unused:
        raise click.UsageError(f"--engine {', '.join(sorted(unused))} executes none of the --weights")
    return subjects


def _possible(weights: str | None) -> tuple[str, ...]:
    if not _is_exported(weights):
        return _FOR_NETWORKS
    return (_AUTO, "aotinductor") if str(weights).lower().endswith(".pt2") else (_AUTO, *FOR_ONNX)


def _is_exported(weights: str | None) -> bool:
    return weights is not None and Path(weights).suffix.lower() in (".onnx", ".pt2")


def is_whole(weights: str) -> bool:
    """Whether it says by itself which network it is."""
    return Path(weights).is_dir() or weights.startswith("hf-hub:")
