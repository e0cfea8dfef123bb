"""YAML tables of architectures → `ModelSpec`: variants, inheritance, the list of names. Free of torch.

A file maps names to entries. An entry states a network, or a `base` and what differs from it; a name that begins
with an underscore is a template that others build on and nobody can ask for. `ENTRY_KEYS` lists what an entry may
say; ``configs/schema.json`` is generated from it.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from effnets.entry import decode_entry, make_spec
from effnets.errors import ArgumentError, ConfigError, UnknownModelError
from effnets.paths import configs_dir
from effnets.plan import make_plan
from effnets.spec import ModelSpec
from effnets.yamltree import Node, read_yaml

__all__ = ["list_models", "list_weights", "load_spec", "split_tag"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_YAML_SUFFIXES = (".yaml", ".yml")
_MAX_CHAIN = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    """One name of a YAML file, not yet decoded."""

    name: str
    path: Path
    node: Node

    @property
    def is_template(self) -> bool:
        return self.name.startswith("_")

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}:{self.node.line}: {self.name}: {problem}")


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the zoo's models that match a shell-style `pattern`, in alphabetical order.

    With `pretrained`, the names of weights instead, each ``model.tag``.
    """
    names = [name for name, entry in _zoo().items() if not entry.is_template]
    if pretrained:
        names = [f"{name}.{tag}" for name in names for tag in list_weights(name)]
    return sorted(fnmatch.filter(names, pattern))


def list_weights(model: str) -> list[str]:
    """Tags of the published weights of `model`, the default first; empty where none are registered.

    Raises:
        UnknownModelError: no such model.
    """
    _find(model, _zoo(), "effnets")
    return []


def split_tag(name: str) -> tuple[str, str | None]:
    """``mixnet_m.ft_in1k`` → ``("mixnet_m", "ft_in1k")``; without a tag, None."""
    model, dot, tag = name.partition(".")
    return model, tag if dot else None


def load_spec(name_or_path: str | os.PathLike[str] | ModelSpec) -> ModelSpec:
    """The description of a network.

    Args:
        name_or_path: a name of the zoo (``mixnet_m``), a YAML file of your own with one model in it
            (``my.yaml``), or one of several models of a file (``my.yaml:wide``). A `ModelSpec` is returned as it is.

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
    path, colon, wanted = text.rpartition(":")
    if colon and path.lower().endswith(_YAML_SUFFIXES):
        return _load_from_file(Path(path), wanted)
    if text.lower().endswith(_YAML_SUFFIXES):
        return _load_from_file(Path(text), None)
    return _load_from_zoo(text)


@lru_cache(maxsize=512)
def _load_from_zoo(name: str) -> ModelSpec:
    model, tag = split_tag(name)
    entry = _find(model, _zoo(), "effnets")
    if entry.is_template:
        raise UnknownModelError(f"{name!r} is a template for other models, not a model; see list_models()")
    if tag is not None:
        raise UnknownModelError(
            f"{model} has no weights tagged {tag!r}; registered tags: {', '.join(list_weights(model)) or 'none'}"
        )
    return _resolve(entry, _zoo())


def _load_from_file(path: Path, wanted: str | None) -> ModelSpec:
    entries = {entry.name: entry for entry in _read_entries(path)}
    public = [name for name, entry in entries.items() if not entry.is_template]
    if wanted is None and len(public) != 1:
        choices = ", ".join(f"'{path}:{name}'" for name in public[:10])
        fix = f"name one: {choices}" if public else "add one (a name with an underscore in front is a template)"
        raise ConfigError(f"{path}: holds {len(public)} models; {fix}")
    entry = _find(public[0] if wanted is None else wanted, entries, str(path))
    # A file of the user's is a room of its own: its names come before the zoo's.
    spec = _resolve(entry, {**_zoo(), **entries})
    try:
        make_plan(spec)  # what is wrong with the numbers shows only here; say so while the file is known
    except ConfigError as error:
        raise ConfigError(f"{entry.path}:{entry.node.line}: {error}") from None
    return spec


@lru_cache(maxsize=1)
def _zoo() -> Mapping[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for path in sorted((configs_dir() / "models").glob("*.yaml")):
        for entry in _read_entries(path):
            if (other := entries.get(entry.name)) is not None:
                raise entry.error(f"this name stands in {other.path}:{other.node.line} too; rename one of them")
            entries[entry.name] = entry
    return entries


def _read_entries(path: Path) -> list[_Entry]:
    document = read_yaml(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map model names to entries")
    entries = []
    for name, node in document.value.items():
        entry = _Entry(name, path, node)
        if not _NAME.fullmatch(name):
            raise entry.error("a model name is letters, digits, '_' and '-' (no dots: they part model and tag)")
        entries.append(entry)
    return entries


def _resolve(entry: _Entry, namespace: Mapping[str, _Entry]) -> ModelSpec:
    """Follow `base` to the root, then lay each entry over the one it builds on.

    A model of the zoo builds on the zoo's, also where the user's file has another of the same name; so does an entry
    of the user's that has its base's own name.
    """
    chain = [entry]
    while (base := _base_of(chain[-1])) is not None:
        shadowed = base == chain[-1].name and base in _zoo()
        own_room = chain[-1].path == entry.path and not shadowed
        parent = (namespace if own_room else _zoo()).get(base)
        if parent is None:
            raise chain[-1].error(f"base {base!r} is not a model{_nearest(base, namespace)}")
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


def _base_of(entry: _Entry) -> str | None:
    if not isinstance(entry.node.value, dict):
        raise entry.error("an entry is a mapping, such as {base: mixnet_m, width: 1.3}")
    base = entry.node.value.get("base")
    if base is None:
        return None
    if not isinstance(base.value, str):
        raise ConfigError(f"{entry.path}:{base.line}: {entry.name}: base must be the name of a model")
    return base.value


def _find(name: str, namespace: Mapping[str, _Entry], where: str) -> _Entry:
    if (entry := namespace.get(name)) is not None:
        return entry
    if namespace is _zoo() and name and _exists(name):
        raise UnknownModelError(f"{name!r} is no model's name; a file of your own must end in .yaml")
    raise UnknownModelError(f"no model named {name!r} in {where}{_nearest(name, namespace)}")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name too long for any file
        return False


def _nearest(name: str, namespace: Mapping[str, _Entry]) -> str:
    public = [other for other, entry in namespace.items() if not entry.is_template]
    near = difflib.get_close_matches(name, public, n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if public and not _zoo().keys() <= namespace.keys():
        return f"; it has {', '.join(public[:10])}"
    return "; list_models() has all names"


def clear_cache() -> None:
    """Forget what was read from ``configs``, for tests and for those who edit it while Python runs."""
    _zoo.cache_clear()
    _load_from_zoo.cache_clear()
