"""Recipes as YAML, both ways. Strict: an unknown key or an impossible value is refused where it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from effnets.errors import ArgumentError, ConfigError
from effnets.spec.yaml import Node, read_yaml
from effnets.train.recipe import Recipe
from effnets.utils.paths import configs_dir

__all__ = ["encode_recipe", "find_recipe", "list_recipes", "read_recipe"]

_PLAIN_TEXT = re.compile(r"[a-z]\w*[a-z0-9]", re.ASCII)
_Settings = TypeVar("_Settings")


def list_recipes() -> list[str]:
    """Names of the recipes that come along."""
    return sorted(path.stem for path in (configs_dir() / "recipes").glob("*.yaml"))


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe: a path, or the name of one that comes along.

    Raises:
        ConfigError: there is none; the message has near names.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = list_recipes()
    if str(name) in known:
        return configs_dir() / "recipes" / f"{name}.yaml"
    near = get_close_matches(str(name), known, n=3)
    meant = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}, or give a YAML file"
    raise ConfigError(f"no recipe {str(name)!r}; {meant}")


def read_recipe(path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; `changes`, by the keys' names (``augmentation.mixup``), go before what the file says.

    Raises:
        MissingFileError: no such file.
        ConfigError: not YAML, an unknown key or a value that cannot be; the message has the file, the line where the
            key stands, and the fix.
    """
    path = Path(path)
    node = read_yaml(path)
    for key, value in (changes or {}).items():
        node = _changed(node, key.split("."), value, path)
    return _decode(Recipe, node, path)


def _changed(node: Node, keys: Sequence[str], value: Any, path: Path) -> Node:
    """`node` with one value put in place."""
    if not keys:
        return _given(value)
    mapping = {} if node.value is None else node.value
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: holds no settings called {keys[0]}")
    below = mapping.get(keys[0]) or (_default(keys[0]) if keys[1:] else Node(None, 0, 0))
    return Node({**mapping, keys[0]: _changed(below, keys[1:], value, path)}, node.line, node.column)


def _default(name: str) -> Node:
    """The settings under `name` where a file states none of them: one that is changed leaves the others as they are."""
    for field in fields(Recipe):
        if field.name == name and field.default_factory is not MISSING:
            return _given(asdict(field.default_factory()))
    return Node(None, 0, 0)


def _given(value: Any) -> Node:
    """Plain data as if it were read; line 0 says that no file has it."""
    if isinstance(value, list | tuple):
        return Node([_given(item) for item in value], 0, 0)
    if isinstance(value, Mapping):
        return Node({str(key): _given(item) for key, item in value.items()}, 0, 0)
    return Node(value, 0, 0)


def encode_recipe(recipe: Recipe) -> str:
    """A recipe as YAML, from which `read_recipe` makes the same again; every setting is written out."""
    return yaml.dump(_plain(asdict(recipe)), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that might be read as something else, by whatever version of YAML."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN_TEXT.fullmatch(text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _decode(kind: type[_Settings], node: Node, path: Path) -> _Settings:
    if not isinstance(node.value, dict):
        raise ConfigError(f"{path}: holds no settings; write lines such as 'epochs: 10'")
    assert is_dataclass(kind), "settings are dataclasses"
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    values: dict[str, Any] = {}
    for key, item in node.value.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(known)}"
            raise ConfigError(f"{_place(path, item)}unknown key {key!r}; {meant}")
        values[key] = _value(known[key], item, path, key)
    try:
        return kind(**values)
    except (ArgumentError, ConfigError) as error:
        # The checks begin with the name of the setting.
        name = str(error).partition(" ")[0]
        raise ConfigError(f"{_place(path, node.value.get(name, node))}{error}") from None
    except TypeError:
        missing = [field.name for field in fields(kind) if field.name == "model" and "model" not in values]
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; add a line such as 'model: mobilenetv2_100'") from None


def _value(hint: Any, node: Node, path: Path, key: str) -> Any:
    """The value of one setting, of the type that its field is declared with."""
    value = node.value
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    for option in options:
        if option is NoneType and value is None:
            return None
        if is_dataclass(option) and isinstance(option, type) and isinstance(value, dict):
            return _decode(option, node, path)
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if get_origin(option) is tuple and isinstance(value, list):
            return tuple(_value(get_args(option)[0], item, path, key) for item in value)
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if option in (bool, int, str) and type(value) is option:
            return value
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # freeze: 3
    wanted = " or ".join(_name(option) for option in options)
    raise ConfigError(f"{_place(path, node)}{key} is {_shown(value)}; it must be {wanted}")


def _place(path: Path, node: Node) -> str:
    """Where a setting stands, to begin a message with; nothing of one that was given by hand."""
    return f"{path}:{node.line}: " if node.line else ""


def _name(option: Any) -> str:
    if get_origin(option) is Literal:
        return f"one of {', '.join(map(str, get_args(option)))}"
    if get_origin(option) is tuple:
        return f"a list, each {_name(get_args(option)[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return names.get(option, "a mapping of settings")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "null" if value is None else repr(value)
