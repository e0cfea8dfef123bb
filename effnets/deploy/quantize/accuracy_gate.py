"""The accuracy gate: whether a network in int8 still answers as it does in float."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError
from effnets.evaluation.metrics import mcnemar

_CHANCE = 0.05  # what happens by chance less often than this is taken for real
_IMAGES_IN_A_LOSS = 3  # that `max_loss` is made of, where it can be told from chance by counting
_ROUNDING = 1e-9  # of shares in floating point, in points


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a network in int8 must reach on held-out images.

    A loss of accuracy above `max_loss` counts where the labelled images are enough to tell: where one of them weighs no
    more than a third of `max_loss` (300, of one point). Of fewer, it counts if the verdicts that changed speak for it:
    by the exact one-sided test of McNemar (`effnets.evaluation.metrics.mcnemar`), at 5 %. Rounding flips verdicts in both
    directions where float wavers; of 132 images two lost are 1.5 points and no evidence, but five lost and none gained
    are beyond chance however few there are.

    Attributes:
        lead: by how much of probability the first class must lead the second for an image to be a clear one.
        min_agreement: the share of clear images with the same first class.
        min_in_top5: the share of all images whose first class in float is among int8's first five.
        max_loss: points of accuracy that may be lost where labels are known; of few images more, if chance explains it.
        min_clear, min_images: with fewer nothing could be said, so that the gate stays shut.
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
            raise ArgumentError("gate: at least one image must be asked for, and no gain of accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a network in int8 compares with itself in float, on one engine.

    Attributes:
        images, clear: held-out images, and those of them where float's first class leads clearly.
        agreement: share of the clear images with the same first class. overall: of all images.
        in_top5: share of all images whose first class in float is among int8's first five.
        labelled: images whose class is known. top1_float, top1: accuracy on these in per cent; None without any.
        lost, gained: images of these that float alone, or int8 alone, has right.
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
        """How probable it is, 0..1, to lose so many more than are gained by chance alone; 1 if no more are lost."""
        # Of two equal sides, so that one of them has half.
        return mcnemar(self.gained, self.lost) / 2 if self.lost > self.gained else 1.0

    def accuracy_verdict(self, gate: Gate) -> str:
        """What the labels say of the accuracy, in a few words."""
        if not self.labelled:
            return "accuracy not judged: no image has a known label"
        verdict = f"{self.lost} lost, {self.gained} gained"
        if self.loss <= gate.max_loss + _ROUNDING:
            return f"{verdict}: no loss above {gate.max_loss:.1f} points"
        if self._enough(gate):
            return f"{verdict}: a loss above {gate.max_loss:.1f} points"
        if self.chance >= _CHANCE:
            return f"{verdict}: a loss above {gate.max_loss:.1f} points that may be chance, p = {self.chance:.2g}"
        return f"{verdict}: a loss above {gate.max_loss:.1f} points beyond chance, p = {self.chance:.2g}"

    def _enough(self, gate: Gate) -> bool:
        return not gate.max_loss or self.labelled * gate.max_loss >= 100 * _IMAGES_IN_A_LOSS

    def to_dict(self, gate: Gate) -> dict[str, Any]:
        """As plain values that JSON can hold, with what follows from them."""
        chance = self.chance if self.labelled else None
        return asdict(self) | {"chance": chance, "accuracy_verdict": self.accuracy_verdict(gate)}

    def failures(self, gate: Gate) -> list[str]:
        """What the gate demands and is not so; empty if it opens."""
        found = []
        if self.clear < gate.min_clear:
            found.append(
                f"float has a clear first class on {self.clear} of {self.images} held-out images, and {gate.min_clear} "
                "are needed to judge: give more photographs, of what the model knows"
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
                f"accuracy falls by {self.loss:.2f} points on {self.labelled} labelled images "
                f"({self.accuracy_verdict(gate)})"
            )
        return found


def compare(
    expected: NDArray[np.float32], found: NDArray[np.float32], labels: NDArray[np.int64], lead: float
) -> Agreement:
    """Compare logits ``[N, C]`` in float and in int8.

    Args:
        labels: the class of each image, -1 where unknown.
        lead: as of `Gate`.
    """
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
