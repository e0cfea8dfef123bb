"""Read YAML strictly, with positions, and find the tables of models in `configs`. Free of torch."""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from effnets.errors import ConfigError, MissingFileError, UnknownModelError
from effnets.utils.paths import configs_dir

Scalar = None | bool | int | float | str

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 16

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}

# libyaml's parser where PyYAML was built with it: ten times the speed, the same events.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of a YAML document and where it stands: at its key in a mapping, else at its first character."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int
    column: int


def read_yaml(path: Path) -> Node:
    """Read one YAML document.

    Raises:
        MissingFileError: no such file.
        ConfigError: not UTF-8, not YAML, over 1 MiB, nested too deep, or using what this reader refuses (aliases,
            tags, a key twice, several documents); the message has file, line and column.
    """
    try:
        special = stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
        data = b"" if special else _read_bytes(path)  # a pipe would be waited for
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a NUL or half a surrogate pair
        raise ConfigError(f"{str(path)!r}: no file can have this name ({error})") from None
    if special:
        raise ConfigError(f"{path}: is not a regular file; name a YAML file")
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: too long for a config; the limit is {_MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return _Reader(path, text).read()


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 1)


class _Reader:
    """Builds nodes from the parser's events, one document at a time."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    def read(self) -> Node:
        try:
            events = iter(yaml.parse(self.text, Loader=_Loader))
            return self._read_stream(events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.path}:{mark.line + 1}:{mark.column + 1}" if mark else str(self.path)
            raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.path}: not valid YAML: {' '.join(str(error).split())}") from None
        except ConfigError:
            raise
        except (OverflowError, ValueError) as error:  # from PyYAML without libyaml, at "\\UFFFFFFFF"
            raise ConfigError(f"{self.path}: not valid YAML: an escape is no Unicode character ({error})") from None

    def _read_stream(self, events: Iterator[yaml.Event]) -> Node:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._error(event, "a second document begins here; keep one document in a file")
                root = self._read_node(next(events), events, depth=0)
        return root or Node({}, 1, 1)

    def _read_node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "aliases (*name) are not read here; use 'base' to inherit from another model")
        if getattr(event, "anchor", None) is not None:
            raise self._error(event, "anchors (&name) are not read here; use 'base' to inherit from another model")
        if (tag := getattr(event, "tag", None)) is not None:
            raise self._error(event, f"tags ({tag}) are not read here; take it away")
        if depth > _MAX_DEPTH:
            raise self._error(event, f"nested deeper than {_MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._read_list(events, depth), *_position(event))
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._read_mapping(events, depth), *_position(event))
        assert isinstance(event, yaml.ScalarEvent), "no other event begins a node"
        # Implicit at first place: written plainly, without quotes.
        return Node(_scalar(event.value) if event.implicit[0] else event.value, *_position(event))

    def _read_list(self, events: Iterator[yaml.Event], depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._read_node(event, events, depth + 1))
        return items

    def _read_mapping(self, events: Iterator[yaml.Event], depth: int) -> dict[str, Node]:
        mapping: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key must be a plain word")
            key = self._read_node(event, events, depth)
            name = event.value
            if name in mapping:
                raise self._error(event, f"{name!r} stands here twice (before in line {mapping[name].line}); keep one")
            value = self._read_node(next(events), events, depth + 1)
            mapping[name] = Node(value.value, key.line, key.column)
        return mapping

    def _error(self, event: yaml.Event, problem: str) -> ConfigError:
        line, column = _position(event)
        return ConfigError(f"{self.path}:{line}:{column}: {problem}")


def _position(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None, "a parser marks its events"
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(text: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


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
