"""What a network is, before it is built: frozen, validated descriptions, free of torch.

The YAML tables under ``configs`` decode into these classes. `effnets.spec.plan` works out every channel number from a
`ModelSpec`, and `effnets.nn.build` turns the plan into modules. The annotation of a field states its type, range and
meaning, for the checks, the reader of YAML, the JSON schemas and the documentation alike (`effnets.utils.arguments`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Real
from statistics import fmean
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from effnets.errors import ArgumentError, ConfigError
from effnets.utils.arguments import MAX_SIDE, Pattern, Range, check_fields, require

BlockType = Literal["cn", "ds", "dsa", "ir", "lb"]
Activation = Literal["relu", "relu6", "silu", "hard_swish"]
ClassifierActivation = Literal["softmax", "sigmoid", "l2"]
Padding = Literal["symmetric", "same"]
Scaling = Literal["fixed", "width", "up"]
DepthRounding = Literal["up", "nearest"]
Interpolation = Literal["bicubic", "bilinear"]
WeightsDialect = Literal["effnets", "timm", "torchvision", "transformers", "keras", "clovaai"]

WEIGHTS_DIALECTS: tuple[WeightsDialect, ...] = get_args(WeightsDialect)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Larger numbers are typing errors, not networks: building one would only exhaust the memory.
MAX_BLOCKS = 1024
_MAX_CHANNELS = 65_536
_MAX_KERNEL_GROUPS = 16
_MAX_DENOMINATOR = 1_000_000

_EPS = Range(1e-12, 1)
_FACTOR = Range(0.01, 64)
_SIDE = Range(1, MAX_SIDE)
_CROP = Range(0.05, 1)
_CLASSES = 1_000_000
SHA256 = Pattern("[0-9a-f]{64}", "64 lowercase hex digits, in quotes")
REVISION = Pattern("[0-9a-f]{40}", "the 40 lowercase hex digits of a commit, in quotes")
TAG = Pattern("[a-z0-9][a-z0-9_]{0,63}", "lowercase letters, digits and '_'")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One row of an architecture table: a block and how often it repeats."""

    type: Annotated[
        BlockType,
        "``cn`` convolution-BN-activation; ``ds`` depthwise separable with a linear pointwise convolution; ``dsa`` the "
        "same with an activation after it and no shortcut (MobileNetV1); ``ir`` inverted residual (MobileNetV2, "
        "MixNet); ``lb`` ReXNet's linear bottleneck.",
    ]
    repeats: Annotated[int, Range(1, 256), "Number of blocks; only the first has the stride."] = 1
    kernel_sizes: Annotated[
        tuple[int, ...], Range(1, 63), "One odd size for each kernel group of the (depthwise) convolution."
    ] = (3,)
    stride: Annotated[int, Range(1, 2), "1 or 2."] = 1
    expansion: Annotated[
        float | None, _FACTOR, "Width of the expanded part over that of the input. None: no expansion."
    ] = None
    channels: Annotated[
        int | None,
        Range(1, _MAX_CHANNELS),
        "Output channels before the width multiplier. None: a `ChannelSchedule` gives them.",
    ] = None
    expand_groups: Annotated[int, Range(1, _MAX_KERNEL_GROUPS), "Groups of the pointwise expansion (``a1.1``)."] = 1
    project_groups: Annotated[int, Range(1, _MAX_KERNEL_GROUPS), "Groups of the projection (``p1.1``)."] = 1
    se_ratio: Annotated[
        Fraction | None,
        "Squeeze-and-excitation channels over the block's input (``ir``) or expanded (``lb``) channels.",
    ] = None
    activation: Annotated[Activation | None, "In place of the model's."] = None
    exponential: Annotated[
        bool, "Split channels over the kernel groups 1/2, 1/4, … instead of equally (MixConv, section 3.2)."
    ] = False
    dilated: Annotated[bool, "Replace a k×k kernel by a 3×3 kernel of dilation (k-1)/2 wherever the stride is 1."] = (
        False
    )
    shortcut: Annotated[
        bool | None,
        "None: the shapes decide. False: no residual connection. True: one in ``cn``, which otherwise has none.",
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        sizes = self.kernel_sizes
        require(bool(sizes), "kernel_sizes is empty; write at least one, such as k3")
        require(len(sizes) <= _MAX_KERNEL_GROUPS, f"kernel_sizes has over {_MAX_KERNEL_GROUPS} kernel groups")
        for size in sizes:
            require(size % 2 == 1, f"kernel size is {size}; kernels are odd, so that they have a center")
        require(
            self.expansion is not None or self.type not in ("ir", "lb"),
            f"{self.type} needs an expansion e; write e1 for no expansion",
        )
        if (ratio := self.se_ratio) is not None:
            require(0 < ratio <= 1, f"se_ratio is {ratio}; it must be above 0 and at most 1")
            require(
                ratio.denominator <= _MAX_DENOMINATOR,
                f"se_ratio is {ratio}; write it with fewer digits, such as 0.25 or 1/12",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSchedule:
    """Output channels that grow linearly with the block's index (ReXNet, arXiv:2007.00992).

    Block i of n has ``start + i · growth / steps`` channels, where `steps` is n, or n-1 so that the last
    block reaches ``start + growth`` exactly; the width multiplier α then multiplies it (not `start`, for α < 1).
    The line may bend at the middle of the depth: then it is piecewise linear, as in the paper's search (section 4).
    """

    start: Annotated[int, Range(1, _MAX_CHANNELS), "Channels of the first block."]
    growth: Annotated[int, Range(0, _MAX_CHANNELS), "Channels that the ramp adds over the whole depth."]
    inclusive: Annotated[bool, "True: the last block reaches start + growth exactly."] = False
    middle: Annotated[
        float, Range(0, 1), "Share of the growth that is reached at the middle of the depth; 0.5: a straight line."
    ] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def grown(self, step: int, steps: int) -> float:
        """Return the channels that are added to the first block's after `step` of `steps`."""
        if self.middle == 0.5:
            return step * self.growth / steps
        depth = step / steps
        share = 2 * depth * self.middle if depth < 0.5 else self.middle + (2 * depth - 1) * (1 - self.middle)
        return self.growth * share


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSpec:
    """How a photograph becomes the network's input; it belongs to the weights and travels with them."""

    input_size: Annotated[int, _SIDE, "Side of the square input in pixels."] = 224
    crop_pct: Annotated[float, _CROP, "The center crop's share of the resized image's side."] = 0.875
    interpolation: Annotated[Interpolation, "Filter of the resize."] = "bicubic"
    mean: Annotated[tuple[float, ...], Range(-1e3, 1e3), "Mean of each input channel (RGB), of values in 0..1."] = (
        IMAGENET_MEAN
    )
    std: Annotated[tuple[float, ...], Range(1e-6, 1e3), "Standard deviation of each input channel."] = IMAGENET_STD
    test_input_size: Annotated[int | None, _SIDE, "Input size at which the weights do best, if another."] = None
    test_crop_pct: Annotated[float | None, _CROP, "Crop share at `test_input_size`, if another."] = None

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            len(self.mean) == len(self.std) and len(self.mean) > 0,
            f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one of each per channel",
        )

    def normalized_by(
        self, channels: int, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
    ) -> PreprocessSpec:
        """Return the preprocessing with another mean or std, each one number or one for each channel; None keeps it.

        Raises:
            ArgumentError: if one has another number of values, or one that it cannot have.
        """
        if mean is None and std is None:
            return self
        kept = self.for_channels(4) if channels == 4 else self
        try:
            return replace(
                self,
                mean=kept.mean if mean is None else _per_channel("mean", mean, channels),
                std=kept.std if std is None else _per_channel("std", std, channels),
            )
        except ConfigError as error:
            raise ArgumentError(str(error)) from error

    def for_channels(self, channels: int) -> PreprocessSpec:
        """Return the preprocessing with one mean and one std for each of a network's input channels.

        One number serves all channels. Of three, for red, green and blue, the average serves gray and alpha.

        Raises:
            ArgumentError: if there is another number of them.
        """
        count = len(self.mean)
        if count == channels:
            return self
        if count == 1:
            return replace(self, mean=self.mean * channels, std=self.std * channels)
        if count == 3 and channels in (1, 4):
            kept = 0 if channels == 1 else 3
            return replace(
                self,
                mean=(*self.mean[:kept], fmean(self.mean)),
                std=(*self.std[:kept], fmean(self.std)),
            )
        raise ArgumentError(
            f"preprocess.mean has {count} numbers for {channels} input channels; give one for each, and "
            "of std as well: create_model(…, mean=…, std=…), or mean and std of a recipe"
        )


def _per_channel(argument: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    wanted = 3 if channels == 1 else channels
    if len(values) not in (1, wanted) or not all(isinstance(number, Real) for number in values):
        several = "three (red, green, blue)" if wanted == 3 else f"{channels}, one for each channel"
        raise ArgumentError(f"{argument} is {value!r}; give one number, or {several}")
    return tuple(float(number) for number in values) * (wanted // len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A whole network, with its multipliers not yet applied (see `effnets.spec.plan`)."""

    name: Annotated[str, "Name of the model, such as ``mixnet_m``."]
    family: Annotated[str, "Family, such as ``mixnet``; in a table, by default the file that holds the first base."]
    stem: Annotated[int, Range(1, _MAX_CHANNELS), "Channels of the first 3×3 convolution."]
    blocks: Annotated[tuple[BlockSpec, ...], "The rows, in order; a stage is a run of rows of one width."]
    stem_stride: Annotated[int, Range(1, 2), "Stride of the first convolution: 2, or 1 for small images."] = 2
    stem_scaling: Annotated[
        Scaling,
        "How the width multiplier acts on the stem: ``fixed`` not at all, ``width`` multiplies, ``up`` multiplies "
        "where it is above 1.",
    ] = "width"
    channels: Annotated[ChannelSchedule | None, "ReXNet's linear schedule, for rows that state no channels."] = None
    head: Annotated[
        int, Range(0, _MAX_CHANNELS), "Channels of the 1×1 convolution after the last block; 0: no head convolution."
    ] = 0
    head_scaling: Annotated[Scaling, "How the width multiplier acts on the head, as for the stem."] = "fixed"
    head_hidden: Annotated[
        int, Range(0, _MAX_CHANNELS), "Channels of a further 1×1 convolution after pooling (ReXNet-lite); 0: absent."
    ] = 0
    width: Annotated[float, _FACTOR, "Width multiplier α of all channels."] = 1.0
    depth: Annotated[float, _FACTOR, "Multiplier of the repeats of each stage."] = 1.0
    depth_rounding: Annotated[DepthRounding, "How multiplied repeats are rounded."] = "up"
    depth_fixed_ends: Annotated[bool, "Leave the depth of the first and last stage as it is."] = False
    divisor: Annotated[
        int, Range(1, 1024), "Channels are rounded to a multiple of this, never below 0.9 of the exact figure."
    ] = 8
    activation: Annotated[Activation, "Activation of every block that states no other."] = "relu"
    padding: Annotated[Padding, "``symmetric`` (PyTorch) or ``same`` (TensorFlow)."] = "symmetric"
    bn_eps: Annotated[float, _EPS, "Epsilon of every batch normalization."] = 1e-5
    bn_momentum: Annotated[float, Range(1e-6, 1), "Momentum of the running statistics, in PyTorch's meaning."] = 0.1
    drop_rate: Annotated[float, Range(0, 0.99), "Dropout before the classifier while training."] = 0.0
    num_classes: Annotated[int, Range(0, _CLASSES), "Outputs of the classifier."] = 1000
    preprocess: Annotated[PreprocessSpec, "Preprocessing of the weights trained for this network."] = field(
        default_factory=PreprocessSpec
    )

    def __post_init__(self) -> None:
        require(bool(self.blocks), "blocks is empty; list at least one block string")
        check_fields(self)
        for number, block in enumerate(self.blocks, start=1):
            require(
                (block.channels is None) == (self.channels is not None),
                f"block {number}: a block states its channels c exactly when the model has no 'channels' schedule",
            )

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels that the network was made for."""
        return self.preprocess.input_size


HUB_SCHEME = "hf-hub:"
PACKAGE_SCHEME = "package:"
_HUB_FILE = "model.safetensors"

_REPOSITORY = Pattern(
    rf"{HUB_SCHEME}[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", f"{HUB_SCHEME}organization/repository"
)
# A revision becomes a path in the cache: its segments must not begin with a dot.
_FILE = Pattern(
    r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*", "a file's name, such as model.safetensors"
)
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file in a repository of the Hub or at a URL, and what is known of it before it is fetched.

    Attributes:
        label: name of what the user asked for, in messages: ``mixnet_m.ft_in1k``, ``hf-hub:user/repo``.
        source: ``hf-hub:org/repo``, or the URL of the file.
        file: its path in the repository; of a URL, the last part.
        revision: branch, tag or commit of the repository; None: ``main``.
        sha256: of the file, where it is pinned. sha256_prefix: its beginning, as the file's name states it.
        if_gone: what to do if the file does not exist, as half a sentence.
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
        """Return where a browser finds the file; `endpoint` is the Hub, or a mirror of it."""
        if self.repo is None:
            return self.source
        return f"{endpoint.rstrip('/')}/{self.repo}/resolve/{self.revision or 'main'}/{self.file}"


def split_repository(name: str) -> tuple[str, str | None]:
    """Split ``hf-hub:user/repo@revision`` into ``hf-hub:user/repo`` and the revision; None where it names no revision.

    Raises:
        ArgumentError: if `name` has another form.
    """
    source, at, revision = name.partition("@")
    if not re.fullmatch(_REPOSITORY.regex, source) or (at and not re.fullmatch(_FILE.regex, revision)):
        raise ArgumentError(f"{name!r} names no repository; write {HUB_SCHEME}user/repository, or …@revision")
    return source, revision or None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSpec:
    """One set of published weights of a model."""

    model: Annotated[str, "Name of the model, such as ``mixnet_m``."]
    tag: Annotated[str, TAG, "Name of these weights among the model's, such as ``ft_in1k``."]
    source: Annotated[
        str,
        "``hf-hub:organisation/repository``; the file's URL (https, or http on this machine alone; one that ends in / "
        "is completed by `file`); or ``package:file`` of a file in this package.",
    ]
    dialect: Annotated[WeightsDialect, "Framework whose parameter names and layout the file has."]
    preprocess: Annotated[PreprocessSpec, "How the weights want their images; complete, not on top of the model's."]
    licence: Annotated[str, "As the publisher states it; an SPDX identifier in lowercase where there is one."]
    file: Annotated[str, "File in the repository; by default ``model.safetensors``, or the source's last part."] = ""
    padding: Annotated[Padding | None, "In place of the model's, where these weights differ."] = None
    bn_eps: Annotated[float | None, _EPS, "In place of the model's, where these weights differ."] = None
    activation: Annotated[Activation | None, "In place of the model's, where these weights differ."] = None
    num_classes: Annotated[int, Range(1, _CLASSES), "Outputs in the file, a background class included."] = 1000
    background: Annotated[bool, "Class 0 means background, as TensorFlow trains; it is dropped unless asked for."] = (
        False
    )
    top1: Annotated[
        float | None, Range(0, 100), "Published top-1 accuracy on ImageNet-1k's validation set, in percent."
    ] = None
    top5: Annotated[float | None, Range(0, 100), "Published top-5 accuracy, likewise."] = None
    accuracy_size: Annotated[int | None, _SIDE, "Input side of those figures, where it is not `input_size`."] = None
    accuracy_source: Annotated[str | None, "Where those figures were read; needed wherever there is one."] = None
    sha256: Annotated[str | None, SHA256, "Of the file; scripts/pin_weights.py writes it to pins.yaml."] = None
    sha256_prefix: Annotated[
        str | None,
        Pattern("[0-9a-f]{8,64}", "8 to 64 lowercase hex digits, in quotes"),
        "Beginning of the sha256, where the file's own name states it.",
    ] = None
    revision: Annotated[str | None, REVISION, "Commit on the Hub; scripts/pin_weights.py writes it to pins.yaml."] = (
        None
    )

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_source()
        require(bool(self.licence.strip()), "licence is empty; state what the publisher states")
        if self.background:
            Range(2, _CLASSES).check("num_classes", self.num_classes)
        self._check_accuracy()
        self._check_hashes()

    def _check_source(self) -> None:
        if self.source.startswith(HUB_SCHEME):
            _REPOSITORY.check("source", self.source)
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
                f"source is {self.source!r}; write {HUB_SCHEME}organization/repository, or the file's https:// URL "
                f"(or {PACKAGE_SCHEME}file, of one in this package)",
            )
            default = url.path.rpartition("/")[2]
            require(
                self.file in ("", default) and bool(default),
                f"source is {self.source!r} and file {self.file!r}; a URL ends with the file's name",
            )
        object.__setattr__(self, "file", self.file or default)
        _FILE.check("file", self.file)

    def _check_accuracy(self) -> None:
        figures = [value for value in (self.top1, self.top5) if value is not None]
        if self.top1 is not None and self.top5 is not None:
            require(self.top1 <= self.top5, f"top1 is {self.top1:g}, above top5, which is {self.top5:g}")
        for name, given in (("accuracy_source", self.accuracy_source), ("accuracy_size", self.accuracy_size)):
            require(bool(figures) or given is None, f"{name} is given without a figure; state top1, or take it away")
        require(
            not figures or bool(self.accuracy_source),
            "top1 or top5 is given without accuracy_source; state where the figure was read",
        )

    def _check_hashes(self) -> None:
        if self.sha256_prefix is not None:
            require(
                self.sha256_prefix in self.file,
                f"sha256_prefix {self.sha256_prefix} is not in the file's name, {self.file}; take it away",
            )
            require(
                self.sha256 is None or self.sha256.startswith(self.sha256_prefix),
                f"sha256 {self.sha256} does not begin with {self.sha256_prefix}, which the file's name states",
            )
        if self.revision is not None:
            where = "a URL or a file of the package; only repositories on the Hub have revisions"
            require(self.repo is not None, f"revision is given for {where}")

    @property
    def name(self) -> str:
        """``model.tag``."""
        return f"{self.model}.{self.tag}"

    @property
    def remote(self) -> RemoteFile:
        """The file, as `effnets.weights.fetch` takes it."""
        return RemoteFile(
            label=self.name,
            source=self.source,
            file=self.file,
            revision=self.revision,
            sha256=self.sha256,
            sha256_prefix=self.sha256_prefix,
            if_gone="the registry may be out of date: run scripts/check_sources.py",
        )

    @property
    def packaged(self) -> bool:
        """Whether the file comes with this package, so that nothing is ever fetched."""
        return self.source.startswith(PACKAGE_SCHEME)

    @property
    def repo(self) -> str | None:
        """``organisation/repository`` on the Hub; None for a file elsewhere."""
        return self.remote.repo

    def url(self, endpoint: str = "https://huggingface.co") -> str:
        """Return where a browser finds the file; `endpoint` is the Hub, or a mirror of it."""
        return self.remote.url(endpoint)

    @property
    def measured_size(self) -> int:
        """Side of the input that `top1` and `top5` hold for."""
        return self.accuracy_size or self.preprocess.input_size

    @property
    def pinned(self) -> bool:
        """Whether the file is known to the last bit."""
        return self.sha256 is not None
