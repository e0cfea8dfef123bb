"""Which models there are: the entries of ``configs/models``, by name and not yet decoded. Free of torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from effnets.errors import ConfigError, UnknownModelError
from effnets.spec.yaml import Node, read_yaml
from effnets.utils.paths import configs_dir

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


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
        """A complaint about this entry that says where it stands."""
        return ConfigError(f"{self.path}:{self.node.line}: {self.name}: {problem}")


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Entry]:
    """The zoo's entries, templates included.

    Raises:
        ConfigError: a file is not a mapping of names to entries, or a name stands in two of them.
    """
    entries: dict[str, Entry] = {}
    for path in sorted((configs_dir() / "models").glob("*.yaml")):
        for entry in read_entries(path):
            if (other := entries.get(entry.name)) is not None:
                raise entry.error(f"this name stands in {other.path}:{other.node.line} too; rename one of them")
            entries[entry.name] = entry
    return entries


def model_names() -> list[str]:
    """Names of the zoo's models, in the order of the tables."""
    return [name for name, entry in catalogue().items() if not entry.is_template]


def is_model_name(name: str) -> bool:
    """Whether a table may give a model this name."""
    return _NAME.fullmatch(name) is not None and not name.startswith("_")


def split_tag(name: str) -> tuple[str, str | None]:
    """``mixnet_m.ft_in1k`` → ``("mixnet_m", "ft_in1k")``; without a tag, None."""
    model, dot, tag = name.partition(".")
    return model, tag if dot else None


def read_entries(path: Path) -> list[Entry]:
    """The entries of one file.

    Raises:
        MissingFileError, ConfigError: as `read_yaml`; or the file does not map names to entries.
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
    """The entry of that name, in the zoo if no other `namespace` is given; templates too.

    Raises:
        UnknownModelError: there is none; the message offers the nearest ones.
    """
    namespace = catalogue() if namespace is None else namespace
    if (entry := namespace.get(name)) is not None:
        return entry
    if namespace is catalogue() and name and _exists(name):
        raise UnknownModelError(f"{name!r} is no model's name; a file of your own must end in .yaml")
    raise UnknownModelError(f"no model named {name!r} in {where}{nearest(name, namespace)}")


def nearest(name: str, namespace: Mapping[str, Entry]) -> str:
    """The end of an error message: which names of `namespace` are close to `name`, or where to find all."""
    public = [other for other, entry in namespace.items() if not entry.is_template]
    near = difflib.get_close_matches(name, public, n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if public and not catalogue().keys() <= namespace.keys():
        return f"; it has {', '.join(public[:10])}"
    return "; list_models() has all names"


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name too long for any file
        return False
