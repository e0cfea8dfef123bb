"""Dialects: the names other frameworks give to the same parameters.

A dialect is a table from this library's module names to the other's, for a given network. Renaming goes by module, so
that weights, biases and statistics, and the groups of a mixed convolution, follow along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from effnets.errors import ArgumentError, WeightsError
from effnets.plan import NetworkPlan
from effnets.weights.dialects import effnets as native
from effnets.weights.dialects import timm

__all__ = ["DIALECTS", "Dialect", "detect_dialect", "from_native", "get_dialect", "to_native"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One framework's names.

    `claims` tells from a file's keys that they are this dialect's; `module_names` maps native module names to the
    framework's, for one network, and raises `WeightsError` where the framework has no such network.
    """

    name: str
    claims: Callable[[Collection[str]], bool]
    module_names: Callable[[NetworkPlan], Mapping[str, str]]


DIALECTS: Mapping[str, Dialect] = {
    "effnets": Dialect("effnets", native.claims, native.module_names),
    "timm": Dialect("timm", timm.claims, timm.module_names),
}


def get_dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ArgumentError: unknown.
    """
    if name not in DIALECTS:
        raise ArgumentError(f"dialect is {name!r}; choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def detect_dialect(keys: Collection[str], source: str) -> Dialect:
    """The one dialect that claims these keys.

    Raises:
        WeightsError: none does, or more than one.
    """
    claimants = [dialect for dialect in DIALECTS.values() if dialect.claims(keys)]
    if len(claimants) == 1:
        return claimants[0]
    some = ", ".join(sorted(keys)[:4])
    found = f"could be {' or '.join(dialect.name for dialect in claimants)}" if claimants else "are of no known dialect"
    raise WeightsError(f"{source}: its keys ({some}, …) {found}; say which with dialect=, one of {', '.join(DIALECTS)}")


def to_native(tensors: Mapping[str, Tensor], dialect: Dialect, plan: NetworkPlan) -> dict[str, Tensor]:
    """Tensors under native names; one whose name the dialect does not have is marked, for the merge to refuse."""
    names = {foreign: own for own, foreign in dialect.module_names(plan).items()}
    return {_rename(key, names) or f"{key} (no {dialect.name} name)": tensor for key, tensor in tensors.items()}


def from_native(tensors: Mapping[str, Tensor], dialect: Dialect, plan: NetworkPlan) -> dict[str, Tensor]:
    """Tensors under the dialect's names.

    Raises:
        WeightsError: the dialect has no name for one of them.
    """
    names = dialect.module_names(plan)
    renamed = {key: _rename(key, names) for key in tensors}
    if homeless := [key for key, name in renamed.items() if name is None]:
        raise WeightsError(f"dialect {dialect.name} has no name for {', '.join(homeless[:5])}")
    return {name: tensors[key] for key, name in renamed.items() if name is not None}


def _rename(key: str, names: Mapping[str, str]) -> str | None:
    """`key` with the module it belongs to renamed: the shortest of its dotted beginnings that has a name."""
    end = key.find(".")
    while end > 0:
        if (module := names.get(key[:end])) is not None:
            return module + key[end:]
        end = key.find(".", end + 1)
    return None
