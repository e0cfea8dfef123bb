"""Search spaces: entries of architecture tables that offer choices. Free of torch.

A space is written like a model (`effnets.spec.entries`), in YAML: a block string offers choices in braces, as in
``ir_r1_k{3|3.5|3.5.7}_s1_e{3|6}_c40{|_se0.25}``. Where a model has one number or word, a list offers its items, and
``{from: 8, to: 32, step: 2}`` a range.
Every way to choose makes a `ModelSpec`, so that `effnets.create_model` builds whatever a search finds.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from random import Random
from typing import get_origin

from effnets.errors import ArgumentError, ConfigError
from effnets.spec.block_string import KEYS
from effnets.spec.entries import ENTRY_KEYS, Entry, read_entries, resolve_entry, zoo_entries
from effnets.spec.plan import make_plan
from effnets.spec.specs import ChannelSchedule, ModelSpec
from effnets.spec.yaml import Node
from effnets.utils.arguments import FieldInfo, field_infos
from effnets.utils.paths import configs_dir

Option = str | int | float
# One index into the options of each choice.
Picks = tuple[int, ...]

_BRACES = re.compile(r"\{([^{}]*)\}")
_KEY_BEFORE = re.compile(rf"(?:^|_)({'|'.join(sorted(KEYS, key=len, reverse=True))})$")
_YAML = (".yaml", ".yml")
_MAX_RANGE = 10_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of a search.

    Attributes:
        name: where it stands, such as ``blocks.3.k`` (row 3, key k) or ``channels.growth``.
        options: what can be chosen: pieces of a block string, numbers or words.
        row: index of the row of blocks it stands in; None elsewhere.
    """

    name: str
    options: tuple[Option, ...]
    row: int | None = None


class SearchSpace:
    """Networks that differ by a few choices.

    Attributes:
        name: of the entry. path: of its file. choices: in the order of the file.

    Raises:
        ConfigError: the entry offers no choice, offers one option twice, or an option makes no network; the message has
            file, line and the fix.
    """

    def __init__(self, entry: Entry) -> None:
        self.name, self.path = entry.name, entry.path
        self._entry = entry
        found: list[Choice] = []

        def first(choice: Choice, node: Node) -> Option:
            if not choice.options:
                hint = "offer at least two options, or a range as {from: 8, to: 32, step: 2}"
                raise self._error(node, f"{choice.name} offers nothing; {hint}")
            if len(set(choice.options)) < len(choice.options) or len(choice.options) < 2:
                options = " | ".join(map(str, choice.options))
                raise self._error(node, f"{choice.name} offers {options}; offer at least two, each once")
            found.append(choice)
            return choice.options[0]

        self._fill(first)
        self.choices = tuple(found)
        if not found:
            raise entry.error(
                "no choice is offered; write some in a block string, as k{3|3.5|3.5.7}, or a list for a number"
            )
        self._check_options()

    @property
    def size(self) -> int:
        """Number of candidates."""
        return math.prod(len(choice.options) for choice in self.choices)

    @cached_property
    def default(self) -> Picks:
        """The first option of every choice."""
        return (0,) * len(self.choices)

    def spec(self, picks: Sequence[int]) -> ModelSpec:
        """Return the network of one option for each choice.

        Raises:
            ConfigError: these options together make no network, such as more kernel groups than channels.
        """
        options = iter([choice.options[index] for choice, index in zip(self.choices, picks, strict=True)])
        entry = replace(self._entry, node=self._fill(lambda *_: next(options)))
        spec = resolve_entry(entry, {**zoo_entries(), entry.name: entry})
        make_plan(spec)
        return spec

    def describe(self, picks: Sequence[int]) -> dict[str, Option]:
        """Return the options of `picks` by the names of their choices."""
        return {choice.name: choice.options[index] for choice, index in zip(self.choices, picks, strict=True)}

    def picks(self, options: Mapping[str, Option]) -> Picks:
        """Return the picks of `options` by the names of their choices; the first option of what is not named.

        Raises:
            ArgumentError: if there is no such choice or option.
        """
        picks = dict.fromkeys((choice.name for choice in self.choices), 0)
        for name, option in options.items():
            choice = next((choice for choice in self.choices if choice.name == name), None)
            if choice is None:
                raise ArgumentError(f"{self.name}: has no choice {name!r}; there are {', '.join(picks)}")
            if option not in choice.options:
                offered = ", ".join(map(str, choice.options))
                raise ArgumentError(f"{self.name}: {name} does not offer {option!r}; it offers {offered}")
            picks[name] = choice.options.index(option)
        return tuple(picks.values())

    def random(self, random: Random) -> Picks:
        """Draw every choice evenly, without regard to the others; `spec` may refuse the result."""
        return tuple(random.randrange(len(choice.options)) for choice in self.choices)

    def _check_options(self) -> None:
        """Build every option once, beside the first of all others: typing errors are reported before any work."""
        for place, choice in enumerate(self.choices):
            for index in range(len(choice.options)):
                picks = [*self.default]
                picks[place] = index
                try:
                    self.spec(picks)
                except ConfigError as error:
                    raise ConfigError(f"{error} (with {choice.name} = {str(choice.options[index])!r})") from None

    def _fill(self, choose: Callable[[Choice, Node], Option]) -> Node:
        """Return the entry's node with one option for every choice; `choose` is called in the order of the file."""
        mapping = self._entry.node.value
        if not isinstance(mapping, dict):
            raise self._entry.error("a space is a mapping, such as {base: mixnet_s, blocks: […]}")
        filled = {}
        for key, node in mapping.items():
            if key == "blocks" and isinstance(node.value, list):
                self._check_braces(node.value)
                rows = [_fill_row(row, number, choose) for number, row in enumerate(node.value)]
                filled[key] = replace(node, value=rows)
            elif key == "channels" and isinstance(node.value, dict):
                known = field_infos(ChannelSchedule)
                parts = {name: _fill_value(f"{key}.{name}", part, known.get(name), choose)
                         for name, part in node.value.items()}  # fmt: skip
                filled[key] = replace(node, value=parts)
            else:
                filled[key] = _fill_value(key, node, ENTRY_KEYS.get(key), choose)
        return replace(self._entry.node, value=filled)

    def _check_braces(self, rows: Sequence[Node]) -> None:
        for row in rows:
            if isinstance(row.value, str) and set("{}") & set(_BRACES.sub("", row.value)):
                raise self._error(row, f"{row.value!r} has a brace without its partner; write choices as k{{3|3.5}}")

    def _error(self, node: Node, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}:{node.line}: {self.name}: {problem}")


def _fill_row(node: Node, row: int, choose: Callable[[Choice, Node], Option]) -> Node:
    """Replace each group of braces in a block string."""
    if not isinstance(node.value, str):
        return node  # the decoder's error
    names: list[str] = []

    def option(match: re.Match[str]) -> str:
        key = _key_of(match)
        names.append(key)
        number = f"_{names.count(key)}" if names.count(key) > 1 else ""
        choice = Choice(f"blocks.{row + 1}.{key}{number}", tuple(match[1].split("|")), row)
        return str(choose(choice, node))

    return replace(node, value=_BRACES.sub(option, node.value))


def _key_of(match: re.Match[str]) -> str:
    """The key that a group of braces is about: the one before it, or the one that its options begin with."""
    if before := _KEY_BEFORE.search(match.string[: match.start()]):
        return before[1]
    words = [option.strip("_") for option in match[1].split("|")]
    longest_first = sorted(KEYS, key=len, reverse=True)
    keys = [key for word in words if word for key in longest_first if word.startswith(key)]
    return keys[0] if keys else "type"


def _fill_value(name: str, node: Node, info: FieldInfo | None, choose: Callable[[Choice, Node], Option]) -> Node:
    """Replace a list or a range by one of its items where the field takes a single value."""
    single = info is not None and not any(get_origin(option) is tuple for option in info.options)
    if not single or not isinstance(node.value, list | dict):
        return node
    value = node.value
    items = _range(value) if isinstance(value, dict) else [item.value for item in value]
    options = tuple(item for item in items if isinstance(item, str | int | float))
    if len(options) < len(items):
        return node  # the decoder's error
    return replace(node, value=choose(Choice(name, options), node))


def _range(parts: dict[str, Node]) -> tuple[int | float, ...]:
    """Return the numbers of ``{from: …, to: …, step: …}``; none if it is no such range."""
    numbers = [parts[key].value for key in ("from", "to", "step") if key in parts]
    given = [one for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(parts) != 3 or len(given) != 3:
        return ()
    low, high, step = given
    if not (step > 0 and low <= high and (high - low) / step < _MAX_RANGE):
        return ()
    return tuple(round(low + number * step, 9) for number in range(int((high - low) / step + 1e-6) + 1))


def list_spaces() -> list[str]:
    """Return the names of the included search spaces."""
    return sorted(path.stem for path in (configs_dir() / "spaces").glob("*.yaml"))


def read_space(name: str | os.PathLike[str]) -> SearchSpace:
    """Read a search space: the name of an included one, or a YAML file with one entry.

    Raises:
        MissingFileError: if the file does not exist.
        ConfigError: if it has no such name, more than one entry, or no choices; or an option makes no network.
    """
    path = Path(name)
    if path.suffix not in _YAML:
        known = list_spaces()
        if str(name) not in known:
            near = get_close_matches(str(name), known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}, or give a YAML file"
            raise ConfigError(f"no search space {str(name)!r}; {meant}")
        path = configs_dir() / "spaces" / f"{name}.yaml"
    entries = read_entries(path)
    if len(entries) != 1:
        raise ConfigError(f"{path}: holds {len(entries)} entries; a search space is one")
    return SearchSpace(entries[0])
