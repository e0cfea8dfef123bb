"""Read YAML strictly, with the line and column of each value, for configs from any source.

The usual loaders are too lenient for configs: they let a key appear twice, read ``no`` as false and ``1e-3`` as text,
and expand aliases without limit. Here a document is mappings, lists and scalars, with numbers as in YAML 1.2. The
reader refuses everything else by name.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from effnets.errors import ConfigError, MissingFileError

Scalar = None | bool | int | float | str

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 16

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}

# libyaml's parser where PyYAML has it: ten times faster, the same events.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a YAML document and its position: that of its key in a mapping, else of its first character."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int
    column: int


def read_yaml(path: Path) -> Node:
    """Read one YAML document.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if it is not UTF-8 or YAML, is over 1 MiB, nested too deeply, or has aliases, tags, a key twice or
            several documents; the message has file, line and column.
    """
    try:
        special = stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
        data = b"" if special else _read_bytes(path)  # reading a pipe would block
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a NUL or half a surrogate pair
        raise ConfigError(f"{str(path)!r}: no file can have this name ({error})") from None
    if special:
        raise ConfigError(f"{path}: is not a regular file; name a YAML file")
    return parse_yaml(data, path)


def parse_yaml(data: bytes, path: Path) -> Node:
    """Read one YAML document from a file's content; `path` is its name in errors, which are those of `read_yaml`."""
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
            try:
                return self._read_stream(iter(yaml.parse(self.text, Loader=_Loader)))
            except yaml.MarkedYAMLError as error:
                if "nesting depth" not in str(error.problem):
                    raise
                # libyaml's own limit comes before this reader's, without the position.
                return self._read_stream(iter(yaml.parse(self.text, Loader=yaml.SafeLoader)))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.path}:{mark.line + 1}:{mark.column + 1}" if mark else str(self.path)
            raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.path}: not valid YAML: {' '.join(str(error).split())}") from None
        except ConfigError:
            raise
        except (OverflowError, ValueError) as error:  # from PyYAML without libyaml, at "\\UFFFFFFFF"
            raise ConfigError(f"{self.path}: not valid YAML: an escape is not a Unicode character ({error})") from None

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
            raise self._error(event, f"tags ({tag}) are not read here; remove it")
        if depth > _MAX_DEPTH:
            raise self._error(event, f"nested deeper than {_MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._read_list(events, depth), *_position(event))
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._read_mapping(events, depth), *_position(event))
        assert isinstance(event, yaml.ScalarEvent), "only these events begin a node"
        # The first flag of implicit: written without quotes.
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
                raise self._error(event, f"{name!r} is here twice (before in line {mapping[name].line}); keep one")
            value = self._read_node(next(events), events, depth + 1)
            mapping[name] = Node(value.value, key.line, key.column)
        return mapping

    def _error(self, event: yaml.Event, problem: str) -> ConfigError:
        line, column = _position(event)
        return ConfigError(f"{self.path}:{line}:{column}: {problem}")


def _position(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None, "the parser marks its events"
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(text: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
