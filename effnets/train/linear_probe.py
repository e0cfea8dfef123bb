"""Linear probes: a frozen backbone computes the features of every image once, and a classifier learns on these."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import default_workers
from effnets.data.loader import Batch, EpochLoader
from effnets.data.sampling import balanced_order, shuffled_order, some_images
from effnets.data.transforms import TrainTransform
from effnets.deploy.optimize.optimize import optimize
from effnets.evaluation.validate import ValidationBatches, ValidationLoader, validate
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier
from effnets.nn.utils import evaluating
from effnets.report.write import EpochRow
from effnets.train.bn_calibration import adapt_backbone, adapts_backbone
from effnets.train.checkpoint import Checkpointer, write_file
from effnets.train.loss import Loss, make_loss
from effnets.train.optim import make_optimizer
from effnets.train.recipe import Recipe
from effnets.train.trainer import TrainContext, Trainer
from effnets.utils.shutdown import GracefulShutdown

_DOING = "features were computed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The classifier's input: `values` [views, N, C], one for each view of an image, and `labels` [N].

    Attributes:
        statistics: the network's batch statistics, if they are not those of its weights.
        corrupt: the messages of images that were left out, by index.
    """

    values: Tensor
    labels: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)
    corrupt: dict[int, str] = field(default_factory=dict)


@torch.no_grad()
def compute_features(
    model: Classifier, images: ValidationBatches, device: torch.device, shutdown: GracefulShutdown, *, mirrored: bool
) -> Features:
    """Run all images through the model in evaluation mode, and mirrored once more if requested; its mode is kept.

    Raises:
        TrainingInterruptedError: if a signal was received.
    """
    values: list[Tensor] = []
    labels: list[Tensor] = []
    with _for_inference(model) as backbone:
        for batch, batch_labels in shutdown.guard(images, _DOING):
            placed = batch.to(device, memory_format=torch.channels_last)
            views = [placed, placed.flip(3)] if mirrored else [placed]
            values.append(torch.stack([_features_of(backbone, view) for view in views]))
            labels.append(batch_labels)
    return Features(values=torch.cat(values, dim=1).float().cpu(), labels=torch.cat(labels))


@torch.no_grad()
def compute_augmented_features(
    model: Classifier, loader: EpochLoader, views: int, shutdown: GracefulShutdown
) -> Features:
    """Run all images through the model in evaluation mode, each augmented in as many ways as there are `views`.

    Args:
        model: its mode is kept.
        loader: of all images in their order; an epoch of it is a view. What it cannot read is in no view.
        views: at least 1.
        shutdown: requests to stop.

    Raises:
        DataError: if more images are broken than the loader allows.
        TrainingInterruptedError: if a signal was received.
    """
    values: list[Tensor] = []
    indices: list[Tensor] = []
    with _for_inference(model) as backbone:
        for view in range(views):
            parts = [
                (_features_of(backbone, batch.images), batch.indices)
                for batch in shutdown.guard(loader.batches(view), _DOING)
            ]
            values.append(torch.cat([features for features, _ in parts]).float().cpu())
            indices.append(torch.cat([places for _, places in parts]))
    kept = reduce(np.intersect1d, [places.numpy() for places in indices])
    values = [features[np.isin(places, kept)] for features, places in zip(values, indices, strict=True)]
    return Features(
        values=torch.stack(values),
        labels=torch.from_numpy(loader.dataset.labels[kept]).long(),
        corrupt=loader.corrupt.messages,
    )


@contextmanager
def _for_inference(model: Classifier) -> Iterator[Classifier]:
    """The model in evaluation mode; on a CPU a rewritten copy, which is twice as fast."""
    if next(model.parameters()).device.type == "cpu":
        rewritten = optimize(model)
        assert isinstance(rewritten, Classifier)
        yield rewritten
        return
    with evaluating(model):
        yield model


def _features_of(backbone: Classifier, images: Tensor) -> Tensor:
    return backbone.forward_head(backbone.forward_features(images), pre_logits=True)


def read_features(path: Path, key: str) -> Features | None:
    """Read what `write_features` wrote under the same `key`; None if there is no such file."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a mapping
            values, labels = tensors.pop("values"), tensors.pop("labels")
            return Features(values=values, labels=labels, statistics=tensors)
    except (OSError, SafetensorError):
        return None


def write_features(path: Path, key: str, features: Features) -> None:
    """Write features for a resumed run.

    Raises:
        TrainingError: if the disk refuses.
    """
    tensors = {"values": features.values.contiguous(), "labels": features.labels, **features.statistics}
    write_file(path, safetensors.torch.save(tensors, {"key": key}))


def features_key(model: Classifier, source: ImageDataset, how: str) -> str:
    """Return a hash of what features depend on: the weights, the images' names and labels, and `how` they are made."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.startswith("classifier."):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    digest.update(f"{how} {source.digest()}".encode())
    return digest.hexdigest()


class FeatureLoader:
    """Training batches of features, by the rules of `EpochLoader`.

    Args:
        features: of the training images.
        every_view: whether an epoch has each image in all of its views, or in one that is drawn.
        batch_size: images in a micro-batch; a smaller set is one batch.
        seed: of order and views.
        multiple: the number of micro-batches is a multiple of this.
        balanced: whether all classes come equally often.
        rank, world: this process's number, and the number of processes.
    """

    def __init__(
        self,
        features: Features,
        *,
        every_view: bool,
        batch_size: int,
        seed: int,
        multiple: int = 1,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.features, self.seed, self.balanced, self.rank, self.world = features, seed, balanced, rank, world
        self.every_view = every_view
        count = len(features.labels) * (len(features.values) if every_view else 1)
        self.batch_size = max(min(batch_size, count // multiple), 1)
        self._length = count // self.batch_size // multiple * multiple

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Release nothing."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's batches of an epoch, from global position `start` on."""
        labels = self.features.labels
        views, images = self._order(epoch)
        for number in range(start, self._length):
            if number % self.world == self.rank:
                chosen = slice(number * self.batch_size, (number + 1) * self.batch_size)
                indices = torch.from_numpy(images[chosen])
                values = self.features.values[torch.from_numpy(views[chosen]), indices]
                yield Batch(number=number, images=values, labels=labels[indices], indices=indices)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The view and the image of every sample of an epoch."""
        labels, views = self.features.labels.numpy(), len(self.features.values)
        entries = np.tile(labels, views) if self.every_view else labels
        if self.balanced:
            order = balanced_order(entries, self.seed, epoch)
        else:
            order = shuffled_order(len(entries), self.seed, epoch)
        if self.every_view:
            return order // len(labels), order % len(labels)
        return np.random.default_rng((self.seed, epoch, 1)).integers(views, size=len(order)), order.copy()


class LinearProbe(nn.Module):
    """A linear classifier of features.

    Args:
        features: to learn from.
        num_classes: outputs.
        standardized: bring the features to mean 0 and deviation 1 first: networks' scales differ widely, and this finds
            the best classifier soonest. Its weights may become large, though, from which a network that is trained
            further does not recover: then leave the features as they are.
    """

    def __init__(self, features: Features, num_classes: int, *, standardized: bool) -> None:
        super().__init__()
        values = features.values.flatten(0, 1)
        mean, deviation = torch.zeros(values.shape[1]), torch.ones(values.shape[1])
        if standardized and len(values) > 1:
            mean, deviation = values.mean(0), values.std(0)
            # A floor for what hardly varies: dividing by a deviation near 0 would make it matter.
            deviation = deviation.clamp(min=0.1 * deviation.mean().clamp(min=1e-6))
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.classifier = nn.Linear(values.shape[1], num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier((x - self.mean) / self.deviation)


@torch.no_grad()
def fold_probe(weights: dict[str, Tensor], model: Classifier) -> None:
    """Put a probe's `weights` into the model's classifier, which then gives the probe's logits."""
    weight = weights["classifier.weight"].double() / weights["deviation"].double()
    bias = weights["classifier.bias"].double() - weight @ weights["mean"].double()
    classifier = model.classifier
    assert isinstance(classifier, nn.Linear), "a model that is fine-tuned has classes"
    classifier.weight.copy_(weight)
    classifier.bias.copy_(bias)


# More images would not help: the head start only spares the backbone the first, wild gradients.
_HEAD_IMAGES = 20_000
_FEATURES = "features.safetensors"
_UNUSED = (
    *("head_epochs", "optimizer", "momentum", "eps", "alpha", "weight_decay", "layer_decay", "clip_grad"),
    *("schedule", "warmup_epochs", "min_learning_rate", "decay_rate", "decay_epochs", "drop_rate", "drop_path_rate"),
)


def unused_by_probes(recipe: Recipe) -> list[str]:
    """Return the settings of `recipe` that differ from their defaults and have no effect on a linear probe."""
    unused = recipe.changed(_UNUSED)
    unused += [f"augmentation.{name}" for name in ("mixup", "cutmix") if getattr(recipe.augmentation, name)]
    return unused + (["precision"] if recipe.precision == "bfloat16" else [])


def train_head(model: Classifier, train: ImageDataset, recipe: Recipe, context: TrainContext) -> list[EpochRow]:
    """Give the model's classifier a head start: train it alone, on features of the rest.

    Returns:
        A row for each epoch.
    """
    chosen = some_images(train, recipe.seed, _HEAD_IMAGES)
    loader = ValidationLoader(train, create_transform(model), recipe.batch_size, chosen.tolist(), strict=context.strict)
    mirrored = recipe.augmentation.horizontal_flip > 0
    features = compute_features(model, loader, context.accelerator.device, context.shutdown, mirrored=mirrored)
    # Features as they are, so that the weights have the size at which training of the whole model continues.
    probe = LinearProbe(features, model.num_classes, standardized=False)
    recipe = replace(recipe, epochs=recipe.head_epochs)
    trainer = _trainer(probe, features, None, recipe, make_loss(recipe, train), context, every_view=False)
    fold_probe(trainer.fit(), model)
    return trainer.progress.rows[1:]


def probe_features(
    model: Classifier, train: ImageDataset, recipe: Recipe, context: TrainContext, folder: Path
) -> Features:
    """Adapt the backbone to the training images and compute their augmented features, or read both from `folder`.

    Raises:
        DataError: if an image cannot be read, with `strict`.
        TrainingError: if the disk refuses.
        TrainingInterruptedError: if a signal was received.
    """
    preprocess = model.spec.preprocess
    unmixed = replace(recipe.augmentation, mixup=0.0, cutmix=0.0)  # features of a blend are not a blend of features
    transform = TrainTransform(preprocess, preprocess.input_size, unmixed, model.in_chans)
    path = folder / _FEATURES
    how = f"{transform!r} {preprocess} {recipe.seed} {recipe.probe_views} {recipe.bn} {train!r}"
    key = features_key(model, train, how)
    if (features := read_features(path, key)) is not None:
        model.load_state_dict(features.statistics, strict=False)
        return features
    statistics = adapt_backbone(model, recipe, train, context) if adapts_backbone(model, recipe) else {}
    loader = EpochLoader(
        train,
        transform,
        batch_size=recipe.batch_size,
        order="sequential",
        seed=recipe.seed,
        drop_last=False,
        workers=default_workers() if recipe.workers is None else recipe.workers,
        corrupt_limit=0 if context.strict else None,
        device=context.accelerator.device,
        channels_last=True,
    )
    with closing(loader):
        features = compute_augmented_features(model, loader, recipe.probe_views, context.shutdown)
    features = replace(features, statistics=statistics)
    if context.accelerator.is_main_process:
        write_features(path, key, features)
    return features


def probe_trainer(
    model: Classifier,
    features: Features,
    val_loader: ValidationLoader | None,
    loss: Loss,
    recipe: Recipe,
    context: TrainContext,
    checkpointer: Checkpointer | None = None,
) -> Trainer:
    """Return the trainer of a linear probe on `features`; computes those of the validation images."""
    val_features: list[tuple[Tensor, Tensor]] | None = None if val_loader is None else []
    if val_loader is not None and val_loader.indices:  # of few images, some of many processes have none
        device = context.accelerator.device
        computed = compute_features(model, val_loader, device, context.shutdown, mirrored=False)
        val_features = [(computed.values[0], computed.labels)]
    probe = LinearProbe(features, model.num_classes, standardized=True)
    recipe = replace(
        recipe,
        optimizer="adam",  # whose decay is the penalty's gradient, unlike AdamW's
        eps=None,
        alpha=None,
        weight_decay=recipe.probe_penalty,
    )
    return _trainer(probe, features, val_features, recipe, loss, context, every_view=True, checkpointer=checkpointer)


def _trainer(
    probe: LinearProbe,
    features: Features,
    val_features: ValidationBatches | None,
    recipe: Recipe,
    loss: Loss,
    context: TrainContext,
    *,
    every_view: bool,
    checkpointer: Checkpointer | None = None,
) -> Trainer:
    accelerator, validator = context.accelerator, None
    if val_features is not None:
        validator = partial(validate, batches=val_features, accelerator=accelerator, shutdown=context.shutdown)
    recipe = replace(recipe, min_learning_rate=0.0, schedule="cosine", warmup_epochs=0.0, clip_grad=0.0)
    probe.to(accelerator.device)
    return Trainer(
        network=probe,
        loss=loss.to(accelerator.device),
        optimizer=make_optimizer(probe, recipe),
        train_loader=FeatureLoader(
            features,
            every_view=every_view,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            multiple=recipe.accumulate,
            balanced=recipe.balance == "sampler",
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        ),
        validator=validator,
        recipe=recipe,
        phase="head",
        context=context,
        checkpointer=checkpointer,
    )
