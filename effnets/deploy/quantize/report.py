"""What became of a quantisation: figures for a person, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effnets.deploy.quantize.accuracy_gate import Agreement, Gate

_BLAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """A quantisation, written or refused.

    Attributes:
        model: its name. path, sha256: of the file; None and empty if it was refused.
        gate: what was demanded. agreement: what was reached on held-out images, by engine.
        failures: what of the gate's demands is not met; empty for a file that was written.
        left: layers left in float, those to blame first. layers: how many there are.
        sensitivity: by how much the error of the logits falls if this layer alone is left in float, largest first;
            empty if int8 passed throughout, and nothing had to be searched.
        error: of the logits of calibration images, its root mean square over the spread of float's logits.
        trials: that error for each setting that was tried. method, equalised, bias_corrected: the one chosen: how
            ranges were calibrated, how many channels were equalised, whether biases were corrected.
        attempts: how often the gate was asked; each time more layers were left in float.
        calibration_images: that were used. broken: why files could not be read. duplicates: files left out as such.
        unknown_folders: folders of photographs whose names are no classes of the model, so that these have no label.
        size, float_size: of the files, in bytes.
        milliseconds: median time for one image on one thread by engine, in float and in int8, in turns.
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
        """By what the file is smaller than in float."""
        return self.float_size / self.size

    @property
    def speed_ratios(self) -> dict[str, float]:
        """How many times faster int8 is than float, by engine; below 1 it is slower."""
        return {engine: times["float32"] / times["int8"] for engine, times in self.milliseconds.items()}

    def summary(self) -> dict[str, Any]:
        """What stands in the file's own metadata."""
        return {"agreement": self._agreement(), "gate": asdict(self.gate), "left_in_float": list(self.left)}

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        values = asdict(self) | {"agreement": self._agreement(), "path": self.path.name if self.path else None}
        return values | {"size_ratio": self.size_ratio, "speed_ratios": self.speed_ratios}

    def _agreement(self) -> dict[str, dict[str, Any]]:
        return {engine: found.to_dict(self.gate) for engine, found in self.agreement.items()}

    def refusal(self) -> str:
        """Why nothing was written, and the layers to blame."""
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
        """The layers that matter most, in a few words."""
        worst = list(self.sensitivity.items())[:_BLAMED]
        return ", ".join(f"{layer} ({fall:+.1%})" for layer, fall in worst) or "no layer in particular"

    def __str__(self) -> str:
        return "\n  ".join(self.lines())

    def lines(self) -> list[str]:
        """What a person wants to know of it, line by line."""
        lines = [f"{self.path or self.model}: int8, {self.size / 1e6:.1f} MB, {self.size_ratio:.1f} times smaller"]
        for engine, found in self.agreement.items():
            line = (
                f"{engine}: top-1 as in float on {found.agreement:.1%} of {found.clear} clear and {found.overall:.1%} "
                f"of all {found.images} held-out images; float's top-1 in the top 5 of {found.in_top5:.1%}"
            )
            if found.top1 is not None:
                line += (
                    f"; accuracy {found.top1_float:.1f} % → {found.top1:.1f} % on {found.labelled} labelled "
                    f"({found.accuracy_verdict(self.gate)})"
                )
            elif not self.unknown_folders:
                line += f"; {found.accuracy_verdict(self.gate)}"
            lines.append(line)
        for engine, ratio in self.speed_ratios.items():
            before, after = (self.milliseconds[engine][precision] for precision in ("float32", "int8"))
            lines.append(f"{engine}: {before:.2f} → {after:.2f} ms an image on one thread, {ratio:.2f} times as fast")
        lines.append(
            f"ranges by {self.method} of {self.calibration_images} images, {self.equalised} channels equalised, biases "
            + ("corrected" if self.bias_corrected else "as they were")
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
            judged = any(found.labelled for found in self.agreement.values())
            what = f"{len(self.unknown_folders)} folders give no label" if judged else "accuracy not judged"
            lines.append(f"{what}: the folders' names ({shown}) are no classes of the model")
        return lines
