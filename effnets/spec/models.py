"""Look up networks: by a name of the zoo, with or without a tag, or in a YAML file of one's own. Free of torch."""

from __future__ import annotations

import fnmatch
import os
from functools import lru_cache
from pathlib import Path

from effnets.errors import ArgumentError, ConfigError, UnknownModelError
from effnets.spec import weights as registry
from effnets.spec.entries import find_entry, model_names, read_entries, resolve_entry, split_tag, zoo_entries
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec
from effnets.spec.weights import apply_weights, find_weights, list_weights

_YAML_SUFFIXES = (".yaml", ".yml")


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """List the zoo's models whose names match a shell-style `pattern`, in alphabetical order.

    With `pretrained`, list weights instead, each as ``model.tag``; a pattern that matches the model's name gives all
    of its weights.
    """
    names = model_names()
    if not pretrained:
        return sorted(fnmatch.filter(names, pattern))
    tagged = [f"{name}.{tag}" for name in names for tag in list_weights(name)]
    return sorted({*fnmatch.filter(tagged, pattern), *fnmatch.filter(tagged, f"{pattern}.*")})


def load_spec(name_or_path: str | os.PathLike[str] | ModelSpec) -> ModelSpec:
    """Load the description of a network.

    Args:
        name_or_path: a name of the zoo (``mixnet_m``), the same with a tag (``mixnet_m.ft_in1k``: with what those
            weights ask of the network, their preprocessing and number of classes), a YAML file of your own with
            one model in it (``my.yaml``), or one of several models of a file (``my.yaml:wide``). A `ModelSpec` is
            returned as it is.

    Raises:
        UnknownModelError: if no model has the name; the message offers the nearest ones.
        MissingFileError: if the file does not exist.
        ConfigError: if the file does not describe a network; the message has file, line, model and the fix.
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
    """Whether this is a model's name with a tag, and not a YAML file, whose name has a dot as well."""
    return isinstance(name, str) and _in_file(name) is None and split_tag(name)[1] is not None


def _in_file(text: str) -> tuple[Path, str | None] | None:
    """The YAML file that `text` names and the model in it, if it names one; None for a model's name."""
    path, colon, wanted = text.rpartition(":")
    if colon and path.lower().endswith(_YAML_SUFFIXES):
        return Path(path), wanted
    return (Path(text), None) if text.lower().endswith(_YAML_SUFFIXES) else None


@lru_cache(maxsize=512)
def _load_from_zoo(name: str) -> ModelSpec:
    entry = find_entry(name)
    if entry.is_template:
        raise UnknownModelError(f"{name!r} is a template for other models, not a model; see list_models()")
    return resolve_entry(entry, zoo_entries())


def _load_from_file(path: Path, wanted: str | None) -> ModelSpec:
    entries = {entry.name: entry for entry in read_entries(path)}
    public = [name for name, entry in entries.items() if not entry.is_template]
    if wanted is None and len(public) != 1:
        choices = ", ".join(f"'{path}:{name}'" for name in public[:10])
        fix = f"name one: {choices}" if public else "add one (a name with an underscore in front is a template)"
        raise ConfigError(f"{path}: holds {len(public)} models; {fix}")
    entry = find_entry(public[0] if wanted is None else wanted, entries, str(path))
    # The names of the user's file come before the zoo's.
    spec = resolve_entry(entry, {**zoo_entries(), **entries})
    try:
        make_plan(spec)  # some errors in the numbers show only here; report them while the file is known
    except ConfigError as error:
        raise ConfigError(f"{entry.path}:{entry.node.line}: {error}") from None
    return spec


def clear_cache() -> None:
    """Forget what was read from ``configs``, for tests and for those who edit it while Python runs."""
    zoo_entries.cache_clear()
    _load_from_zoo.cache_clear()
    registry.clear_cache()
