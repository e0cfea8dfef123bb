"""One training from end to end: data, network, the classifier's head start, everything, and what is left of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effnets.data.cache import CachedDataset
from effnets.data.dataset import ImageDataset
from effnets.data.sampling import class_weights
from effnets.data.splits import Splits
from effnets.nn.classifier import Classifier
from effnets.train.account import Account, FolderKeeper
from effnets.train.checkpoint import RunFolder
from effnets.train.conclusion import measure, report
from effnets.train.linear_probe import ProbeTask, fit_head, unused_by_probes
from effnets.train.loss import Objective
from effnets.train.material import Material, gather
from effnets.train.network import adapts_backbone, place, restore_if_identity
from effnets.train.precision import choose_precision
from effnets.train.progress import Listener, Progress
from effnets.train.recipe import Recipe
from effnets.train.shutdown import StopSignals
from effnets.train.supply import decoded_once, judging_pictures, training_batches
from effnets.train.surroundings import Surroundings
from effnets.train.trainer import Trainer
from effnets.train.validate import Score

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Session"]


_ADAPTED = (
    "the backbone's batch statistics were moved towards those of the training pictures; set bn to eval to keep the "
    "weights' own"
)


_NO_REPORT = "there were no pictures for validation and none in test/, so nothing was measured, and there is no report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A training, with the arguments of `effnets.finetune`, how its data are opened, and what it runs in."""

    recipe: Recipe
    data: str
    folder: RunFolder
    resume: bool
    strict: bool
    open_splits: Callable[[Callable[[str, float], object]], Splits]
    command: str | None
    accelerator: Accelerator
    stop: StopSignals
    listener: Listener

    def run(self) -> dict[str, Any]:
        """Train; returns the metrics.

        Raises:
            as `effnets.finetune`.
        """
        self.folder.check_outside(self.data)
        self.folder.check(self.recipe, resume=self.resume)
        self.accelerator.wait_for_everyone()  # else the main process might have begun before another looks
        splits = self.open_splits(self._opening)
        self.stop.heed("its data were opened")
        material = gather(self.recipe, splits, self.data)
        # Only now: what cannot be read, or cannot be, leaves no folder behind.
        main = self.accelerator.is_main_process
        with self.folder.lock() if main else nullcontext():
            if main:
                self.folder.begin(self.recipe, resume=self.resume)
            self.accelerator.wait_for_everyone()
            return replace(self, recipe=material.recipe)._run(material)

    def _run(self, material: Material) -> dict[str, Any]:
        splits, train = material.splits, material.train
        account = self._account(splits, train)
        state = self.folder.load_state()
        if state is None:
            self._prepare(material, account)
        else:
            account.require_same_data(state["account"])
            account.take_over(state["account"])
        for note in account.notes:
            self.listener.note(note)
        cached = None if state is None else account.cached
        train = decoded_once(train, self.recipe, material.network.spec.input_size, cached)
        account.cached = isinstance(train, CachedDataset)
        trainer, keeper = self._trainer(replace(material, train=train), account)
        if state is not None:
            trainer.restore(state)
        with closing(trainer.batches):
            kept = keeper.assemble(trainer.run())
        metrics: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            metrics = self._conclude(kept, splits, account, trainer.progress)
        return self._told(metrics)

    def _conclude(self, kept: Classifier, splits: Splits, account: Account, progress: Progress) -> dict[str, Any]:
        """Measure the kept network once on test/, write the report, and say that training is over, in this order."""
        test = None
        place(kept, self.accelerator.device)
        told = len(account.notes)
        evaluation = measure(kept, splits, account, self._measuring, strict=self.strict)
        for note in account.notes[told:]:
            self.listener.note(note)
        if evaluation is not None:
            if evaluation.split == "test":
                test = Score(top1=evaluation.top1, loss=evaluation.loss, count=evaluation.count)
            self.listener.step("writing the report", 1.0)
            report(self.folder.path, kept.cpu(), evaluation, account, progress)
        else:
            self.listener.note(_NO_REPORT)
            account.notes.append(_NO_REPORT)
        metrics = account.metrics(progress, finished=True, test=test)
        self.folder.save_metrics(metrics)
        return metrics

    def _opening(self, what: str, share: float) -> None:
        self.listener.step(what, share)
        self.stop.heed("its data were opened")

    def _measuring(self, what: str, share: float) -> None:
        self.listener.step(what, share)
        self.stop.heed("its result was measured")  # it is trained and saved; that is done again

    def _account(self, splits: Splits, train: ImageDataset) -> Account:
        parts = {"train": splits.train, "val": splits.val, "test": splits.test}
        return Account(
            recipe=self.recipe,
            data=self.data,
            command=self.command,
            class_names=train.class_names,
            images={name: 0 if part is None else len(part) for name, part in parts.items()},
            pictures={name: part.digest() for name, part in parts.items() if part is not None},
            revision=splits.revision,
            processes=self.accelerator.num_processes,
            notes=list(splits.notes),
        )

    def _prepare(self, material: Material, account: Account) -> None:
        """What comes before the first checkpoint: statistics, the choice of precision, the classifier's head start."""
        recipe, device = self.recipe, self.accelerator.device
        network, train = material.network, material.train
        if recipe.freeze == "backbone":  # it normalises by no batch, and its features are computed in float32
            account.notes += [_ADAPTED] if adapts_backbone(recipe, network) else []
            if unused := unused_by_probes(recipe):
                account.notes.append(f"without effect with freeze: backbone: {', '.join(unused)}")
            self._share(network, account)
            return
        if note := restore_if_identity(recipe, network, train, self.stop, strict=self.strict):
            account.notes.append(note)
        place(network, device)
        account.precision = recipe.precision
        if recipe.precision == "auto":
            account.precision = choose_precision(device)
        self._share(network, account)
        if recipe.head_epochs and recipe.weights != "random" and not material.knows_classes:
            self.listener.step("computing features for the classifier's head start", 0.0)
            account.head_rows = fit_head(network, train, recipe, self._around(), strict=self.strict)

    def _share(self, network: Classifier, account: Account) -> None:
        """Have all processes begin with what the main one has: machines may round differently."""
        if self.accelerator.num_processes == 1:
            return
        from accelerate.utils import broadcast, broadcast_object_list

        account.precision = broadcast_object_list([account.precision], from_process=0)[0]
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.copy_(broadcast(tensor.contiguous(), from_process=0))

    def _around(self, keeper: FolderKeeper | None = None) -> Surroundings:
        return Surroundings(accelerator=self.accelerator, stop=self.stop, keeper=keeper, listener=self.listener)

    def _told(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The main process's metrics, once it has them, in every process."""
        if self.accelerator.num_processes == 1:
            return metrics
        from accelerate.utils import broadcast_object_list

        told: dict[str, Any] = broadcast_object_list([metrics], from_process=0)[0]
        return told

    def _trainer(self, material: Material, account: Account) -> tuple[Trainer, FolderKeeper]:
        recipe, network, splits, train = self.recipe, material.network, material.splits, material.train
        place(network, self.accelerator.device)
        weights = None
        if recipe.balance == "weights":
            weights = torch.from_numpy(class_weights(train.labels, len(train.class_names)))
        judged_by = None
        if splits.val is not None:
            judged_by = judging_pictures(network, splits.val, recipe, self.accelerator, strict=self.strict)
            account.keep_broken("val", judged_by.broken.messages)
        if recipe.freeze == "backbone":
            task = ProbeTask(network, recipe, self.accelerator, self.folder.states, strict=self.strict)
            account.keep_broken("train", task.broken)
            keeper = FolderKeeper(self.folder, account, task.assemble)
            self.listener.step("computing features", 0.0)
            return task.trainer(train, judged_by, weights, self._around(keeper)), keeper
        shell = copy.deepcopy(network).cpu()

        def assemble(kept: dict[str, Tensor]) -> Classifier:
            shell.load_state_dict(kept)
            return shell.eval()

        keeper = FolderKeeper(self.folder, account, assemble)
        objective = Objective(
            label_smoothing=recipe.label_smoothing,
            class_weights=weights,
            teacher=material.teacher,
            teacher_share=recipe.teacher_share,
            temperature=recipe.temperature,
        ).to(self.accelerator.device)
        batches = training_batches(network, train, recipe, self.accelerator, strict=self.strict)
        account.keep_broken("train", batches.corrupt.messages)
        trainer = Trainer(
            network=network,
            objective=objective,
            batches=batches,
            judged_by=judged_by,
            recipe=recipe,
            epochs=recipe.epochs,
            phase="all",
            dtype=torch.bfloat16 if account.precision == "bfloat16" else None,
            around=self._around(keeper),
        )
        return trainer, keeper
