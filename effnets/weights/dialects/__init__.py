"""Dialects: the names and layouts other frameworks give to the same parameters. Each is a file of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.errors import ArgumentError, WeightsError
from effnets.weights.dialects.clovaai import ClovaAI
from effnets.weights.dialects.effnets import Effnets
from effnets.weights.dialects.interface import Dialect
from effnets.weights.dialects.keras import Keras
from effnets.weights.dialects.timm import Timm
from effnets.weights.dialects.torchvision import Torchvision
from effnets.weights.dialects.transformers import Transformers

__all__ = ["DIALECTS", "Dialect", "detect_dialect", "get_dialect"]

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (Effnets(), Timm(), Torchvision(), Transformers(), Keras(), ClovaAI())
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
    if claimants:
        names = " or ".join(dialect.name for dialect in claimants)
        raise WeightsError(
            f"{source}: its keys ({some}, …) could be {names}; say which with load_weights(model, path, dialect=…) or "
            "effnets convert --from"
        )
    raise WeightsError(
        f"{source}: its keys ({some}, …) are of no known dialect ({', '.join(DIALECTS)}); it is of another network "
        "than the zoo's, or its names were changed: save the state_dict() of the network as its framework has it"
    )
