"""Pins: the exact file behind each published name, as ``scripts/pin_weights.py`` found it. Free of torch.

They lie in a file of their own, ``configs/weights/pins.yaml``, so that an organisation can pin its own mirror: the
environment variable ``EFFNETS_PINS`` names another file, which then stands in for it altogether. Only files that lie in
the package have their pins there always.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.spec.decode import EntryKey, decode_mapping
from effnets.spec.specs import (
    ACTIVATIONS,
    WEIGHTS_DIALECTS,
    Interpolation,
    ModelSpec,
    Padding,
    PreprocessSpec,
    WeightsSpec,
)
from effnets.spec.yaml import Node, catalogue, find_entry, model_names, read_yaml, split_tag
from effnets.utils.arguments import RANGES
from effnets.utils.paths import configs_dir

PINS_VARIABLE = "EFFNETS_PINS"

PIN_KEYS: Mapping[str, EntryKey] = MappingProxyType(
    {
        "revision": EntryKey(kind="text", doc="Commit of the repository on the Hub, 40 hex digits."),
        "sha256": EntryKey(kind="text", doc="Of the file, 64 hex digits."),
    }
)

_DIGITS = {"revision": 40, "sha256": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What is pinned for one ``model.tag``, and where that stands."""

    revision: str | None = None
    sha256: str | None = None
    where: str = ""


def pins_path() -> Path:
    """The file of pins: the one that ``EFFNETS_PINS`` names, or ``configs/weights/pins.yaml``."""
    named = os.environ.get(PINS_VARIABLE)
    return Path(named) if named else shipped_pins_path()


def shipped_pins_path() -> Path:
    """The file of pins that comes with this package."""
    return configs_dir() / "weights" / "pins.yaml"


@lru_cache(maxsize=8)
def read_pins(path: Path) -> Mapping[str, Pin]:
    """Read a file of pins: ``model.tag`` → `Pin`.

    Raises:
        MissingFileError: no such file.
        ConfigError: not such a mapping, an unknown key, or digits that are none, with file, line and the fix.
    """
    try:
        document = read_yaml(path)
    except MissingFileError:
        hint = f"{PINS_VARIABLE} names it" if os.environ.get(PINS_VARIABLE) else "reinstall effnets"
        raise MissingFileError(f"{path}: no such file of pins ({hint})") from None
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map model.tag to pins")
    pins = {}
    for name, node in document.value.items():
        if not isinstance(node.value, dict) or not node.value:
            raise ConfigError(f"{path}:{node.line}: {name}: a pin is a mapping, {{revision: …, sha256: …}}")
        values = decode_mapping(name, path, node.value, PIN_KEYS)
        for key, value in values.items():
            if not re.fullmatch(f"[0-9a-f]{{{_DIGITS[key]}}}", value):
                line = node.value[key].line
                raise ConfigError(
                    f"{path}:{line}: {name}: {key} is {value!r}; it must be {_DIGITS[key]} small hex digits, in quotes"
                )
        pins[name] = Pin(**values, where=f"{path}:{node.line}")
    return pins


WEIGHTS_KEYS: Mapping[str, EntryKey] = MappingProxyType(
    {
        "base": EntryKey(kind="text", doc="A template of this file; what is not stated here comes from it."),
        "source": EntryKey(
            kind="text",
            doc="hf-hub:organisation/repository, the file's URL (one that ends in / takes 'file'), or package:file.",
        ),
        "file": EntryKey(kind="text", doc="The file in the repository; model.safetensors by default."),
        "dialect": EntryKey(kind="text", doc="The framework that wrote the file.", choices=WEIGHTS_DIALECTS),
        "licence": EntryKey(kind="text", doc="As the publisher states it; SPDX, in small letters."),
        "padding": EntryKey(kind="text", doc="In place of the model's.", choices=get_args(Padding)),
        "bn_eps": EntryKey(kind="number", doc="In place of the model's."),
        "activation": EntryKey(kind="text", doc="In place of the model's.", choices=ACTIVATIONS),
        "num_classes": EntryKey(kind="integer", doc="Outputs in the file, a background included; 1000 by default."),
        "background": EntryKey(kind="boolean", doc="Class 0 is none of the others."),
        "input_size": EntryKey(kind="integer", doc="Side of the square input in pixels."),
        "resize": EntryKey(kind="integer", doc="Shorter side of the resized image, in place of crop_pct."),
        "crop_pct": EntryKey(kind="number", doc="The centre crop's share of the resized image's side."),
        "test_input_size": EntryKey(kind="integer", doc="Where the weights do better than at input_size."),
        "test_crop_pct": EntryKey(kind="number", doc="The crop's share at test_input_size."),
        "interpolation": EntryKey(kind="text", doc="Of the resize.", choices=get_args(Interpolation)),
        "mean": EntryKey(kind="numbers", doc="Mean of each input channel, of values in 0..1."),
        "std": EntryKey(kind="numbers", doc="Standard deviation of each input channel."),
        "top1": EntryKey(kind="number", doc="Published top-1 accuracy on ImageNet-1k's validation set, in per cent."),
        "top5": EntryKey(kind="number", doc="Published top-5 accuracy, likewise."),
        "accuracy_size": EntryKey(kind="integer", doc="Input side of those figures, where it is not input_size."),
        "accuracy_source": EntryKey(kind="text", doc="Where those figures were read."),
        "sha256": EntryKey(kind="text", doc="Of the file; pins.yaml is the place for it, as a program fills that in."),
        "sha256_prefix": EntryKey(kind="text", doc="The beginning of the sha256 that the file's own name states."),
        "revision": EntryKey(kind="text", doc="Commit on the Hub; pins.yaml is the place for it."),
    }
)

# Nothing here is taken from the model: weights know their preprocessing, or they are of no use.
REQUIRED_KEYS = ("source", "dialect", "licence", "input_size", "interpolation", "mean", "std")

_PREPROCESS_FIELDS = frozenset(field.name for field in fields(PreprocessSpec))
_MAX_CHAIN = 8


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    templates: Mapping[str, Node]

    def error(self, node: Node, where: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}:{node.line}:{node.column}: {where}: {problem}")


def read_weights(path: Path, models: Collection[str]) -> dict[str, dict[str, WeightsSpec]]:
    """Read one table: model → tag → weights, in the file's order.

    Args:
        path: a file of ``configs/weights``.
        models: names that a table may speak of.

    Raises:
        MissingFileError, ConfigError: as `read_yaml`; or an unknown model or key, a wrong type, something missing or
            out of range, with file, line and the fix.
    """
    document = read_yaml(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map models to their tags")
    file = _File(path, {name: node for name, node in document.value.items() if name.startswith("_")})
    weights: dict[str, dict[str, WeightsSpec]] = {}
    for model, node in document.value.items():
        if model in file.templates:
            _resolve(file, model, node)  # checked even where nothing uses it yet
            continue
        if model not in models:
            near = difflib.get_close_matches(model, list(models), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; list_models() has all names"
            raise file.error(node, model, f"no model of this name{hint}")
        if not isinstance(node.value, dict) or not node.value:
            raise file.error(node, model, "a model maps tags to entries, such as in1k: {base: _timm, …}")
        weights[model] = {tag: _make(file, model, tag, entry) for tag, entry in node.value.items()}
    return weights


def _resolve(file: _File, where: str, node: Node) -> dict[str, Any]:
    """The values of an entry laid over those of its templates."""
    chain: list[tuple[str, Node]] = [(where, node)]
    while True:
        name, link = chain[-1]
        if not isinstance(link.value, dict):
            raise file.error(link, name, "an entry is a mapping, such as {base: _timm, source: …}")
        base = link.value.get("base")
        if base is None:
            break
        parent = file.templates.get(base.value) if isinstance(base.value, str) else None
        if parent is None:
            templates = ", ".join(file.templates) or "none"
            raise file.error(base, name, f"base {base.value!r} is not a template of this file; it has {templates}")
        chain.append((str(base.value), parent))
        if len(chain) > _MAX_CHAIN:
            raise file.error(node, where, f"base leads through more than {_MAX_CHAIN} entries, or in a circle")
    values: dict[str, Any] = {}
    for name, link in reversed(chain):
        assert isinstance(link.value, dict), "checked on the way here"
        own = decode_mapping(name, file.path, link.value, WEIGHTS_KEYS)
        if "resize" in own and "crop_pct" in own:
            raise file.error(link, name, "resize and crop_pct both say how much is cropped; state one of them")
        # The two are one choice: stating either replaces the template's other.
        replaced = {"resize": "crop_pct", "crop_pct": "resize"}
        dropped = {replaced[key] for key in own if key in replaced}
        values = {key: value for key, value in {**values, **own}.items() if key not in dropped and key != "base"}
    return values


def _make(file: _File, model: str, tag: str, node: Node) -> WeightsSpec:
    where = f"{model}.{tag}"
    values = _resolve(file, where, node)
    missing = [key for key in REQUIRED_KEYS if key not in values]
    if "crop_pct" not in values and "resize" not in values:
        missing.append("crop_pct")
    if missing:
        raise file.error(node, where, f"{', '.join(missing)} missing; state it, or a 'base' that does")
    try:
        if values["source"].endswith("/") and "file" in values:
            values["source"] += values["file"]
        if (resize := values.pop("resize", None)) is not None:
            values["crop_pct"] = _crop_share(values["input_size"], resize)
        preprocess = PreprocessSpec(**{key: values.pop(key) for key in list(values) if key in _PREPROCESS_FIELDS})
        return WeightsSpec(model=model, tag=tag, preprocess=preprocess, **values)
    except ConfigError as error:
        raise file.error(node, where, str(error)) from None


def _crop_share(input_size: int, resize: int) -> float:
    """The share that makes the resized image's shorter side come out at exactly `resize` pixels."""
    most = RANGES["resize"][1]
    if not input_size <= resize <= most:
        raise ConfigError(f"resize is {resize}; it must be at least input_size, {input_size}, and at most {most}")
    share = input_size / resize
    return share if math.floor(input_size / share) == resize else math.nextafter(share, 0)


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
