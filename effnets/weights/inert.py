"""Stubs in place of the harmless types that training programs leave beside the weights: none is imported or called."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
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


def _table(text: str) -> frozenset[str]:
    """Return the full names in lines of modules and names: ``numpy: dtype ndarray``."""
    lines = [[part.split() for part in line.split(":")] for line in text.splitlines() if line.strip()]
    return frozenset(f"{module}.{name}" for modules, names in lines for module in modules for name in names)


_LISTS = _table("collections: deque")
_MAPPINGS = _table("""
    collections: defaultdict
    lightning.pytorch.utilities.parsing pytorch_lightning.utilities.parsing: AttributeDict
    lightning.fabric.utilities.data lightning_fabric.utilities.data: AttributeDict
    mmcv.utils.config mmengine.config.config: ConfigDict
    addict.addict: Dict
    easydict: EasyDict
    munch: Munch
    yacs.config: CfgNode
""")
# Types that are values themselves (a defaultdict has one) or have them, keys of Lightning's old callbacks among them.
_OBJECTS = _table("""
    builtins: bool bytes dict float frozenset int list object range slice str tuple
    argparse: Namespace
    types: SimpleNamespace
    datetime: date datetime time timedelta timezone
    decimal: Decimal
    fractions: Fraction
    pathlib pathlib._local: Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath
    typing: Any
    uuid: SafeUUID UUID
    numpy: dtype ndarray bool bool_ bytes_ str_ float16 float32 float64 longdouble
    numpy: int8 int16 int32 int64 uint8 uint16 uint32 uint64
    numpy.core.multiarray numpy._core.multiarray: _reconstruct scalar
    torch.torch_version: TorchVersion
    lightning.pytorch.callbacks.model_checkpoint pytorch_lightning.callbacks.model_checkpoint: ModelCheckpoint
    lightning.pytorch.callbacks.early_stopping pytorch_lightning.callbacks.early_stopping: EarlyStopping
    lightning.pytorch.trainer.states pytorch_lightning.trainer.states: RunningStage TrainerFn TrainerStatus
    omegaconf.base: ContainerMetadata Metadata
    omegaconf.dictconfig: DictConfig
    omegaconf.listconfig: ListConfig
    omegaconf.nodes: AnyNode BooleanNode BytesNode EnumNode FloatNode IntegerNode PathNode StringNode
""")
_ENTERED = threading.Lock()


def stub_of(name: str) -> type | None:
    """Return what stands for the type of that name, if it is known to hold metadata only."""
    if name in _MAPPINGS:
        return InertMapping
    if name in _LISTS:
        return InertList
    of_numpy = name.startswith("numpy.dtypes.") and name.endswith("DType")
    return Inert if of_numpy or name in _OBJECTS else None


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
