"""Keras' HDF5 files ↔ tensors named ``layer/weight``. h5py is imported when such a file is read or written.

Three layouts are read: layers at the root, as `Model.save_weights` wrote them until Keras 3 and as Keras Applications
publishes them; the same under ``model_weights``, in whole saved models; and Keras 3's ``.weights.h5``. The first is
written. Of a file only arrays of floating-point numbers that lie in it are read, whatever else it holds or points to:
no attributes either, whose forged lengths make the C library allocate gigabytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effnets.errors import WeightsError

__all__ = ["decode_hdf5", "encode_hdf5"]

# Far above every network of Keras; a forged shape can claim any size, and gets it allocated.
_MAX_BYTES = 1 << 28

_NORMALISATION = ("gamma", "beta", "moving_mean", "moving_variance")
_CONVOLUTION = ("kernel", "bias")


def decode_hdf5(path: Path) -> dict[str, Tensor]:
    """The tensors of a Keras file.

    Raises:
        WeightsError: no whole HDF5 file, none of Keras', more in a layer than numbers, or h5py is not installed.
    """
    h5py = _import_h5py(path)
    try:
        with h5py.File(path, "r") as file:
            return _Reader(path, h5py).read(file)
    except WeightsError:
        raise
    # Damage shows as any of these: h5py passes on whatever the C library says.
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, MemoryError) as error:
        reason = str(error).split("\n", 1)[0]
        raise WeightsError(f"{path}: not a whole HDF5 file of Keras ({reason}); fetch it again") from None


def encode_hdf5(path: Path, tensors: Mapping[str, Tensor]) -> bytes:
    """A file for `Model.load_weights`: layers at the root, in the order of `tensors`.

    Raises:
        WeightsError: `path` is called ``.weights.h5``, or h5py is not installed.
    """
    if path.name.endswith(".weights.h5"):
        raise WeightsError(f"{path}: Keras 3 reads another layout from files called .weights.h5; call it .h5")
    h5py = _import_h5py(path)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, weight = name.partition("/")
        layers.setdefault(layer, {})[f"{layer}/{weight}:0"] = tensor
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        # Keras takes a file without a version for one of Keras 1, and turns its kernels round.
        file.attrs["keras_version"] = b"2.0.0"
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, tensor in weights.items():
                group.create_dataset(name, data=tensor.float().numpy())
    return buffer.getvalue()


def _import_h5py(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise WeightsError(f"{path}: Keras files need h5py; run pip install 'effnets[keras]'") from None
    return h5py


class _Reader:
    """Finds the weights of a file. Every group is visited once, however the file links them."""

    def __init__(self, path: Path, h5py: ModuleType) -> None:
        self.path = path
        self.h5py = h5py
        self.visited: set[Any] = set()

    def read(self, file: Any) -> dict[str, Tensor]:
        """The tensors under ``layer/weight``."""
        tensors: dict[str, Tensor] = {}
        size = 0
        for name, dataset in self._datasets(file):
            if dataset.dtype.kind != "f":
                raise self._error(f"{name} is of type {dataset.dtype}, no floating-point numbers; save it as float32")
            if dataset.external or dataset.is_virtual:
                raise self._error(f"{name} lies in another file, which is not read; save a copy")
            # Reading takes room for the array and for a chunk of it, both as the file claims them.
            size += dataset.nbytes + math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
            if size > _MAX_BYTES:
                raise self._error(f"claims more than {_MAX_BYTES >> 20} MB, far above any of Keras' networks; refused")
            if name in tensors:
                raise self._error(f"holds {name} twice; save the Keras model anew")
            tensors[name] = torch.from_numpy(np.array(dataset[()], dtype=dataset.dtype.newbyteorder("=")))
        return tensors

    def _datasets(self, file: Any) -> Iterator[tuple[str, Any]]:
        root = self._group(file, "model_weights") if "model_weights" in file else file
        if "layers" in root:
            yield from self._numbered(self._group(root, "layers"))
            return
        for layer in root:
            group = self._group(root, layer)
            for weight in group:
                yield from self._named(group, layer, weight)

    def _named(self, group: Any, layer: str, weight: str) -> Iterator[tuple[str, Any]]:
        """A dataset, or all in a group of the layer: ``conv1/kernel:0``, with or without ``conv1/`` and ``:0``."""
        found = self._member(group, weight)
        if isinstance(found, self.h5py.Dataset):
            yield f"{layer}/{weight.partition(':')[0]}", found
            return
        inner = self._group(group, weight)
        for name in inner:
            yield from self._named(inner, layer, name)

    def _numbered(self, layers: Any) -> Iterator[tuple[str, Any]]:
        """Keras 3 names layers by class and number, and weights by number alone."""
        for key in layers:
            layer = self._group(layers, key)
            variables: Any = self._group(layer, "vars") if "vars" in layer else ()
            weights = _NORMALISATION if len(variables) == len(_NORMALISATION) else _CONVOLUTION
            for number in variables:
                if not number.isdecimal() or int(number) >= len(weights):
                    raise self._error(f"layer {key} has a weight {number!r}, which none of these networks has")
                yield f"{key}/{weights[int(number)]}", self._member(variables, number)

    def _group(self, parent: Any, name: str) -> Any:
        found = self._member(parent, name)
        if not isinstance(found, self.h5py.Group) or found in self.visited:
            raise self._error(f"{found.name} is not a group of weights of its own; Keras writes no such file")
        self.visited.add(found)
        return found

    def _member(self, parent: Any, name: str) -> Any:
        """`parent`'s member of that name; a link to another place is not followed."""
        if not isinstance(parent.get(name, getlink=True), self.h5py.HardLink):
            raise self._error(f"{name!r} is a link to another place, which is not followed; save a copy")
        return parent[name]

    def _error(self, message: str) -> WeightsError:
        return WeightsError(f"{self.path}: {message}")
