"""Dialects: the names and layouts other frameworks give to the same parameters. Each is a file of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.errors import ArgumentError, WeightsError
from effnets.weights.dialects import clovaai, effnets, keras, timm, torchvision, transformers
from effnets.weights.dialects.interface import Dialect

__all__ = ["DIALECTS", "Dialect", "detect_dialect", "get_dialect"]

DIALECTS: Mapping[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (effnets, timm, torchvision, transformers, keras, clovaai)
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
