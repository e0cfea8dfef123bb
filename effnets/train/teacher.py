"""The teacher of a training: a frozen network, and what the student learns of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effnets.engines.base import EXPORTED, Engine, first_line, load_file
from effnets.errors import EffnetsError, TrainingError
from effnets.factory import create_model
from effnets.inference.labels import are_named
from effnets.nn.classifier import ANSWERS, Classifier
from effnets.spec.specs import PreprocessSpec
from effnets.train.recipe import Recipe

_TIMM = "timm:"


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


def _embedding(network: Any, images: Tensor) -> Tensor:
    embedding: Tensor
    if isinstance(network, Classifier):
        return network.forward_embedding(images)
    embedding = network.forward_head(network.forward_features(images), pre_logits=True)
    return embedding


def _layer(network: Classifier, images: Tensor, layer: str) -> Tensor:
    return tap(network, layer, images)[1]


def _timm_level(network: Any, images: Tensor, level: int) -> Tensor:
    maps: list[Tensor] = network.forward_intermediates(images, indices=[level], intermediates_only=True)
    return maps[0]


def tap(network: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output of a network, and that of one of its layers, by the layer's name."""
    seen: list[Tensor] = []
    with network.get_submodule(layer).register_forward_hook(lambda _layer, _inputs, output: seen.append(output)):
        output: Tensor = network(images)
    return output, seen[0]


class Teacher(nn.Module):
    """A frozen network whose answers the student learns from, on the images that the student sees.

    Images are normalized as the student's weights need them; the teacher normalizes them as its own need them.

    Args:
        network: the teacher.
        student: the network that is trained.
        outputs: [classes of the student]; the teacher's output for each, if it has others or in another order.
        preprocess: of the teacher, with a mean for each of its channels; None takes its spec's.
        answer: of the network to images; the logits unless given.

    Attributes:
        layer: of the student, whose output is compared with the answer; None: its logits are.
        projection: of that output to the answer's channels. It learns with the student, and is no part of it.
    """

    def __init__(
        self,
        network: nn.Module,
        student: Classifier,
        outputs: Tensor | None = None,
        *,
        preprocess: PreprocessSpec | None = None,
        answer: Callable[[nn.Module, Tensor], Tensor] = _logits,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.answer = answer
        self.layer: str | None = None
        self.projection: nn.Module | None = None
        ours = student.spec.preprocess.for_channels(student.in_chans)
        if preprocess is None:
            assert isinstance(network, Classifier), "other networks come with their preprocessing"
            preprocess = network.spec.preprocess.for_channels(network.in_chans)
        # Of a gray image, one channel, the teacher may see three.
        scale = torch.tensor(ours.std) / torch.tensor(preprocess.std)
        shift = (torch.tensor(ours.mean) - torch.tensor(preprocess.mean)) / torch.tensor(preprocess.std)
        self.scale: Tensor
        self.shift: Tensor
        self.outputs: Tensor | None
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))
        self.register_buffer("outputs", outputs)

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        answer = self.answer(self.network, images * self.scale + self.shift)
        return answer if self.outputs is None else answer[:, self.outputs]


class ProjectedStudent(nn.Module):
    """A network that learns from a teacher: images to its logits, and the projected output of one of its layers.

    Args:
        network: the student.
        teacher: has the layer and the projection.
    """

    def __init__(self, network: nn.Module, teacher: Teacher) -> None:
        super().__init__()
        assert teacher.layer is not None, "the caller checks this"
        self.network, self.layer, self.projection = network, teacher.layer, teacher.projection

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, output = tap(self.network, self.layer, images)
        assert self.projection is not None, "it comes with the layer"
        return logits, self.projection(output)


class _Exported(nn.Module):
    """An exported file as a module: images to one of its outputs."""

    def __init__(self, name: str, engine: Engine, output: str) -> None:
        super().__init__()
        self.name, self.engine, self.output = name, engine, output

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.engine.run(images.cpu().numpy())
        if self.output not in outputs:
            raise TrainingError(
                f"teacher {self.name} has the outputs {', '.join(outputs)}, and no {self.output}; export it with that "
                "output, or name the network itself"
            )
        return torch.from_numpy(np.asarray(outputs[self.output])).to(images.device)


def load_teacher(recipe: Recipe, student: Classifier) -> Teacher | None:
    """Load the recipe's teacher, if it has one, and compare it once with the student.

    Draws from torch's global generator for the projection, if there is one.

    Raises:
        TrainingError: if it cannot be loaded, process the student's images, or give what the student learns of it: it
            lacks some of the classes, an embedding, or feature maps of the reduction of the student's stage.
        as `effnets.create_model`, `effnets.load_engine`.
    """
    if recipe.teacher is None:
        return None
    name, path = recipe.teacher, Path(recipe.teacher)
    if name.startswith(_TIMM):
        teacher = _load_timm(recipe, student)
    elif path.suffix.lower() in EXPORTED:
        teacher = _load_exported(recipe, student)
    elif path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise TrainingError(
            f"teacher {name} is a file, which does not say of which network; name the folder of a training, or one "
            "that save_pretrained wrote, or name the network and set teacher_weights to the file"
        )
    else:
        teacher = _load_zoo(recipe, student)
    _fit(teacher, recipe, student)
    return teacher


def _load_zoo(recipe: Recipe, student: Classifier) -> Teacher:
    name, kind = str(recipe.teacher), recipe.distillation_type
    weights = recipe.teacher_weights
    network = create_model(name, pretrained=weights is None, weights=weights)
    _require_channels(name, network.in_chans, student)
    if kind == "logits":
        _require_activation(name, network.classifier_activation, student)
        return Teacher(network, student, _outputs(name, network.num_classes, network.class_names, student))
    if kind == "embedding":
        return Teacher(network, student, answer=_embedding)
    info = network.feature_info
    layer = info.module_name()[_level(name, info.reduction(), recipe, student)]
    return Teacher(network, student, answer=partial(_layer, layer=layer))


def _load_timm(recipe: Recipe, student: Classifier) -> Teacher:
    import timm

    name, kind = str(recipe.teacher), recipe.distillation_type
    plain = name.removeprefix(_TIMM)
    try:
        network: Any = timm.create_model(plain, pretrained=recipe.teacher_weights is None)
        if recipe.teacher_weights is not None:
            state = timm.models.load_state_dict(recipe.teacher_weights)
            classifier = network.pretrained_cfg["classifier"]
            weight = state.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
            network.reset_classifier(0 if weight is None else len(weight))
            network.load_state_dict(state)
    except Exception as error:  # of files, of the Hub, and of networks, each of its own kind
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        source = recipe.teacher_weights or "its published weights"
        problem = f"timm cannot load {source} ({reason}); check its name and the weights"
        raise TrainingError(f"teacher {name}: {problem}") from None
    settings = timm.data.resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    _require_channels(name, settings["input_size"][0], student)
    preprocess = PreprocessSpec(mean=tuple(settings["mean"]), std=tuple(settings["std"]))
    if kind == "logits":
        outputs = _outputs(name, network.num_classes, None, student)
        return Teacher(network, student, outputs, preprocess=preprocess)
    if kind == "embedding":
        return Teacher(network, student, preprocess=preprocess, answer=_embedding)
    maps = network.feature_info if hasattr(network, "forward_intermediates") else []
    level = _level(name, [each["reduction"] for each in maps], recipe, student)
    return Teacher(network, student, preprocess=preprocess, answer=partial(_timm_level, level=level))


def _load_exported(recipe: Recipe, student: Classifier) -> Teacher:
    name, kind = str(recipe.teacher), recipe.distillation_type
    if recipe.teacher_weights is not None or kind == "features":
        wrong = "has no feature maps" if kind == "features" else "takes no teacher_weights"
        raise TrainingError(f"teacher {name} is an exported file, which {wrong}; name a network instead")
    engine = load_file(name)
    metadata = engine.description
    if metadata.detector:
        raise TrainingError(f"teacher {name} is a detector, which answers with boxes; name a classifier")
    if metadata.input_kind != "normalised":
        raise TrainingError(f"teacher {name} contains its preprocessing; export it without")
    _require_channels(name, metadata.channels, student)
    if kind == "logits":
        _require_activation(name, metadata.classifier_activation, student)
    labels = metadata.labels if are_named(metadata.labels) else None
    outputs = _outputs(name, len(metadata.labels), labels, student) if kind == "logits" else None
    return Teacher(
        _Exported(name, engine, kind), student, outputs, preprocess=metadata.preprocess.for_channels(metadata.channels)
    )


def _require_channels(name: str, channels: int, student: Classifier) -> None:
    if (student.in_chans, channels) != (1, 3) and channels != student.in_chans:
        raise TrainingError(
            f"teacher {name} takes images of {channels} channels, and the student of {student.in_chans}; name another"
        )


def _require_activation(name: str, theirs: str, student: Classifier) -> None:
    if theirs != student.classifier_activation:
        raise TrainingError(
            f"teacher {name} gives an image {ANSWERS[theirs]}, and the student learns to give it "
            f"{ANSWERS[student.classifier_activation]}; name another teacher, or set distillation_type to embedding"
        )


def _outputs(name: str, count: int, theirs: tuple[str, ...] | None, student: Classifier) -> Tensor | None:
    """The teacher's output for each class of the student; None if they are the same."""
    fix = "fine-tune it on these classes first, and name its folder, or set distillation_type to embedding"
    ours = student.class_names
    if ours is None or theirs is None:
        if count == student.num_classes:
            return None
        raise TrainingError(
            f"teacher {name} has {count} outputs without names for {student.num_classes} classes; {fix}"
        )
    missing = [label for label in ours if label not in theirs]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise TrainingError(f"teacher {name} lacks {len(missing)} of {len(ours)} classes ({shown}); {fix}")
    return None if ours == theirs else torch.tensor([theirs.index(label) for label in ours])


def _stage(recipe: Recipe, student: Classifier) -> int:
    count = len(student.stages)
    stage = count - 1 if recipe.distillation_stage is None else recipe.distillation_stage
    if stage >= count:
        raise TrainingError(f"distillation_stage is {stage}, and {recipe.model} has the stages 0 to {count - 1}")
    return stage


def _level(name: str, reductions: list[int], recipe: Recipe, student: Classifier) -> int:
    """The last level of the teacher's that has the reduction of the student's stage."""
    stage = _stage(recipe, student)
    wanted = next(level.reduction for level in student.feature_info.levels if level.stage >= stage)
    if wanted not in reductions:
        given = f"maps of the reductions {', '.join(map(str, reductions))}" if reductions else "no feature maps"
        raise TrainingError(
            f"teacher {name} gives {given}, and stage {stage} of {recipe.model} has the reduction {wanted}; set "
            "another distillation_stage, or distillation_type to embedding"
        )
    return len(reductions) - 1 - reductions[::-1].index(wanted)


def _fit(teacher: Teacher, recipe: Recipe, student: Classifier) -> None:
    """Let the teacher answer once, and choose the layer of the student and its projection to what the answer is."""
    name, size, kind = recipe.teacher, student.spec.input_size, recipe.distillation_type
    try:
        answer = teacher(torch.zeros(1, student.in_chans, size, size))
    except TrainingError:
        raise
    except (RuntimeError, AssertionError, ValueError, EffnetsError) as error:
        raise TrainingError(
            f"teacher {name} cannot process what the student sees, images of {size} x {size} pixels "
            f"({first_line(error)}); set image_size to what it takes, or name another"
        ) from None
    wanted = 4 if kind == "features" else 2
    if answer.ndim != wanted:
        raise TrainingError(f"teacher {name} answers with {kind} of shape {list(answer.shape)}; name another teacher")
    if kind == "logits":
        return
    if recipe.task == "embed":  # the student's output is the embedding that it learns
        if answer.shape[1] != student.num_outputs:
            raise TrainingError(
                f"teacher {name} has embeddings of {answer.shape[1]} numbers, and the student of "
                f"{student.num_outputs}; set embedding.size to {answer.shape[1]}"
            )
        return
    learning: list[nn.Module] = [student.stem, *student.stages]
    if kind == "embedding":
        # Before dropout, which would be learned from as if it were an error.
        teacher.layer, channels = "hidden", student.head_hidden_size
        same = channels == answer.shape[1]
        linear = nn.Identity() if same else nn.Linear(channels, answer.shape[1])
        teacher.projection = nn.Sequential(nn.Flatten(), linear)
        learning += [student.head, student.hidden]
    else:
        stage = _stage(recipe, student)
        teacher.layer = f"stages.{stage}"
        teacher.projection = nn.Conv2d(student.plan.stages[stage][-1].out_channels, answer.shape[1], 1)
        learning = learning[: stage + 2]
    if not any(parameter.requires_grad for part in learning for parameter in part.parameters()):
        raise TrainingError(
            f"freeze is {recipe.freeze}, so that nothing learns the teacher's {kind}; freeze less, or choose a later "
            "distillation_stage"
        )
