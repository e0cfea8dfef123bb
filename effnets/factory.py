"""`create_model`: a name, a file or a spec → a network, with or without weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, overload

import torch

from effnets.errors import ArgumentError
from effnets.nn.build import build_classifier, build_features
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid
from effnets.spec.specs import ModelSpec
from effnets.weights.merge import merge_weights
from effnets.weights.resolve import resolve


# Defaults equal to plain values, distinguished from explicit ones by identity: only where the caller gives no
# value does a saved network's own hold.
class _DefaultInt(int):
    pass


class _DefaultStr(str):
    __slots__ = ()


_IN_CHANS, _OUTPUT_STRIDE, _GLOBAL_POOL = _DefaultInt(3), _DefaultInt(32), _DefaultStr("avg")


@overload
def create_model(
    name: str | os.PathLike[str] | ModelSpec,
    pretrained: bool = False,
    *,
    weights: str | os.PathLike[str] | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    features_only: Literal[False] = False,
    out_indices: None = None,
    output_stride: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Classifier: ...


@overload
def create_model(
    name: str | os.PathLike[str] | ModelSpec,
    pretrained: bool = False,
    *,
    weights: str | os.PathLike[str] | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    features_only: Literal[True],
    out_indices: int | Sequence[int] | None = None,
    output_stride: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> FeaturePyramid: ...


@overload
def create_model(
    name: str | os.PathLike[str] | ModelSpec,
    pretrained: bool = False,
    *,
    weights: str | os.PathLike[str] | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    features_only: bool,
    out_indices: int | Sequence[int] | None = None,
    output_stride: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Classifier | FeaturePyramid: ...


def create_model(
    name: str | os.PathLike[str] | ModelSpec,
    pretrained: bool = False,
    *,
    weights: str | os.PathLike[str] | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    in_chans: int = _IN_CHANS,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    global_pool: str = _GLOBAL_POOL,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    output_stride: int = _OUTPUT_STRIDE,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Classifier | FeaturePyramid:
    """Build a network, in training mode like any new module; call ``.eval()`` before classifying images with it.

    Args:
        name: a model of the zoo (`effnets.list_models`), a YAML file of your own, a folder
            that `effnets.save_pretrained` or timm wrote, such a repository on the Hub (``hf-hub:user/repo``, or with
            ``@revision``), or a `ModelSpec`. A saved network keeps its in_chans, global_pool, drop_rate and
            output_stride unless these arguments are given. With a tag (``mixnet_m.ft_in1k``) the network is built as
            those weights need it; they are loaded only with `pretrained`.
        pretrained: load the model's published weights (the tag's, or the default ones), downloaded and cached; or those
            of the folder or the repository.
        weights: load these instead: the tag of published weights (``ft_in1k``, ``mixnet_m.ft_in1k``), a folder, a
            repository on the Hub, or a file (safetensors, pth, pt, bin, Keras' h5; in any dialect's names). What a
            file's header or a folder's config states (padding, bn_eps, activation, input_size, mean, std, …)
            overrides the model's.
        ema: of a training program's checkpoint take the averaged weights instead of the last ones; the report says
            which it holds.
        num_classes: outputs; None takes the weights' number, or the model's; 0 leaves the classifier out. Another
            number than the weights': the classifier is newly initialized, with a warning and a note in the report.
            TensorFlow's 1001 outputs become 1000, without background, unless all 1001 are asked for.
        in_chans: channels of the input; a loaded stem is adapted at the same scale. `effnets.predict` and training read
            RGB for 3, grayscale for 1 and RGBA for 4.
        mean: of each channel, in place of the weights', which have none for other numbers of channels.
        std: likewise.
        drop_rate: dropout before the classifier; None takes the model's.
        drop_path_rate: stochastic depth, rising to this at the last block.
        global_pool: ``avg``, ``max``, ``avgmax`` or ``none``.
        features_only: return the feature pyramid instead of the classifier.
        out_indices: with `features_only`, which levels, or how many of the coarsest; None for all.
        output_stride: 8, 16 or 32; below 32, strides become dilation.
        device: of the parameters.
        dtype: of the parameters.

    Returns:
        A `Classifier`, or a `FeaturePyramid` with `features_only`. Its `load_report` lists what was loaded.

    Raises:
        UnknownModelError, ConfigError: as `effnets.load_spec`.
        MissingFileError, WeightsError: as `effnets.load_weights`; also if published weights arrive damaged.
        DownloadError: if weights are not cached and cannot be downloaded; says why and how to fix it.
        ArgumentError: if arguments contradict each other or are out of range.
    """
    if out_indices is not None and not features_only:
        raise ArgumentError("out_indices picks levels of the feature pyramid; give it with features_only=True")
    if features_only and (num_classes or drop_rate or global_pool != "avg"):
        raise ArgumentError("num_classes, drop_rate and global_pool are a classifier's; features_only=True has none")
    device, dtype = _check_device(device), _check_dtype(dtype)

    resolved = resolve(name, pretrained, weights, num_classes, ema)
    spec, prepared, saved = resolved.spec, resolved.weights, resolved.arguments
    if prepared is not None and num_classes is None:
        num_classes = prepared.num_classes
    in_chans = saved.get("in_chans", 3) if in_chans is _IN_CHANS else in_chans
    output_stride = saved.get("output_stride", 32) if output_stride is _OUTPUT_STRIDE else output_stride
    if not features_only:
        global_pool = saved.get("global_pool", "avg") if global_pool is _GLOBAL_POOL else global_pool
        drop_rate = saved.get("drop_rate") if drop_rate is None else drop_rate
    model: Classifier | FeaturePyramid
    if features_only:
        model = build_features(
            spec,
            out_indices=out_indices,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            output_stride=output_stride,
            device=device,
            dtype=dtype,
            initialized=prepared is None,
        )
    else:
        model = build_classifier(
            spec,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            global_pool=global_pool,
            output_stride=output_stride,
            device=device,
            dtype=dtype,
            initialized=prepared is None,
        )
    if prepared is not None:
        merge_weights(model, prepared)
    if mean is not None or std is not None:
        model.spec = replace(model.spec, preprocess=model.spec.preprocess.normalized_by(in_chans, mean, std))
    return model


def _check_device(device: str | torch.device | None) -> torch.device | None:
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise ArgumentError(f"device is {device!r}; give one of torch's, such as 'cpu', 'cuda:0' or 'meta'") from None


def _check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArgumentError(f"dtype is {dtype!r}; give a floating-point one of torch's, such as torch.bfloat16")
    return dtype
