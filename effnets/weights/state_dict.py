"""How a network's state dict is found in a checkpoint: by the names of the dialects, or by being the only one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
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
    """One network in a checkpoint.

    Attributes:
        keys: of the nested dicts that it lies in. prefix: of its names there, each part with its dot.
        tensors: under names without prefix. notes: what was left out beside it.
    """

    keys: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, Tensor]
    averaged: bool
    notes: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it lies, as messages say it."""
        return ".".join((*self.keys, self.prefix.rstrip("."))).strip(".") or "the top"


def find_state_dict(
    content: object, path: Path, *, dialects: Collection[Dialect], ema: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the one network in what a file holds, its names without the prefixes of wrapping modules, and notes.

    A network is a mapping of names to tensors, in nested mappings, all of one prefix, whose names one of `dialects`
    claims. Without such, it is the only mapping of names to tensors.

    Args:
        content: of the file.
        ema: take averaged weights, which are passed over otherwise where there are others.

    Raises:
        WeightsError: there is none, there are several, or `ema` is set and none is averaged.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    groups = list(_groups(content, path))
    networks = [network for group in groups for network in group.networks(dialects)]
    if not networks:  # the detection of the dialect says what is unknown: of the largest, as a loss has tensors too
        whole = [group.whole() for group in groups]
        kinds = [[network for network in whole if network.averaged is kind] for kind in (False, True)]
        networks = [max(kind, key=lambda network: len(network.tensors)) for kind in kinds if kind]
    if not networks:
        raise _no_state_dict(path, content)
    averaged = [network for network in networks if network.averaged]
    plain = [network for network in networks if not network.averaged]
    notes: tuple[str, ...] = ()
    if ema and not averaged:
        places = _listed([repr(network.place) for network in plain])
        raise WeightsError(
            f"{path}: holds no averaged weights, only those at {places}; leave ema (--ema) out to take them"
        )
    if ema or not plain:
        chosen = averaged
        notes = (f"averaged weights {'chosen' if ema else 'taken, as the file holds no others'}",)
    else:
        chosen = plain
        if averaged:
            places = _listed([repr(network.place) for network in averaged])
            notes = (f"the file also holds averaged weights ({places}); choose them with ema=True (--ema)",)
    network = _the_only(chosen, path)
    if network.keys:
        notes += (f"weights taken from {'.'.join(network.keys)!r} of the file",)
    if network.prefix:
        notes += (f"prefix {network.prefix!r} taken off their names",)
    return dict(network.tensors), notes + network.notes


@dataclass(frozen=True, slots=True)
class _Group:
    """Tensors of one mapping, as named there but for wrapping modules; `notes` say what is no part of any network."""

    keys: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    averaged: bool
    notes: tuple[str, ...]

    def networks(self, dialects: Collection[Dialect]) -> Iterator[_Network]:
        """Yield what a dialect claims, by its shortest prefix."""
        members: dict[str, list[str]] = {}
        for name in self.tensors:
            for prefix in _prefixes(name):
                members.setdefault(prefix, []).append(name[len(prefix) :])
        found: list[str] = []
        for prefix in sorted(members, key=len):
            inner = prefix.startswith(tuple(found)) if found else False
            if not inner and any(dialect.claims(members[prefix]) for dialect in dialects):
                found.append(prefix)
        rest = [name for name in self.tensors if not name.startswith(tuple(found))] if found else []
        for prefix in found:
            yield self._network(prefix, members[prefix], rest)

    def whole(self) -> _Network:
        """Return everything, without the prefixes of DistributedDataParallel."""
        prefix = ""
        names = [name for name in self.tensors if name != _AVERAGED]
        while names and all(name.startswith(prefix + "module.") for name in names):
            prefix += "module."
        return self._network(prefix, [name[len(prefix) :] for name in names], [])

    def _network(self, prefix: str, names: Iterable[str], rest: list[str]) -> _Network:
        parts = prefix.split(".")
        above = [".".join((*parts[:end], _AVERAGED)) for end in range(len(parts))]
        averaged = self.averaged or not _AVERAGES.isdisjoint(parts) or any(count in self.tensors for count in above)
        notes = self.notes
        if others := [name for name in rest if name.rpartition(".")[2] != _AVERAGED]:
            notes += (f"left out, as no part of the network: {_listed(others)}",)
        tensors = {name: self.tensors[prefix + name] for name in names if name != _AVERAGED}
        return _Network(self.keys, prefix, tensors, averaged, notes)


def _groups(content: Mapping[Any, Any], path: Path) -> Iterator[_Group]:
    """Yield every mapping with tensors, outside of optimizers and the like; each once, however often it is met."""
    swapped = _BEFORE_AVERAGING in content
    visited = {id(content)}
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    for _ in range(_DEPTH):
        deeper: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = []
        for keys, mapping in level:
            tensors = {name: value for name, value in mapping.items() if isinstance(value, Tensor)}
            if tensors and all(isinstance(name, str) for name in tensors):
                averaged = not _AVERAGES.isdisjoint(keys) or (swapped and keys == ("state_dict",))
                others = [name for name, value in mapping.items() if not isinstance(value, Tensor | Mapping)]
                yield _unwrapped(path, keys, tensors, others if keys else [], averaged)
            for key, value in mapping.items():
                if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in visited:
                    visited.add(id(value))
                    if key not in _OTHERS:
                        deeper.append(((*keys, key), value))
        level = deeper


def _unwrapped(
    path: Path, keys: tuple[str, ...], tensors: Mapping[str, Tensor], others: list[object], averaged: bool
) -> _Group:
    """Name tensors without the parts that wrapping modules add, and leave a profiler's counts out."""
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
    if others:
        notes += (f"left out, as no tensors: {_listed([_shown(other) for other in others])}",)
    return _Group(keys, named, averaged, notes)


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
    first, *others = networks
    if all(_are_same(first.tensors, other.tensors) for other in others):
        return first
    places = [repr(network.place) for network in networks]
    shown = _listed(places[:-1]) + f" and {places[-1]}"
    one = networks[-1]
    inside = "".join(f'["{key}"]' for key in one.keys)
    content = f"torch.load({str(path)!r}, weights_only=False){inside}"
    if path.suffix.lower() == ".safetensors":
        content = f"safetensors.torch.load_file({str(path)!r})"
    if one.prefix:
        length = len(one.prefix)
        content = f"{{k[{length}:]: v for k, v in {content}.items() if k.startswith({one.prefix!r})}}"
    number = "two" if len(networks) == 2 else str(len(networks))
    raise WeightsError(
        f"{path}: the file holds {number} networks, at {shown}; save the one you want as a file of its own, where you "
        f'trust this one: torch.save({content}, "plain.pth")'
    )


def _are_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether they are the same tensors, in the same memory."""
    return one.keys() == other.keys() and all(_memory(one[name]) == _memory(other[name]) for name in one)


def _memory(tensor: Tensor) -> object:
    if tensor.layout != torch.strided or tensor.is_meta:
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _no_state_dict(path: Path, content: Mapping[Any, Any]) -> WeightsError:
    if not content:
        return WeightsError(f"{path}: holds no tensors")
    strangers = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    shown = ", ".join(_shown(name) for name in strangers[:_SHOWN])
    return WeightsError(f"{path}: not a state dict: {shown} are not tensors; save model.state_dict()")


def _shown(name: object) -> str:
    """A file's keys may be long, have many lines, or be other objects than strings."""
    return " ".join(name[:60].split()) if isinstance(name, str) else f"<{type(name).__name__}>"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
