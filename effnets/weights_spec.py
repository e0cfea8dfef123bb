"""What a set of published weights is: where it lies, whose names it has, and what it asks of the network.

The YAML tables under ``configs/weights`` decode into `WeightsSpec` (`effnets.weights_table`). Free of torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from effnets.remote import HUB_SCHEME, REPOSITORY, RemoteFile
from effnets.spec import ACTIVATIONS, Activation, Padding, PreprocessSpec
from effnets.utils.arguments import RANGES, require, require_choice, require_range

__all__ = ["PACKAGE_SCHEME", "WEIGHTS_DIALECTS", "WeightsDialect", "WeightsSpec"]

WeightsDialect = Literal["effnets", "timm", "torchvision", "transformers", "keras", "clovaai"]
WEIGHTS_DIALECTS: tuple[WeightsDialect, ...] = get_args(WeightsDialect)

PACKAGE_SCHEME = "package:"
_HUB_FILE = "model.safetensors"

_TAG = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSpec:
    """One set of published weights of a model.

    Attributes:
        model, tag: ``mixnet_m`` and ``ft_in1k``; together the `name` ``mixnet_m.ft_in1k``.
        source: ``hf-hub:org/repo``, the URL of the file (https; plain http for this machine alone), or
            ``package:file`` of a file that lies in this package.
        file: the file in the repository, by default ``model.safetensors``; else the source's last part.
        dialect: the framework whose parameter names and layout the file has.
        preprocess: how the weights want their images; complete, not on top of the model's.
        padding, bn_eps, activation: in place of the model's, where these weights differ. None: the model's.
        num_classes: outputs in the file, a background included.
        background: class 0 means "none of the others", as TensorFlow trains; it is dropped unless asked for.
        top1, top5: published accuracy on ImageNet-1k's validation set, in per cent. None: nothing published found.
        accuracy_size: side of the input that the figures were measured at. None: `preprocess.input_size`.
        accuracy_source: where the figures were read; needed wherever there is one.
        licence: as the publisher states it, an SPDX identifier in small letters where there is one.
        sha256: of the file, as a program computed it. sha256_prefix: its beginning, as the file's name states it.
        revision: commit of the repository on the Hub.
    """

    model: str
    tag: str
    source: str
    dialect: WeightsDialect
    preprocess: PreprocessSpec
    licence: str
    file: str = ""
    padding: Padding | None = None
    bn_eps: float | None = None
    activation: Activation | None = None
    num_classes: int = 1000
    background: bool = False
    top1: float | None = None
    top5: float | None = None
    accuracy_size: int | None = None
    accuracy_source: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        _require_match("tag", self.tag, _TAG, "small letters, digits and '_'")
        self._check_source()
        require_choice("dialect", self.dialect, WEIGHTS_DIALECTS)
        require(bool(self.licence.strip()), "licence is empty; state what the publisher states")
        if self.padding is not None:
            require_choice("padding", self.padding, get_args(Padding))
        if self.bn_eps is not None:
            require_range("bn_eps", self.bn_eps, *RANGES["bn_eps"])
        if self.activation is not None:
            require_choice("activation", self.activation, ACTIVATIONS)
        require_range("num_classes", self.num_classes, 2 if self.background else 1, RANGES["num_classes"][1])
        self._check_accuracy()
        self._check_hashes()

    def _check_source(self) -> None:
        if self.source.startswith(HUB_SCHEME):
            _require_match("source", self.source, REPOSITORY, f"{HUB_SCHEME}organisation/repository")
            default = _HUB_FILE
        elif self.packaged:
            default = self.source.removeprefix(PACKAGE_SCHEME)
            require(
                self.file in ("", default) and "/" not in default,
                f"source is {self.source!r} and file {self.file!r}; write {PACKAGE_SCHEME} and the file's name alone",
            )
        else:
            url = urlsplit(self.source)
            secure = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOCAL_HOSTS)
            require(
                secure and bool(url.hostname),
                f"source is {self.source!r}; write {HUB_SCHEME}organisation/repository, or the file's https:// URL "
                f"(or {PACKAGE_SCHEME}file, of one in this package)",
            )
            default = url.path.rpartition("/")[2]
            require(
                self.file in ("", default) and bool(default),
                f"source is {self.source!r} and file {self.file!r}; a URL ends with the file's name",
            )
        object.__setattr__(self, "file", self.file or default)
        _require_match("file", self.file, _FILE, "a file's name, such as model.safetensors")

    def _check_accuracy(self) -> None:
        figures = [value for value in (self.top1, self.top5) if value is not None]
        for value in figures:
            require_range("top1, top5", value, *RANGES["top1"])
        if self.top1 is not None and self.top5 is not None:
            require(self.top1 <= self.top5, f"top1 is {self.top1:g}, above top5, which is {self.top5:g}")
        for name, given in (("accuracy_source", self.accuracy_source), ("accuracy_size", self.accuracy_size)):
            require(bool(figures) or given is None, f"{name} is given without a figure; state top1, or take it away")
        require(
            not figures or bool(self.accuracy_source),
            "top1 or top5 is given without accuracy_source; state where the figure was read",
        )
        if self.accuracy_size is not None:
            require_range("accuracy_size", self.accuracy_size, *RANGES["accuracy_size"])

    def _check_hashes(self) -> None:
        for name, value, length in (("sha256", self.sha256, "64"), ("sha256_prefix", self.sha256_prefix, "8,64")):
            if value is not None:
                _require_match(name, value, re.compile(f"[0-9a-f]{{{length}}}"), f"{length} small hex digits")
        if self.sha256_prefix is not None:
            require(
                self.sha256_prefix in self.file,
                f"sha256_prefix {self.sha256_prefix} does not stand in the file's name, {self.file}; take it away",
            )
            require(
                self.sha256 is None or self.sha256.startswith(self.sha256_prefix),
                f"sha256 {self.sha256} does not begin with {self.sha256_prefix}, as the file's name says it does",
            )
        if self.revision is not None:
            where = "a URL or a file of the package; only repositories on the Hub have revisions"
            require(self.repo is not None, f"revision is given for {where}")
            _require_match("revision", self.revision, re.compile("[0-9a-f]{40}"), "the 40 hex digits of a commit")

    @property
    def name(self) -> str:
        """``model.tag``."""
        return f"{self.model}.{self.tag}"

    @property
    def remote(self) -> RemoteFile:
        """The file, for `effnets.weights.fetch`."""
        return RemoteFile(
            label=self.name,
            source=self.source,
            file=self.file,
            revision=self.revision,
            sha256=self.sha256,
            sha256_prefix=self.sha256_prefix,
            if_gone="the registry may be out of date: scripts/check_sources.py tells",
        )

    @property
    def packaged(self) -> bool:
        """Whether the file comes with this package, so that nothing is ever fetched."""
        return self.source.startswith(PACKAGE_SCHEME)

    @property
    def repo(self) -> str | None:
        """``organisation/repository`` on the Hub; None for a file that lies elsewhere."""
        return self.remote.repo

    def url(self, endpoint: str = "https://huggingface.co") -> str:
        """Where a browser finds the file; `endpoint` is the Hub, or a mirror of it."""
        return self.remote.url(endpoint)

    @property
    def measured_size(self) -> int:
        """Side of the input that `top1` and `top5` hold for."""
        return self.accuracy_size or self.preprocess.input_size

    @property
    def pinned(self) -> bool:
        """Whether the file is known to the last bit."""
        return self.sha256 is not None


def _require_match(name: str, value: str, pattern: re.Pattern[str], expected: str) -> None:
    require(pattern.fullmatch(value) is not None, f"{name} is {value!r}; it must be {expected}")
