"""Published weights: the tables ``configs/weights/<family>.yaml``, and the pins of the exact files. Free of torch.

Pins are in a file of their own, ``configs/weights/pins.yaml``, which ``scripts/pin_weights.py`` writes, so that an
organization can pin its own mirror: the environment variable ``EFFNETS_PINS`` names another file, which replaces it.
Only files that come with the package always have their pins there.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.spec.decode import decode_dataclass, decode_mapping, error_at
from effnets.spec.entries import find_entry, model_names, split_tag, zoo_entries
from effnets.spec.specs import REVISION, SHA256, ModelSpec, PreprocessSpec, WeightsSpec
from effnets.spec.yaml import Node, read_yaml
from effnets.utils.arguments import MAX_SIDE, Range, check_fields, field_infos
from effnets.utils.paths import configs_dir

PINS_VARIABLE = "EFFNETS_PINS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The exact file of one ``model.tag``; `where` is the pin's own file and line, for messages."""

    revision: Annotated[str | None, REVISION, "Commit of the repository on the Hub."] = None
    sha256: Annotated[str | None, SHA256, "Of the file."] = None
    where: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


def pins_path() -> Path:
    """Return the file of pins: the one that ``EFFNETS_PINS`` names, or ``configs/weights/pins.yaml``."""
    named = os.environ.get(PINS_VARIABLE)
    return Path(named) if named else shipped_pins_path()


def shipped_pins_path() -> Path:
    """Return the file of pins that comes with this package."""
    return configs_dir() / "weights" / "pins.yaml"


@lru_cache(maxsize=8)
def read_pins(path: Path) -> Mapping[str, Pin]:
    """Read a file of pins: ``model.tag`` → `Pin`.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if it is not such a mapping, or a key or a value is wrong, with file, line and the fix.
    """
    try:
        document = read_yaml(path)
    except MissingFileError:
        hint = f"{PINS_VARIABLE} names it" if os.environ.get(PINS_VARIABLE) else "reinstall effnets"
        raise MissingFileError(f"{path}: this file of pins does not exist ({hint})") from None
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map model.tag to pins")
    pins = {}
    for name, node in document.value.items():
        if not isinstance(node.value, dict) or not node.value:
            raise ConfigError(f"{path}:{node.line}: {name}: a pin is a mapping, {{revision: …, sha256: …}}")
        pins[name] = decode_dataclass(Pin, path, name, node, where=f"{path}:{node.line}")
    return pins


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directives:
    """Keys of an entry that are not fields of a spec."""

    base: Annotated[str, "A template of this file; what is not stated here comes from it."]
    resize: Annotated[int, Range(1, MAX_SIDE), "Shorter side of the resized image, in place of crop_pct."]


_PREPROCESS_FIELDS = frozenset(field_infos(PreprocessSpec))
WEIGHTS_KEYS = {
    name: info
    for kind in (_Directives, WeightsSpec, PreprocessSpec)
    for name, info in field_infos(kind).items()
    if name not in ("model", "tag", "preprocess")
}

# Not inherited from the model: weights are useless without their own preprocessing.
REQUIRED_KEYS = ("source", "dialect", "licence", "input_size", "interpolation", "mean", "std")

_MAX_CHAIN = 8


def read_weights(path: Path, models: Collection[str]) -> dict[str, dict[str, WeightsSpec]]:
    """Read one table: model → tag → weights, in the file's order.

    Args:
        path: a file of ``configs/weights``.
        models: names that a table may speak of.

    Raises:
        MissingFileError, ConfigError: as `read_yaml`; or if a model or key is unknown or missing, or a value is wrong,
            with file, line and the fix.
    """
    document = read_yaml(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map models to their tags")
    templates = {name: node for name, node in document.value.items() if name.startswith("_")}
    weights: dict[str, dict[str, WeightsSpec]] = {}
    for model, node in document.value.items():
        if model in templates:
            _resolve(path, templates, model, node)  # checked even where nothing uses it yet
            continue
        if model not in models:
            near = difflib.get_close_matches(model, list(models), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; list_models() has all names"
            raise error_at(path, node, model, f"no model of this name{hint}")
        if not isinstance(node.value, dict) or not node.value:
            raise error_at(path, node, model, "a model maps tags to entries, such as in1k: {base: _timm, …}")
        weights[model] = {tag: _make(path, templates, model, tag, entry) for tag, entry in node.value.items()}
    return weights


def _resolve(path: Path, templates: Mapping[str, Node], where: str, node: Node) -> dict[str, Any]:
    """The values of an entry laid over those of its templates."""
    chain: list[tuple[str, Node]] = [(where, node)]
    while True:
        name, link = chain[-1]
        if not isinstance(link.value, dict):
            raise error_at(path, link, name, "an entry is a mapping, such as {base: _timm, source: …}")
        base = link.value.get("base")
        if base is None:
            break
        parent = templates.get(base.value) if isinstance(base.value, str) else None
        if parent is None:
            known = ", ".join(templates) or "none"
            raise error_at(path, base, name, f"base {base.value!r} is not a template of this file; it has {known}")
        chain.append((str(base.value), parent))
        if len(chain) > _MAX_CHAIN:
            raise error_at(path, node, where, f"base leads through more than {_MAX_CHAIN} entries, or in a circle")
    values: dict[str, Any] = {}
    for name, link in reversed(chain):
        assert isinstance(link.value, dict), "checked on the way here"
        own = decode_mapping(path, name, link.value, WEIGHTS_KEYS)
        if "resize" in own and "crop_pct" in own:
            raise error_at(path, link, name, "resize and crop_pct both say how much is cropped; state one of them")
        # The two are one choice: stating either replaces the template's other.
        replaced = {"resize": "crop_pct", "crop_pct": "resize"}
        dropped = {replaced[key] for key in own if key in replaced}
        values = {key: value for key, value in {**values, **own}.items() if key not in dropped and key != "base"}
    return values


def _make(path: Path, templates: Mapping[str, Node], model: str, tag: str, node: Node) -> WeightsSpec:
    where = f"{model}.{tag}"
    values = _resolve(path, templates, where, node)
    missing = [key for key in REQUIRED_KEYS if key not in values]
    if "crop_pct" not in values and "resize" not in values:
        missing.append("crop_pct")
    if missing:
        raise error_at(path, node, where, f"{', '.join(missing)} missing; state it, or a 'base' that does")
    try:
        if values["source"].endswith("/") and "file" in values:
            values["source"] += values["file"]
        if (resize := values.pop("resize", None)) is not None:
            values["crop_pct"] = crop_share(values["input_size"], resize)
        preprocess = PreprocessSpec(**{key: values.pop(key) for key in list(values) if key in _PREPROCESS_FIELDS})
        return WeightsSpec(model=model, tag=tag, preprocess=preprocess, **values)
    except ConfigError as error:
        raise error_at(path, node, where, str(error)) from None


def crop_share(input_size: int, resize: int) -> float:
    """The share that makes the resized image's shorter side come out at exactly `resize` pixels."""
    if not input_size <= resize <= MAX_SIDE:
        raise ConfigError(f"resize is {resize}; it must be at least input_size, {input_size}, and at most {MAX_SIDE}")
    share = input_size / resize
    return share if math.floor(input_size / share) == resize else math.nextafter(share, 0)


_PINS_FILE = "pins.yaml"


def list_weights(model: str) -> list[str]:
    """List the tags of the published weights of `model`, the default first; empty if no weights are registered.

    Raises:
        UnknownModelError: if no model has the name.
        ConfigError: if a table of weights is invalid.
    """
    find_entry(model)
    return list(_tables().get(model, {}))


def find_weights(name: str) -> WeightsSpec:
    """Find published weights by name.

    Args:
        name: ``model.tag``, or a model, for its default weights.

    Raises:
        UnknownModelError: if no model or tag has the name; the message offers the nearest ones.
        MissingFileError, ConfigError: if a table of weights, or the file of pins, is missing or invalid.
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
    """Find the name of the weights published at `source` (``hf-hub:org/repo``, a URL); None if it is not registered."""
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
    """Return `spec` with the weights' preprocessing and classes, and their padding, epsilon and activation if stated.

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
                raise ConfigError(f"{path}: {model} is in {homes[model]} too; keep a model's weights in one file")
            tables[model], homes[model] = tags, str(path)
    return tables


def _pinned(weights: WeightsSpec) -> WeightsSpec:
    # A file of this package can only be the one it was shipped with, even if the user pins a mirror.
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
    family = zoo_entries()[model].path.stem
    mates = [other for other in _tables() if zoo_entries()[other].path.stem == family]
    near = difflib.get_close_matches(model, mates, n=3, cutoff=0.5)
    return f"; these have: {', '.join(near)}" if near else "; list_models(pretrained=True) has all there are"


def clear_cache() -> None:
    """Forget what was read from ``configs/weights`` and of pins."""
    _tables.cache_clear()
    read_pins.cache_clear()
