"""The metadata of an export, gathered from the network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from effnets._version import __version__
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.metadata import InputKind, ModelMetadata
from effnets.inference.labels import class_names
from effnets.nn.classifier import Classifier
from effnets.nn.utils import LoadReport, hash_values
from effnets.spec.entries import split_tag
from effnets.spec.specs import WeightsSpec
from effnets.spec.weights import find_source, find_weights
from effnets.utils.machine import version_of


def describe(
    network: Classifier,
    *,
    size: tuple[int, int] | None,
    input_kind: InputKind,
    rewrites: Rewrites | None,
    engine: str = "",
    usual_size: tuple[int, int] | None = None,
    embedding: int = 0,
) -> ModelMetadata:
    """Return the metadata of a network that is exported for images of (height, width) `size`; None for any.

    `usual_size` is then the size to which programs resize images, None for that of the weights. `embedding` is the
    length of that output.
    """
    report, published = network.load_report, _published(network)
    # After training or with another classifier.
    changed = report is not None and report.values != hash_values(network)
    accuracy: dict[str, Any] = {}
    if published and published.top1 is not None and not changed:
        accuracy = {"top1": published.top1, "top5": published.top5}
        accuracy |= {"size": published.measured_size, "source": published.accuracy_source}
    # torch's engines need no onnx.
    packages = {name: version for name in ("torch", "onnx") if (version := version_of(name))}
    return ModelMetadata(
        model=network.spec.name,
        family=network.spec.family,
        labels=_labels(network),
        preprocess=network.spec.preprocess,
        input_kind=input_kind,
        channels=network.in_chans,
        size=size,
        usual_size=usual_size,
        weights=_weights(report, published, changed=changed) if report else {},
        accuracy=accuracy,
        rewrites=rewrites.to_dict() if rewrites else {},
        engine=engine,
        versions={"effnets": __version__, **packages},
        embedding=embedding,
        classifier_activation=network.classifier_activation,
        thresholds=network.thresholds or (),
    )


def _labels(network: Classifier) -> tuple[str, ...]:
    if network.classifier_activation == "l2":
        return tuple(f"dimension {number}" for number in range(network.num_outputs))
    return network.class_names or class_names(network.num_classes)


def _published(network: Classifier) -> WeightsSpec | None:
    """Return the registered weights that were loaded, if they include the classifier."""
    report = network.load_report
    source = find_source(report.source.partition("@")[0]) if report and not report.reinitialised else None
    return find_weights(source) if source else None


def _weights(report: LoadReport, published: WeightsSpec | None, *, changed: bool) -> dict[str, Any]:
    # Only the name of a file, not its folder on the exporting machine.
    source = report.source if published or "://" in report.source else Path(report.source).name
    facts: dict[str, Any] = {"source": source, "dialect": report.dialect}
    if published:
        facts["licence"] = published.licence
    if changed:  # hash and tag are of other values
        return facts | {"changed": True}
    if published:
        facts["tag"] = split_tag(published.name)[1]
    return facts | {"sha256": report.sha256}


def fingerprint(network: Classifier) -> str:
    """Return a hash of the architecture and of every value."""
    return hashlib.sha256(f"{network.spec!r} {hash_values(network)}".encode()).hexdigest()
