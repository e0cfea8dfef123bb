"""The optimizer: parameter groups by layer, learning rates and their schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypedDict

from torch import nn
from torch.optim import Optimizer

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.train.recipe import Recipe


class ParameterGroup(TypedDict):
    """A parameter group of torch's optimizers, with the names of its parameters."""

    params: list[nn.Parameter]
    names: list[str]
    lr: float
    weight_decay: float


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[ParameterGroup]:
    """Return the trainable parameters of `model` by layer, from the input on, in up to two groups a layer.

    The learning rate falls by `layer_decay` with every block from the classifier down, because layers near the input
    are general and those near the output are not (arXiv:1801.06146, section 3.2). Weight decay leaves out depthwise
    kernels (MobileNet, arXiv:1704.04861, section 3), which have few weights and lose accuracy by it, and normalization
    and biases, which it does not regularize.

    Args:
        model: a classifier; any other module counts as one layer.
        learning_rate: of the last layer.
        weight_decay: of the weights that decay.
        layer_decay: factor from each layer to the one below it, above 0 and up to 1.
    """
    depths = layer_depths(model)
    last = max(depths.values(), default=0)
    spared = {id(parameter) for parameter in _without_decay(model)}
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = depths[name], id(parameter) not in spared
        if key not in groups:
            groups[key] = ParameterGroup(
                params=[],
                names=[],
                lr=learning_rate * layer_decay ** (last - key[0]),
                weight_decay=weight_decay if key[1] else 0.0,
            )
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter by name: 0 the stem, then each block, the head, and last the classifier."""
    layers: list[tuple[str, nn.Module]] = [("", model)]
    if isinstance(model, Classifier):
        layers = [("stem.", model.stem)]
        for index, stage in enumerate(model.stages):
            assert isinstance(stage, nn.Sequential), "the builder's stages are sequences of blocks"
            layers += [(f"stages.{index}.{number}.", block) for number, block in enumerate(stage)]
        layers += [("head.", model.head), ("hidden.", model.hidden), ("classifier.", model.classifier)]
        layers = [(prefix, layer) for prefix, layer in layers if any(True for _ in layer.parameters())]
    return {
        prefix + name: depth for depth, (prefix, layer) in enumerate(layers) for name, _ in layer.named_parameters()
    }


def _without_decay(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels
        for parameter in module.parameters(recurse=False):
            if depthwise or parameter.ndim <= 1:
                yield parameter


_RATE, _FEATURES = 2e-3, 256
_PROBE_RATE = 1e-2


def learning_rate(recipe: Recipe, network: nn.Module) -> float:
    """Return the recipe's learning rate, or one that suits the width of `network`.

    A step of Adam moves every weight about as far, however many of them add up to an output, so the outputs of a wider
    network move more. The rate is proportional to 1 / √features, 0.002 at 256. On training images held out by their
    looks, MobileNetV1 x0.25, with 256 features, was as good at 0.002 as at 0.003, and MobileNetV2, with 1280, reached
    79 % at 0.001 and 74 % at 0.002 (one seed). Between and beyond, the root is a guess. A linear probe's features have
    one scale, and one rate.
    """
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    if recipe.freeze == "backbone":
        return _PROBE_RATE
    features = network.head_hidden_size if isinstance(network, Classifier) else _FEATURES
    return max(_RATE * math.sqrt(_FEATURES / max(features, _FEATURES)), recipe.min_learning_rate)


_FEW_BATCHES = 32


def epoch_repeats(recipe: Recipe, train: ImageDataset) -> int:
    """Return the recipe's passes over the training images in an epoch, or 2 for few local images.

    An epoch of a few hundred images is a dozen steps (docs/finetune.md has what the second pass is worth).
    """
    if recipe.epoch_repeats is not None or train.shards is not None:
        return recipe.epoch_repeats or 1
    return 2 if len(train) < _FEW_BATCHES * recipe.batch_size * recipe.accumulate else 1


def warmup_epochs(recipe: Recipe, epochs: int) -> float:
    """Return the recipe's warm-up, or one epoch, but at most a quarter of all."""
    return min(1.0, epochs / 4) if recipe.warmup_epochs is None else recipe.warmup_epochs


def ema_decay(recipe: Recipe, steps: int) -> float:
    """Return the decay of the moving average: the recipe's, or less if it would reach back over 5 % of all `steps`.

    In a short training a longer average lags behind the weights, which are still getting better.
    """
    return min(recipe.ema_decay, max(0.0, 1 - 20 / steps))


def make_optimizer(network: nn.Module, recipe: Recipe, learned: Iterable[nn.Module] = ()) -> Optimizer:
    """Return the optimizer of all trainable parameters, in the groups of `parameter_groups`.

    Those of what is `learned` with the network, and is no part of it, are last.

    Raises:
        ArgumentError: if timm has no such optimizer, it does not take the recipe's settings, or everything is frozen.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    if recipe.optimizer not in list_optimizers():
        raise ArgumentError(
            f"optimizer is {recipe.optimizer!r}, which timm does not have; adamw, sgd, rmsproptf and lamb are among "
            "what timm.optim.list_optimizers() lists"
        )
    rate, decay = learning_rate(recipe, network), recipe.weight_decay
    groups = parameter_groups(network, learning_rate=rate, weight_decay=decay, layer_decay=recipe.layer_decay)
    if not groups:
        raise ArgumentError("every layer is frozen; freeze less")
    for part in learned:
        groups += parameter_groups(part, learning_rate=rate, weight_decay=decay)
    stated = {name: getattr(recipe, name) for name in ("eps", "alpha") if getattr(recipe, name) is not None}
    try:
        optimizer: Optimizer = create_optimizer_v2(
            [dict(group) for group in groups],
            opt=recipe.optimizer,
            lr=rate,
            momentum=recipe.momentum,
            **stated,
        )
    except TypeError as error:
        raise ArgumentError(f"optimizer {recipe.optimizer} does not take {', '.join(stated)} ({error})") from None
    return optimizer


class RateSchedule:
    """Learning rates as a function of the step alone, without state to lose.

    Args:
        optimizer: its groups' rates are now the highest.
        recipe: has the schedule.
        steps_per_epoch: of the optimizer.
        epochs: at whose end a cosine ends.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int, epochs: int) -> None:
        from timm.scheduler import CosineLRScheduler, StepLRScheduler
        from timm.scheduler.scheduler import Scheduler

        total = steps_per_epoch * epochs
        warmup = min(round(warmup_epochs(recipe, epochs) * steps_per_epoch), total - 1)
        self._scheduler: Scheduler
        if recipe.schedule == "cosine":
            self._scheduler = CosineLRScheduler(
                optimizer,
                t_initial=max(total - warmup, 2),  # timm warns of a single step
                lr_min=recipe.min_learning_rate,
                warmup_t=warmup,
                warmup_prefix=True,
                t_in_epochs=False,
            )
        else:
            constant = recipe.schedule == "constant"
            self._scheduler = StepLRScheduler(
                optimizer,
                decay_t=total + warmup + 1 if constant else max(round(recipe.decay_epochs * steps_per_epoch), 1),
                decay_rate=1.0 if constant else recipe.decay_rate,
                warmup_t=warmup,
                warmup_prefix=False,  # the papers count the decay from the first step on, with the warm-up
                t_in_epochs=False,
            )
        self._warmup = warmup

    def set(self, step: int) -> None:
        """Set the rates of step `step`, counted from 0."""
        # From 1 while the rates rise: a first step at rate 0 would change nothing.
        self._scheduler.step_update(step + 1 if step < self._warmup else step)
