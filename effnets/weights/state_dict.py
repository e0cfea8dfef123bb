"""How a network's state dict is found in a checkpoint: by the names of the dialects, or by being the only one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnets.errors import WeightsError
from effnets.weights.dialects import Dialect

# Programs nest a network in two dicts; and in a few modules, whose names are its prefix.
_DEPTH = 4
_PREFIX_PARTS = 6
_FEWEST = 8  # tensors; every network has far more
_SHOWN = 5
# What programs call averages of a network's weights, as keys and as attributes.
_AVERAGES = frozenset(
    {
        *("ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "model_state_dict_ema", "ema_weights"),
        *("averaged_model", "swa_model", "ema_module", "ema_network"),
    }
)
# A count that torch.optim.swa_utils.AveragedModel keeps beside the module.
_AVERAGED = "n_averaged"
# Lightning's WeightAveraging puts the averages in the place of the weights, and these here.
_BEFORE_AVERAGING = "current_model_state"
# What holds tensors and no network.
_OTHERS = frozenset(
    {
        *("optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optim", "opt"),
        *("lr_scheduler", "lr_schedulers", "scheduler", "scheduler_state_dict", "lr_scheduler_state_dict"),
        *("amp_scaler", "scaler", "grad_scaler", "amp", "native_amp_scaling_state", "callbacks", "loops"),
        *("args", "config", "cfg", "hparams", "hyper_parameters", "datamodule_hyper_parameters", "rng_state"),
        *("meta", "message_hub", "param_schedulers", "averaging_state", "loss_scaler"),
    }
)
# Modules that torch.compile, FSDP and activation checkpointing put around others, at any depth.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_PROFILED = ("total_ops", "total_params")


@dataclass(frozen=True, slots=True)
class _Network:
    """Tensors of one mapping, without `prefix`: all of them, or those of one network.

    Attributes:
        keys: of the nested mappings that lead there. notes: what was left out beside it.
    """

    keys: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    averaged: bool
    notes: tuple[str, ...]
    prefix: str = ""

    @property
    def place(self) -> str:
        """Where it is, as messages say it."""
        return repr(".".join((*self.keys, *self.prefix.split("."))).strip(".") or "the top")

    def claimed(self, dialects: Collection[Dialect]) -> list[_Network]:
        """Return what has a dialect's names, each under its shortest prefix."""
        members: dict[str, list[str]] = {}
        for name in self.tensors:
            for prefix in _prefixes(name):
                members.setdefault(prefix, []).append(name[len(prefix) :])
        found: tuple[str, ...] = ()
        for prefix in sorted((prefix for prefix in members if len(members[prefix]) >= _FEWEST), key=len):
            if not prefix.startswith(found) and any(dialect.claims(members[prefix]) for dialect in dialects):
                found += (prefix,)
        rest = [name for name in self.tensors if not name.startswith(found) and name.rpartition(".")[2] != _AVERAGED]
        notes = (f"left out, as no part of the network: {_listed(rest)}",) if rest else ()
        return [self.under(prefix, notes) for prefix in found]

    def unwrapped(self) -> _Network:
        """Return all of it, without the prefixes of DistributedDataParallel."""
        prefix = ""
        names = [name for name in self.tensors if name != _AVERAGED]
        while names and all(name.startswith(prefix + "module.") for name in names):
            prefix += "module."
        return self.under(prefix, ())

    def under(self, prefix: str, notes: tuple[str, ...]) -> _Network:
        """Return the part with that prefix."""
        parts = prefix.split(".")
        counts = [".".join((*parts[:end], _AVERAGED)) for end in range(len(parts))]
        averaged = self.averaged or not _AVERAGES.isdisjoint(parts) or any(count in self.tensors for count in counts)
        tensors = {name[len(prefix) :]: one for name, one in self.tensors.items() if name.startswith(prefix)}
        tensors.pop(_AVERAGED, None)
        return _Network(self.keys, tensors, averaged, self.notes + notes, prefix)


def find_state_dict(
    content: object, path: Path, *, dialects: Collection[Dialect], ema: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the one network in what a file holds, its names without the prefixes of wrapping modules, and notes.

    A network is a mapping of names to tensors, in nested mappings, all of one prefix, whose names one of `dialects`
    claims. Without such, it is the largest mapping of names to tensors. With `ema` it is one of averages, which is
    passed over otherwise where there are others.

    Raises:
        WeightsError: there is none, there are several, or `ema` is set and none is averaged.
    """
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    mappings = list(_mappings(content, path))
    networks = [network for mapping in mappings for network in mapping.claimed(dialects)]
    if not networks:  # the detection of the dialect says what is unknown: of the largest, as a loss has tensors too
        whole = [mapping.unwrapped() for mapping in mappings]
        kinds = [[network for network in whole if network.averaged is kind] for kind in (False, True)]
        networks = [max(kind, key=lambda network: len(network.tensors)) for kind in kinds if kind]
    if not any(network.tensors for network in networks):
        raise _no_state_dict(path, content)
    averaged = [network for network in networks if network.averaged]
    plain = [network for network in networks if not network.averaged]
    if ema and not averaged:
        places = _listed([network.place for network in plain])
        raise WeightsError(
            f"{path}: holds no averaged weights, only those at {places}; leave ema (--ema) out to take them"
        )
    notes: tuple[str, ...] = ()
    if ema or not plain:
        notes = (f"averaged weights {'chosen' if ema else 'taken, as the file holds no others'}",)
    elif averaged:
        places = _listed([network.place for network in averaged])
        notes = (f"the file also holds averaged weights ({places}); choose them with ema=True (--ema)",)
    network = _the_only(averaged if ema or not plain else plain, path)
    if network.keys:
        notes += (f"weights taken from {_shown('.'.join(network.keys))!r} of the file",)
    if network.prefix:
        notes += (f"prefix {_shown(network.prefix)!r} taken off their names",)
    return dict(network.tensors), notes + network.notes


def _mappings(content: dict[Any, Any], path: Path) -> Iterator[_Network]:
    """Yield every mapping with tensors, outside of optimizers and the like; each once, however often it is met.

    A pickle may give tensors and mappings attributes, in place of their methods too: none is looked up there.
    """
    swapped = _BEFORE_AVERAGING in content
    visited = {id(content)}
    level: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), content)]
    for _ in range(_DEPTH):
        deeper = []
        for keys, mapping in level:
            items = list(dict.items(mapping))
            tensors = {name: Tensor.detach(value) for name, value in items if isinstance(value, Tensor)}
            if tensors and all(isinstance(name, str) for name in tensors):
                averaged = not _AVERAGES.isdisjoint(keys) or (swapped and keys == ("state_dict",))
                # At the top a program's own numbers are no surprise.
                others = [name for name, value in items if keys and not isinstance(value, Tensor | dict)]
                named, notes = _without_wrappers(path, tensors)
                if others:
                    notes += (f"left out, as no tensors: {_listed(others)}",)
                yield _Network(keys, named, averaged, notes)
            for key, value in items:
                if isinstance(key, str) and isinstance(value, dict) and id(value) not in visited:
                    visited.add(id(value))
                    if key not in _OTHERS:
                        deeper.append(((*keys, key), value))
        level = deeper


def _without_wrappers(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Name tensors without the parts that wrapping modules add, and leave a profiler's counts out; with notes."""
    named: dict[str, Tensor] = {}
    wrappers: dict[str, None] = {}
    counts = 0
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[-1] in _PROFILED:
            counts += 1
            continue
        wrappers |= dict.fromkeys(part for part in parts if part in _WRAPPERS)
        short = ".".join(part for part in parts if part not in _WRAPPERS)
        if short in named:
            raise WeightsError(f"{path}: two of its tensors are {_shown(short)}; the file is a mixture, save it again")
        named[short] = tensor
    notes = tuple(f"{wrapper!r} taken out of the names" for wrapper in wrappers)
    if counts:
        notes += (f"{counts} counts of a profiler ({', '.join(_PROFILED)}) left out",)
    return named, notes


def _prefixes(name: str) -> Iterator[str]:
    """Yield the prefixes that `name` may have: none, ``model.``, ``model.net.``, …"""
    end = 0
    for _ in range(_PREFIX_PARTS):
        yield name[:end]
        end = name.find(".", end) + 1
        if not end:
            return


def _the_only(networks: list[_Network], path: Path) -> _Network:
    """Return the network of which all others are the same tensors.

    Raises:
        WeightsError: there are several; lists them.
    """
    first = networks[0]
    memories = [{name: _memory(tensor) for name, tensor in network.tensors.items()} for network in networks]
    if all(memory == memories[0] for memory in memories):
        return first
    places = [network.place for network in networks]
    last = networks[-1]
    content = f"torch.load({str(path)!r}, weights_only=False)" + "".join(f"[{key!r}]" for key in last.keys)
    if path.suffix.lower() == ".safetensors":
        content = f"safetensors.torch.load_file({str(path)!r})"
    if last.prefix:
        length = len(last.prefix)
        content = f"{{k[{length}:]: v for k, v in {content}.items() if k.startswith({last.prefix!r})}}"
    raise WeightsError(
        f"{path}: the file holds {'two' if len(networks) == 2 else len(networks)} networks, at {_listed(places[:-1])} "
        f"and {_shown(places[-1])}; save the one you want as a file of its own, where you trust this one: "
        f'torch.save({content}, "plain.pth")'
    )


def _memory(tensor: Tensor) -> object:
    """Where its numbers are: the values are not compared, for they may claim to be many more than the file holds."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _no_state_dict(path: Path, content: dict[Any, Any]) -> WeightsError:
    strangers = [
        name for name, value in dict.items(content) if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if not strangers:
        return WeightsError(f"{path}: holds no tensors")
    return WeightsError(f"{path}: not a state dict: {_listed(strangers)} are not tensors; save model.state_dict()")


def _shown(name: object) -> str:
    """A file's keys may be long, have many lines, or be other objects than strings."""
    return " ".join(name[:60].split()) if isinstance(name, str) else f"<{type(name).__name__}>"


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(_shown(name) for name in names[:_SHOWN]) + more
