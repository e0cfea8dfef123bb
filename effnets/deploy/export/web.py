"""`export_web`: a classifier as a web page, a folder of static files that answers in the visitor's browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from effnets.deploy.export.base import ExportReport, check_writable
from effnets.deploy.export.onnx import export_onnx
from effnets.deploy.optimize.rewrites import preset
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EffnetsError, EngineError, ExportError, MissingFileError
from effnets.inference.arrays import COLOR_MODES
from effnets.inference.image import cover_size
from effnets.nn.classifier import require_single_class
from effnets.utils.atomic_folder import new_folder
from effnets.utils.paths import home_dir

ORT_VERSION = "1.30.0"
_FORMAT = "effnets-web"
_PAGE = ("index.html", "style.css", "app.js", "preprocess.js")
# Of onnxruntime-web: a script, and the WebAssembly with its loader.
_WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
ORT_FILES = (*_WASM, *_WEBGPU)
_INSTALL = f"npm install onnxruntime-web@{ORT_VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebReport:
    """A written folder.

    Attributes:
        folder: with the page in ``index.html``.
        model: the report of ``model.onnx``, which was verified.
        sizes: bytes of each file, by its path in the folder.
        version: changes with the content of any file; browsers keep the page by it.
    """

    folder: Path
    model: ExportReport
    sizes: Mapping[str, int]
    version: str

    def __str__(self) -> str:
        webgpu = sum(size for name, size in self.sizes.items() if Path(name).name in _WEBGPU)
        checked = ", ".join(f"{engine} {error:.0e}" for engine, error in self.model.errors.items())
        return (
            f"{self.folder}: {sum(self.sizes.values()) / 1e6:.1f} MB, of which browsers with WebGPU alone load "
            f"{webgpu / 1e6:.1f}; logits within {checked} of the network's"
        )


def export_web(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    optimize: bool = True,
    ort: str | os.PathLike[str] | None = None,
) -> WebReport:
    """Write a classifier as a web page that needs no server program, and works offline after the first visit.

    Photos are resized there as `effnets.predict` does, with Pillow's arithmetic. The folder holds ``index.html``, its
    scripts and style, a service worker, ``model.onnx`` (by `effnets.export_onnx`), ``model.json`` with labels and
    preprocessing, and ONNX Runtime's WebAssembly in ``ort/``. `model` is not changed.

    Args:
        model: from `effnets.create_model`, with 1, 3 or 4 input channels.
        folder: written whole or not at all. It may be missing, empty, or an earlier export, which is replaced.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        optimize: rewrite the network first, as `effnets.export_onnx`.
        ort: the folder ``dist`` of the npm package onnxruntime-web; None takes that of ``./node_modules``, or fetches
            the package with npm and keeps its files for the next time.

    Raises:
        ArgumentError: if `model` is not a classifier of 1, 3 or 4 channels, or `folder` holds anything else.
        MissingFileError: if `ort` lacks a file.
        EngineError: if onnxruntime-web is not installed, and cannot be fetched.
        VerificationError, ExportError: as `effnets.export_onnx`; or if the folder cannot be written.
    """
    channels = require_single_class(model, "the web page").in_chans
    if channels not in COLOR_MODES:
        raise ArgumentError(
            f"a browser reads photos of 1, 3 or 4 channels, and this model takes {channels}; use export_onnx"
        )
    folder = Path(folder)
    target = check_folder(folder)
    runtime = find_ort(ort)
    try:
        with new_folder(target) as temporary:
            rewrites = preset("onnxruntime-web") if optimize else False
            report = export_onnx(model, temporary / "model.onnx", image_size=image_size, optimize=rewrites)
            version = _fill(temporary, report.description, runtime)
            sizes = {name: (temporary / name).stat().st_size for name in _relative_files(temporary)}
    except EffnetsError:  # some are OSErrors too, and say what they mean
        raise
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return WebReport(folder=folder, model=report, sizes=sizes, version=version)


def check_folder(folder: Path) -> Path:
    """Return the folder to write, at the end of links.

    Raises:
        ArgumentError: if it is a file, or holds anything but an earlier export.
        ExportError: if it cannot be written.
    """
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise ArgumentError(f"{folder}: is a file; name a folder")
    if not target.is_dir() or not any(target.iterdir()):
        check_writable(target.with_name(f".{target.name}"))
        return target
    try:
        content = json.loads((target / "model.json").read_bytes())
        known = set(content["files"]) if content["format"] == _FORMAT else set()
    except (OSError, ValueError, LookupError, TypeError):
        known = set()
    if not known:
        raise ArgumentError(f"{folder}: holds something else than a web page by effnets; name another folder")
    if others := [name for name in _relative_files(target) if name not in known]:
        raise ArgumentError(
            f"{folder}: is an earlier export, but {others[0]} is not of it and would be lost; move it, or name another "
            "folder"
        )
    check_writable(target.with_name(f".{target.name}"))
    return target


def find_ort(ort: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Return onnxruntime-web's files by name, of the folder `ort`, of ``./node_modules``, or fetched by npm.

    Raises:
        MissingFileError: if `ort` lacks a file.
        EngineError: if `ort` is None, and the package is neither installed nor can be fetched.
    """
    if ort is not None:
        if missing := [name for name in ORT_FILES if not (Path(ort) / name).is_file()]:
            raise MissingFileError(
                f"{ort}: has no {missing[0]}; name the folder dist of onnxruntime-web, which this installs: {_INSTALL}"
            )
        return {name: Path(ort) / name for name in ORT_FILES}
    kept = home_dir() / f"onnxruntime-web-{ORT_VERSION}"
    for place in (Path("node_modules/onnxruntime-web/dist"), kept):
        if all((place / name).is_file() for name in ORT_FILES):
            return {name: place / name for name in ORT_FILES}
    _fetch(kept)
    return {name: kept / name for name in ORT_FILES}


def _fetch(kept: Path) -> None:
    """Fetch the package with npm, which compares it with the registry's hash, and keep the files that are needed."""
    npm, how = shutil.which("npm"), f"install it with: {_INSTALL}; or name its folder dist (--ort)"
    if npm is None:
        raise EngineError(f"onnxruntime-web, which runs the model in the browser, is not installed; {how}")
    with tempfile.TemporaryDirectory() as work:
        command = [npm, "pack", "--silent", f"onnxruntime-web@{ORT_VERSION}"]
        try:
            result = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600)
            reason = result.stderr.strip().splitlines()[-1:] or [f"exit status {result.returncode}"]
            if result.returncode:
                raise EngineError(f"onnxruntime-web cannot be fetched by npm ({reason[0]}); {how}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(kept) as unpacked, tarfile.open(next(Path(work).glob("*.tgz"))) as archive:
                for name in ORT_FILES:
                    member = archive.extractfile(f"package/dist/{name}")
                    assert member is not None, "these are files"
                    with member, (unpacked / name).open("wb") as file:
                        shutil.copyfileobj(member, file)
        except (OSError, subprocess.TimeoutExpired, tarfile.TarError, KeyError, StopIteration) as error:
            raise EngineError(f"onnxruntime-web cannot be fetched by npm ({error}); {how}") from None


def _fill(folder: Path, metadata: ModelMetadata, runtime: Mapping[str, Path]) -> str:
    """Add all that stands beside ``model.onnx``, and return the version."""
    assets = files("effnets").joinpath("assets", "web")
    for name in _PAGE:
        (folder / name).write_bytes(assets.joinpath(name).read_bytes())
    (folder / "ort").mkdir()
    for name, path in runtime.items():
        shutil.copyfile(path, folder / "ort" / name)
    kept = sorted([*_relative_files(folder), "model.json", "sw.js"])
    text = json.dumps({"format": _FORMAT, **_describe(metadata), "files": kept}, ensure_ascii=False, indent=1)
    (folder / "model.json").write_text(text, encoding="utf-8")
    hashes = {name: _integrity(folder / name) for name in _relative_files(folder)}
    hashes["./"] = hashes.pop("index.html")  # as servers call it
    version = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]
    lazy = {f"ort/{name}": hashes.pop(f"ort/{name}") for name in _WEBGPU}
    worker = assets.joinpath("sw.js").read_text(encoding="utf-8").replace("{{VERSION}}", version)
    worker = worker.replace("{{FILES}}", json.dumps(hashes, indent=2)).replace("{{LAZY}}", json.dumps(lazy, indent=2))
    (folder / "sw.js").write_text(worker, encoding="utf-8")
    return version


def _describe(metadata: ModelMetadata) -> dict[str, Any]:
    """What the page needs to know of the model."""
    preprocess = metadata.preprocess.for_channels(metadata.channels)
    return {
        "name": metadata.model,
        "labels": metadata.labels,
        "licence": metadata.weights.get("licence", ""),
        "preprocess": {
            "channels": metadata.channels,
            "size": metadata.image_size,
            "cover": cover_size(*metadata.image_size, preprocess),
            "interpolation": preprocess.interpolation,
            "mean": preprocess.mean,
            "std": preprocess.std,
        },
    }


def _integrity(path: Path) -> str:
    """The file's hash as Subresource Integrity writes it."""
    with path.open("rb") as file:
        return "sha256-" + base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode()


def _relative_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
