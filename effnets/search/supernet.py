"""The weight-sharing supernet of one-shot search: trained once, it ranks all candidates of a search space.

Single path one-shot (Guo et al. 2019, arXiv:1904.00420): every forward pass of the training runs one candidate, drawn
at random, with its part of the shared weights. A candidate is measured with these weights after its batch
normalizations have seen some training images, since statistics are no candidate's while all are trained.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from effnets.data.open import DataConfig
from effnets.data.sampling import some_images
from effnets.errors import ArgumentError, ConfigError, TrainingError
from effnets.evaluation.validate import ValidationLoader, validate
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier
from effnets.search.paths import PathSampler, Sampling
from effnets.search.shared_weights import SharedWeights
from effnets.search.space import Choice, Picks, SearchSpace
from effnets.spec.scaling import ScaleLimits
from effnets.train.bn_calibration import adapt_statistics
from effnets.train.callbacks import Callback, ProgressCallback
from effnets.train.checkpoint import RECIPE, RUN_STATE, Checkpointer, finished_metrics, write_file
from effnets.train.model import build_model, to_device
from effnets.train.recipe import Recipe
from effnets.train.run import Run
from effnets.train.task import Task
from effnets.train.trainer import TrainContext
from effnets.utils.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from accelerate import Accelerator

# Means and variances of a candidate's layers are measured on so many training images.
_CALIBRATION_IMAGES = 512
_SETTINGS = "supernet.json"
# Networks of candidates, without values, that are kept: enough for small spaces and for sandwiches.
_NETWORKS = 16


class SharedNetwork(nn.Module):
    """The candidates of a search space with shared weights, as one module that trains like a network.

    Its forward pass, images ``[N, C, H, W]`` to logits ``[N, num_classes]``, runs the candidate that `sampler` draws
    for the number of the pass, which is part of the state.

    Args:
        space: the candidates. recipe: has their input, and their rates of dropping. class_names: of the outputs.
        sampler: which candidate to run.

    Attributes:
        spec, in_chans: of the smallest candidate; the input is the same for all.
        weights: the shared ones. passes: how many there were.
    """

    def __init__(self, space: SearchSpace, recipe: Recipe, class_names: Sequence[str], sampler: PathSampler) -> None:
        super().__init__()
        self.space, self.recipe, self.class_names, self.sampler = space, recipe, tuple(class_names), sampler
        self.network = lru_cache(_NETWORKS)(self._build)
        smallest = self.network(sampler.smallest)
        self.spec, self.in_chans = smallest.spec, smallest.in_chans
        self.weights = SharedWeights(self._large_networks())
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        picks = self.sampler(self.passes)
        self.passes += 1
        return self.run(picks, images)

    def run(self, picks: Picks, images: Tensor) -> Tensor:
        """Return a candidate's logits, normalized by the batch."""
        network = self.network(picks)
        logits: Tensor = functional_call(network, self.weights.parts(network), (images,))
        return logits

    def create_network(self, picks: Picks) -> Classifier:
        """Return a candidate with a copy of its weights, on their device; its batch statistics are not measured yet."""
        network, _ = build_model(self.recipe, self.class_names, spec=self.space.spec(picks))
        network.load_state_dict(self.weights.parts(network), strict=False)
        to_device(network, next(self.parameters()).device)
        return network.eval()

    def get_extra_state(self) -> Tensor:
        """Return the number of passes, for `state_dict`."""
        return torch.tensor(self.passes)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of passes."""
        self.passes = int(state)

    def _build(self, picks: Picks) -> Classifier:
        """Build a candidate without values, that normalizes by the batch alone."""
        network, _ = build_model(self.recipe, self.class_names, spec=self.space.spec(picks), device="meta")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
        return network

    def _large_networks(self) -> Iterator[Classifier]:
        """Yield each option beside the largest others, among which every layer has its largest size."""
        largest = tuple(ranked[-1] for ranked in self.sampler.ranked)
        yield self.network(self.sampler.smallest)
        for place, choice in enumerate(self.space.choices):
            for index in _extremes(choice):
                try:
                    yield self._build((*largest[:place], index, *largest[place + 1 :]))
                except ConfigError:  # together they make no network
                    continue


def _extremes(choice: Choice) -> list[int]:
    """Options among which each layer has its largest size: of numbers the ends, as a range may have a thousand."""
    numbers = [option for option in choice.options if not isinstance(option, str)]
    if len(numbers) < len(choice.options):
        return [*range(len(choice.options))]
    return [numbers.index(min(numbers)), numbers.index(max(numbers))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supernet:
    """A trained supernet, and the images to measure its candidates on.

    Attributes:
        space: the candidates. network: their shared weights.
        calibration: training images, to measure batch statistics on. validation: images to measure accuracy on.
        accelerator: has the device.
    """

    space: SearchSpace
    network: SharedNetwork
    calibration: ValidationLoader
    validation: ValidationLoader
    accelerator: Accelerator

    def create_network(self, picks: Picks) -> Classifier:
        """Return a candidate with its part of the weights and batch statistics of its own, in evaluation mode."""
        network = self.network.create_network(picks)
        device = self.accelerator.device
        batches = (images.to(device, memory_format=torch.channels_last) for images, _ in self.calibration)
        adapt_statistics(network, batches, own=0)
        return network

    def evaluate(self, picks: Picks) -> float:
        """Return the top-1 of a candidate on the validation images, in per cent; the same at every call.

        Raises:
            ConfigError: if these options together make no network.
        """
        score = validate(self.create_network(picks), self.validation, self.accelerator, GracefulShutdown())
        assert score.top1 is not None, "classification has it"
        return score.top1

    def state_dict(self, picks: Picks) -> dict[str, Tensor]:
        """Return the weights and statistics of a candidate, for ``create_model(space.spec(picks))``."""
        return self.create_network(picks).state_dict()


class SupernetCheckpointer(Checkpointer):
    """Saves a supernet in its folder: checkpoints and metrics; the last weights are the best.

    Args:
        folder, recipe: as of `Checkpointer`.
        settings: what the recipe does not say, by name, as JSON has it.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Recipe, settings: dict[str, Any]) -> None:
        super().__init__(folder, recipe)
        self.settings = settings

    def require_same_recipe(self) -> None:
        """Refuse to resume with another recipe, space or limits; raises TrainingError, which lists the differences."""
        path = self.folder / _SETTINGS
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path}: cannot be read ({error}); name another folder for the supernet") from None
        super().require_same_recipe()
        changed = [
            f"{name} {before.get(name)} → {value}" for name, value in self.settings.items() if before.get(name) != value
        ]
        if changed:
            raise TrainingError(
                f"{self.folder}: was started with other settings ({'; '.join(changed)}); resume it with the same, or "
                "name another folder"
            )

    @contextmanager
    def open(self, data: str, *, resume: bool) -> Iterator[None]:
        """Make the folder this supernet's, and lock it; raises TrainingError as `Checkpointer.open`."""
        if not (self.folder / RECIPE).exists():  # what is written before it, a folder with a recipe has
            self.check(data, resume=resume)
            write_file(self.folder / _SETTINGS, (json.dumps(self.settings, indent=1) + "\n").encode())
        with super().open(data, resume=resume):
            yield

    def save_best(self, weights: dict[str, Tensor]) -> None:
        """Write nothing: the checkpoint has the last weights."""


def train_supernet(
    space: SearchSpace,
    data: str | os.PathLike[str],
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    seed: int,
    limits: ScaleLimits | None = None,
    sampling: Sampling = "uniform",
    progress: Callable[[str, float], object] | None = None,
) -> Supernet:
    """Train shared weights of all candidates of `space`, or continue where a training in `folder` was interrupted.

    Continuing ends with the very tensors of an undisturbed training; a finished one is loaded. Of the recipe, `model`,
    `weights`, `seed`, `ema_decay`, `head_epochs`, `patience` and `layer_decay` have no effect: weights are random at
    first, the last ones are kept, and no epoch is validated.

    Args:
        space: the candidates.
        data: what `effnets.data.open_data` takes; without validation images, the recipe's `val_share` of the training
            images validates.
        recipe: of the training.
        folder: of the supernet; made if missing.
        seed: of all random numbers.
        limits: on the candidates that are drawn; latency is left out.
        sampling: ``uniform`` or ``sandwich``, as of `effnets.search.paths.PathSampler`, with `recipe.accumulate` passes
            in a step.
        progress: called with what is being done, and the fraction that is done, 0 to 1.

    Raises:
        ArgumentError: if no candidate is within the limits, or the recipe has a setting that a supernet cannot have.
        TrainingError: if the folder holds another training, there are several processes, there is nothing to validate
            on, or the loss becomes NaN or infinite.
        TrainingInterruptedError: if SIGTERM or SIGINT was received; everything is saved.
        DataError, MissingFileError, …: as `effnets.data.open_data`.
    """
    from accelerate import Accelerator

    recipe = _supernet_recipe(space, recipe, seed)
    sampler = PathSampler(space, seed=seed, limits=limits, sampling=sampling, passes=recipe.accumulate)
    checkpointer = SupernetCheckpointer(folder, recipe, _settings(space, limits, sampling))
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise TrainingError("a supernet trains in one process, as each pass runs another candidate; start it alone")
    callback = Callback() if progress is None else ProgressCallback(progress)
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), GracefulShutdown() as shutdown:
        context = TrainContext(accelerator=accelerator, shutdown=shutdown, callback=callback)
        config = DataConfig(data, val_share=recipe.val_share)

        run = Run.setup(recipe, config, checkpointer, context, resume=True, task=_SupernetTask(space, sampler))
        if run.splits.val is None:
            raise TrainingError(
                f"{run.state.data}: has no images to validate candidates with; put some into val/, or set val_share"
            )
        with checkpointer.open(run.state.data, resume=True):
            _fit(run)
    return _supernet(space, run)


class _SupernetTask(Task):
    """Classification by shared weights, which have what a run asks of a classifier: spec, in_chans and parameters."""

    def __init__(self, space: SearchSpace, sampler: PathSampler) -> None:
        self.space, self.sampler = space, sampler

    def build_model(self, recipe: Recipe, class_names: Sequence[str]) -> tuple[Any, bool]:
        return SharedNetwork(self.space, recipe, class_names, self.sampler), False


def _fit(run: Run) -> None:
    """Train to the end, or load what was trained to the end."""
    checkpointer = run.checkpointer
    if finished_metrics(checkpointer.folder) is None:
        # Without validation the last epoch is kept.
        trainer = replace(run, splits=replace(run.splits, val=None)).fit()
        checkpointer.save_metrics(run.state.metrics(trainer.progress, finished=True))
        return
    saved = checkpointer.load()
    if saved is None:
        raise TrainingError(f"{checkpointer.states}: lacks the supernet's weights; train it in another folder")
    run.state.load_state_dict(saved[RUN_STATE])
    run.model.load_state_dict(saved["network"])
    to_device(run.model, run.context.accelerator.device)


def _supernet(space: SearchSpace, run: Run) -> Supernet:
    transform, batch_size = create_transform(run.model.spec), run.recipe.batch_size
    chosen = some_images(run.train, run.recipe.seed, _CALIBRATION_IMAGES)
    assert run.splits.val is not None, "train_supernet has refused this"
    return Supernet(
        space=space,
        network=cast(SharedNetwork, run.model),
        calibration=ValidationLoader(run.train, transform, batch_size, chosen.tolist()),
        validation=ValidationLoader(run.splits.val, transform, batch_size),
        accelerator=run.context.accelerator,
    )


def _supernet_recipe(space: SearchSpace, recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe of a supernet; raises ArgumentError for settings that it cannot have."""
    for name, only in (("freeze", "none"), ("bn", "train"), ("teacher", None)):
        if (value := getattr(recipe, name)) != only:
            raise ArgumentError(f"the recipe's {name} is {value!r}, which a supernet cannot have; leave {name} out")
    return replace(
        recipe,
        model=space.name,
        weights="random",
        seed=seed,
        ema_decay=0.0,
        head_epochs=0,
        patience=0,
        layer_decay=1.0,
    )


def _settings(space: SearchSpace, limits: ScaleLimits | None, sampling: Sampling) -> dict[str, Any]:
    network = repr(space.spec(space.default))
    return {
        "choices": {choice.name: [*choice.options] for choice in space.choices},
        "network": hashlib.sha256(network.encode()).hexdigest()[:16],
        "sampling": sampling,
        **asdict(limits or ScaleLimits()),
    }
