"""Stubs in place of the harmless types that training programs leave beside the weights: none is imported or called."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Inert:
    """Stands for any object: takes whatever it is made or filled with, and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_arguments: object) -> Inert:
        return object.__new__(cls)

    def __setstate__(self, _state: object) -> None:
        pass


class InertMapping:
    """Stands for a subclass of dict: its items may hold weights."""

    # Not a plain dict: torch fills no subclass, and of plain dicts no attributes.
    def __new__(cls, *_arguments: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class InertList:
    """Stands for a subclass of list, or a deque."""

    def __new__(cls, *_arguments: object) -> list[Any]:  # type: ignore[misc]
        return []


_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")
_MAPPINGS = frozenset(
    {
        *("collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict", "munch.Munch", "yacs.config.CfgNode"),
        *("mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict", "box.box.Box"),
        *(f"{package}.utilities.parsing.AttributeDict" for package in _LIGHTNING),
        *(f"{package}.utilities.data.AttributeDict" for package in ("lightning.fabric", "lightning_fabric")),
    }
)
_LISTS = frozenset({"collections.deque"})
_PATHS = ("Path", "PurePath", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_NUMBERS = ("float16", "float32", "float64", "longdouble", "bool", "bool_", "str_", "bytes_")
_OBJECTS = frozenset(
    {
        # Types as values, as a defaultdict has one, and what is made of them.
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object")),
        *(f"builtins.{name}" for name in ("range", "slice", "str", "tuple")),
        *("argparse.Namespace", "types.SimpleNamespace", "fractions.Fraction", "decimal.Decimal"),
        *("uuid.UUID", "uuid.SafeUUID", "torch.torch_version.TorchVersion", "torch.Generator"),
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *("numpy.ndarray", "numpy.dtype"),
        *(f"numpy.{name}" for name in _NUMBERS),
        *(f"numpy.{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        # Keys of Lightning's callbacks before 1.5, and what its trainer states.
        *(f"{package}.callbacks.model_checkpoint.ModelCheckpoint" for package in _LIGHTNING),
        *(f"{package}.callbacks.early_stopping.EarlyStopping" for package in _LIGHTNING),
        *(
            f"{package}.trainer.states.{name}"
            for package in _LIGHTNING
            for name in ("TrainerFn", "TrainerStatus", "RunningStage")
        ),
        # Hydra's configurations.
        *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.UnionNode"),
        *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any"),
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Bytes", "Enum", "Path", "InterpolationResult")),
    }
)
_ENTERED = threading.Lock()


def is_harmless(name: str) -> bool:
    """Whether a type of this name holds metadata, and may be left out without being asked for."""
    of_numpy = name.startswith("numpy.dtypes.") and name.endswith("DType")
    return of_numpy or name in _MAPPINGS or name in _LISTS or name in _OBJECTS


def stubs_of(names: Collection[str]) -> dict[str, type]:
    """Return the stub of each harmless type among `names`."""
    return {
        name: InertMapping if name in _MAPPINGS else InertList if name in _LISTS else Inert
        for name in names
        if is_harmless(name)
    }


@contextmanager
def stubs_for_torch(stubs: Mapping[str, type]) -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` take `stubs` for the types of these names, and nothing else that it may.

    What a program has allowed by `torch.serialization.add_safe_globals` is put aside meanwhile: it would be called.
    """
    if not stubs:
        yield
        return
    ours = [(stub, name) for name, stub in stubs.items()]
    with _ENTERED:
        theirs = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(ours)  # type: ignore[arg-type]
        try:
            yield
        finally:
            added = [one for one in torch.serialization.get_safe_globals() if one not in ours]
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals([*theirs, *added])
