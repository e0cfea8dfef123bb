"""Training of the classifier alone, on features that the frozen backbone computes once."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from effnets.data.dataset import ImageSource
from effnets.data.eval_loader import Pictures, default_workers
from effnets.data.loader import EpochLoader
from effnets.data.sampling import class_weights, some_pictures
from effnets.data.transforms import TrainTransform
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier
from effnets.train.features import (
    FeatureBatches,
    Features,
    Probe,
    compute_augmented_features,
    compute_features,
    features_key,
    fold_probe,
    read_features,
    write_features,
)
from effnets.train.loop import Trainer
from effnets.train.network import adapt_backbone, adapts_backbone
from effnets.train.objective import Objective
from effnets.train.progress import EpochRow
from effnets.train.recipe import Recipe
from effnets.train.signals import StopSignals
from effnets.train.surroundings import Surroundings

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["ProbeTask", "fit_head", "unused_by_probes"]

# A head start need not see more: it only spares the backbone the first, wild gradients.
_HEAD_PICTURES = 20_000
_FEATURES = "features.safetensors"
_UNUSED = (
    *("head_epochs", "optimizer", "momentum", "eps", "alpha", "weight_decay", "layer_decay", "clip_grad"),
    *("schedule", "warmup_epochs", "min_learning_rate", "decay_rate", "decay_epochs", "drop_rate", "drop_path_rate"),
)


def fit_head(
    network: Classifier, train: ImageSource, recipe: Recipe, around: Surroundings, *, strict: bool
) -> list[EpochRow]:
    """Train the network's classifier, everything else as it is; `strict` as of `effnets.finetune`.

    Returns:
        A row for each epoch.
    """
    chosen = some_pictures(train, recipe.seed, _HEAD_PICTURES)
    pictures = Pictures(train, create_transform(network), recipe.batch_size, chosen.tolist(), strict=strict)
    device = around.accelerator.device
    features = compute_features(
        network, pictures, device, around.stop, mirrored=recipe.augmentation.horizontal_flip > 0
    )
    batches = _batches(features, recipe, around.accelerator, every_view=False)
    weights = _class_weights(recipe, train)
    # At the rate, and so with weights of the size, that training of the whole goes on with.
    probe = Probe(features, network.num_classes, standardised=False)
    trainer = _trainer(probe, batches, None, replace(recipe, epochs=recipe.head_epochs), weights, around)
    fold_probe(trainer.run(), network)
    return trainer.progress.rows[1:]


def unused_by_probes(recipe: Recipe) -> list[str]:
    """The settings of `recipe` that are not as they come, and that a linear probe does without."""
    usual = Recipe(model=recipe.model)
    unused = [name for name in _UNUSED if getattr(recipe, name) != getattr(usual, name)]
    unused += [f"augmentation.{name}" for name in ("mixup", "cutmix") if getattr(recipe.augmentation, name)]
    return unused + (["precision"] if recipe.precision == "bfloat16" else [])


class ProbeTask:
    """A linear probe: the backbone's features once, from then on seconds for an epoch.

    Args:
        network: whose classifier is trained.
        recipe: how.
        accelerator: devices and processes.
        folder: where the features are kept for a resumed training.
        strict: let a picture that cannot be read be an error.

    Attributes:
        broken: what was wrong with the training pictures that were left out, by index.
    """

    def __init__(
        self, network: Classifier, recipe: Recipe, accelerator: Accelerator, folder: Path, *, strict: bool
    ) -> None:
        self.network, self.recipe, self.accelerator, self.folder = network, recipe, accelerator, folder
        self.strict = strict
        self.broken: dict[int, str] = {}

    def trainer(
        self,
        train: ImageSource,
        judged_by: Pictures | None,
        weights: Tensor | None,
        around: Surroundings,
    ) -> Trainer:
        """What trains the classifier; computes the features, and before that adapts the backbone to the pictures."""
        recipe, accelerator = self.recipe, self.accelerator
        features = self._features(train, around.stop)
        judged: list[tuple[Tensor, Tensor]] | None = None if judged_by is None else []
        if judged_by is not None and judged_by.indices:  # of few pictures, some of many processes have none
            seen = compute_features(self.network, judged_by, accelerator.device, around.stop, mirrored=False)
            judged = [(seen.values[0], seen.labels)]
        batches = _batches(features, recipe, accelerator, every_view=True)
        probe = Probe(features, self.network.num_classes, standardised=True)
        recipe = replace(
            recipe,
            optimizer="adam",  # whose decay is the penalty's gradient, as AdamW's is not
            eps=None,
            alpha=None,
            weight_decay=recipe.probe_penalty,
        )
        return _trainer(probe, batches, judged, recipe, weights, around)

    def assemble(self, kept: dict[str, Tensor]) -> Classifier:
        """The whole network with the probe `kept` as its classifier."""
        network = copy.deepcopy(self.network).cpu()
        fold_probe(kept, network)
        return network.eval()

    def _features(self, train: ImageSource, stop: StopSignals) -> Features:
        recipe, preprocess = self.recipe, self.network.spec.preprocess
        unmixed = replace(recipe.augmentation, mixup=0.0, cutmix=0.0)  # features of a blend are no blend of features
        transform = TrainTransform(preprocess, preprocess.input_size, unmixed)
        path = self.folder / _FEATURES
        how = f"{transform!r} {preprocess} {recipe.seed} {recipe.probe_views} {recipe.bn} {train!r}"
        key = features_key(self.network, train, how)
        if (features := read_features(path, key)) is not None:
            self.network.load_state_dict(features.statistics, strict=False)
            return features
        adapts = adapts_backbone(recipe, self.network)
        statistics = adapt_backbone(recipe, self.network, train, stop, strict=self.strict) if adapts else {}
        loader = EpochLoader(
            train,
            transform,
            batch_size=recipe.batch_size,
            order="sequential",
            seed=recipe.seed,
            drop_last=False,
            workers=default_workers() if recipe.workers is None else recipe.workers,
            broken_limit=0 if self.strict else None,
            device=self.accelerator.device,
            channels_last=True,
        )
        with closing(loader):
            features = compute_augmented_features(self.network, loader, recipe.probe_views, stop)
        features = replace(features, statistics=statistics)
        self.broken |= loader.broken.messages
        if self.accelerator.is_main_process:
            write_features(path, key, features)
        return features


def _batches(features: Features, recipe: Recipe, accelerator: Accelerator, *, every_view: bool) -> FeatureBatches:
    return FeatureBatches(
        features,
        every_view=every_view,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        multiple=recipe.accumulate,
        balanced=recipe.balance == "sampler",
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def _class_weights(recipe: Recipe, train: ImageSource) -> Tensor | None:
    if recipe.balance != "weights":
        return None
    return torch.from_numpy(class_weights(train.labels, len(train.class_names)))


def _trainer(
    probe: Probe,
    batches: FeatureBatches,
    judged_by: Iterable[tuple[Tensor, Tensor]] | None,
    recipe: Recipe,
    weights: Tensor | None,
    around: Surroundings,
) -> Trainer:
    device = around.accelerator.device
    recipe = replace(recipe, min_learning_rate=0.0, schedule="cosine", warmup_epochs=0.0, clip_grad=0.0)
    return Trainer(
        network=probe.to(device),
        objective=Objective(label_smoothing=recipe.label_smoothing, class_weights=weights).to(device),
        batches=batches,
        judged_by=judged_by,
        recipe=recipe,
        epochs=recipe.epochs,
        phase="head",
        dtype=None,
        around=around,
    )
