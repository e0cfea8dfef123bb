"""Resolve the arguments of `create_model` to a spec and the weights to merge into its network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from effnets.errors import ArgumentError, WeightsError
from effnets.spec.entries import model_names, split_tag
from effnets.spec.models import is_tagged, load_spec
from effnets.spec.specs import HUB_SCHEME, ModelSpec, WeightsSpec
from effnets.spec.weights import apply_weights, find_source, find_weights, is_registered, list_weights
from effnets.weights.dialects import DIALECTS
from effnets.weights.fetch import fetch
from effnets.weights.folder import SavedModel, read_folder
from effnets.weights.remap import NativeWeights, apply_header, make_header, prepare_weights


def prepare_published(weights: WeightsSpec, spec: ModelSpec, num_classes: int | None = None) -> NativeWeights:
    """Fetch `weights` and name their tensors natively; what they ask of the network is applied to `spec`.

    An output for background is left out, unless `num_classes` counts it in.

    Raises:
        DownloadError, WeightsError, MissingFileError: as `effnets.weights.fetch.fetch` and `prepare_weights`; also if
            this library cannot read the framework's files.
    """
    if weights.dialect not in DIALECTS:
        raise WeightsError(
            f"{weights.name} has the names of {weights.dialect}, which are not known here (known are "
            f"{', '.join(DIALECTS)}); choose other weights: list_weights({weights.model!r}) has their tags"
        )
    file = fetch(weights)
    prepared = prepare_weights(file.path, apply_weights(spec, weights), file.dialect, num_classes, sha256=file.sha256)
    return replace(prepared, source=file.source, notes=(f"published weights {weights.name}", *prepared.notes))


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A network's spec, the weights to merge into it (or None), and the arguments that it was saved with.

    `arguments` apply unless the caller of `create_model` gives others.
    """

    spec: ModelSpec
    weights: NativeWeights | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def resolve(
    name: str | os.PathLike[str] | ModelSpec,
    pretrained: bool,
    weights: str | os.PathLike[str] | None,
    num_classes: int | None,
    ema: bool = False,
) -> Resolved:
    """Return the requested network, as its weights need it, and the weights.

    The arguments are those of `effnets.create_model`, and so are the errors.
    """
    if pretrained and weights is not None:
        raise ArgumentError("pretrained=True and weights= both say which weights to load; give one of them")
    if ema and weights is None:
        raise ArgumentError("ema=True chooses among the weights in a file; give one with weights=")
    name, weights = _registered(name), _registered(weights)
    saved = _open(name, with_weights=pretrained)
    spec = load_spec(name) if saved is None else saved.spec
    prepared = None
    if saved is not None and pretrained:
        prepared = _prepare_saved(saved, spec, spec.num_classes if num_classes is None else num_classes)
    elif (published := _find_published(name, spec, pretrained, weights)) is not None:
        if ema:
            raise ArgumentError(f"{published.name} is published with one set of weights; leave ema out")
        prepared = prepare_published(published, spec, num_classes)
    elif weights is not None and (theirs := _open(weights, with_weights=True)) is not None:
        prepared, saved = _prepare_saved(theirs, spec, num_classes, ema), theirs
    elif weights is not None:
        prepared = prepare_weights(weights, spec, num_classes=num_classes, ema=ema)
    return Resolved(
        spec=spec if prepared is None else prepared.spec,
        weights=prepared,
        arguments={} if saved is None else saved.arguments,
    )


def _registered(name: T) -> T | str:
    """Return the registry's name of a registered repository: the registry has more facts than its config."""
    if isinstance(name, str) and name.startswith(HUB_SCHEME):
        return find_source(name) or name
    return name


def _open(name: object, *, with_weights: bool) -> SavedModel | None:
    """Return the network in the folder or repository of that name; None if it is neither."""
    if isinstance(name, str) and name.startswith(HUB_SCHEME):
        # Imported here because huggingface_hub is slow to import.
        from effnets.weights.repository import fetch_repository

        return fetch_repository(name, with_weights=with_weights)
    # A string is no folder where it is also the name of a model or of its weights.
    if isinstance(name, str) and (name in model_names() or is_registered(name)):
        return None
    if isinstance(name, str | os.PathLike) and os.path.isdir(name):  # noqa: PTH112
        return read_folder(name, with_weights=with_weights)
    return None


def _prepare_saved(saved: SavedModel, spec: ModelSpec, num_classes: int | None, ema: bool = False) -> NativeWeights:
    """Return the weights of a saved network, for `spec` with the settings that they were trained with."""
    assert saved.weights is not None
    spec, notes = apply_header(spec, make_header(saved.spec), saved.source)
    prepared = prepare_weights(
        saved.weights,
        spec,
        num_classes=num_classes,
        sha256=saved.weights_sha256,
        background=saved.background,
        class_names=saved.class_names,
        ema=ema,
    )
    return replace(prepared, source=saved.weights_source or prepared.source, notes=(*notes, *prepared.notes))


def _find_published(
    name: object, spec: ModelSpec, pretrained: bool, weights: str | os.PathLike[str] | None
) -> WeightsSpec | None:
    """Return the registered weights requested by `pretrained` or by a tag; None for a file or no weights."""
    tagged = is_tagged(name) and split_tag(str(name))[0] == spec.name
    if weights is None:
        return find_weights(str(name) if tagged else spec.name) if pretrained else None
    if tagged:
        raise ArgumentError(f"name {name!r} and weights= both say which weights are meant; take the tag off the name")
    if not isinstance(weights, str) or (os.path.lexists(weights) and not is_registered(weights)):
        return None
    model, tag = split_tag(weights)
    if tag is None and weights.isidentifier():
        return find_weights(f"{spec.name}.{weights}")
    if tag is None or model not in model_names() or tag not in list_weights(model):
        return None
    if model != spec.name:
        raise ArgumentError(f"weights {weights!r} are of another model than {spec.name}; name one of its own")
    return find_weights(weights)
