"""The registry of published weights: which there are, where they lie, and what they ask of a network. Free of torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from effnets.catalogue import catalogue, find_entry, model_names, split_tag
from effnets.errors import ConfigError, UnknownModelError
from effnets.pins import Pin, pins_path, read_pins, shipped_pins_path
from effnets.spec import ModelSpec
from effnets.utils.paths import configs_dir
from effnets.weights_spec import WeightsSpec
from effnets.weights_table import read_weights

__all__ = ["apply_weights", "find_source", "find_weights", "is_registered", "list_weights"]

_PINS_FILE = "pins.yaml"


def list_weights(model: str) -> list[str]:
    """Tags of the published weights of `model`, the default first; empty where none are registered.

    Raises:
        UnknownModelError: no such model.
        ConfigError: a table of weights is not one.
    """
    find_entry(model)
    return list(_tables().get(model, {}))


def find_weights(name: str) -> WeightsSpec:
    """The published weights of that name.

    Args:
        name: ``model.tag``, or a model, whose default weights are meant.

    Raises:
        UnknownModelError: no such model or tag; the message offers the nearest ones.
        MissingFileError, ConfigError: a table of weights, or the file of pins, is not one.
    """
    model, tag = split_tag(name)
    entry = find_entry(model)
    if entry.is_template:
        raise UnknownModelError(f"{model!r} is a template for other models, not a model; see list_models()")
    tags = _tables().get(model, {})
    if tag is None:
        if not tags:
            raise UnknownModelError(f"{model} has no published weights{_nearest_with_weights(model)}")
        tag = next(iter(tags))
    if tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=1)
        hint = f"; did you mean {model}.{near[0]}?" if near else ""
        raise UnknownModelError(
            f"{model} has no weights tagged {tag!r}; registered tags: {', '.join(tags) or 'none'}{hint}"
        )
    return _pinned(tags[tag])


def find_source(source: str) -> str | None:
    """The name of the weights that are published there (``hf-hub:org/repo``, a URL); None if there are none."""
    for tags in _tables().values():
        for weights in tags.values():
            if weights.source == source:
                return weights.name
    return None


def is_registered(name: str) -> bool:
    """Whether ``model.tag`` names published weights."""
    model, tag = split_tag(name)
    return tag in _tables().get(model, {})


def apply_weights(spec: ModelSpec, weights: WeightsSpec) -> ModelSpec:
    """`spec` as these weights need it: their preprocessing and classes, and padding, epsilon and activation if stated.

    A background class does not count: it is dropped on loading.
    """
    overrides: dict[str, Any] = {
        field: value for field in ("padding", "bn_eps", "activation") if (value := getattr(weights, field)) is not None
    }
    num_classes = weights.num_classes - int(weights.background)
    return replace(spec, preprocess=weights.preprocess, num_classes=num_classes, **overrides)


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, Mapping[str, WeightsSpec]]:
    tables: dict[str, dict[str, WeightsSpec]] = {}
    homes: dict[str, str] = {}
    models = frozenset(model_names())
    for path in sorted((configs_dir() / "weights").glob("*.yaml")):
        if path.name == _PINS_FILE:
            continue
        for model, tags in read_weights(path, models).items():
            if model in tables:
                raise ConfigError(f"{path}: {model} stands in {homes[model]} too; keep a model's weights in one file")
            tables[model], homes[model] = tags, str(path)
    return tables


def _pinned(weights: WeightsSpec) -> WeightsSpec:
    # A file of this package can only be the one it was shipped with, whatever mirror the user's pins are of.
    path = shipped_pins_path() if weights.packaged else pins_path()
    pins = read_pins(path)
    for name, pin in pins.items():
        model, tag = split_tag(name)
        if tag not in _tables().get(model, {}):
            raise ConfigError(f"{pin.where}: {name}: no weights of this name are registered; correct it or take it out")
    pin = pins.get(weights.name, Pin())
    try:
        return replace(weights, sha256=pin.sha256 or weights.sha256, revision=pin.revision or weights.revision)
    except ConfigError as error:
        raise ConfigError(f"{pin.where}: {weights.name}: {error}") from None


def _nearest_with_weights(model: str) -> str:
    family = catalogue()[model].path.stem
    mates = [other for other in _tables() if catalogue()[other].path.stem == family]
    near = difflib.get_close_matches(model, mates, n=3, cutoff=0.5)
    return f"; these have: {', '.join(near)}" if near else "; list_models(pretrained=True) has all there are"


def clear_cache() -> None:
    """Forget what was read from ``configs/weights`` and of pins."""
    _tables.cache_clear()
    read_pins.cache_clear()
