"""Checkpoints as training programs write them, of networks of ours in the names of other frameworks."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import decimal
import fractions
import pathlib
import sys
import types
import uuid
from unittest.mock import Mock

import numpy as np
import torch

from effnets.weights.dialects import DIALECTS

ARGUMENTS = argparse.Namespace(model="mobilenetv2_035", lr=0.1, output=pathlib.PurePosixPath("/runs/1"), betas=(0.9, 1))


def state_of(model, dialect="effnets"):
    """The network's state dict in the names of `dialect`."""
    return DIALECTS[dialect].from_native(model.state_dict(), model.plan)


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def framework_network(model, dialect):
    """timm's or torchvision's own network, with the weights of `model`."""
    if dialect == "timm":
        import timm

        network = timm.create_model(model.spec.name, num_classes=model.num_classes)
    else:
        import torchvision

        network = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=model.num_classes)
    network.load_state_dict(state_of(model, dialect), strict=True)
    return network


def trained_optimizer(network):
    """An optimizer whose state is of the network's parameters."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer


def averaged(network, average, dialect):
    """What AveragedModel holds where its average has become `average`."""
    kept = torch.optim.swa_utils.AveragedModel(framework_network(network, dialect), use_buffers=True)
    kept.module.load_state_dict(state_of(average, dialect), strict=True)
    kept.n_averaged += 7
    return kept


@contextlib.contextmanager
def foreign(*names, bases=(object,)):
    """Classes of packages that are not installed, as long as a file is written; made again they would fail."""
    before = dict(sys.modules)
    classes = []
    for name in names:
        package, _, attribute = name.rpartition(".")
        parts = package.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        made = type(attribute, bases, {"__module__": package, "__qualname__": attribute})
        setattr(sys.modules[package], attribute, made)
        classes.append(made)
    try:
        yield classes
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def save_by_timm(folder, model, average):
    """A checkpoint of timm's train.py, by its own class."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = framework_network(model, "timm")
    ema = ModelEmaV3(network)
    ema.module.load_state_dict(state_of(average, "timm"))
    scaler = Mock(state_dict_key="amp_scaler", state_dict=lambda: {"scale": 65536.0, "growth_interval": 2000})
    saver = CheckpointSaver(network, trained_optimizer(network), ARGUMENTS, ema, scaler, checkpoint_dir=str(folder))
    saver.save_checkpoint(0, np.float64(71.5))
    return folder / "last.pth.tar"


def save_by_torchvision(folder, model, average):
    """A checkpoint of torchvision's reference scripts."""
    network = framework_network(model, "torchvision")
    optimizer = trained_optimizer(network)
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "epoch": 89,
        "args": ARGUMENTS,
        "model_ema": averaged(model, average, "torchvision").state_dict(),
        "scaler": {"scale": 1.0},
    }
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def save_by_lightning(folder, state, **more):
    """A checkpoint of Lightning's trainer, with hyper_parameters of its own class."""
    with foreign("lightning.fabric.utilities.data.AttributeDict", bases=(dict,)) as (attributes,):
        content = {
            "epoch": 3,
            "global_step": 400,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": collections.OrderedDict(state),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.7)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": attributes(lr=0.1, path=pathlib.PurePosixPath("a"), scale=np.float32(2)),
            **more,
        }
        torch.save(content, folder / "epoch=3.ckpt")
    return folder / "epoch=3.ckpt"


def harmless():
    """One of every type that is passed over."""
    counts = collections.defaultdict(list, {"a": [1], "b": [2.0]})
    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)  # noqa: UP017 (a timezone to be pickled)
    return {
        "scalars": [np.float64(0.5), np.int64(3), np.bool_(True), np.float16(1)],
        "arrays": {"f": np.arange(6.0).reshape(2, 3), "i": np.array([1, 255], np.uint8), "t": np.array(["a", "b"])},
        "dtypes": [np.dtype("float32"), np.float32, np.dtype("<M8[s]"), torch.float16, torch.device("cpu")],
        "counts": counts,
        "nested": collections.defaultdict(dict, {"x": collections.Counter("abca")}),
        "ordered": collections.OrderedDict(a=1),
        "last": collections.deque([1, 2], maxlen=3),
        "paths": [pathlib.PosixPath("/a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath("d")],
        "times": [moment, moment.date(), datetime.timedelta(seconds=3), moment.time()],
        "numbers": [fractions.Fraction(1, 3), decimal.Decimal("0.1"), 1 + 2j, 10**30, uuid.UUID(int=3)],
        "spaces": [types.SimpleNamespace(a=1), argparse.Namespace(b=[types.SimpleNamespace()])],
        "sets": [{1, 2}, frozenset({3}), {np.int32(4)}, range(3), slice(1, 2)],
        "bytes": [b"", b"abc", bytes(range(256))],
        "size": torch.Size([1, 2]),
        "version": torch.__version__,
    }
