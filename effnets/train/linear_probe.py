"""A frozen backbone computes each picture once: its features, and a classifier that learns on them in seconds."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import Pictures, default_workers
from effnets.data.loader import Batch, EpochLoader
from effnets.data.sampling import balanced_order, class_weights, shuffled_order, some_images
from effnets.data.transforms import TrainTransform
from effnets.deploy.optimize.optimize import optimize
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier
from effnets.nn.utils import evaluating
from effnets.report.summary import EpochRow
from effnets.train.checkpoint import write_in_run
from effnets.train.loss import Objective
from effnets.train.network import adapt_backbone, adapts_backbone
from effnets.train.recipe import Recipe
from effnets.train.shutdown import StopSignals
from effnets.train.surroundings import Surroundings
from effnets.train.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


_DOING = "features were computed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What enters the classifier: `values` [views, N, C], one for each view of a picture, and `labels` [N].

    Attributes:
        statistics: what the network's batch statistics were, where they were not those of its weights.
    """

    values: Tensor
    labels: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def compute_features(
    network: Classifier, pictures: Pictures, device: torch.device, stop: StopSignals, *, mirrored: bool
) -> Features:
    """Run all pictures through the network in evaluation mode, and mirrored once more where asked for.

    The network's mode is kept.

    Raises:
        TrainingInterruptedError: a signal asked to end.
    """
    values: list[Tensor] = []
    labels: list[Tensor] = []
    with _for_inference(network) as backbone:
        for images, truth in stop.between(pictures, _DOING):
            placed = images.to(device, memory_format=torch.channels_last)
            views = [placed, placed.flip(3)] if mirrored else [placed]
            values.append(torch.stack([_features_of(backbone, view) for view in views]))
            labels.append(truth)
    return Features(values=torch.cat(values, dim=1).float().cpu(), labels=torch.cat(labels))


@torch.no_grad()
def compute_augmented_features(network: Classifier, loader: EpochLoader, views: int, stop: StopSignals) -> Features:
    """Run all pictures through the network in evaluation mode, each augmented in as many ways as there are `views`.

    Args:
        network: whose features; its mode is kept.
        loader: of all pictures in their order; an epoch of it is a view. What it cannot read is in no view.
        views: at least 1.
        stop: requests to end.

    Raises:
        DataError: more pictures are broken than the loader allows.
        TrainingInterruptedError: a signal asked to end.
    """
    values: list[Tensor] = []
    indices: list[Tensor] = []
    with _for_inference(network) as backbone:
        for view in range(views):
            parts = [
                (_features_of(backbone, batch.images), batch.indices)
                for batch in stop.between(loader.batches(view), _DOING)
            ]
            values.append(torch.cat([found for found, _ in parts]).float().cpu())
            indices.append(torch.cat([places for _, places in parts]))
    kept = reduce(np.intersect1d, [places.numpy() for places in indices])
    values = [found[np.isin(places, kept)] for found, places in zip(values, indices, strict=True)]
    return Features(values=torch.stack(values), labels=torch.from_numpy(loader.source.labels[kept]).long())


@contextmanager
def _for_inference(network: Classifier) -> Iterator[Classifier]:
    """The network in evaluation mode, on a CPU a rewritten copy, which is twice as fast; its own mode comes back."""
    if next(network.parameters()).device.type == "cpu":
        rewritten = optimize(network)
        assert isinstance(rewritten, Classifier)
        yield rewritten
        return
    with evaluating(network):
        yield network


def _features_of(backbone: Classifier, images: Tensor) -> Tensor:
    return backbone.forward_head(backbone.forward_features(images), pre_logits=True)


def read_features(path: Path, key: str) -> Features | None:
    """What `write_features` kept under the same `key`; None where there is nothing of it."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # is no mapping
            values, labels = tensors.pop("values"), tensors.pop("labels")
            return Features(values=values, labels=labels, statistics=tensors)
    except (OSError, SafetensorError):
        return None


def write_features(path: Path, key: str, features: Features) -> None:
    """Keep features for a resumed run.

    Raises:
        TrainingError: the disk refuses.
    """
    tensors = {"values": features.values.contiguous(), "labels": features.labels, **features.statistics}
    write_in_run(path, safetensors.torch.save(tensors, {"key": key}))


def features_key(network: Classifier, source: ImageDataset, how: str) -> str:
    """What features depend on, as a hash: the weights, the pictures' names and labels, and `how` they are made."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if not name.startswith("classifier."):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    digest.update(f"{how} {source.digest()}".encode())
    return digest.hexdigest()


class FeatureBatches:
    """Training batches of features, by the rules of `EpochLoader`.

    Args:
        features: of the training pictures.
        every_view: whether an epoch has each picture in all of its views, or in one that is drawn.
        batch_size: pictures in a micro-batch; a smaller set is one batch.
        multiple: what the number of micro-batches must be a multiple of.
        balanced: whether all classes come equally often.
        seed: of order and views.
        rank, world: this process's number and how many there are.
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
        """Nothing to release."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's batches of an epoch, from global position `start` on."""
        labels = self.features.labels
        views, pictures = self._order(epoch)
        for number in range(start, self._length):
            if number % self.world == self.rank:
                chosen = slice(number * self.batch_size, (number + 1) * self.batch_size)
                indices = torch.from_numpy(pictures[chosen])
                values = self.features.values[torch.from_numpy(views[chosen]), indices]
                yield Batch(number=number, images=values, labels=labels[indices], indices=indices)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The view and the picture of everything in an epoch."""
        labels, views = self.features.labels.numpy(), len(self.features.values)
        entries = np.tile(labels, views) if self.every_view else labels
        if self.balanced:
            order = balanced_order(entries, self.seed, epoch)
        else:
            order = shuffled_order(len(entries), self.seed, epoch)
        if self.every_view:
            return order // len(labels), order % len(labels)
        return np.random.default_rng((self.seed, epoch, 1)).integers(views, size=len(order)), order.copy()


class Probe(nn.Module):
    """A linear classifier of features.

    Args:
        features: to be learned from.
        num_classes: outputs.
        standardised: bring the features to mean 0 and deviation 1 first: networks' scales differ widely, and this finds
            the best classifier soonest. Its weights may be large, though, and a network that is trained further does
            not recover from these: then leave the features as they are.
    """

    def __init__(self, features: Features, num_classes: int, *, standardised: bool) -> None:
        super().__init__()
        values = features.values.flatten(0, 1)
        mean, deviation = torch.zeros(values.shape[1]), torch.ones(values.shape[1])
        if standardised and len(values) > 1:
            mean, deviation = values.mean(0), values.std(0)
            # One scale for what hardly varies: dividing by a deviation near 0 would make it matter.
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
def fold_probe(weights: dict[str, Tensor], network: Classifier) -> None:
    """Put a probe's `weights` into the network's classifier, which then gives the probe's answers."""
    weight = weights["classifier.weight"].double() / weights["deviation"].double()
    bias = weights["classifier.bias"].double() - weight @ weights["mean"].double()
    classifier = network.classifier
    assert isinstance(classifier, nn.Linear), "a network that is fine-tuned has classes"
    classifier.weight.copy_(weight)
    classifier.bias.copy_(bias)


# A head start need not see more: it only spares the backbone the first, wild gradients.
_HEAD_PICTURES = 20_000
_FEATURES = "features.safetensors"
_UNUSED = (
    *("head_epochs", "optimizer", "momentum", "eps", "alpha", "weight_decay", "layer_decay", "clip_grad"),
    *("schedule", "warmup_epochs", "min_learning_rate", "decay_rate", "decay_epochs", "drop_rate", "drop_path_rate"),
)


def fit_head(
    network: Classifier, train: ImageDataset, recipe: Recipe, around: Surroundings, *, strict: bool
) -> list[EpochRow]:
    """Train the network's classifier, everything else as it is; `strict` as of `effnets.finetune`.

    Returns:
        A row for each epoch.
    """
    chosen = some_images(train, recipe.seed, _HEAD_PICTURES)
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
        train: ImageDataset,
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

    def _features(self, train: ImageDataset, stop: StopSignals) -> Features:
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
            corrupt_limit=0 if self.strict else None,
            device=self.accelerator.device,
            channels_last=True,
        )
        with closing(loader):
            features = compute_augmented_features(self.network, loader, recipe.probe_views, stop)
        features = replace(features, statistics=statistics)
        self.broken |= loader.corrupt.messages
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


def _class_weights(recipe: Recipe, train: ImageDataset) -> Tensor | None:
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
