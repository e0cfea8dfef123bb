"""The accuracy gate: whether a network in int8 still answers as in float32, and the report of a quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError
from effnets.evaluation.metrics import mcnemar

_CHANCE = 0.05  # a loss less probable than this is not chance
_IMAGES_IN_A_LOSS = 3  # if `max_loss` is at least so many images, a loss counts without a test
_ROUNDING = 1e-9  # of shares in floating point, in points
_BLAMED = 5  # layers that a refusal names


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a network in int8 must reach on held-out images.

    A loss of accuracy above `max_loss` counts if there are enough labeled images: if one image is at most a third of
    `max_loss` (300 images for one point). With fewer, it counts if it is significant by the exact one-sided test of
    McNemar (`effnets.evaluation.metrics.mcnemar`) at 5 %. Rounding changes uncertain answers in both directions; two of
    132 images lost are 1.5 points and no evidence, but five lost and none gained are significant among any number.

    Attributes:
        lead: an image is clear if the first class leads the second by this much probability.
        min_agreement: the share of clear images with the same first class.
        min_in_top5: the share of all images whose first class in float is among int8's first five.
        max_loss: points of accuracy that labeled images may lose; few images may lose more, if chance explains it.
        min_clear, min_images: with fewer images the gate stays shut, because they are no evidence.
    """

    lead: float = 0.3
    min_agreement: float = 0.99
    min_in_top5: float = 0.99
    max_loss: float = 1.0
    min_clear: int = 20
    min_images: int = 50

    def __post_init__(self) -> None:
        for name in ("lead", "min_agreement", "min_in_top5"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"gate.{name} is {getattr(self, name)!r}; give a share, from 0 to 1")
        if self.min_clear < 1 or self.min_images < 1 or self.max_loss < 0:
            raise ArgumentError("gate: min_clear and min_images must be at least 1, and max_loss at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a network in int8 compares with itself in float, on one engine.

    Attributes:
        images, clear: number of held-out images, and of those whose first class in float leads clearly.
        agreement, overall: share of the clear images, and of all images, with the same first class.
        in_top5: share of all images whose first class in float is among int8's first five.
        labelled: number of images whose class is known.
        top1_float, top1: accuracy on the labeled images in percent; None without any.
        lost, gained: number of labeled images that only float, or only int8, classifies correctly.
    """

    images: int
    clear: int
    agreement: float
    overall: float
    in_top5: float
    labelled: int = 0
    top1_float: float | None = None
    top1: float | None = None
    lost: int = 0
    gained: int = 0

    @property
    def loss(self) -> float:
        """Points of accuracy lost; 0 without labels."""
        return 0.0 if self.top1 is None or self.top1_float is None else self.top1_float - self.top1

    @property
    def chance(self) -> float:
        """The probability, 0..1, of losing so many more than are gained by chance; 1 if no more are lost."""
        # Half of the two-sided p-value, which is symmetric.
        return mcnemar(self.gained, self.lost) / 2 if self.lost > self.gained else 1.0

    def accuracy_verdict(self, gate: Gate) -> str:
        """Describe the change of accuracy in a few words."""
        if not self.labelled:
            return "accuracy not measured: no image has a known label"
        verdict = f"{self.lost} lost, {self.gained} gained"
        if self.loss <= gate.max_loss + _ROUNDING:
            return f"{verdict}: no loss above {gate.max_loss:.1f} points"
        verdict += f": a loss above {gate.max_loss:.1f} points"
        if self._enough(gate):
            return verdict
        return f"{verdict} {'that may be' if self.chance >= _CHANCE else 'beyond'} chance, p = {self.chance:.2g}"

    def _enough(self, gate: Gate) -> bool:
        return not gate.max_loss or self.labelled * gate.max_loss >= 100 * _IMAGES_IN_A_LOSS

    def to_dict(self, gate: Gate) -> dict[str, Any]:
        """Return plain values that JSON can hold, derived ones included."""
        chance = self.chance if self.labelled else None
        return asdict(self) | {"chance": chance, "accuracy_verdict": self.accuracy_verdict(gate)}

    def failures(self, gate: Gate) -> list[str]:
        """Return the conditions that are not met; empty if the gate opens."""
        found = []
        if self.clear < gate.min_clear:
            found.append(
                f"float has a clear first class on {self.clear} of {self.images} held-out images, and the gate needs "
                f"{gate.min_clear}: give more photographs, of classes that the model knows"
            )
        elif self.agreement < gate.min_agreement:
            found.append(
                f"top-1 agrees on {self.agreement:.2%} of {self.clear} clear images, not on {gate.min_agreement:.0%}"
            )
        if self.in_top5 < gate.min_in_top5:
            found.append(
                f"float's top-1 is in the top 5 of {self.in_top5:.2%} of {self.images}, not {gate.min_in_top5:.0%}"
            )
        if self.loss > gate.max_loss + _ROUNDING and (self._enough(gate) or self.chance < _CHANCE):
            found.append(
                f"accuracy falls by {self.loss:.2f} points on {self.labelled} labeled images "
                f"({self.accuracy_verdict(gate)})"
            )
        return found


def compare(
    expected: NDArray[np.float32], found: NDArray[np.float32], labels: NDArray[np.int64], lead: float
) -> Agreement:
    """Compare logits ``[N, C]`` in float and in int8; `labels` are the images' classes, -1 if unknown."""
    finite = np.isfinite(found).all(1)
    found = np.where(np.isfinite(found), found, -np.inf)
    first = expected.argmax(1)
    powers = np.exp(expected - expected.max(1, keepdims=True))
    ordered = np.sort(powers / powers.sum(1, keepdims=True), axis=1)
    clear = ordered[:, -1] - (ordered[:, -2] if ordered.shape[1] > 1 else 0) >= lead
    same = (found.argmax(1) == first) & finite
    top5 = np.argsort(-found, axis=1, kind="stable")[:, :5]
    known = labels >= 0
    before, after = (first == labels)[known], ((found.argmax(1) == labels) & finite)[known]
    return Agreement(
        images=len(first),
        clear=int(clear.sum()),
        agreement=float(same[clear].mean()) if clear.any() else 0.0,
        overall=float(same.mean()),
        in_top5=float(((top5 == first[:, None]).any(1) & finite).mean()),
        labelled=int(known.sum()),
        top1_float=100 * float(before.mean()) if known.any() else None,
        top1=100 * float(after.mean()) if known.any() else None,
        lost=int((before & ~after).sum()),
        gained=int((after & ~before).sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """A quantization, written or refused. Field names are the keys of the JSON report.

    Attributes:
        model: its name.
        path, sha256: of the file; None and empty if it was refused.
        gate: the conditions.
        agreement: the results on held-out images, by engine.
        failures: the conditions that are not met; empty for a file that was written.
        left: layers left in float, most sensitive first.
        layers: number of all layers.
        sensitivity: by how much the error of the logits falls if only this layer is left in float, largest first; empty
            if int8 passed in all layers, without a search.
        error: of the logits of calibration images: its root mean square over the standard deviation of float's logits.
        trials: that error for each setting that was tried.
        method, equalised, bias_corrected: the chosen setting: how ranges were calibrated, how many channels were
            equalized, whether biases were corrected.
        attempts: number of times the gate was tried, each time with more layers left in float.
        calibration_images: number of images used for calibration.
        broken: why files could not be read.
        duplicates: number of files left out because their content is that of another.
        unknown_folders: folders of images whose names are not classes of the model, so that the images have no label.
        size, float_size: of the files, in bytes.
        milliseconds: median time for one image on one thread by engine, in float and in int8, timed in turns.
    """

    model: str
    path: Path | None = None
    sha256: str = ""
    gate: Gate
    agreement: Mapping[str, Agreement]
    failures: tuple[str, ...]
    left: tuple[str, ...]
    layers: int
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    error: float
    trials: Mapping[str, float]
    method: str
    equalised: int
    bias_corrected: bool
    attempts: int
    calibration_images: int
    broken: tuple[str, ...] = ()
    duplicates: int = 0
    unknown_folders: tuple[str, ...] = ()
    size: int
    float_size: int
    milliseconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def size_ratio(self) -> float:
        """How many times smaller than in float the file is."""
        return self.float_size / self.size

    @property
    def speed_ratios(self) -> dict[str, float]:
        """How many times as fast as float int8 is, by engine; below 1 it is slower."""
        return {engine: times["float32"] / times["int8"] for engine, times in self.milliseconds.items()}

    def slower(self) -> str:
        """Say that int8 is slower than float on every engine, and by how much; empty if it is not, or was not timed."""
        if not self.milliseconds or max(self.speed_ratios.values()) >= 1:
            return ""
        figures = (
            f"{times['int8']:.2f} ms an image instead of {times['float32']:.2f} on {engine}"
            for engine, times in self.milliseconds.items()
        )
        return f"int8 is slower than float here: {', '.join(figures)}, on one thread"

    def summary(self) -> dict[str, Any]:
        """Return the part that is in the file's own metadata."""
        return {"agreement": self._agreement(), "gate": asdict(self.gate), "left_in_float": list(self.left)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        values = asdict(self) | {"agreement": self._agreement(), "path": self.path.name if self.path else None}
        return values | {"size_ratio": self.size_ratio, "speed_ratios": self.speed_ratios}

    def _agreement(self) -> dict[str, dict[str, Any]]:
        return {engine: found.to_dict(self.gate) for engine, found in self.agreement.items()}

    def refusal(self) -> str:
        """Say why nothing was written, and which layers are to blame."""
        text = (
            f"{self.model}: not written in int8, with {len(self.left)} of {self.layers} layers in float: "
            f"{'; '.join(self.failures)}"
        )
        if not self.sensitivity:
            return text
        return (
            f"{text}. Layers to blame, with the share of the error that goes if each is left in float: {self.blame()}"
        )

    def blame(self) -> str:
        """Name the most sensitive layers, in a few words."""
        worst = list(self.sensitivity.items())[:_BLAMED]
        return ", ".join(f"{layer} ({fall:+.1%})" for layer, fall in worst) or "no layer in particular"

    def __str__(self) -> str:
        return "\n  ".join(self.lines())

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [f"{self.path or self.model}: int8, {self.size / 1e6:.1f} MB, {self.size_ratio:.1f} times smaller"]
        for engine, found in self.agreement.items():
            line = (
                f"{engine}: top-1 as in float on {found.agreement:.1%} of {found.clear} clear and {found.overall:.1%} "
                f"of all {found.images} held-out images; float's top-1 in the top 5 of {found.in_top5:.1%}"
            )
            if found.top1 is not None:
                line += (
                    f"; accuracy {found.top1_float:.1f} % → {found.top1:.1f} % on {found.labelled} labeled "
                    f"({found.accuracy_verdict(self.gate)})"
                )
            elif not self.unknown_folders:
                line += f"; {found.accuracy_verdict(self.gate)}"
            lines.append(line)
        for engine, ratio in self.speed_ratios.items():
            before, after = (self.milliseconds[engine][precision] for precision in ("float32", "int8"))
            lines.append(f"{engine}: {before:.2f} → {after:.2f} ms an image on one thread, {ratio:.2f} times as fast")
        lines.append(
            f"ranges by {self.method} of {self.calibration_images} images, {self.equalised} channels equalized, biases "
            + ("corrected" if self.bias_corrected else "unchanged")
        )
        if self.left:
            shown = ", ".join(f"{layer} ({self.sensitivity.get(layer, 0):+.1%})" for layer in self.left)
            lines.append(f"left in float, {len(self.left)} of {self.layers} layers: {shown}")
        else:
            lines.append(f"all {self.layers} layers in int8")
        if self.broken:
            lines.append(f"{len(self.broken)} photographs could not be read: {'; '.join(self.broken[:3])}")
        if self.unknown_folders:
            shown = ", ".join(self.unknown_folders[:3]) + (", …" if len(self.unknown_folders) > 3 else "")
            measured = any(found.labelled for found in self.agreement.values())
            what = f"{len(self.unknown_folders)} folders give no label" if measured else "accuracy not measured"
            lines.append(f"{what}: the folders' names ({shown}) are not classes of the model")
        return lines
