"""Describe networks and their weights: frozen, validated, free of torch.

The YAML tables under ``configs`` decode into these classes (`effnets.spec.models`, `effnets.spec.weights`);
`effnets.spec.plan` works out every channel number from them, and `effnets.nn.build` makes the modules of the plan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args
from urllib.parse import urlsplit

from effnets.errors import ArgumentError
from effnets.utils.arguments import (
    MAX_CHANNELS,
    MAX_DENOMINATOR,
    MAX_KERNEL,
    MAX_KERNEL_GROUPS,
    MAX_REPEATS,
    RANGES,
    require,
    require_choice,
    require_range,
)

HUB_SCHEME = "hf-hub:"
REPOSITORY = re.compile(rf"{HUB_SCHEME}[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# Of path segments none of which begins with a dot: a revision becomes a path in the cache.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file in a repository of the Hub, or at a URL.

    Attributes:
        label: what messages call that which the user asked for: ``mixnet_m.ft_in1k``, ``hf-hub:user/repo``.
        source: ``hf-hub:org/repo``, or the URL of the file.
        file: its path in the repository; of a URL, the last part.
        revision: branch, tag or commit of the repository; None: ``main``.
        sha256: of the file, where it is pinned. sha256_prefix: its beginning, as the file's name states it.
        if_gone: what to do where there is no such file, as half a sentence.
    """

    label: str
    source: str
    file: str
    revision: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    if_gone: str = "check the name"

    @property
    def repo(self) -> str | None:
        """``organisation/repository`` on the Hub; None for a URL."""
        return self.source.removeprefix(HUB_SCHEME) if self.source.startswith(HUB_SCHEME) else None

    def url(self, endpoint: str = "https://huggingface.co") -> str:
        """Where a browser finds the file; `endpoint` is the Hub, or a mirror of it."""
        if self.repo is None:
            return self.source
        return f"{endpoint.rstrip('/')}/{self.repo}/resolve/{self.revision or 'main'}/{self.file}"


def split_repository(name: str) -> tuple[str, str | None]:
    """``hf-hub:user/repo@revision`` → ``hf-hub:user/repo`` and the revision; None where none is named.

    Raises:
        ArgumentError: it is written in another way.
    """
    source, at, revision = name.partition("@")
    if not REPOSITORY.fullmatch(source) or (at and not _REVISION.fullmatch(revision)):
        raise ArgumentError(f"{name!r} names no repository; write {HUB_SCHEME}user/repository, or …@revision")
    return source, revision or None


BlockType = Literal["cn", "ds", "dsa", "ir", "lb"]
Activation = Literal["relu", "relu6", "silu", "hard_swish"]
Padding = Literal["symmetric", "same"]
Scaling = Literal["fixed", "width", "up"]
DepthRounding = Literal["up", "nearest"]
Interpolation = Literal["bicubic", "bilinear"]

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One row of an architecture table: a block and how often it repeats.

    Attributes:
        type: ``cn`` convolution-BN-activation; ``ds`` depthwise separable with a linear pointwise convolution;
            ``dsa`` the same with an activation after it and no shortcut (MobileNetV1); ``ir`` inverted residual
            (MobileNetV2, MixNet); ``lb`` ReXNet's linear bottleneck.
        repeats: how many blocks; only the first has the stride.
        kernel_sizes: one odd size for each kernel group of the (depthwise) convolution.
        stride: 1 or 2.
        expansion: width of the expanded part over that of the input. None for blocks without an expansion.
        channels: output channels before the width multiplier. None where a `ChannelSchedule` gives them.
        expand_groups: groups of the pointwise expansion, project_groups of the projection (``a1.1``, ``p1.1``).
        se_ratio: squeeze-and-excitation channels over the block's input (``ir``) or expanded (``lb``) channels.
        activation: overrides the model's.
        exponential: split channels over the kernel groups 1/2, 1/4, … instead of equally (MixConv, section 3.2).
        dilated: stand in for a k×k kernel with a 3×3 kernel of dilation (k-1)/2 wherever the stride is 1.
        shortcut: None lets the shapes decide; False takes the residual connection away; True asks for one
            (``cn``, which otherwise has none).
    """

    type: BlockType
    repeats: int = 1
    kernel_sizes: tuple[int, ...] = (3,)
    stride: int = 1
    expansion: float | None = None
    channels: int | None = None
    expand_groups: int = 1
    project_groups: int = 1
    se_ratio: Fraction | None = None
    activation: Activation | None = None
    exponential: bool = False
    dilated: bool = False
    shortcut: bool | None = None

    def __post_init__(self) -> None:
        require_choice("block type", self.type, get_args(BlockType))
        require_range("repeats r", self.repeats, 1, MAX_REPEATS)
        require(bool(self.kernel_sizes), "kernel sizes k are empty; write at least one, such as k3")
        require(
            len(self.kernel_sizes) <= MAX_KERNEL_GROUPS,
            f"kernel sizes k: at most {MAX_KERNEL_GROUPS} kernel groups",
        )
        for kernel_size in self.kernel_sizes:
            require_range("kernel size k", kernel_size, 1, MAX_KERNEL)
            require(
                kernel_size % 2 == 1,
                f"kernel size k is {kernel_size}; kernels are odd, so that they have a centre",
            )
        require(self.stride in (1, 2), f"stride s is {self.stride}; it must be 1 or 2")
        if self.expansion is not None:
            require_range("expansion e", self.expansion, 0.01, 64)
        else:
            require(self.type not in ("ir", "lb"), f"{self.type} needs an expansion e; write e1 for none")
        if self.channels is not None:
            require_range("channels c", self.channels, 1, MAX_CHANNELS)
        require_range("expansion groups a", self.expand_groups, 1, MAX_KERNEL_GROUPS)
        require_range("projection groups p", self.project_groups, 1, MAX_KERNEL_GROUPS)
        if self.se_ratio is not None:
            require(
                0 < self.se_ratio <= 1,
                f"squeeze ratio se is {self.se_ratio}; it must lie above 0 and up to 1",
            )
            require(
                self.se_ratio.denominator <= MAX_DENOMINATOR,
                f"squeeze ratio se is {self.se_ratio}; write it with fewer digits, such as 0.25 or 1/12",
            )
        if self.activation is not None:
            require_choice("activation n", self.activation, ACTIVATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSchedule:
    """Output channels that grow linearly with the block's index (ReXNet, arXiv:2007.00992).

    Block i of n has ``start + i · growth / steps`` channels, where `steps` is n, or n-1 so that the last
    block reaches ``start + growth`` exactly; the width multiplier α then multiplies it (not `start`, for α < 1).
    """

    start: int
    growth: int
    inclusive: bool = False

    def __post_init__(self) -> None:
        require_range("channels.start", self.start, *RANGES["start"])
        require_range("channels.growth", self.growth, *RANGES["growth"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSpec:
    """How a photograph becomes the network's input; it belongs to the weights and travels with them.

    Attributes:
        input_size: side of the square input, in pixels.
        crop_pct: the centre crop's share of the resized image's side.
        interpolation: of the resize.
        mean, std: per channel, of RGB values in 0..1.
        test_input_size, test_crop_pct: where the weights do better at another size than they were trained at.
    """

    input_size: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    test_input_size: int | None = None
    test_crop_pct: float | None = None

    def __post_init__(self) -> None:
        for name in ("input_size", "crop_pct", "test_input_size", "test_crop_pct"):
            if (value := getattr(self, name)) is not None:
                require_range(name, value, *RANGES[name])
        require_choice("interpolation", self.interpolation, get_args(Interpolation))
        require(
            len(self.mean) == len(self.std) and len(self.mean) > 0,
            f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one of each per channel",
        )
        for name in ("mean", "std"):
            for value in getattr(self, name):
                require_range(name, value, *RANGES[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A whole network, with its multipliers not yet applied (see `effnets.spec.plan`).

    Attributes:
        name, family: ``mixnet_m`` and ``mixnet``.
        stem: channels of the first 3×3 convolution; `stem_scaling` says how α acts on them: ``fixed`` not at
            all, ``width`` multiplies, ``up`` multiplies where α > 1.
        stem_stride: 2, or 1 for small images.
        blocks: the rows of the table, in order.
        channels: ReXNet's linear schedule, for rows that state no channels.
        head: channels of the 1×1 convolution after the last block; 0 for none. `head_scaling` as for the stem.
        head_hidden: channels of a further 1×1 convolution after pooling (ReXNet-lite); 0 for none.
        width: the width multiplier α. depth: multiplier of the repeats, rounded by `depth_rounding` in each
            stage (a run of rows at one width), save the first and last stage with `depth_fixed_ends`.
        divisor: channels are rounded to a multiple of this, never below 0.9 of the exact figure.
        activation: default of every block. padding: ``symmetric`` (PyTorch) or ``same`` (TensorFlow).
        bn_eps, bn_momentum: of every batch normalisation, in PyTorch's meaning.
        drop_rate: dropout before the classifier while training.
        num_classes: outputs of the classifier.
        preprocess: of the weights trained for this network.
    """

    name: str
    family: str
    stem: int
    blocks: tuple[BlockSpec, ...]
    stem_stride: int = 2
    stem_scaling: Scaling = "width"
    channels: ChannelSchedule | None = None
    head: int = 0
    head_scaling: Scaling = "fixed"
    head_hidden: int = 0
    width: float = 1.0
    depth: float = 1.0
    depth_rounding: DepthRounding = "up"
    depth_fixed_ends: bool = False
    divisor: int = 8
    activation: Activation = "relu"
    padding: Padding = "symmetric"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    drop_rate: float = 0.0
    num_classes: int = 1000
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)

    def __post_init__(self) -> None:
        require(bool(self.blocks), "blocks is empty; list at least one block string")
        for name in _MODEL_NUMBERS:
            require_range(name, getattr(self, name), *RANGES[name])
        # The ends of its range are all that it may be.
        require(self.stem_stride in RANGES["stem_stride"], f"stem_stride is {self.stem_stride}; it must be 1 or 2")
        require_choice("stem_scaling", self.stem_scaling, get_args(Scaling))
        require_choice("head_scaling", self.head_scaling, get_args(Scaling))
        require_choice("depth_rounding", self.depth_rounding, get_args(DepthRounding))
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("padding", self.padding, get_args(Padding))
        for number, block in enumerate(self.blocks, start=1):
            require(
                (block.channels is None) == (self.channels is not None),
                f"block {number}: a block states its channels c exactly when the model has no 'channels' schedule",
            )

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels that the network was made for."""
        return self.preprocess.input_size


_MODEL_NUMBERS = (
    "stem",
    "head",
    "head_hidden",
    "width",
    "depth",
    "divisor",
    "bn_eps",
    "bn_momentum",
    "drop_rate",
    "num_classes",
)


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
