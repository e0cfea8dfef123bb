"""The entries of architecture tables: their names, their inheritance, and the `ModelSpec` each describes.

A file maps names to entries. An entry states a network, or a `base` and what differs from it; a name that begins
with an underscore is a template that other entries build on. `ENTRY_KEYS` has the keys of an entry. Free of torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from effnets.errors import ConfigError, UnknownModelError
from effnets.spec.block_string import encode_block, override_block
from effnets.spec.decode import Fragment, decode_mapping, placed
from effnets.spec.specs import ModelSpec, PreprocessSpec
from effnets.spec.yaml import Node, read_yaml
from effnets.utils.arguments import Range, field_infos
from effnets.utils.paths import configs_dir

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_MAX_CHAIN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directives:
    """Keys of an entry that are not fields of a spec."""

    base: Annotated[str, "The model this one inherits everything from that it does not state."]
    every_block: Annotated[Fragment, "A piece of a block string laid over every row, such as k3.5.7."]
    resolution: Annotated[float, Range(0.01, 64), "Resolution multiplier ρ of the input size."]


_PREPROCESS_FIELDS = frozenset(field_infos(PreprocessSpec))
ENTRY_KEYS = {
    name: info
    for kind in (_Directives, ModelSpec, PreprocessSpec)
    for name, info in field_infos(kind).items()
    if name not in ("name", "preprocess")
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a YAML file, not yet decoded."""

    name: str
    path: Path
    node: Node

    @property
    def is_template(self) -> bool:
        """Whether other entries build on it and nobody can ask for it."""
        return self.name.startswith("_")

    def error(self, problem: str) -> ConfigError:
        """An error with the position of this entry."""
        return ConfigError(f"{self.path}:{self.node.line}: {self.name}: {problem}")


@lru_cache(maxsize=1)
def zoo_entries() -> Mapping[str, Entry]:
    """The entries of ``configs/models``, templates included.

    Raises:
        ConfigError: if a file does not map names to entries, or two files have the same name.
    """
    entries: dict[str, Entry] = {}
    for path in sorted((configs_dir() / "models").glob("*.yaml")):
        for entry in read_entries(path):
            if (other := entries.get(entry.name)) is not None:
                raise entry.error(f"this name is also in {other.path}:{other.node.line}; rename one of them")
            entries[entry.name] = entry
    return entries


def model_names() -> list[str]:
    """Names of the zoo's models, in the order of the tables."""
    return [name for name, entry in zoo_entries().items() if not entry.is_template]


def is_model_name(name: str) -> bool:
    """Whether a table may give a model this name."""
    return _NAME.fullmatch(name) is not None and not name.startswith("_")


def split_tag(name: str) -> tuple[str, str | None]:
    """``mixnet_m.ft_in1k`` → ``("mixnet_m", "ft_in1k")``; without a tag, None."""
    model, dot, tag = name.partition(".")
    return model, tag if dot else None


def read_entries(path: Path) -> list[Entry]:
    """Read the entries of one file.

    Raises:
        MissingFileError, ConfigError: as `read_yaml`; or if the file does not map names to entries.
    """
    document = read_yaml(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map model names to entries")
    entries = []
    for name, node in document.value.items():
        entry = Entry(name, path, node)
        if not _NAME.fullmatch(name):
            raise entry.error("a model name is letters, digits, '_' and '-' (no dots: they part model and tag)")
        entries.append(entry)
    return entries


def find_entry(name: str, namespace: Mapping[str, Entry] | None = None, where: str = "effnets") -> Entry:
    """Find an entry, template or not, in the zoo if no other `namespace` is given.

    Raises:
        UnknownModelError: if no entry has the name; the message offers the nearest ones.
    """
    namespace = zoo_entries() if namespace is None else namespace
    if (entry := namespace.get(name)) is not None:
        return entry
    if namespace is zoo_entries() and name and _exists(name):
        raise UnknownModelError(f"{name!r} is not a model's name; a file of your own must end in .yaml")
    raise UnknownModelError(f"no model named {name!r} in {where}{_nearest(name, namespace)}")


def resolve_entry(entry: Entry, namespace: Mapping[str, Entry]) -> ModelSpec:
    """Follow `base` to the root, then lay each entry over the one it builds on.

    A model of the zoo builds on the zoo's, also where the user's file has another of the same name; so does an entry
    of the user's that has its base's own name.

    Raises:
        ConfigError: if an entry is wrong, with file, line, model and the fix.
    """
    chain = [entry]
    while (base := _base_of(chain[-1])) is not None:
        shadowed = base == chain[-1].name and base in zoo_entries()
        own_file = chain[-1].path == entry.path and not shadowed
        parent = (namespace if own_file else zoo_entries()).get(base)
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
        values = _overlay(link, values)
    try:
        return _make_spec(entry.name, values)
    except ConfigError as error:
        raise entry.error(str(error)) from None


def encode_entry(spec: ModelSpec) -> dict[str, Any]:
    """Return the entry, as plain data without a base and without defaults, that decodes to `spec`."""
    entry: dict[str, Any] = {"family": spec.family, "stem": spec.stem}
    entry["blocks"] = [encode_block(block) for block in spec.blocks]
    if spec.channels is not None:
        entry["channels"] = {
            field.name: getattr(spec.channels, field.name)
            for field in fields(spec.channels)
            if getattr(spec.channels, field.name) != field.default
        }
    for part in (spec, spec.preprocess):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name in ENTRY_KEYS and field.name not in entry and value != field.default and value is not None:
                entry[field.name] = list(value) if isinstance(value, tuple) else value
    return entry


def _base_of(entry: Entry) -> str | None:
    if not isinstance(entry.node.value, dict):
        raise entry.error("an entry is a mapping, such as {base: mixnet_m, width: 1.3}")
    base = entry.node.value.get("base")
    if base is None:
        return None
    if not isinstance(base.value, str):
        raise ConfigError(f"{entry.path}:{base.line}: {entry.name}: base must be the name of a model")
    return base.value


def _overlay(entry: Entry, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """The entry's values laid over the `inherited` ones; `every_block` acts on the rows as they then are."""
    assert isinstance(entry.node.value, dict), "_base_of checks this"
    own = decode_mapping(entry.path, entry.name, entry.node.value, ENTRY_KEYS)
    own.pop("base", None)
    fragment = own.pop("every_block", None)
    values = {**inherited, **own}
    if fragment is None:
        return values
    node = entry.node.value["every_block"]
    if not values.get("blocks"):
        problem = "every_block has no rows to act on; state 'blocks', or a 'base' that does"
        raise ConfigError(f"{entry.path}:{node.line}: {entry.name}: {problem}")
    values["blocks"] = tuple(
        placed(entry.path, node, f"{entry.name}: every_block", override_block, block, fragment)
        for block in values["blocks"]
    )
    return values


def _make_spec(name: str, values: dict[str, Any]) -> ModelSpec:
    for key in ("stem", "blocks"):
        if key not in values:
            raise ConfigError(f"{key!r} is missing; state it, or a 'base' that does")
    resolution = values.pop("resolution", None)
    preprocess = {key: values.pop(key) for key in list(values) if key in _PREPROCESS_FIELDS}
    if resolution is not None:
        ENTRY_KEYS["resolution"].check("resolution", resolution)
        preprocess["input_size"] = round(preprocess.get("input_size", PreprocessSpec().input_size) * resolution)
    return ModelSpec(name=name, preprocess=PreprocessSpec(**preprocess), **values)


def _nearest(name: str, namespace: Mapping[str, Entry]) -> str:
    """The end of an error message: which names of `namespace` are close to `name`, or where to find all."""
    public = [other for other, entry in namespace.items() if not entry.is_template]
    near = difflib.get_close_matches(name, public, n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if public and not zoo_entries().keys() <= namespace.keys():
        return f"; it has {', '.join(public[:10])}"
    return "; list_models() has all names"


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name too long for any file
        return False
