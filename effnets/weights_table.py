"""YAML tables of weights → `WeightsSpec`, as strictly as those of the architectures. Free of torch.

A file maps models to their tags, the default one first, and each tag to an entry; a name that begins with an
underscore is a template, an entry that others of the file name as their `base`. `WEIGHTS_KEYS` lists what an entry
may say; ``configs/weights-schema.json`` is generated from it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from effnets.entry_values import EntryKey, decode_mapping
from effnets.errors import ConfigError
from effnets.spec import ACTIVATIONS, Interpolation, Padding, PreprocessSpec
from effnets.utils.arguments import RANGES
from effnets.weights_spec import WEIGHTS_DIALECTS, WeightsSpec
from effnets.yamltree import Node, read_yaml

__all__ = ["REQUIRED_KEYS", "WEIGHTS_KEYS", "read_weights"]

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
