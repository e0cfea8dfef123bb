"""Where an export is written, and on which engines it is checked: told before the work, not after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from effnets.engines.base import FOR_ONNX
from effnets.errors import ArgumentError, EngineError, ExportError
from effnets.utils.atomic_file import find_target, write_whole

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_path(path: str | os.PathLike[str]) -> Path:
    """`path` as one, if an ONNX file can be written there.

    Raises:
        ArgumentError: another suffix. ExportError: as of `check_place`.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ArgumentError(f"path is {str(path)!r}; give the file the suffix .onnx")
    check_place(path)
    return path


def check_place(path: Path) -> None:
    """Refuse a file that cannot be written. Where `path` is a link, that is what it leads to.

    Raises:
        ExportError: no such folder, or not for us to write to; or something that is no file has the name.
    """
    try:
        folder = (find_target(path) if path.parent.is_dir() else path).parent
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"{path}: cannot be written there; choose another place ({reason})") from None
    if not folder.is_dir():
        raise ExportError(f"{path}: cannot be written: {folder} is no folder; make it first")
    if not os.access(folder, os.W_OK):
        raise ExportError(f"{path}: cannot be written there; choose another place")


def check_engine(engine: str) -> None:
    """Refuse what no file can be made for; empty is no preference.

    Raises:
        ArgumentError: another name.
    """
    if engine not in ("", "onnxruntime", "openvino"):
        raise ArgumentError(f"engine is {engine!r}; choose onnxruntime or openvino, or leave it out")


def check_engines(engines: Sequence[str] | None) -> Sequence[str]:
    """The engines to verify on; None: ONNX Runtime, and OpenVINO if it is installed.

    Raises:
        EngineError: a package that exporting needs is missing. ArgumentError: none, or one that reads no ONNX.
    """
    if missing := [name for name in _NEEDED if not find_spec(name)]:
        raise EngineError(f"exporting needs {', '.join(missing)}; install with: pip install 'effnets[export]'")
    if engines is None:
        return ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    if not engines:
        raise ArgumentError("engines is empty; name at least one, onnxruntime or openvino")
    if unknown := [name for name in engines if name not in FOR_ONNX]:
        raise ArgumentError(f"engines has {unknown[0]!r}; choose from {', '.join(FOR_ONNX)}")
    return engines


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and read it back.

    Raises:
        ExportError: the disk refuses, or does not hold what was written.
    """
    try:
        write_whole(path, data, read_back=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None
