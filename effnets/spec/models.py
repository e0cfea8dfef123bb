"""YAML tables of architectures → `ModelSpec`: variants, inheritance, the list of names. Free of torch.

A file maps names to entries. An entry states a network, or a `base` and what differs from it; a name that begins
with an underscore is a template that others build on and nobody can ask for. `ENTRY_KEYS` lists what an entry may
say; ``configs/schema.json`` is generated from it.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from effnets.errors import ArgumentError, ConfigError, UnknownModelError
from effnets.spec import weights as registry
from effnets.spec.decode import decode_entry, make_spec
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec
from effnets.spec.weights import apply_weights, find_weights, list_weights
from effnets.spec.yaml import Entry, catalogue, find_entry, model_names, nearest, read_entries, split_tag

_YAML_SUFFIXES = (".yaml", ".yml")
_MAX_CHAIN = 16


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the zoo's models that match a shell-style `pattern`, in alphabetical order.

    With `pretrained`, the names of weights instead, each ``model.tag``; a pattern that matches the model's name
    gives all of its weights.
    """
    names = model_names()
    if not pretrained:
        return sorted(fnmatch.filter(names, pattern))
    tagged = [f"{name}.{tag}" for name in names for tag in list_weights(name)]
    return sorted({*fnmatch.filter(tagged, pattern), *fnmatch.filter(tagged, f"{pattern}.*")})


def load_spec(name_or_path: str | os.PathLike[str] | ModelSpec) -> ModelSpec:
    """The description of a network.

    Args:
        name_or_path: a name of the zoo (``mixnet_m``), the same with a tag (``mixnet_m.ft_in1k``: with what those
            weights ask of the network, their preprocessing and number of classes), a YAML file of your own with
            one model in it (``my.yaml``), or one of several models of a file (``my.yaml:wide``). A `ModelSpec` is
            returned as it is.

    Raises:
        UnknownModelError: no such name; the message offers the nearest ones.
        MissingFileError: no such file.
        ConfigError: the file does not describe a network; the message has file, line, model and the fix.
    """
    if isinstance(name_or_path, ModelSpec):
        return name_or_path
    if not isinstance(name_or_path, str | os.PathLike):
        raise ArgumentError(f"name is {name_or_path!r}; give a model's name, a YAML file, or a ModelSpec")
    text = os.fspath(name_or_path)
    if (file := _in_file(text)) is not None:
        return _load_from_file(*file)
    model, tag = split_tag(text)
    spec = _load_from_zoo(model)
    return spec if tag is None else apply_weights(spec, find_weights(text))


def is_tagged(name: object) -> bool:
    """Whether this is a model's name with a tag, and not a YAML file of one's own, whose name has a dot as well."""
    return isinstance(name, str) and _in_file(name) is None and split_tag(name)[1] is not None


def _in_file(text: str) -> tuple[Path, str | None] | None:
    """The YAML file that is meant and the model in it, if one is named; None of a name."""
    path, colon, wanted = text.rpartition(":")
    if colon and path.lower().endswith(_YAML_SUFFIXES):
        return Path(path), wanted
    return (Path(text), None) if text.lower().endswith(_YAML_SUFFIXES) else None


@lru_cache(maxsize=512)
def _load_from_zoo(name: str) -> ModelSpec:
    entry = find_entry(name)
    if entry.is_template:
        raise UnknownModelError(f"{name!r} is a template for other models, not a model; see list_models()")
    return _resolve(entry, catalogue())


def _load_from_file(path: Path, wanted: str | None) -> ModelSpec:
    entries = {entry.name: entry for entry in read_entries(path)}
    public = [name for name, entry in entries.items() if not entry.is_template]
    if wanted is None and len(public) != 1:
        choices = ", ".join(f"'{path}:{name}'" for name in public[:10])
        fix = f"name one: {choices}" if public else "add one (a name with an underscore in front is a template)"
        raise ConfigError(f"{path}: holds {len(public)} models; {fix}")
    entry = find_entry(public[0] if wanted is None else wanted, entries, str(path))
    # A file of the user's is a room of its own: its names come before the zoo's.
    spec = _resolve(entry, {**catalogue(), **entries})
    try:
        make_plan(spec)  # what is wrong with the numbers shows only here; say so while the file is known
    except ConfigError as error:
        raise ConfigError(f"{entry.path}:{entry.node.line}: {error}") from None
    return spec


def _resolve(entry: Entry, namespace: Mapping[str, Entry]) -> ModelSpec:
    """Follow `base` to the root, then lay each entry over the one it builds on.

    A model of the zoo builds on the zoo's, also where the user's file has another of the same name; so does an entry
    of the user's that has its base's own name.
    """
    chain = [entry]
    while (base := _base_of(chain[-1])) is not None:
        shadowed = base == chain[-1].name and base in catalogue()
        own_room = chain[-1].path == entry.path and not shadowed
        parent = (namespace if own_room else catalogue()).get(base)
        if parent is None:
            raise chain[-1].error(f"base {base!r} is not a model{nearest(base, namespace)}")
        if parent in chain:
            circle = " → ".join(link.name for link in (*chain, parent))
            raise entry.error(f"base goes in a circle: {circle}; let one of them stand on its own")
        if len(chain) == _MAX_CHAIN:
            raise entry.error(f"base leads through more than {_MAX_CHAIN} models; shorten the chain")
        chain.append(parent)
    values: dict[str, Any] = {"family": chain[-1].path.stem}
    for link in reversed(chain):
        values = decode_entry(link.path, link.name, link.node, values)
    try:
        return make_spec(entry.name, values)
    except ConfigError as error:
        raise entry.error(str(error)) from None


def _base_of(entry: Entry) -> str | None:
    if not isinstance(entry.node.value, dict):
        raise entry.error("an entry is a mapping, such as {base: mixnet_m, width: 1.3}")
    base = entry.node.value.get("base")
    if base is None:
        return None
    if not isinstance(base.value, str):
        raise ConfigError(f"{entry.path}:{base.line}: {entry.name}: base must be the name of a model")
    return base.value


def clear_cache() -> None:
    """Forget what was read from ``configs``, for tests and for those who edit it while Python runs."""
    catalogue.cache_clear()
    _load_from_zoo.cache_clear()
    registry.clear_cache()
