"""Parameter groups: how fast each layer learns, and which weights are held small."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypedDict

from torch import nn
from torch.optim import Optimizer

from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.train.recipe import Recipe


class ParameterGroup(TypedDict):
    """What torch's optimisers take, with the names of the parameters for people."""

    params: list[nn.Parameter]
    names: list[str]
    lr: float
    weight_decay: float


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[ParameterGroup]:
    """The parameters of `model` that learn, by layer, from the input on, each layer's in up to two groups.

    The learning rate falls by `layer_decay` with every block from the classifier down, for what lies near the input is
    general and what lies near the output is not (arXiv:1801.06146, section 3.2). There is no weight decay on
    depthwise kernels (MobileNet, arXiv:1704.04861, section 3), which have few weights and lose accuracy by it, nor on
    normalisation and biases, which it does not regularise.

    Args:
        model: a classifier; or any other module, which counts as one layer.
        learning_rate: of the last layer.
        weight_decay: of the weights that have any.
        layer_decay: factor from one layer to the one below, above 0 and up to 1.
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
    """The layer of each parameter by its name: 0 the stem, then each block, the head, and last the classifier."""
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
    """The recipe's, or one that suits the width of `network`.

    A step of Adam's moves every weight about as far, however many of them add up to an output; so the wider a network
    is, the more its outputs move. In proportion to 1 / √features, 0.002 at 256: on training pictures that were held out
    by their looks, MobileNetV1 x0.25, of 256 features, was as good at 0.002 as at 0.003, and MobileNetV2, of 1280,
    named 79 % right at 0.001 and 74 % at 0.002 (one seed). Between and beyond, the root is a guess. A linear probe's
    features all have one scale, and its rate is one for all.
    """
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    if recipe.freeze == "backbone":
        return _PROBE_RATE
    features = network.head_hidden_size if isinstance(network, Classifier) else _FEATURES
    return max(_RATE * math.sqrt(_FEATURES / max(features, _FEATURES)), recipe.min_learning_rate)


def warmup_epochs(recipe: Recipe, epochs: int) -> float:
    """The recipe's, or one epoch, where that leaves the rate the time to fall again."""
    return min(1.0, epochs / 4) if recipe.warmup_epochs is None else recipe.warmup_epochs


def make_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimiser of all parameters that learn, in the groups of `parameter_groups`.

    Raises:
        ArgumentError: timm has no such optimiser, it does not take what the recipe states, or nothing learns.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    if recipe.optimizer not in list_optimizers():
        raise ArgumentError(
            f"optimizer is {recipe.optimizer!r}, which timm does not have; adamw, sgd, rmsproptf and lamb are among "
            "what timm.optim.list_optimizers() lists"
        )
    groups = parameter_groups(
        network,
        learning_rate=learning_rate(recipe, network),
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
    )
    if not groups:
        raise ArgumentError("nothing is left to learn; freeze less")
    stated = {name: getattr(recipe, name) for name in ("eps", "alpha") if getattr(recipe, name) is not None}
    try:
        optimizer: Optimizer = create_optimizer_v2(
            [dict(group) for group in groups],
            opt=recipe.optimizer,
            lr=learning_rate(recipe, network),
            momentum=recipe.momentum,
            **stated,
        )
    except TypeError as error:
        raise ArgumentError(f"optimizer {recipe.optimizer} does not take {', '.join(stated)} ({error})") from None
    return optimizer


class RateSchedule:
    """Learning rates as a function of the step alone, so that there is no state to lose.

    Args:
        optimizer: whose groups' rates, as they are now, are the highest.
        recipe: what schedule.
        steps_per_epoch: of the optimiser.
        epochs: after which a cosine has come to its end.
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
                t_initial=max(total - warmup, 2),  # of a single step timm would say that it has no effect
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
                warmup_prefix=False,  # the papers' decay is counted from the first step on, the warm-up's included
                t_in_epochs=False,
            )
        self._warmup = warmup

    def set(self, step: int) -> None:
        """Set the rates for the step that follows after `step` of them."""
        # Counted from 1 while they rise: a first step at rate 0 would be none.
        self._scheduler.step_update(step + 1 if step < self._warmup else step)
